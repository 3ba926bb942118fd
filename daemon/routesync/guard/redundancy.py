"""Whether a DHCP host route may be removed from the kernel: only if another route does exactly its work.

What decides is the route that the kernel would use in its place: of those that cover the address, in the same table,
the longest prefix, then the lowest metric. That one must lead to the neighbour itself, over the same link, from the
same source. So a cloud host keeps its host route: with an address of /32 only the default route covers its gateway, by
way of that very gateway. So does a host that needs the host route to resolve the gateway of another route.

Every doubt is a reason to leave the route alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

from routesync.kernel import Links, RouteDetails, TableDump, removable, would_match
from routesync.names import PROTOCOLS, SCOPES, TYPES, type_name
from routesync.route import Family, Prefix, Route, Verdict, format_address

BY_CLIENTS = frozenset({PROTOCOLS["dhcp"], PROTOCOLS["boot"]})
"""What DHCP clients write host routes with: networkd `dhcp`; dhclient and dhcpcd `boot`, where a lease has a /32."""
UNICAST = TYPES["unicast"]
LINK = SCOPES["link"]


class Reason(StrEnum):
    """Why a route stays: stable codes."""

    NOT_PLAIN = "not-plain"
    AMBIGUOUS = "ambiguous"
    ONLY_WAY = "only-way"
    ONLY_BY_GATEWAY = "only-by-gateway"
    ONLY_BY_DEFAULT = "only-by-default"
    OTHER_LINK = "other-link"
    OTHER_DOWN = "other-down"
    OTHER_SOURCE = "other-source"
    OTHER_SCOPE = "other-scope"
    OTHER_EXPIRES = "other-expires"
    OTHER_ODD = "other-odd"


class Redundant(NamedTuple):
    """The route may be removed."""

    by: Prefix  # of the route that does its work


class Needed(NamedTuple):
    """The route stays."""

    reason: Reason
    detail: str


Evaluate = Callable[[Route, Links], Verdict]


def guarded(dump: TableDump, prefix: Prefix, evaluate: Evaluate) -> list[tuple[Route, Verdict]]:
    """The routes of a prefix in a dump that a rule with `guard = true` decides on."""
    found = [(route, evaluate(route, dump.links)) for route in dump.routes if route.prefix == prefix]
    return [(route, verdict) for route, verdict in found if not verdict.keep and verdict.guard]


def assess(route: Route, dump: TableDump, evaluate: Evaluate) -> Redundant | Needed:
    """Whether one guarded route may be removed.

    Args:
        route: one of the dump.
        dump: all routes that cover its address.
        evaluate: the rules; a route that they would have removed, too, is no substitute.
    """
    if not _is_plain(route):
        return Needed(
            Reason.NOT_PLAIN, "it is not a plain host route by DHCP: one link, no gateway, no encapsulation"
        )
    others = [other for other in dump.routes if other.table == route.table]
    others.remove(route)  # itself, once: an equal twin stays, and makes it ambiguous
    if any(would_match(route, other) for other in others):
        return Needed(
            Reason.AMBIGUOUS, "another route to it is so like it that the kernel could take the wrong one"
        )
    instead = _substitute(route, others, lambda other: evaluate(other, dump.links).guard)
    if instead is None:
        return Needed(Reason.ONLY_WAY, "no other route leads there")
    why = _unfit(route, instead, dump.details.get(instead))
    return Redundant(instead.prefix) if why is None else Needed(*why)


def _is_plain(route: Route) -> bool:
    return (
        route.protocol in BY_CLIENTS
        and route.prefix.is_host
        and route.type == UNICAST
        and not route.tos
        and removable(route)
        and (route.prefix.family is Family.INET6 or route.scope == LINK)
    )


def _substitute(route: Route, others: Iterable[Route], is_guarded: Callable[[Route], bool]) -> Route | None:
    """The route that the kernel would use without this one and without other guarded ones."""
    address = route.prefix.packed
    covering = [
        other
        for other in others
        if other.source is None and other.prefix.contains(address) and not other.tos and not is_guarded(other)
    ]
    # of equals the first one listed: the kernel lists aliases in the order in which it uses them
    return min(covering, key=lambda other: (-other.prefix.length, other.metric), default=None)


def _unfit(route: Route, instead: Route, details: RouteDetails | None) -> tuple[Reason, str] | None:
    """Why the route in its place does not do the same work; None: it does."""
    named = f"without it the route to {instead.prefix} would be used"
    if instead.type != UNICAST:
        return Reason.ONLY_WAY, f"{named}, which is {type_name(instead.type)}"
    if any(hop.gateway is not None for hop in instead.hops):
        gateways = ", ".join(format_address(hop.gateway) for hop in instead.hops if hop.gateway)
        return Reason.ONLY_BY_GATEWAY, f"{named}, which goes via {gateways}"
    if instead.encap or instead.nexthop_id or len(instead.hops) != 1:
        return Reason.OTHER_ODD, f"{named}, which is no plain route to a link"
    if instead.hops[0].ifindex != route.hops[0].ifindex:
        return Reason.OTHER_LINK, f"{named}, which leads to another link"
    if instead.prefix.is_default:
        return Reason.ONLY_BY_DEFAULT, f"{named}: a default route is no proof of a neighbour"
    if not instead.hops[0].usable:
        return Reason.OTHER_DOWN, f"{named}, which is down"
    if instead.prefix.family is Family.INET and instead.scope != LINK:
        return Reason.OTHER_SCOPE, f"{named}, whose scope cannot reach the gateways of other routes"
    if route.prefsrc is not None and instead.prefsrc != route.prefsrc:
        source = format_address(instead.prefsrc) if instead.prefsrc else "an address that the kernel picks"
        return Reason.OTHER_SOURCE, f"{named}, from {source} instead of {format_address(route.prefsrc)}"
    if details is not None and details.expires_s is not None:
        when = f"expires in {details.expires_s} s" if details.expires_s > 0 else "has expired"
        return Reason.OTHER_EXPIRES, f"{named}, which {when}"
    return None
