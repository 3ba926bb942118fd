"""Which routes are mirrored: ordered rules, first match wins, then the default.

The policy is pure: it knows routes and rules, and neither the kernel nor loxilb. One fact about other routes is an
input: whether a route is a host route to the gateway of its link (`link_gateway`). For each distinct header the policy
keeps a plan: the rules that the header leaves undecided, each with the test that remains, and the verdict after them.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from routesync.policy.conditions import (
    ALL_SHAPES,
    Condition,
    Decision,
    Header,
    LinkGateway,
    PrefixIs,
    ShapeIn,
    Test,
    all_of,
    size_of,
)
from routesync.route import Route, Verdict

RT_TABLE_COMPAT: Final = 252
"""rtm_table of tables above 255 (linux/rtnetlink.h), and of table 252 itself."""
_MAX_PLANS: Final = 8192
"""A host has a few dozen distinct headers; with a thousand VRF tables some more. Beyond that plans are made again."""
_MOST_STEPS: Final = 1_000_000
"""Steps of comparing rules for the warnings, less than a second; 500 short rules take as many, and twice as many four
times that."""
_WIDTHS: Final[Mapping[int, int]] = {socket.AF_INET: 4, socket.AF_INET6: 16}


class Rule(NamedTuple):
    """A compiled rule: its conditions, cheapest first, and the one verdict that it gives."""

    name: str
    conditions: tuple[Condition, ...]
    verdict: Verdict

    def decide(self, header: Header) -> Decision:
        """Decide whether the rule matches routes with this header, or how to find out."""
        return all_of(condition.decide(header) for condition in self.conditions)

    def shapes(self) -> frozenset[tuple[int, int]]:
        """The families and prefix lengths that the rule can match at all."""
        shapes = ALL_SHAPES
        for condition in self.conditions:
            if isinstance(condition, ShapeIn):
                shapes &= condition.shapes
            elif isinstance(condition, PrefixIs | LinkGateway):
                shapes &= condition.shapes()
        return shapes

    def size(self) -> tuple[int, int]:
        """How many exact prefixes its conditions list, and how many other values."""
        sizes = [size_of(condition) for condition in self.conditions]
        return sum(exact for exact, _ in sizes), 1 + sum(others for _, others in sizes)

    def always_after(self, earlier: Rule, shapes: frozenset[tuple[int, int]]) -> bool:
        """Whether it is proven that `earlier` matches whatever this rule, of these shapes, matches."""
        return all(
            any(mine.implies(theirs) for mine in self.conditions)
            or (isinstance(theirs, ShapeIn) and shapes <= theirs.shapes)
            for theirs in earlier.conditions
        )


_Key: TypeAlias = tuple[int, int, int | None, int, int, int, bool | None]


class _Plan(NamedTuple):
    undecided: tuple[tuple[Test, Verdict], ...]
    final: Verdict


class Policy:
    """Compiled rules. Immutable to its users; not to be shared between threads."""

    def __init__(self, rules: tuple[Rule, ...], default: Verdict) -> None:
        self._rules = rules
        self._default = default
        self._plans: dict[_Key, _Plan] = {}

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules' names, in order."""
        return tuple(rule.name for rule in self._rules)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What provably has no effect, one line each: rules that can never match, or only after another one."""
        found: list[str] = []
        steps, exact_above, others_above = 0, 0, 0
        for number, rule in enumerate(self._rules):
            place = f"[[policy.rules]] #{number + 1} ({rule.name})"
            shapes, earlier = rule.shapes(), None
            exact, others = rule.size()
            if steps <= _MOST_STEPS:
                steps += (exact + others) * others_above + exact_above
                if steps > _MOST_STEPS:
                    found.append(
                        f"{place} and later rules: not compared with those above, since that takes too long; some may "
                        "never take effect"
                    )
                else:
                    above = self._rules[:number]
                    earlier = next((it for it in above if rule.always_after(it, shapes)), None)
            exact_above, others_above = exact_above + exact, others_above + others
            if not shapes:
                found.append(
                    f"{place}: can never match: no prefix has the family and length that it asks for"
                )
            elif earlier is not None:
                found.append(
                    f"{place}: never takes effect: rule {earlier.name!r} above matches all that it does"
                )
            if rule.verdict.keep and rule.verdict.report:
                found.append(f"{place}: report is about drops, and this rule keeps")
        return tuple(found)

    def evaluate(self, route: Route, interfaces: Mapping[int, str], *, link_gateway: bool = False) -> Verdict:
        """Evaluate the rules for a route.

        Args:
            route: the route.
            interfaces: present names of interfaces by ifindex; a hop whose interface is not in it matches no name.
            link_gateway: whether it is a host route on a link to the gateway of another route over the same link.
        """
        prefix = route.prefix
        key = (
            len(prefix.packed),
            prefix.length,
            route.table,
            route.protocol,
            route.scope,
            route.type,
            link_gateway,
        )
        undecided, final = self._plans.get(key) or self._plan(key)
        for test, verdict in undecided:
            if test(route, interfaces):
                return verdict
        return final

    def header_verdict(  # noqa: PLR0917  # the fields of struct rtmsg, called for each message
        self,
        family: int,
        dst_len: int,
        tos: int,
        table: int,
        protocol: int,
        scope: int,
        type_: int,
        flags: int,
    ) -> Verdict | None:
        """Evaluate the rules by the fixed part of a route message alone, if that decides.

        The arguments are the fields of struct rtmsg. `tos` and `flags` decide nothing: no rule matches TOS, and the
        flags are those of one hop of perhaps several.

        Returns:
            The verdict that `evaluate` gives whatever the attributes are, or None: it depends on them.
        """
        del tos, flags
        width = _WIDTHS.get(family)
        if width is None:
            return None
        key = (width, dst_len, None if table in (0, RT_TABLE_COMPAT) else table, protocol, scope, type_, None)
        undecided, final = self._plans.get(key) or self._plan(key)
        return None if undecided else final

    def _plan(self, key: _Key) -> _Plan:
        header = Header(*key)
        undecided: list[tuple[Test, Verdict]] = []
        final = self._default
        for rule in self._rules:
            decision = rule.decide(header)
            if decision is True:
                final = rule.verdict
                break
            if decision is not False:
                undecided.append((decision, rule.verdict))
        plan = _Plan(tuple(undecided), final)
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan
