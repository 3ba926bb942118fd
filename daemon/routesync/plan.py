"""The plan: for each route of a kernel's table, what becomes of it and why; for each target, what would be done to it.

Pure: it is handed a table that was read, and of each target what is known. The daemon would come to the same ends, for
it asks the same judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from routesync.loxilb.wire import Inventory
from routesync.mirror.book import describe_row, is_ours
from routesync.mirror.wanted import Blocked, TargetFacts, TargetRules, Wanted, judge, url_address
from routesync.policy import Policy
from routesync.route import Address, Candidate, Prefix, Route, Verdict


class Fate(StrEnum):
    """What becomes of a route at one target, or at none."""

    POST = "post"
    REPLACE = "replace"
    STANDS = "stands"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNREPRESENTABLE = "unrepresentable"


class TargetInput(NamedTuple):
    """What the plan is told of a target."""

    name: str
    url: str
    rules: TargetRules
    inventory: Inventory | None  # None: it was not, or could not be, read
    owned: Mapping[Prefix, Address]
    error: str | None = None


class AtTarget(NamedTuple):
    """The end of one elected route at one target."""

    target: str
    fate: Fate
    gateway: Address | None
    code: str  # a reason code, or the deciding rule
    detail: str
    degraded: bool = False


class PlannedRoute(NamedTuple):
    """One route of the kernel and what becomes of it."""

    route: Route
    verdict: Verdict
    elected: bool  # a kept route that is not elected waits behind a better one
    targets: tuple[AtTarget, ...]


class Deletion(NamedTuple):
    """A route of ours that a target shall no longer have."""

    target: str
    prefix: Prefix
    gateway: Address


class Plan(NamedTuple):
    """Everything, in the order of prefixes."""

    routes: tuple[PlannedRoute, ...]
    deletions: tuple[Deletion, ...]
    targets: tuple[TargetInput, ...]


def candidate_order(route: Route, tables: Sequence[int]) -> tuple[bool, int, int]:
    """The kernel's order of preference among the routes of one prefix; aliases keep their order."""
    return (route.tos != 0, tables.index(route.table), route.metric)


def make_plan(
    routes: Iterable[Route],
    interfaces: Mapping[int, str],
    policy: Policy,
    tables: Sequence[int],
    targets: Sequence[TargetInput],
) -> Plan:
    """Work out the plan.

    Args:
        routes: all routes of the tables that are read, aliases in the kernel's order.
        interfaces: names by ifindex.
        policy: the rules.
        tables: numbers of the tables, preferred ones first.
        targets: the targets; none to explain the table alone.
    """
    facts = {
        target.name: TargetFacts.from_inventory(target.inventory) if target.inventory else TargetFacts()
        for target in targets
    }
    addresses = frozenset(address for fact in facts.values() for address in fact.addresses) | frozenset(
        address for target in targets if (address := url_address(target.url)) is not None
    )
    planned: list[PlannedRoute] = []
    elected: dict[Prefix, Candidate] = {}
    ordered = sorted(routes, key=lambda route: (route.prefix.sort_key, candidate_order(route, tables)))
    for prefix, group in groupby(ordered, key=lambda route: route.prefix):
        for route in group:
            verdict = policy.evaluate(route, interfaces)
            wins = verdict.keep and prefix not in elected
            ends: tuple[AtTarget, ...] = ()
            if wins:
                candidate = elected[prefix] = Candidate(route, verdict)
                ends = tuple(
                    _at_target(candidate, target, facts[target.name], addresses) for target in targets
                )
            planned.append(PlannedRoute(route, verdict, wins, ends))
    deletions = [
        Deletion(target.name, prefix, gateway)
        for target in targets
        for prefix, gateway in sorted(target.owned.items(), key=lambda item: item[0].sort_key)
        if prefix not in elected
        or isinstance(judge(elected[prefix], target.rules, facts[target.name], addresses), Blocked)
    ]
    return Plan(tuple(planned), tuple(deletions), tuple(targets))


def _at_target(
    candidate: Candidate, target: TargetInput, facts: TargetFacts, addresses: frozenset[Address]
) -> AtTarget:
    judgement = judge(candidate, target.rules, facts, addresses)
    if isinstance(judgement, Blocked):
        fate = Fate.UNREPRESENTABLE if judgement.reason.unrepresentable else Fate.REFUSED
        return AtTarget(target.name, fate, None, judgement.reason.value, judgement.detail)
    fate, detail = _against_inventory(candidate.route.prefix, judgement, target)
    return AtTarget(target.name, fate, judgement.gateway, judgement.rule, detail, judgement.degraded)


def _against_inventory(prefix: Prefix, wanted: Wanted, target: TargetInput) -> tuple[Fate, str]:
    row = target.inventory.rows.get(prefix) if target.inventory else None
    if row is None:
        return Fate.POST, ""
    if is_ours(row, wanted.gateway):
        return Fate.STANDS, ""
    owned = target.owned.get(prefix)
    if owned is not None and is_ours(row, owned):
        return Fate.REPLACE, describe_row(row)
    return Fate.CONFLICT, describe_row(row)
