"""The one thing that is ever changed in the kernel: a single route is removed, by its full description.

A removal is bracketed by two questions to the kernel, which way it would send a packet to that address: what looked
redundant in the tables may not be so by policy rules (`suppress_prefixlength`, other tables), and only the kernel knows
them all. If the way changes, the route is put back at once, attribute by attribute as the kernel itself described it.

A request to delete names everything that the kernel compares (fib_table_delete() of net/ipv4/fib_trie.c,
ip6_route_del() of net/ipv6/route.c): table, prefix, TOS, metric, protocol, scope, type, device, source. What is left
out, or zero, matches anything: a metric of 0 matches every metric, the lowest first, and for IPv6 scope, type and
source are not compared. `would_match` tells which other routes a request could take.
"""

from __future__ import annotations

import asyncio
import errno
import os
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from pyroute2.iproute import AsyncIPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWROUTE

from routesync.kernel.decode import RTMSG, RTMSG_SIZE, RouteDecoder
from routesync.kernel.errors import KernelError, NotPermittedError
from routesync.kernel.netlink import HEADER_SIZE, RawMessage
from routesync.kernel.query import PATIENCE_S, route_api
from routesync.route import Family, HopFlag, Route, format_address

_RTM_F_FIB_MATCH: Final = 0x2000
_NO_WAY: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH)
"""Answers to a look-up that mean: no packet goes there (no route, unreachable, prohibit, blackhole, throw)."""
_NOT_PERMITTED: Final = (errno.EPERM, errno.EACCES)

_PROBE: Final = {"dst": "192.0.2.255/32", "table": 0xFFFF_FFFE, "proto": 254, "priority": 0xFFFF_FFFF}
"""A route that nobody has: an address for documentation (RFC 5737), a table that does not exist, the last metric."""


class Removal(Enum):
    """The outcome of a removal."""

    DONE = auto()
    ABSENT = auto()  # the kernel had no such route any more
    PUT_BACK = auto()  # without it, packets to that address would have gone another way, or none


class _Way(NamedTuple):
    """How the kernel sends a packet."""

    ifindex: int
    gateway: str | None


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


async def may_change_routes(netns: str | None = None) -> bool:
    """Whether the kernel would accept a change of routes from us (CAP_NET_ADMIN over the namespace).

    It is asked to delete a route to an address for documentation from a table that does not exist: the privilege is
    checked before anything else (rtnetlink_rcv_msg()).

    Raises:
        KernelError: the namespace cannot be entered, or the kernel does not answer.
    """
    async with route_api(netns) as api, asyncio.timeout(PATIENCE_S):
        try:
            await api.route("del", **_PROBE)
        except NetlinkError as error:
            return error.code not in _NOT_PERMITTED
    return True


async def remove_route(route: Route, netns: str | None = None) -> Removal:
    """Remove exactly this route from the kernel, and see that packets to its address still go the same way.

    Args:
        route: a `removable` one of full prefix length.
        netns: name or path of another network namespace.

    Raises:
        NotPermittedError: we lack CAP_NET_ADMIN.
        KernelError: the kernel does not answer, or refuses for another reason.
    """
    removal = asyncio.create_task(_remove(route, netns))
    try:
        return await asyncio.shield(removal)
    except asyncio.CancelledError:
        # Once begun it is finished: a route that is needed must be put back.
        await asyncio.gather(removal, return_exceptions=True)
        raise


async def _remove(route: Route, netns: str | None) -> Removal:
    async with route_api(netns) as api, asyncio.timeout(PATIENCE_S):
        before = await _way(api, route)
        original = await _description(api, route)
        try:
            await api.route("del", **_request(route))
        except NetlinkError as error:
            if error.code == errno.ESRCH:
                return Removal.ABSENT
            if error.code in _NOT_PERMITTED:
                raise NotPermittedError("removing a route needs CAP_NET_ADMIN") from error
            raise KernelError(
                f"the kernel does not remove {route.prefix}: {os.strerror(error.code)}"
            ) from error
        if await _way(api, route) == before:
            return Removal.DONE
        try:
            await _put_back(api, route, original)
        except NetlinkError as error:
            if error.code != errno.EEXIST:  # another process may have been faster
                raise KernelError(
                    f"{route.prefix} was not redundant, and the kernel does not accept it again: "
                    f"{os.strerror(error.code)}"
                ) from error
        return Removal.PUT_BACK


def _request(route: Route) -> dict[str, Any]:
    """Describe a `removable` route fully."""
    request = {
        "dst": str(route.prefix),
        "table": route.table,
        "tos": route.tos,
        "priority": route.metric,
        "proto": route.protocol,
        "scope": route.scope,
        "type": route.type,
        "oif": route.hops[0].ifindex,
    }
    return request if route.prefsrc is None else request | {"prefsrc": format_address(route.prefsrc)}


async def _way(api: AsyncIPRoute, route: Route) -> _Way | None:
    """Ask the kernel where it would send a packet to the address of a route; None: nowhere."""
    try:
        answer, *_ = await api.route("get", dst=format_address(route.prefix.packed))
    except NetlinkError as error:
        if error.code in _NO_WAY:
            return None
        raise KernelError(f"the kernel does not say its way: {os.strerror(error.code)}") from error
    via = answer.get_attr("RTA_VIA")
    return _Way(answer.get_attr("RTA_OIF") or 0, answer.get_attr("RTA_GATEWAY") or (via and via["addr"]))


async def _description(api: AsyncIPRoute, route: Route) -> bytes | None:
    """The route as the kernel describes it, with its metrics, where it is the one in use."""
    try:
        answer, *_ = await api.route("get", dst=format_address(route.prefix.packed), flags=_RTM_F_FIB_MATCH)
    except NetlinkError:
        return None
    body = bytes(answer.data[answer.offset + HEADER_SIZE : answer.offset + answer.length])
    used = RouteDecoder(lambda _: None).decode(body, 0, len(body))
    if used is None or used._replace(hops=route.hops) != route or not removable(used):
        return None
    *header, flags = RTMSG.unpack_from(body)
    return RTMSG.pack(*header, flags & HopFlag.ONLINK) + body[RTMSG_SIZE:]  # other flags are states


async def _put_back(api: AsyncIPRoute, route: Route, original: bytes | None) -> None:
    if original is None:
        await api.route("add", **_request(route))
        return
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    async for _ in await api.nlm_request(RawMessage(original), RTM_NEWROUTE, flags):
        pass
