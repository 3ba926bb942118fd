"""The conditions of a rule, each deciding as much as it can on the fixed header of a route message.

A table of routes has few distinct headers (family, length, table, protocol, scope, type) and many routes. So a
condition is asked in two steps: for a header it answers yes, no, or with the test that remains to be made on the whole
route. The policy keeps the answers by header; what is left to do for a route is a dictionary look-up and, most often,
no test or one.

`implies` serves to find rules that never get their turn: it is true only where that is proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from routesync.route import Address, Prefix, Route

Interfaces: TypeAlias = Mapping[int, str]
Test: TypeAlias = Callable[[Route, Interfaces], bool]
Answer: TypeAlias = bool | Test


class Header(NamedTuple):
    """What the fixed part of a route message tells (struct rtmsg, linux/rtnetlink.h)."""

    width: int  # bytes of an address: 4 or 16
    length: int
    table: int | None  # None: only RTA_TABLE tells
    protocol: int
    scope: int
    type: int
    link_gateway: bool | None  # what `evaluate` is given; None: nothing is known of it yet


class Span(NamedTuple):
    """A range of numbers, both ends included."""

    low: int
    high: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.low <= number <= self.high


class Condition(Protocol):
    """One thing that a rule demands of a route."""

    def ask(self, header: Header) -> Answer:
        """Say whether routes with this header meet the condition, or how to find out."""

    def implies(self, other: Condition) -> bool:
        """Whether it is proven that what meets this condition meets the other."""


def all_of(answers: Iterable[Answer]) -> Answer:
    """Combine answers: no if one is no, yes if all are yes, else the remaining tests."""
    tests: list[Test] = []
    for answer in answers:
        if answer is False:
            return False
        if answer is not True:
            tests.append(answer)
    if len(tests) < 2:
        return tests[0] if tests else True

    def test(route: Route, interfaces: Interfaces) -> bool:
        for part in tests:  # noqa: SIM110  # half the time of all() with a generator
            if not part(route, interfaces):
                return False
        return True

    return test


def any_of(answers: Iterable[Answer]) -> Answer:
    """Combine answers: yes if one is yes, no if all are no, else the remaining tests."""
    tests: list[Test] = []
    for answer in answers:
        if answer is True:
            return True
        if answer is not False:
            tests.append(answer)
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

    def ask(self, header: Header) -> Answer:
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

    def ask(self, header: Header) -> Answer:
        """Decide where the header has the table: it holds 8 bits of it."""
        if header.table is not None:
            return header.table in self.tables
        return lambda route, _: route.table in self.tables

    def implies(self, other: Condition) -> bool:
        """A subset of tables."""
        return isinstance(other, TableIn) and self.tables <= other.tables


ALL_SHAPES = frozenset((width, length) for width in (4, 16) for length in range(width * 8 + 1))
"""Every (bytes of an address, prefix length)."""


@dataclass(frozen=True, slots=True)
class ShapeIn:
    """`family`, `host`, `default_route`: what family and length alone decide."""

    shapes: frozenset[tuple[int, int]]

    def ask(self, header: Header) -> Answer:
        """Decide; the header has both."""
        return (header.width, header.length) in self.shapes

    def implies(self, other: Condition) -> bool:
        """A subset of shapes."""
        return isinstance(other, ShapeIn) and self.shapes <= other.shapes


@dataclass(frozen=True, slots=True)
class PrefixTerm:
    """One `prefix` of a rule: all of its parts must hold."""

    exact: tuple[Prefix, ...] | None = None
    within: tuple[Prefix, ...] | None = None
    covers: tuple[Prefix, ...] | None = None
    lengths: tuple[Span, ...] | None = None

    def ask(self, header: Header) -> Answer:
        """Decide by the length where it can; the bits of the address are not in the header."""
        if self.lengths is not None and not any(header.length in span for span in self.lengths):
            return False
        return all_of(self._parts(header))

    def _parts(self, header: Header) -> Iterable[Answer]:
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
        return frozenset(
            shape for shape in ALL_SHAPES if self.ask(Header(*shape, None, 0, 0, 0, None)) is not False
        )

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


def _packed_in(members: frozenset[Address]) -> Test:
    return lambda route, _: route.prefix.packed in members


def _number_in(numbers: frozenset[int], shift: int) -> Test:
    return lambda route, _: int.from_bytes(route.prefix.packed, "big") >> shift in numbers


@dataclass(frozen=True, slots=True)
class PrefixIs:
    """`prefix`: one of these terms."""

    terms: tuple[PrefixTerm, ...]

    def ask(self, header: Header) -> Answer:
        """Decide by family and length where they do."""
        return any_of(term.ask(header) for term in self.terms)

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

    def ask(self, _header: Header) -> Answer:
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

    def ask(self, _header: Header) -> Answer:
        """Look at the route."""
        inside = lies_in(self.networks)
        return lambda route, _: route.prefsrc is not None and inside(route.prefsrc)

    def implies(self, other: Condition) -> bool:
        """Each network lies in one of the other's."""
        return isinstance(other, SourceIn) and _covered(self.networks, other.networks)
