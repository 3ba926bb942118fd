"""The plan: for each route of a kernel's table, what becomes of it and why; for each target, what would be done to it.

Pure: it is handed a table that was read, and of each target what is known. The daemon would come to the same ends, for
it asks the same judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from routesync.kernel import InterfaceAddress
from routesync.loxilb.wire import Inventory
from routesync.mirror.eligibility import (
    Desired,
    Ineligible,
    NodeFacts,
    TargetFacts,
    TargetRules,
    evaluate,
    self_addresses,
)
from routesync.mirror.state import describe_row, is_ours
from routesync.policy import Policy
from routesync.route import (
    Address,
    Candidate,
    Family,
    Prefix,
    Route,
    Verdict,
    leads_to_gateway,
    link_gateways,
    past_throws,
)
from routesync.url import url_address


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
    ends: tuple[Address, Address] | None = None  # of the connection by which it was read
    version: str | None = None


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


def candidate_order(route: Route, tables: Sequence[int]) -> tuple[bool, bool, int, int]:
    """The order of preference among the routes of one prefix, but for throw routes; siblings keep their order."""
    return (route.source is not None, route.tos != 0, tables.index(route.table), route.metric)


def make_plan(
    routes: Iterable[Route],
    interfaces: Mapping[int, str],
    policy: Policy,
    tables: Sequence[int],
    targets: Sequence[TargetInput],
    *,
    addresses: Sequence[InterfaceAddress] = (),
) -> Plan:
    """Work out the plan.

    Args:
        routes: all routes of the tables that are read, siblings in the kernel's order; none that has expired.
        interfaces: names by ifindex.
        policy: the rules.
        tables: numbers of the tables, preferred ones first.
        targets: the targets; none to explain the table alone.
        addresses: of this host's interfaces.
    """
    routes = tuple(routes)
    gateways = link_gateways(routes)
    judges = _judges(targets, routes, addresses)
    planned: list[PlannedRoute] = []
    elected: dict[Prefix, Candidate] = {}
    ordered = sorted(routes, key=lambda route: (route.prefix.sort_key, candidate_order(route, tables)))
    for prefix, group in groupby(ordered, key=lambda route: route.prefix):
        judged = [
            Candidate(
                route,
                policy.evaluate(route, interfaces, link_gateway=leads_to_gateway(route, gateways)),
            )
            for route in group
        ]
        best = next(iter(past_throws([it for it in judged if it.verdict.keep])), None)
        for candidate in judged:
            route, verdict = candidate
            wins = candidate is best
            ends: tuple[AtTarget, ...] = ()
            if wins:
                elected[prefix] = candidate
                ends = tuple(_at_target(candidate, target, judges[target.name]) for target in targets)
            planned.append(PlannedRoute(route, verdict, wins, ends))
    deletions = [
        Deletion(target.name, prefix, gateway)
        for target in targets
        for prefix, gateway in sorted(target.owned.items(), key=lambda item: item[0].sort_key)
        if prefix not in elected or isinstance(judges[target.name](elected[prefix]), Ineligible)
    ]
    return Plan(tuple(planned), tuple(deletions), tuple(targets))


Judge = Callable[[Candidate], Desired | Ineligible]


def _judges(
    targets: Sequence[TargetInput], routes: Iterable[Route], addresses: Sequence[InterfaceAddress]
) -> dict[str, Judge]:
    """By target, what decides whether a route is eligible."""
    facts = {
        target.name: TargetFacts.from_inventory(
            target.inventory or Inventory({}, 0), target.ends, target.owned, target.version
        )
        for target in targets
    }
    own = {address for fact in facts.values() for address in fact.addresses}
    own.update(address for target in targets if (address := url_address(target.url)) is not None)
    gateways = frozenset(hop.gateway for route in routes for hop in route.hops if hop.gateway is not None)

    def judge(target: TargetInput) -> Judge:
        fact = facts[target.name]
        node = NodeFacts(frozenset(own), gateways, self_addresses(addresses, fact))

        def decide(candidate: Candidate) -> Desired | Ineligible:
            current = target.owned.get(candidate.route.prefix)
            return evaluate(candidate, target.rules, fact, node, current)

        return decide

    return {target.name: judge(target) for target in targets}


def _at_target(candidate: Candidate, target: TargetInput, judge: Judge) -> AtTarget:
    judgement = judge(candidate)
    if isinstance(judgement, Ineligible):
        fate = Fate.UNREPRESENTABLE if judgement.reason.unrepresentable else Fate.REFUSED
        return AtTarget(target.name, fate, None, judgement.reason.value, judgement.detail)
    fate, detail = _against_inventory(candidate.route.prefix, judgement, target)
    return AtTarget(target.name, fate, judgement.gateway, judgement.rule, detail, judgement.degraded)


def _against_inventory(prefix: Prefix, desired: Desired, target: TargetInput) -> tuple[Fate, str]:
    row = target.inventory.rows.get(prefix) if target.inventory else None
    if row is None:
        return Fate.POST, ""
    if is_ours(row, desired.gateway):
        return Fate.STANDS, ""
    if row.gateways == (desired.gateway,):
        return Fate.STANDS, describe_row(row)
    owned = target.owned.get(prefix)
    if owned is not None and is_ours(row, owned):
        return Fate.REPLACE, describe_row(row)
    beside = prefix.is_default and prefix.family is Family.INET and target.rules.allow_default == "override"
    if beside:
        return Fate.POST, f"beside it: {describe_row(row)}"
    return Fate.CONFLICT, describe_row(row)
