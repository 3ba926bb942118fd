"""Route messages as a kernel would write them: from hypothesis, and of given routes."""

from __future__ import annotations

import struct
from typing import NamedTuple

from hypothesis import strategies as st
from pyroute2.netlink.rtnl import RTM_NEWROUTE

from routesync.kernel.netlink import HEADER
from routesync.route import NextHop, Route

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


def route_body(route: Route, *, lifetime_s: float | None = None) -> bytes:
    """The body of a route message as the kernel writes it (fib_dump_info(), rt6_fill_node())."""
    prefix, size = route.prefix, len(route.prefix.packed)
    source_length = route.source.length if route.source else 0
    flags = route.hops[0].flags if len(route.hops) == 1 else 0
    header = struct.pack(
        "=8BI",
        *(prefix.family, prefix.length, source_length, route.tos, route.table if route.table < 256 else 252),
        *(route.protocol, route.scope, route.type, flags),
    )
    attributes = [Attribute(15, struct.pack("=I", route.table))]
    if prefix.length:
        attributes.append(Attribute(1, prefix.packed))
    if route.source:
        attributes.append(Attribute(2, route.source.packed))
    if route.metric:
        attributes.append(Attribute(6, struct.pack("=I", route.metric)))
    if route.prefsrc:
        attributes.append(Attribute(7, route.prefsrc))
    if len(route.hops) == 1:
        attributes += _hop_attributes(route.hops[0])
        attributes.append(Attribute(4, struct.pack("=I", route.hops[0].ifindex)))
    elif route.hops:
        attributes.append(Attribute(9, b"".join(map(_rtnexthop, route.hops))))
    if size == 16:
        ticks = round(100 * lifetime_s) if lifetime_s is not None else 0
        attributes.append(Attribute(12, struct.pack("=IIiIIIII", 0, 0, ticks, 0, 0, 0, 0, 0)))
    return header + b"".join(attribute.encode() for attribute in attributes)


def _hop_attributes(hop: NextHop) -> list[Attribute]:
    return [Attribute(5, hop.gateway)] if hop.gateway else []


def _rtnexthop(hop: NextHop) -> bytes:
    inner = b"".join(attribute.encode() for attribute in _hop_attributes(hop))
    return struct.pack("=HBBI", 8 + len(inner), hop.flags, hop.weight - 1, hop.ifindex) + inner
