"""The one thing that is ever changed in the kernel: a single route is taken out, by its full description.

A removal is bracketed by two questions to the kernel, which way it would send a packet to that address: what looked
redundant in the tables may not be so by policy rules (`suppress_prefixlength`, other tables), and only the kernel knows
them all. If the way changes, the route is put back at once, attribute by attribute as the kernel itself described it.

A request to delete names everything that the kernel compares (fib_table_delete() of net/ipv4/fib_trie.c,
ip6_route_del() of net/ipv6/route.c): table, prefix, TOS, metric, protocol, scope, type, device, source. What is left
out, or zero, matches anything: a metric of 0 matches every metric, the lowest first, and for IPv6 scope, type and
source are not compared. `would_match` tells which other routes a request could take.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
from enum import Enum, auto
from typing import Final, NamedTuple

from routesync.kernel.decode import RTMSG, RTMSG_SIZE, RouteDecoder
from routesync.kernel.errors import KernelError, NotPermittedError
from routesync.kernel.netlink import (
    HEADER,
    HEADER_SIZE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    READ_SIZE,
    RTA_TABLE,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    error_number,
    open_route_socket,
)
from routesync.kernel.surroundings import attributes
from routesync.route import Address, Family, HopFlag, Prefix, Route

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_VIA = 1, 4, 5, 6, 7, 18
_RTM_F_FIB_MATCH: Final = 0x2000
_RT_TABLE_COMPAT: Final = 252
_ATTRIBUTE: Final = struct.Struct("=HH")
_PATIENCE_S: Final = 10
_NO_WAY: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH)
"""Answers to a look-up that mean: no packet goes there (no route, unreachable, prohibit, blackhole, throw)."""

_PROBE_TABLE: Final = 0xFFFF_FFFE
_PROBE_PREFIX: Final = Prefix.parse("192.0.2.255/32")
_PROBE_PROTOCOL, _PROBE_METRIC = 254, 0xFFFF_FFFF
"""A route that nobody has: an address for documentation (RFC 5737), a table that does not exist, the last metric."""


class Removal(Enum):
    """What came of it."""

    DONE = auto()
    ABSENT = auto()  # the kernel had no such route any more
    PUT_BACK = auto()  # without it, packets to that address would have gone another way, or none


class _Way(NamedTuple):
    """How the kernel sends a packet."""

    ifindex: int
    gateway: bytes | None


def removable(route: Route) -> bool:
    """Whether a request can describe the route fully: one device, no gateway, no nexthop object, no encapsulation."""
    hop = route.hops[0] if len(route.hops) == 1 else None
    return (
        hop is not None
        and hop.ifindex > 0
        and hop.gateway is None
        and not route.nexthop_id
        and not route.encap
        and route.source is None
    )


def would_match(request: Route, other: Route) -> bool:
    """Whether the kernel could take `other` for the route that a request to delete `request` describes."""
    same = (other.prefix, other.source, other.table, other.tos, other.protocol) == (
        request.prefix,
        request.source,
        request.table,
        request.tos,
        request.protocol,
    )
    if not same or (request.metric and other.metric != request.metric):
        return False
    if request.prefix.family is Family.INET:
        if (other.type, other.scope) != (request.type, request.scope):
            return False
        if request.prefsrc is not None and other.prefsrc != request.prefsrc:
            return False
    return any(hop.ifindex == request.hops[0].ifindex for hop in other.hops) or bool(other.nexthop_id)


def may_change_routes(netns: str | None = None) -> bool:
    """Whether the kernel would take a change of routes from us (CAP_NET_ADMIN over the namespace).

    It is asked to delete a route to an address for documentation from a table that does not exist: the privilege is
    looked at before anything else (rtnetlink_rcv_msg()).

    Raises:
        KernelError: the namespace cannot be entered, or the kernel does not answer.
    """
    body = RTMSG.pack(socket.AF_INET, 32, 0, 0, _RT_TABLE_COMPAT, _PROBE_PROTOCOL, 0, 0, 0)
    body += _attribute(_RTA_DST, _PROBE_PREFIX.packed) + _number(RTA_TABLE, _PROBE_TABLE)
    body += _number(_RTA_PRIORITY, _PROBE_METRIC)
    with open_route_socket(netns) as sock:
        code, _ = _ask(sock, RTM_DELROUTE, NLM_F_ACK, body)
    return code not in (errno.EPERM, errno.EACCES)


def remove_route(route: Route, netns: str | None = None) -> Removal:
    """Take exactly this route out of the kernel, and see that packets to its address still go the same way.

    Args:
        route: a `removable` one of full prefix length.
        netns: name or path of another network namespace.

    Raises:
        NotPermittedError: we lack CAP_NET_ADMIN.
        KernelError: it does not answer, or refuses for another reason.
    """
    with open_route_socket(netns) as sock:
        before = _way(sock, route.prefix.packed)
        original = _description(sock, route)
        code, _ = _ask(sock, RTM_DELROUTE, NLM_F_ACK, encode(route))
        if code == errno.ESRCH:
            return Removal.ABSENT
        if code in (errno.EPERM, errno.EACCES):
            raise NotPermittedError("removing a route needs CAP_NET_ADMIN")
        if code:
            raise KernelError(f"the kernel does not remove {route.prefix}: {os.strerror(code)}")
        if _way(sock, route.prefix.packed) == before:
            return Removal.DONE
        code, _ = _ask(sock, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, original)
        if code not in (0, errno.EEXIST):  # somebody may have been faster
            raise KernelError(
                f"{route.prefix} was not redundant, and the kernel does not take it back: {os.strerror(code)}"
            )
        return Removal.PUT_BACK


def encode(route: Route) -> bytes:
    """Make the body of a route message that describes a `removable` route fully."""
    prefix = route.prefix
    table = route.table if route.table < 256 else _RT_TABLE_COMPAT
    body = RTMSG.pack(
        prefix.family, prefix.length, 0, route.tos, table, route.protocol, route.scope, route.type, 0
    )
    body += _attribute(_RTA_DST, prefix.packed) + _number(RTA_TABLE, route.table)
    body += _number(_RTA_OIF, route.hops[0].ifindex) + _number(_RTA_PRIORITY, route.metric)
    return body + (_attribute(_RTA_PREFSRC, route.prefsrc) if route.prefsrc else b"")


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, value.to_bytes(4, sys.byteorder))


def _way(sock: socket.socket, address: Address) -> _Way | None:
    """Ask the kernel where it would send a packet to this address; None: nowhere."""
    code, body = _ask(sock, RTM_GETROUTE, 0, _question(address, 0))
    if code in _NO_WAY:
        return None
    if code:
        raise KernelError(f"the kernel does not say its way: {os.strerror(code)}")
    found = attributes(body, RTMSG_SIZE, len(body))
    ifindex = int.from_bytes(found.get(_RTA_OIF, b""), sys.byteorder)
    return _Way(ifindex, found.get(_RTA_GATEWAY) or found.get(_RTA_VIA))


def _description(sock: socket.socket, route: Route) -> bytes:
    """The route as the kernel describes it, with its metrics, where it is the one in use; else as we do."""
    code, body = _ask(sock, RTM_GETROUTE, 0, _question(route.prefix.packed, _RTM_F_FIB_MATCH))
    if not code:
        used = RouteDecoder(lambda _: None).decode(body, 0, len(body))
        if used is not None and used._replace(hops=route.hops) == route and removable(used):
            *header, flags = RTMSG.unpack_from(body)
            return RTMSG.pack(*header, flags & HopFlag.ONLINK) + body[RTMSG_SIZE:]  # other flags are states
    return encode(route)


def _question(address: Address, flags: int) -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return RTMSG.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, flags) + _attribute(_RTA_DST, address)


def _ask(sock: socket.socket, kind: int, flags: int, body: bytes) -> tuple[int, bytes]:
    """Send one request; return the errno (0: none) and the answer's body, if it has one."""
    sock.send(HEADER.pack(HEADER_SIZE + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body)
    if not select.select([sock], [], [], _PATIENCE_S)[0]:
        raise KernelError("the kernel does not answer a request about a route")
    data = sock.recv(READ_SIZE)
    length, answer, _, _, _ = HEADER.unpack_from(data)
    if answer == NLMSG_ERROR:
        return error_number(data, 0), b""
    return 0, data[HEADER_SIZE:length]
