"""Route messages from bytes: RTM_NEWROUTE and RTM_DELROUTE (rtnetlink(7), linux/rtnetlink.h).

Routes are the hot path, so they are decoded by struct and not by pyroute2: that takes a few microseconds a message
instead of fifty, and knows RTA_NH_ID. Values are made with `tuple.__new__`, which spares the argument handling of a
named tuple's constructor. Attributes and next hops are made once and shared: a million routes have a few hundred of
them.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from routesync.kernel.errors import DecodeError
from routesync.kernel.links import Resolved
from routesync.route import RTN_UNICAST, Address, Attributes, NextHop, Prefix, Route

RTMSG: Final = struct.Struct("=8BI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
RTMSG_SIZE: Final = RTMSG.size
RTM_F_CLONED: Final = 0x200

_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 2, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_CACHEINFO, _RTA_TABLE, _RTA_VIA, _RTA_PREF = 9, 12, 15, 18, 20
_RTA_ENCAP_TYPE, _RTA_ENCAP, _RTA_NH_ID = 21, 22, 30
_KIND_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_HOP_FLAGS: Final = 0x7F  # of rtm_flags; RTM_F_… begin above
_WITHOUT_HOPS: Final = frozenset({6, 7, 8, 9})
"""RTN_BLACKHOLE, _UNREACHABLE, _PROHIBIT, _THROW: an IPv6 one, and one by a nexthop object, comes with `dev lo`."""
_AF_INET, _AF_INET6 = 2, 10
_DEFAULT_METRIC_INET6: Final = 1024

_ATTRIBUTE: Final = struct.Struct("=HH")
_U32: Final = struct.Struct("=I")
_RTNEXTHOP: Final = struct.Struct("=HBBI")  # len, flags, hops, ifindex
_CACHEINFO: Final = struct.Struct("=IIi")  # struct rta_cacheinfo as far as rta_expires
_USER_HZ: Final = 100  # clock_t of the kernel's interfaces, time(7)

_SHARED_HOPS: Final = 1 << 16
_SHAPES: Final = 1 << 14
DST_INET: Final = _ATTRIBUTE.pack(8, _RTA_DST)
DST_INET6: Final = _ATTRIBUTE.pack(20, _RTA_DST)
"""The header of RTA_DST, by family."""
BEGINNING_SIZE: Final = RTMSG_SIZE + 12
"""Bytes before the destination's own, where a message begins as `message_start` says."""

Resolve = Callable[[int], Resolved | None]
_new = tuple.__new__


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Split a run of attributes (rtnetlink(7), struct rtattr); of equal kinds the last wins.

    Raises:
        DecodeError: a length that exceeds the message.
    """
    found: dict[int, bytes] = {}
    position = start
    while position + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, position)
        if size < 4 or position + size > end:
            raise DecodeError(f"attribute {kind & _KIND_MASK} of length {size} exceeds its message")
        found[kind & _KIND_MASK] = data[position + 4 : position + size]
        position += size + 3 & ~3
    return found


def message_start(family: int, table: int) -> bytes:
    """How the attributes of a route message begin: RTA_TABLE whole, and the header of RTA_DST.

    That is the order of fib_dump_info() and rt6_fill_node(). It allows to read the prefix without decoding the message;
    a message that begins otherwise is decoded whole.
    """
    head = _ATTRIBUTE.pack(8, _RTA_TABLE) + table.to_bytes(4, sys.byteorder)
    return head + (DST_INET if family == _AF_INET else DST_INET6)


def _hop_order(hop: NextHop) -> tuple[bytes, int, int, int]:
    return (hop.gateway or b"", hop.ifindex, hop.weight, hop.flags)


def unresolved(route: Attributes | Route) -> bool:
    """Whether the route is by a nexthop object that was not known when it was decoded."""
    return bool(route.nexthop_id) and not route.hops and route.type == RTN_UNICAST


class RouteDecoder:
    """Decodes routes; keeps the attributes and next hops that it has made, to share them.

    Attributes:
        lifetime_s: seconds that the route decoded last is still valid for (RTA_CACHEINFO, IPv6), zero or less when it
            has expired; None: no end is set. It is no part of a Route: it differs in each message.
    """

    def __init__(self, resolve: Resolve) -> None:
        """Make a decoder.

        Args:
            resolve: gives the hops of a nexthop object, for messages that carry its id alone.
        """
        self.lifetime_s: float | None = None
        self._resolve = resolve
        self._hops: dict[tuple[bytes | None, int, int, int], tuple[NextHop]] = {}
        self._attributes: dict[Attributes, Attributes] = {}
        self._shapes: dict[tuple[bytes, bytes], Attributes] = {}
        self._resolved = (
            False  # by a nexthop object, which may change: another message need not mean the same
        )

    def decode(self, data: bytes, start: int, end: int) -> Route | None:
        """Decode the body of one message, from its rtmsg on; see `parts`."""
        parts = self.parts(data, start, end)
        return None if parts is None else parts[1].at(parts[0])

    def parts(self, data: bytes, start: int, end: int) -> tuple[Prefix, Attributes] | None:
        """Decode the body of one message, from its rtmsg on.

        Messages of a big table mostly differ in their destination alone: what surrounds it was decoded before then. The
        kernel writes RTA_DST second, behind an attribute of 8 bytes (fib_dump_info(), rt6_fill_node()); any other order
        is decoded in full.

        Returns:
            The prefix, and attributes: nearly always the same object for equal ones. None for what is no route of a
            table: clones (of the route cache), other families (MPLS, multicast routing).

        Raises:
            DecodeError: not a route message.
        """
        if end > len(data):
            raise DecodeError(f"route message of {end - start} bytes")
        self.lifetime_s = None
        destination = data[start + 20 : start + 24]
        if destination == DST_INET and data[start] == _AF_INET:
            stop = start + 28
        elif destination == DST_INET6 and data[start] == _AF_INET6:
            stop = start + 40
        else:
            return self._decode(data, start, end)
        if stop > end:
            return self._decode(data, start, end)
        shape = (data[start : start + 20], data[stop:end])
        attributes = self._shapes.get(shape)
        if attributes is not None:
            return _new(Prefix, (data[start + 24 : stop], data[start + 1])), attributes
        self._resolved = False
        parts = self._decode(data, start, end)
        # The hops of a nexthop object may change; a lifetime is another one each time.
        if parts is not None and not self._resolved and self.lifetime_s is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            self._shapes[shape] = parts[1]
        return parts

    def _decode(  # noqa: PLR0915  # one flat loop: it is hot
        self, data: bytes, start: int, end: int
    ) -> tuple[Prefix, Attributes] | None:
        if end - start < RTMSG_SIZE or end > len(data):
            raise DecodeError(f"route message of {end - start} bytes")
        family, dst_len, src_len, tos, table, protocol, scope, kind_of_route, flags = RTMSG.unpack_from(
            data, start
        )
        if family == _AF_INET:
            size, metric = 4, 0
        elif family == _AF_INET6:
            size, metric = 16, _DEFAULT_METRIC_INET6
        else:
            return None
        if flags & RTM_F_CLONED or (src_len and size == 4):
            return None
        if dst_len > size * 8 or src_len > size * 8:
            raise DecodeError(f"prefix length {max(dst_len, src_len)} of family {family}")
        destination = source = prefsrc = gateway = None
        ifindex = nexthop_id = 0
        multipath: tuple[int, int] | None = None
        encap = False
        position = start + RTMSG_SIZE
        while position + 4 <= end:
            length, kind = _ATTRIBUTE.unpack_from(data, position)
            stop = position + length
            if length < 4 or stop > end:
                raise DecodeError(f"attribute {kind} of length {length} exceeds its message")
            kind &= _KIND_MASK
            if kind == _RTA_DST:
                destination = data[position + 4 : stop]
            elif kind == _RTA_GATEWAY:
                gateway = data[position + 4 : stop]
                if length != size + 4:
                    raise DecodeError(f"gateway of {length - 4} bytes in family {family}")
            elif kind == _RTA_PREFSRC:
                prefsrc = data[position + 4 : stop]
                if length != size + 4:
                    raise DecodeError(f"source of {length - 4} bytes in family {family}")
            elif kind == _RTA_CACHEINFO:
                if length < 16:
                    raise DecodeError(f"cache information of {length - 4} bytes")
                if ticks := _CACHEINFO.unpack_from(data, position + 4)[2]:
                    self.lifetime_s = ticks / _USER_HZ
            elif kind == _RTA_SRC:
                source = data[position + 4 : stop]
            elif kind == _RTA_MULTIPATH:
                multipath = (position + 4, stop)
            elif kind == _RTA_VIA:
                gateway = _via(data, position + 4, stop)
            elif kind in (_RTA_ENCAP, _RTA_ENCAP_TYPE):
                encap = True
            elif kind in (_RTA_OIF, _RTA_TABLE, _RTA_PRIORITY, _RTA_NH_ID):
                if length != 8:
                    raise DecodeError(f"attribute {kind}: a number of {length - 4} bytes, not 4")
                number = _U32.unpack_from(data, position + 4)[0]
                if kind == _RTA_OIF:
                    ifindex = number
                elif kind == _RTA_TABLE:
                    table = number
                elif kind == _RTA_PRIORITY:
                    metric = number or metric
                else:
                    nexthop_id = number
            position = stop + 3 & ~3
        if destination is None:
            if dst_len:
                raise DecodeError(f"prefix of length {dst_len} without its address")
            destination = bytes(size)
        elif len(destination) != size:
            raise DecodeError(f"destination of {len(destination)} bytes in family {family}")
        if src_len and (source is None or len(source) != size):
            raise DecodeError(f"source prefix of length {src_len} without its address")

        hops: tuple[NextHop, ...]
        if kind_of_route in _WITHOUT_HOPS:
            hops = ()
        elif multipath is not None:
            hops, encapsulated = self._multipath(data, *multipath, size)
            encap = encap or encapsulated
        elif gateway is not None or ifindex:
            key = (gateway, ifindex, 1, flags & _HOP_FLAGS)
            hops = self._hops.get(key) or self._share(key)
        elif nexthop_id:
            self._resolved = True
            resolved = self._resolve(nexthop_id)
            if resolved is not None:
                hops, encap = tuple(sorted(resolved.hops, key=_hop_order)), resolved.encap
            else:
                hops = ()
        else:
            hops = ()
        attributes = _new(
            Attributes,
            (
                table,
                tos,
                metric,
                protocol,
                scope,
                kind_of_route,
                hops,
                prefsrc,
                nexthop_id,
                encap,
                _new(Prefix, (source, src_len)) if src_len else None,
            ),
        )
        if len(self._attributes) >= _SHAPES:
            self._attributes.clear()
        return _new(Prefix, (destination, dst_len)), self._attributes.setdefault(attributes, attributes)

    def _share(self, key: tuple[bytes | None, int, int, int]) -> tuple[NextHop]:
        if len(self._hops) >= _SHARED_HOPS:
            self._hops.clear()
        shared = self._hops[key] = (_new(NextHop, key),)
        return shared

    def _multipath(self, data: bytes, start: int, end: int, size: int) -> tuple[tuple[NextHop, ...], bool]:
        """Decode the struct rtnexthop list of RTA_MULTIPATH; return also whether a hop encapsulates."""
        hops: list[NextHop] = []
        encap = False
        position = start
        while position + 8 <= end:
            length, flags, weight, ifindex = _RTNEXTHOP.unpack_from(data, position)
            if length < 8 or position + length > end:
                raise DecodeError(f"next hop of length {length} exceeds its list")
            found = attributes(data, position + 8, position + length)
            gateway = found.get(_RTA_GATEWAY)
            if gateway is not None and len(gateway) != size:
                raise DecodeError(f"gateway of {len(gateway)} bytes in a multipath route")
            if _RTA_VIA in found:
                gateway = _via(found[_RTA_VIA], 0, len(found[_RTA_VIA]))
            encap = encap or _RTA_ENCAP in found or _RTA_ENCAP_TYPE in found
            key = (gateway, ifindex, weight + 1, flags & _HOP_FLAGS)
            hops.append((self._hops.get(key) or self._share(key))[0])
            position += length + 3 & ~3
        hops.sort(key=_hop_order)
        return tuple(hops), encap


def _via(data: bytes, start: int, end: int) -> Address:
    """Decode an RTA_VIA: a family (u16, host order) and an address of it (struct rtvia)."""
    address = data[start + 2 : end]
    family = int.from_bytes(data[start : start + 2], sys.byteorder)
    if (family, len(address)) not in ((_AF_INET, 4), (_AF_INET6, 16)):
        raise DecodeError(f"via of family {family} with {len(address)} bytes")
    return Address(address)


Preference = Literal["low", "medium", "high"]

_PREFERENCES: Final[dict[int, Preference]] = {0: "medium", 1: "high", 3: "low"}  # RFC 4191, linux/icmpv6.h
_RTAX_CC_ALGO: Final = 16
_METRICS: Final = (*(name[5:].lower() for name, _ in rtmsg.metrics.nla_map[1:]), "fastopen_no_cookie")
"""RTAX_LOCK (1) and on, of linux/rtnetlink.h, as ip-route(8) calls them; pyroute2 lacks the last one."""


class RouteDetails(NamedTuple):
    """What a route carries besides: metrics, the preference of its router, its expiry.

    Decoded where people ask (`plan`, `explain`), and not part of a `Route`: no rule matches them, loxilb has no field
    for them, and the kernel changes them silently: a router advertisement renews an expiry and the MTU without an event
    (rt6_route_rcv(), fib6_add_rt2node()). A replica that held them would drift.
    """

    metrics: tuple[tuple[str, int | str], ...] = ()  # RTA_METRICS by name, in the kernel's own units
    preference: Preference | None = None  # RTA_PREF: of the router that advertised it; IPv6 only
    expires_s: int | None = (
        None  # seconds until its lifetime ends; zero and less: it is over; None: no end is set
    )

    def expired(self, route: Route) -> bool:
        """Whether its lifetime is over: the kernel lists it still, and does not use it (fib6_check_expired()).

        A multipath route carries the lifetime of its first hop alone, which says nothing of the others.
        """
        return self.expires_s is not None and self.expires_s <= 0 and len(route.hops) < 2


def decode_details(data: bytes, start: int, end: int) -> RouteDetails:
    """Decode the details from the body of a route message.

    Raises:
        DecodeError: not a route message.
    """
    if end - start < RTMSG_SIZE or end > len(data):
        raise DecodeError(f"route message of {end - start} bytes")
    found = attributes(data, start + RTMSG_SIZE, end)
    preference = found.get(_RTA_PREF)
    return RouteDetails(
        _metrics(found[_RTA_METRICS]) if _RTA_METRICS in found else (),
        _PREFERENCES.get(preference[0]) if preference else None,
        _expires_s(found[_RTA_CACHEINFO]) if _RTA_CACHEINFO in found else None,
    )


def _metrics(body: bytes) -> tuple[tuple[str, int | str], ...]:
    metrics: list[tuple[str, int | str]] = []
    for kind, value in sorted(attributes(body, 0, len(body)).items()):
        name = _METRICS[kind - 1] if 1 <= kind <= len(_METRICS) else f"metric {kind}"
        if kind == _RTAX_CC_ALGO:
            metrics.append((name, value.rstrip(b"\0").decode("ascii", "backslashreplace")))
        elif len(value) == _U32.size:
            metrics.append((name, _U32.unpack(value)[0]))
        else:
            raise DecodeError(f"{name}: a number of {len(value)} bytes, not 4")
    return tuple(metrics)


def _expires_s(body: bytes) -> int | None:
    if len(body) < _CACHEINFO.size:
        raise DecodeError(f"cache information of {len(body)} bytes")
    _, _, ticks = _CACHEINFO.unpack_from(body)
    return math.ceil(ticks / _USER_HZ) if ticks else None
