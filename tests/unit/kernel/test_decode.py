from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from routesync.kernel import DecodeError
from routesync.kernel.decode import RouteDecoder, unresolved
from routesync.kernel.links import Resolved, decode_address, decode_link, decode_nexthop
from routesync.route import Address, NextHop, Prefix, Route
from support.route_messages import message, route_bodies


def decode(body: bytes) -> Route | None:
    return RouteDecoder(lambda _number: None).decode(body, 0, len(body))


def _packed(text: str | None) -> bytes | None:
    if text is None:
        return None
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def _hop(attributes: Any, ifindex: int, weight: int, flags: int) -> NextHop:
    via = attributes.get("RTA_VIA")
    gateway = _packed(attributes.get("RTA_GATEWAY") or (via["addr"] if via else None))
    return NextHop(Address(gateway) if gateway else None, ifindex, weight, flags & 0x7F)


def read_by_pyroute2(data: bytes) -> Route:
    """The same message by pyroute2's decoder."""
    parsed: Any = rtmsg(data)
    parsed.decode()
    fields: Mapping[str, int] = parsed
    size = 4 if fields["family"] == socket.AF_INET else 16
    destination = _packed(parsed.get("RTA_DST"))
    hops = [
        _hop(entry, entry["oif"], entry["hops"] + 1, entry["flags"])
        for entry in parsed.get("RTA_MULTIPATH") or ()
    ]
    if parsed.get("RTA_OIF") or parsed.get("RTA_GATEWAY"):
        hops.append(_hop(parsed, parsed.get("RTA_OIF") or 0, 1, fields["flags"]))
    if fields["type"] in (6, 7, 8, 9):  # blackhole, unreachable, prohibit, throw
        hops = []
    source = _packed(parsed.get("RTA_PREFSRC"))
    return Route(
        prefix=Prefix(Address(destination or bytes(size)), fields["dst_len"]),
        table=parsed.get("RTA_TABLE"),
        tos=fields["tos"],
        metric=parsed.get("RTA_PRIORITY") or (0 if size == 4 else 1024),
        protocol=fields["proto"],
        scope=fields["scope"],
        type=fields["type"],
        hops=tuple(sorted(hops, key=lambda hop: (hop.gateway or b"", hop.ifindex, hop.weight, hop.flags))),
        prefsrc=Address(source) if source else None,
        nexthop_id=0,
    )


@given(route_bodies())
def test_routes_are_read_as_pyroute2_reads_them(body: bytes) -> None:
    route = decode(body)
    assert route is not None
    assert route._replace(nexthop_id=0) == read_by_pyroute2(message(body))


@given(route_bodies(), st.data())
def test_what_was_read_before_makes_no_difference(body: bytes, data: st.DataObject) -> None:
    used = RouteDecoder(lambda _number: None)
    assert used.decode(body, 0, len(body)) == decode(body)
    other = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        # Mostly in the destination, which is what messages of one table differ in.
        place = data.draw(
            st.integers(min(24, len(body) - 1), min(39, len(body) - 1)) | st.integers(0, len(body) - 1)
        )
        other[place] = data.draw(st.integers(0, 255))
    cut = bytes(other[: data.draw(st.integers(len(body) - 1, len(body)))])
    try:
        expected = decode(cut)
    except DecodeError:
        with pytest.raises(DecodeError):
            used.decode(cut, 0, len(cut))
    else:
        assert used.decode(cut, 0, len(cut)) == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_a_route_or_nothing_or_one_typed_error(body: bytes) -> None:
    for read in (decode, _link, _address, _nexthop):
        try:
            read(body)
        except DecodeError:
            continue


@given(route_bodies(), st.data())
def test_a_damaged_message_is_a_route_or_nothing_or_one_typed_error(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for read in (decode, _link, _address, _nexthop):
        try:
            read(cut)
        except DecodeError:
            continue


def _link(body: bytes) -> object:
    return decode_link(message(body))


def _address(body: bytes) -> object:
    return decode_address(message(body))


def _nexthop(body: bytes) -> object:
    return decode_nexthop(message(body))


def rtm(family: int = 2, length: int = 24, *, source: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=8BI", family, length, source, 0, 254, 4, 0, 1, flags)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


DESTINATION = attribute(1, b"\x0a\x09\x00\x00")


def test_what_is_no_route_of_a_table_is_passed_over() -> None:
    assert decode(rtm(flags=0x200) + DESTINATION) is None  # RTM_F_CLONED: the route cache's
    assert decode(rtm(family=28)) is None  # AF_MPLS
    assert decode(rtm(source=24) + DESTINATION) is None  # no IPv4 route is for some sources only


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\x02", "route message of 1 bytes"),
        (rtm(length=33), "prefix length 33"),
        (rtm(), "without its address"),
        (rtm() + attribute(1, b"\x0a"), "destination of 1 bytes"),
        (rtm() + DESTINATION + attribute(5, bytes(16)), "gateway of 16 bytes"),
        (rtm() + DESTINATION + attribute(6, b"\1"), "a number of 1 bytes"),
        (rtm() + DESTINATION + struct.pack("=HH", 3, 6), "exceeds its message"),
        (rtm() + DESTINATION + struct.pack("=HH", 99, 6), "exceeds its message"),
        (rtm() + DESTINATION + attribute(9, struct.pack("=HBBI", 4, 0, 0, 1)), "exceeds its list"),
        (rtm() + DESTINATION + attribute(18, b"\x0a\0" + bytes(4)), "via of family 10"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(body: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        decode(body)


def test_a_metric_of_zero_is_1024_for_ipv6() -> None:
    inet6 = decode(rtm(family=10, length=0) + attribute(6, bytes(4)))
    inet = decode(rtm(length=0) + attribute(6, bytes(4)))
    assert inet6 is not None
    assert inet is not None
    assert (inet6.metric, inet.metric) == (1024, 0)


def test_a_route_for_some_sources_has_its_source_prefix() -> None:
    source = attribute(2, bytes.fromhex("20010db8000100000000000000000000"))
    route = decode(rtm(family=10, length=0, source=48) + source)
    assert route is not None
    assert route.source == Prefix.parse("2001:db8:1::/48")
    plain = decode(rtm(family=10, length=0))
    assert plain is not None
    assert plain.source is None


@pytest.mark.parametrize(
    "body", [rtm(family=10, source=64), rtm(family=10, source=64) + attribute(2, b"\x20\1")]
)
def test_a_source_prefix_needs_its_address(body: bytes) -> None:
    with pytest.raises(DecodeError, match="source prefix of length 64 without its address"):
        decode(attribute_last(body))


def attribute_last(body: bytes) -> bytes:
    """The same for a /0, so that no destination is missing."""
    return body[:1] + b"\0" + body[2:]


def cacheinfo(ticks: int) -> bytes:
    return attribute(12, struct.pack("=IIiIIIII", 0, 0, ticks, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(("ticks", "lifetime_s"), [(0, None), (150, 1.5), (-2700, -27.0)])
def test_a_lifetime_is_returned_beside_the_route(ticks: int, lifetime_s: float | None) -> None:
    decoder = RouteDecoder(lambda _number: None)
    destination = attribute(1, bytes.fromhex("20010db8000e") + bytes(10))
    body = rtm(family=10, length=48) + attribute(15, struct.pack("=I", 254)) + destination + cacheinfo(ticks)
    for _ in range(2):  # what was read before makes no difference
        route = decoder.decode(body, 0, len(body))
        assert route == decode(body)
        assert decoder.lifetime_s == lifetime_s
    other = rtm(family=10, length=48) + attribute(15, struct.pack("=I", 254)) + destination + cacheinfo(0)
    decoder.decode(other, 0, len(other))
    assert decoder.lifetime_s is None


def test_an_encapsulation_is_recognised_also_on_one_hop_of_several() -> None:
    plain = attribute(5, b"\xc0\0\2\2")
    tunnel = attribute(22, b"")
    hops = b"".join(
        struct.pack("=HBBI", 8 + len(inner), 0, 0, 3) + inner for inner in (plain, plain + tunnel)
    )
    route = decode(rtm() + DESTINATION + attribute(9, hops))
    assert route is not None
    assert route.encap
    assert len(route.hops) == 2


def test_hops_come_from_the_nexthop_object_where_the_message_has_its_id_alone() -> None:
    body = rtm() + DESTINATION + attribute(30, struct.pack("=I", 7))
    hop = NextHop(Address(b"\xc0\0\2\2"), 3)
    known = RouteDecoder({7: Resolved((hop,), encap=False)}.get).decode(body, 0, len(body))
    unknown = decode(body)
    assert known is not None
    assert unknown is not None
    assert known.hops == (hop,)
    assert not unresolved(known)
    assert unresolved(unknown)
