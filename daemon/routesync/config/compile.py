"""From the rules as settings to a compiled policy."""

from __future__ import annotations

from collections.abc import Iterator

from routesync.config.models import MatchSettings, PolicySettings, PrefixMatch, RuleSettings, rewrite_of
from routesync.config.parsers import MAX_U8, MAX_U32, SettingError, parse_number
from routesync.names import Names
from routesync.policy import Policy, Rule
from routesync.policy.conditions import (
    ALL_SHAPES,
    Condition,
    GatewayIn,
    HasFlags,
    HasGateway,
    InterfaceLike,
    LinkGateway,
    MetricIn,
    NumberIn,
    PrefixIs,
    PrefixTerm,
    ShapeIn,
    SourceIn,
    TableIn,
)
from routesync.route import Verdict


def compile_policy(settings: PolicySettings, names: Names) -> Policy:
    """Compile the rules; the host's names give numbers to protocols and tables.

    Raises:
        SettingError: an unknown name of a protocol or table. Settings from the loader have none.
    """
    rules: list[Rule] = []
    for number, rule in enumerate(settings.rules, 1):
        try:
            rules.append(_rule(rule, names))
        except SettingError as error:
            place = f"[[policy.rules]] #{number} ({rule.name})"
            raise SettingError(f"{place}: {error.message}", error.remedy) from None
    return Policy(tuple(rules), Verdict(keep=settings.default_action == "keep", rule="default"))


def _rule(settings: RuleSettings, names: Names) -> Rule:
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
        yield NumberIn("protocol", _numbers("protocol", match.protocol, names))
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
    return frozenset(parse_number(word, key, known, highest) for word in words)


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
