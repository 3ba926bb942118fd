"""From the settings of a rule to its conditions and its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from routesync.names import Names
from routesync.policy.conditions import (
    ALL_SHAPES,
    Answer,
    Condition,
    Header,
    MetricIn,
    NumberIn,
    PrefixIs,
    PrefixTerm,
    ShapeIn,
    SourceIn,
    TableIn,
    all_of,
)
from routesync.policy.hops import GatewayIn, HasFlags, HasGateway, InterfaceLike, LinkGateway
from routesync.route import Verdict
from routesync.settings import MatchSettings, PrefixMatch, RuleSettings, rewrite_of
from routesync.settings.notation import MAX_U8, MAX_U32, NotationError, read_number


class Rule(NamedTuple):
    """A compiled rule: its conditions, cheapest first, and the one verdict it ever gives."""

    name: str
    conditions: tuple[Condition, ...]
    verdict: Verdict

    def ask(self, header: Header) -> Answer:
        """Say whether the rule matches routes with this header, or how to find out."""
        return all_of(condition.ask(header) for condition in self.conditions)

    def shapes(self) -> frozenset[tuple[int, int]]:
        """The families and prefix lengths that the rule can match at all."""
        shapes = ALL_SHAPES
        for condition in self.conditions:
            if isinstance(condition, ShapeIn):
                shapes &= condition.shapes
            elif isinstance(condition, PrefixIs | LinkGateway):
                shapes &= condition.shapes()
        return shapes

    def always_after(self, earlier: Rule) -> bool:
        """Whether it is proven that `earlier` matches whatever this rule matches."""
        return all(
            any(mine.implies(theirs) for mine in self.conditions)
            or (isinstance(theirs, ShapeIn) and self.shapes() <= theirs.shapes)
            for theirs in earlier.conditions
        )


class RuleError(Exception):
    """A key of a rule that cannot be compiled."""

    def __init__(self, key: str, error: NotationError) -> None:
        self.key = key
        self.error = error
        super().__init__(f"{key}: {error}")


def compile_rule(settings: RuleSettings, names: Names) -> Rule:
    """Compile one rule.

    Raises:
        RuleError: an unknown name of a protocol or table.
    """
    verdict = Verdict(
        keep=settings.action == "keep",
        rule=settings.name,
        rewrite=rewrite_of(settings.next_hop),
        report=settings.report,
        guard=settings.guard,
    )
    return Rule(settings.name, tuple(_conditions(settings.match, names)), verdict)


def _conditions(match: MatchSettings, names: Names) -> Iterator[Condition]:
    if match.protocol is not None:
        numbers = _numbers("protocol", match.protocol, names)
        yield NumberIn("protocol", numbers)
    if match.type is not None:
        yield NumberIn("type", frozenset(match.type))
    if match.scope is not None:
        yield NumberIn("scope", frozenset(match.scope))
    if match.family is not None or match.host is not None or match.default_route is not None:
        yield ShapeIn(frozenset(_shapes(match)))
    if match.table is not None:
        yield TableIn(_numbers("table", match.table, names))
    if match.link_gateway is not None:
        yield LinkGateway(match.link_gateway)
    if match.metric is not None:
        yield MetricIn(match.metric)
    if match.flags is not None:
        yield HasFlags(sum(set(match.flags)))
    if isinstance(match.gateway, bool):
        yield HasGateway(match.gateway)
    elif match.gateway is not None:
        yield GatewayIn(match.gateway)
    if match.source is not None:
        yield SourceIn(match.source)
    if match.prefix is not None:
        yield PrefixIs(_terms(match.prefix))
    if match.interface is not None:
        yield InterfaceLike(match.interface)


def _numbers(key: str, words: tuple[str | int, ...], names: Names) -> frozenset[int]:
    known, highest = (names.protocols, MAX_U8) if key == "protocol" else (names.tables, MAX_U32)
    try:
        return frozenset(read_number(word, key, known, highest) for word in words)
    except NotationError as error:
        raise RuleError(f"match.{key}", error) from None


def _shapes(match: MatchSettings) -> Iterator[tuple[int, int]]:
    families = None if match.family is None else {family.bits // 8 for family in match.family}
    for width, length in ALL_SHAPES:
        if (
            (families is None or width in families)
            and (match.host is None or match.host == (length == width * 8))
            and (match.default_route is None or match.default_route == (length == 0))
        ):
            yield width, length


def _terms(matches: tuple[PrefixMatch, ...]) -> tuple[PrefixTerm, ...]:
    """Gather the terms; those that only list networks become one, so that a long list costs one look-up."""
    terms = [PrefixTerm(match.exact, match.within, match.covers, match.length) for match in matches]
    exact = tuple(prefix for term in terms if _is_exact(term) for prefix in term.exact or ())
    rest = tuple(term for term in terms if not _is_exact(term))
    return (PrefixTerm(exact=exact), *rest) if exact else rest


def _is_exact(term: PrefixTerm) -> bool:
    return term.exact is not None and term.within is None and term.covers is None and term.lengths is None
