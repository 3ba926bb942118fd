"""Conditions on a route's next hops (gateway, interface, flags), and whether it leads to another route's gateway.

Those on next hops hold when all live hops meet them (`Route.live_hops`: dead and linkdown hops of an ECMP route do not
count), and never for a route without hops (blackhole and its like); only `gateway = false` says of those, too, that
there is no gateway.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from routesync.names import SCOPES, TYPES
from routesync.policy.conditions import (
    ALL_SHAPES,
    Answer,
    Condition,
    Header,
    Interfaces,
    NumberIn,
    Test,
    lies_in,
)
from routesync.route import NextHop, Prefix, Route

_UNICAST: Final = TYPES["unicast"]
_LINK: Final = SCOPES["link"]

HopTest: TypeAlias = Callable[[NextHop, Interfaces], bool]


def _every_hop(meets: HopTest) -> Test:
    def test(route: Route, interfaces: Interfaces) -> bool:
        hops = route.hops
        if len(hops) == 1:
            return meets(hops[0], interfaces)
        return bool(hops) and all(meets(hop, interfaces) for hop in route.live_hops)

    return test


@dataclass(frozen=True, slots=True)
class HasGateway:
    """`gateway = true` or `false`: every hop has one, or none has."""

    wanted: bool

    def ask(self, _header: Header) -> Answer:
        """Look at the route."""
        if self.wanted:
            return _every_hop(lambda hop, _: hop.gateway is not None)
        return lambda route, _: all(hop.gateway is None for hop in route.live_hops)

    def implies(self, other: Condition) -> bool:
        """The same wish."""
        return self == other


@dataclass(frozen=True, slots=True)
class GatewayIn:
    """`gateway = "10.0.0.0/8"`: the gateway of every hop lies in one of these networks.

    The family is that of the gateway, which need not be the route's: RTA_VIA gives an IPv4 route an IPv6 gateway
    (RFC 5549).
    """

    networks: tuple[Prefix, ...]

    def ask(self, _header: Header) -> Answer:
        """Look at the route."""
        inside = lies_in(self.networks)
        return _every_hop(lambda hop, _: hop.gateway is not None and inside(hop.gateway))

    def implies(self, other: Condition) -> bool:
        """Each network lies in one of the other's; or the other only wants a gateway."""
        if isinstance(other, HasGateway):
            return other.wanted
        return isinstance(other, GatewayIn) and all(
            any(theirs.covers(mine) for theirs in other.networks) for mine in self.networks
        )


def _is_link_gateway(_route: Route, _interfaces: Interfaces) -> bool:
    raise AssertionError("a header alone leaves link_gateway open, and no route is tested by its plan")


@dataclass(frozen=True, slots=True)
class LinkGateway:
    """`link_gateway`: a host route on a link, to the gateway of another route over the same link.

    The caller knows which routes those are; the header only rules most of them out (`routesync.route.link_host`).
    """

    wanted: bool

    def ask(self, header: Header) -> Answer:
        """Decide by what the caller knows, or by the shape."""
        if (
            header.length != header.width * 8
            or header.type != _UNICAST
            or (header.width == 4 and header.scope != _LINK)
        ):
            return not self.wanted
        if header.link_gateway is None:
            return _is_link_gateway
        return header.link_gateway is self.wanted

    def implies(self, other: Condition) -> bool:
        """The same wish; or a part of the shape."""
        if self == other or not self.wanted:
            return self == other
        if isinstance(other, NumberIn):
            return other.field == "type" and _UNICAST in other.numbers
        return other == HasGateway(wanted=False)

    def shapes(self) -> frozenset[tuple[int, int]]:
        """The families and lengths that can match at all."""
        return frozenset({(4, 32), (16, 128)}) if self.wanted else ALL_SHAPES


@dataclass(frozen=True, slots=True)
class InterfaceLike:
    """`interface`: the name of every hop's interface fits one of these globs; upper and lower case differ."""

    globs: tuple[str, ...]

    def ask(self, _header: Header) -> Answer:
        """Look at the route, and at the interfaces' present names."""
        if not any(_is_glob(glob) for glob in self.globs):
            literal = frozenset(self.globs)
            return _every_hop(lambda hop, interfaces: interfaces.get(hop.ifindex) in literal)
        fits = re.compile("|".join(fnmatch.translate(glob) for glob in self.globs)).match

        def meets(hop: NextHop, interfaces: Interfaces) -> bool:
            name = interfaces.get(hop.ifindex)
            return name is not None and fits(name) is not None

        return _every_hop(meets)

    def implies(self, other: Condition) -> bool:
        """Each glob is one of the other's, or a name that fits one."""
        return isinstance(other, InterfaceLike) and all(
            any(
                theirs in ("*", mine) or (not _is_glob(mine) and fnmatch.fnmatchcase(mine, theirs))
                for theirs in other.globs
            )
            for mine in self.globs
        )


def _is_glob(text: str) -> bool:
    return any(char in text for char in "*?[")


@dataclass(frozen=True, slots=True)
class HasFlags:
    """`flags`: every hop has one of these flags."""

    mask: int

    def ask(self, _header: Header) -> Answer:
        """Look at the route: rtm_flags has the flags of a single hop, but not those of several."""
        mask = self.mask

        def test(route: Route, _: Interfaces) -> bool:
            hops = route.hops
            if len(hops) == 1:  # the usual case, without the call: most policies ask this of most routes
                return hops[0].flags & mask != 0
            return bool(hops) and all(hop.flags & mask for hop in route.live_hops)

        return test

    def implies(self, other: Condition) -> bool:
        """A subset of flags."""
        return isinstance(other, HasFlags) and not self.mask & ~other.mask
