"""The conditions of a rule. Each decides as much as it can by the fixed header of a route message.

A table of routes has few distinct headers (family, length, table, protocol, scope, type) and many routes. So a
condition is evaluated in two steps: for a header it is true, false, or a test that remains to be made on the whole
route. The policy keeps these decisions by header; what remains for a route is a dictionary look-up and, most often, no
test or one.

Conditions on next hops hold if all live hops meet them (`Route.live_hops`: dead and linkdown hops of an ECMP route do
not count), and never for a route without hops (blackhole and its like); only `gateway = false` also holds for those.

`implies` finds rules that can never take effect: it is true only if that is proven.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from routesync.names import SCOPES, TYPES
from routesync.route import Address, NextHop, Prefix, Route

Interfaces: TypeAlias = Mapping[int, str]
Test: TypeAlias = Callable[[Route, Interfaces], bool]
Decision: TypeAlias = bool | Test
"""Whether a condition holds by the header alone, or how to find out from the whole route."""

_UNICAST: Final = TYPES["unicast"]
_LINK: Final = SCOPES["link"]


class Header(NamedTuple):
    """What the fixed part of a route message has (struct rtmsg, linux/rtnetlink.h)."""

    width: int  # bytes of an address: 4 or 16
    length: int
    table: int | None  # None: only RTA_TABLE has it
    protocol: int
    scope: int
    type: int
    link_gateway: bool | None  # as `evaluate` takes it; None: not known yet


class Span(NamedTuple):
    """A range of numbers, both ends included."""

    low: int
    high: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.low <= number <= self.high


class Condition(Protocol):
    """One thing that a rule requires of a route."""

    def decide(self, header: Header) -> Decision:
        """Decide whether routes with this header meet the condition, or how to find out."""

    def implies(self, other: Condition) -> bool:
        """Whether it is proven that what meets this condition meets the other."""


def _undecided(_route: Route, _interfaces: Interfaces) -> bool:
    """What a plan by the header alone has in place of a test."""
    raise AssertionError("the header leaves it undecided, and no route is tested by its plan")


def all_of(decisions: Iterable[Decision]) -> Decision:
    """Combine decisions: false if one is false, true if all are true, else the remaining tests."""
    tests: list[Test] = []
    for decision in decisions:
        if decision is False:
            return False
        if decision is not True:
            tests.append(decision)
    if len(tests) < 2:
        return tests[0] if tests else True

    def test(route: Route, interfaces: Interfaces) -> bool:
        for part in tests:  # noqa: SIM110  # half the time of all() with a generator
            if not part(route, interfaces):
                return False
        return True

    return test


def any_of(decisions: Iterable[Decision]) -> Decision:
    """Combine decisions: true if one is true, false if all are false, else the remaining tests."""
    tests: list[Test] = []
    for decision in decisions:
        if decision is True:
            return True
        if decision is not False:
            tests.append(decision)
    if len(tests) < 2:
        return tests[0] if tests else False

    def test(route: Route, interfaces: Interfaces) -> bool:
        for part in tests:  # noqa: SIM110  # half the time of any() with a generator
            if part(route, interfaces):
                return True
        return False

    return test


def numbers_by_shift(networks: Iterable[Prefix], width: int) -> dict[int, frozenset[int]]:
    """Gather the networks of one family by the bits to shift an address by, to compare it with all of one length."""
    found: dict[int, set[int]] = {}
    for network in networks:
        if len(network.packed) == width:
            shift = width * 8 - network.length
            found.setdefault(shift, set()).add(int.from_bytes(network.packed, "big") >> shift)
    return {shift: frozenset(numbers) for shift, numbers in found.items()}


def lies_in(networks: Sequence[Prefix]) -> Callable[[Address], bool]:
    """Make a test whether an address lies in one of the networks: one look-up for each distinct length of theirs."""
    if all(network.is_host for network in networks):
        return frozenset(network.packed for network in networks).__contains__
    shifts = {width: tuple(numbers_by_shift(networks, width).items()) for width in (4, 16)}

    def test(address: Address) -> bool:
        number = int.from_bytes(address, "big")
        return any(number >> shift in numbers for shift, numbers in shifts[len(address)])

    return test


def _covered(networks: Iterable[Prefix], others: Sequence[Prefix]) -> bool:
    """Whether each of the networks lies in one of the others."""
    return all(any(other.covers(network) for other in others) for network in networks)


@dataclass(frozen=True, slots=True)
class NumberIn:
    """`protocol`, `scope`, `type`: one of these numbers."""

    field: Literal["protocol", "scope", "type"]
    numbers: frozenset[int]

    def decide(self, header: Header) -> Decision:
        """Decide; the header has it."""
        number: int = getattr(header, self.field)
        return number in self.numbers

    def implies(self, other: Condition) -> bool:
        """A subset of the same field."""
        return isinstance(other, NumberIn) and self.field == other.field and self.numbers <= other.numbers


@dataclass(frozen=True, slots=True)
class TableIn:
    """`table`: one of these tables."""

    tables: frozenset[int]

    def decide(self, header: Header) -> Decision:
        """Decide where the header has the table: it holds 8 bits of it."""
        if header.table is not None:
            return header.table in self.tables
        return _undecided

    def implies(self, other: Condition) -> bool:
        """A subset of tables."""
        return isinstance(other, TableIn) and self.tables <= other.tables


ALL_SHAPES = frozenset((width, length) for width in (4, 16) for length in range(width * 8 + 1))
"""Every (bytes of an address, prefix length)."""


@dataclass(frozen=True, slots=True)
class ShapeIn:
    """`family`, `host`, `default_route`: what family and length alone decide."""

    shapes: frozenset[tuple[int, int]]

    def decide(self, header: Header) -> Decision:
        """Decide; the header has both."""
        return (header.width, header.length) in self.shapes

    def implies(self, _other: Condition) -> bool:
        """Nothing by itself: `Rule.always_after` compares shapes, those of all conditions together."""
        return False


@dataclass(frozen=True, slots=True)
class PrefixTerm:
    """One `prefix` of a rule: all of its parts must hold."""

    exact: tuple[Prefix, ...] | None = None
    within: tuple[Prefix, ...] | None = None
    covers: tuple[Prefix, ...] | None = None
    lengths: tuple[Span, ...] | None = None

    def decide(self, header: Header) -> Decision:
        """Decide by the length where it can; the bits of the address are not in the header."""
        if self.lengths is not None and not any(header.length in span for span in self.lengths):
            return False
        return all_of(self._parts(header))

    def _parts(self, header: Header) -> Iterable[Decision]:
        if self.exact is not None:
            exact = {p.packed for p in self.exact if (len(p.packed), p.length) == header[:2]}
            yield _packed_in(frozenset(exact)) if exact and header.length else bool(exact)
        if self.within is not None:
            nets = [p for p in self.within if len(p.packed) == header.width and p.length <= header.length]
            by_shift = numbers_by_shift(nets, header.width)
            yield any(not p.length for p in nets) or any_of(
                _number_in(n, shift) for shift, n in by_shift.items()
            )
        if self.covers is not None:
            shift = header.width * 8 - header.length
            numbers = {
                int.from_bytes(p.packed, "big") >> shift
                for p in self.covers
                if len(p.packed) == header.width and p.length >= header.length
            }
            yield _number_in(frozenset(numbers), shift) if numbers and header.length else bool(numbers)

    def shapes(self) -> frozenset[tuple[int, int]]:
        """The families and lengths that this term can match at all."""
        found = ALL_SHAPES
        if self.exact is not None:
            found &= {(len(p.packed), p.length) for p in self.exact}
        if self.within is not None:
            least = _by_width(min, self.within)
            found = frozenset((width, length) for width, length in found if length >= least.get(width, 999))
        if self.covers is not None:
            most = _by_width(max, self.covers)
            found = frozenset((width, length) for width, length in found if length <= most.get(width, -1))
        if self.lengths is not None:
            found = frozenset(shape for shape in found if any(shape[1] in span for span in self.lengths))
        return found

    def implies(self, other: PrefixTerm) -> bool:
        """Each part of the other is there, and as narrow."""
        inner = self.exact or self.within
        if other.exact is not None and not (self.exact and set(self.exact) <= set(other.exact)):
            return False
        if other.within is not None and not (inner and _covered(inner, other.within)):
            return False
        if other.covers is not None:
            needed = self.covers or self.exact
            if not needed or not all(any(mine.covers(p) for p in other.covers) for mine in needed):
                return False
        return other.lengths is None or all(
            any(length in span for span in other.lengths) for _, length in self.shapes()
        )


def _by_width(choose: Callable[[list[int]], int], networks: Iterable[Prefix]) -> dict[int, int]:
    """The least, or the greatest, length of the networks of each family."""
    lengths: dict[int, list[int]] = {}
    for network in networks:
        lengths.setdefault(len(network.packed), []).append(network.length)
    return {width: choose(found) for width, found in lengths.items()}


def _packed_in(members: frozenset[Address]) -> Test:
    return lambda route, _: route.prefix.packed in members


def _number_in(numbers: frozenset[int], shift: int) -> Test:
    return lambda route, _: int.from_bytes(route.prefix.packed, "big") >> shift in numbers


@dataclass(frozen=True, slots=True)
class PrefixIs:
    """`prefix`: one of these terms."""

    terms: tuple[PrefixTerm, ...]

    def decide(self, header: Header) -> Decision:
        """Decide by family and length where they do."""
        return any_of(term.decide(header) for term in self.terms)

    def shapes(self) -> frozenset[tuple[int, int]]:
        """The families and lengths that can match at all."""
        return frozenset().union(*(term.shapes() for term in self.terms))

    def implies(self, other: Condition) -> bool:
        """Each term implies one of the other's."""
        return isinstance(other, PrefixIs) and all(
            any(mine.implies(theirs) for theirs in other.terms) for mine in self.terms
        )


@dataclass(frozen=True, slots=True)
class MetricIn:
    """`metric`: in one of these ranges."""

    spans: tuple[Span, ...]

    def decide(self, _header: Header) -> Decision:
        """Look at the route."""
        if len(self.spans) == 1:
            low, high = self.spans[0]
            return lambda route, _: low <= route.metric <= high
        return lambda route, _: any(low <= route.metric <= high for low, high in self.spans)

    def implies(self, other: Condition) -> bool:
        """Each range lies in one of the other's."""
        return isinstance(other, MetricIn) and all(
            any(theirs.low <= mine.low and mine.high <= theirs.high for theirs in other.spans)
            for mine in self.spans
        )


@dataclass(frozen=True, slots=True)
class SourceIn:
    """`source`: the preferred source address lies in one of these networks."""

    networks: tuple[Prefix, ...]

    def decide(self, _header: Header) -> Decision:
        """Look at the route."""
        inside = lies_in(self.networks)
        return lambda route, _: route.prefsrc is not None and inside(route.prefsrc)

    def implies(self, other: Condition) -> bool:
        """Each network lies in one of the other's."""
        return isinstance(other, SourceIn) and _covered(self.networks, other.networks)


# -- conditions on next hops ----------------------------------------------------------------------------------

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

    def decide(self, _header: Header) -> Decision:
        """Look at the route."""
        if self.wanted:
            return _every_hop(lambda hop, _: hop.gateway is not None)
        return lambda route, _: all(hop.gateway is None for hop in route.live_hops)

    def implies(self, other: Condition) -> bool:
        """Only the same condition."""
        return self == other


@dataclass(frozen=True, slots=True)
class GatewayIn:
    """`gateway = "10.0.0.0/8"`: the gateway of every hop lies in one of these networks.

    The family is that of the gateway, which need not be the route's: RTA_VIA gives an IPv4 route an IPv6 gateway
    (RFC 5549).
    """

    networks: tuple[Prefix, ...]

    def decide(self, _header: Header) -> Decision:
        """Look at the route."""
        inside = lies_in(self.networks)
        return _every_hop(lambda hop, _: hop.gateway is not None and inside(hop.gateway))

    def implies(self, other: Condition) -> bool:
        """Each network lies in one of the other's; or the other only requires a gateway."""
        if isinstance(other, HasGateway):
            return other.wanted
        return isinstance(other, GatewayIn) and all(
            any(theirs.covers(mine) for theirs in other.networks) for mine in self.networks
        )


@dataclass(frozen=True, slots=True)
class LinkGateway:
    """`link_gateway`: a host route on a link, to the gateway of another route over the same link.

    The caller knows which routes those are; the header only excludes most of them (`routesync.route.link_host`).
    """

    wanted: bool

    def decide(self, header: Header) -> Decision:
        """Decide by what the caller knows, or by the shape."""
        if (
            header.length != header.width * 8
            or header.type != _UNICAST
            or (header.width == 4 and header.scope != _LINK)
        ):
            return not self.wanted
        if header.link_gateway is None:
            return _undecided
        return header.link_gateway is self.wanted

    def implies(self, other: Condition) -> bool:
        """The same, or a part of the shape."""
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

    def decide(self, _header: Header) -> Decision:
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

    def decide(self, _header: Header) -> Decision:
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


def size_of(condition: Condition) -> tuple[int, int]:
    """How many exact prefixes a condition lists, and how many other values.

    Whether one implies another takes as many steps as the first lists in all, times the others of the second. Exact
    prefixes are compared as sets, by their sum.
    """
    match condition:
        case PrefixIs(terms):
            others = [part for term in terms for part in (term.within, term.covers, term.lengths) if part]
            return sum(len(term.exact or ()) for term in terms), len(terms) + sum(map(len, others))
        case GatewayIn(values) | SourceIn(values) | MetricIn(values) | InterfaceLike(values):
            return 0, len(values)
    return 0, 1
