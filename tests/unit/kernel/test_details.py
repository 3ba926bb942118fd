from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from routesync.kernel import DecodeError, RouteDetails
from routesync.kernel.decode import decode_details
from support.route_messages import Attribute, message, route_bodies

NUMBERED = {2: "mtu", 3: "window", 8: "advmss", 10: "hoplimit", 11: "initcwnd", 15: "quickack"}
U32 = st.integers(0, 0xFFFFFFFF)


def details(body: bytes) -> RouteDetails:
    return decode_details(body, 0, len(body))


def rtm(*attributes: Attribute) -> bytes:
    return struct.pack("=8BI", 10, 0, 0, 0, 254, 4, 0, 1, 0) + b"".join(one.encode() for one in attributes)


@st.composite
def metrics(draw: st.DrawFn) -> Attribute:
    chosen = draw(st.dictionaries(st.sampled_from(sorted(NUMBERED)), U32, min_size=1))
    return Attribute(
        8, b"".join(Attribute(kind, struct.pack("=I", value)).encode() for kind, value in chosen.items())
    )


@given(metrics())
def test_metrics_are_read_as_pyroute2_reads_them(attribute: Attribute) -> None:
    body = rtm(attribute)
    parsed: Any = rtmsg(message(body))
    parsed.decode()
    theirs = dict(parsed.get("RTA_METRICS")["attrs"])
    assert dict(details(body).metrics) == {
        name: theirs[f"RTAX_{name.upper()}"]
        for kind, name in NUMBERED.items()
        if f"RTAX_{name.upper()}" in theirs
    }


@pytest.mark.parametrize(("ticks", "seconds"), [(0, None), (18_000, 180), (-150, -1)])
def test_an_expiry_is_in_seconds(ticks: int, seconds: int | None) -> None:
    assert details(rtm(Attribute(12, struct.pack("=IIi5I", 0, 0, ticks, *([0] * 5))))).expires_s == seconds


@pytest.mark.parametrize(("octet", "word"), [(0, "medium"), (1, "high"), (3, "low"), (2, None)])
def test_the_preference_of_a_router_has_a_word(octet: int, word: str | None) -> None:
    assert details(rtm(Attribute(20, bytes([octet])))).preference == word


def test_a_congestion_control_is_a_word() -> None:
    assert details(rtm(Attribute(8, Attribute(16, b"bbr\0").encode()))).metrics == (("cc_algo", "bbr"),)


@given(route_bodies(), st.data())
def test_a_damaged_message_gives_details_or_one_typed_error(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        details(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    except DecodeError:
        return
