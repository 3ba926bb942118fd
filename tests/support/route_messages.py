"""Route messages as a kernel would write them, from hypothesis."""

from __future__ import annotations

import struct
from typing import NamedTuple

from hypothesis import strategies as st

from routesync.kernel.netlink import HEADER, RTM_NEWROUTE

INET, INET6 = 2, 10


class Attribute(NamedTuple):
    kind: int
    value: bytes

    def encode(self) -> bytes:
        size = 4 + len(self.value)
        return struct.pack("=HH", size, self.kind) + self.value + bytes(-size % 4)


def _u32(kind: int) -> st.SearchStrategy[Attribute]:
    numbers = st.integers(1, 0xFFFFFFFF)
    return numbers.map(lambda number: Attribute(kind, struct.pack("=I", number)))


def _bytes(kind: int, size: int) -> st.SearchStrategy[Attribute]:
    return st.binary(min_size=size, max_size=size).map(lambda value: Attribute(kind, value))


def _via() -> st.SearchStrategy[Attribute]:
    return st.binary(min_size=16, max_size=16).map(
        lambda value: Attribute(18, struct.pack("=H", INET6) + value)
    )


@st.composite
def _multipath(draw: st.DrawFn, family: int) -> Attribute:
    size = 4 if family == INET else 16
    encoded = b""
    for _ in range(draw(st.integers(1, 4))):
        inner = b""
        way = draw(st.sampled_from(["gateway", "device", "via"] if family == INET else ["gateway", "device"]))
        if way == "gateway":
            inner = draw(_bytes(5, size)).encode()
        elif way == "via":
            inner = draw(_via()).encode()
        ifindex = draw(st.integers(1, 0x7FFFFFFF))
        flags, weight = draw(st.integers(0, 0x7F)), draw(st.integers(0, 255))
        encoded += struct.pack("=HBBI", 8 + len(inner), flags, weight, ifindex) + inner
    return Attribute(9, encoded)


@st.composite
def route_bodies(draw: st.DrawFn) -> bytes:
    """The body of an RTM_NEWROUTE: a struct rtmsg and its attributes."""
    family = draw(st.sampled_from([INET, INET6]))
    size = 4 if family == INET else 16
    length = draw(st.integers(0, size * 8))
    octet = st.integers(0, 255)
    header = struct.pack(
        "=8BI",
        *(family, length, 0, draw(octet), draw(octet), draw(octet), draw(octet), draw(octet)),
        draw(st.integers(0, 0xFFFFFFFF)) & ~0x200,
    )
    attributes = [draw(_u32(15))]
    if length:
        mask = (1 << size * 8) - (1 << size * 8 - length)
        number = int.from_bytes(draw(st.binary(min_size=size, max_size=size)), "big") & mask
        attributes.append(Attribute(1, number.to_bytes(size, "big")))
    way = draw(st.sampled_from(["gateway", "device", "multipath", "none", "via"]))
    if way == "multipath":
        attributes.append(draw(_multipath(family)))
    elif way == "via" and family == INET:
        attributes += [draw(_via()), draw(_u32(4))]
    elif way == "gateway":
        attributes += [draw(_bytes(5, size)), draw(_u32(4))]
    elif way == "device":
        attributes.append(draw(_u32(4)))
    optional = [
        _u32(6),
        _bytes(7, size),
        _bytes(20, 1),
        _bytes(12, 32),
        _u32(30),
    ]  # priority, prefsrc, pref, cacheinfo, nh_id
    attributes += [draw(one) for one in optional if draw(st.booleans())]
    return header + b"".join(attribute.encode() for attribute in attributes)


def message(body: bytes, kind: int = RTM_NEWROUTE) -> bytes:
    """A whole message around a body."""
    return HEADER.pack(HEADER.size + len(body), kind, 0, 1, 1) + body
