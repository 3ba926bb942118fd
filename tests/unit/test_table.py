"""The election, and what it counts of itself."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from routesync.names import TYPES
from routesync.route import Attributes, Evaluated, NextHop, Prefix, Verdict, parse_address
from routesync.table import Table

PREFIXES = [Prefix.parse(f"10.{number}.0.0/16") for number in range(3)]


def candidate(rule: str, metric: int) -> Evaluated:
    hops = (NextHop(parse_address("192.0.2.1"), 2),)
    attributes = Attributes(254, 0, metric, 186, 0, TYPES["unicast"], hops)
    return Evaluated(attributes, Verdict(keep=True, rule=rule))


UPDATES = st.lists(
    st.tuples(
        st.sampled_from(PREFIXES),
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=3),
    ),
    max_size=30,
)


@given(UPDATES)
def test_rules_are_counted_as_the_election_changes(
    updates: list[tuple[Prefix, list[tuple[str, int]]]],
) -> None:
    table = Table()
    for prefix, made in updates:
        before = table.elected(prefix)
        changed = table.update(prefix, tuple(candidate(rule, metric) for rule, metric in made))
        assert changed == (table.elected(prefix) != before)
        assert table.by_rule == Counter(elected.verdict.rule for _, elected in table)
