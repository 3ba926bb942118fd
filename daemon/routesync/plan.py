"""The plan: for each route of a kernel's table, what happens to it and why; for each target, what would be done to it.

Pure: its input is a dump of the table, and what is known of each target. The daemon comes to the same results, because
it uses the same policy and the same eligibility.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from routesync.kernel import InterfaceAddress
from routesync.kernel.details import RouteDetails
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
    """What happens to a route at a target."""

    POST = "post"
    REPLACE = "replace"
    STANDS = "stands"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNREPRESENTABLE = "unrepresentable"


class TargetInput(NamedTuple):
    """What is known of a target."""

    name: str
    url: str
    rules: TargetRules
    inventory: Inventory | None  # None: it was not, or could not be, read
    owned: Mapping[Prefix, Address]
    error: str | None = None
    ends: tuple[Address, Address] | None = None  # of the connection by which it was read
    version: str | None = None


class Outcome(NamedTuple):
    """What happens to one elected route at one target."""

    target: str
    fate: Fate
    gateway: Address | None
    code: str  # a reason code, or the deciding rule
    detail: str
    degraded: bool = False


class PlannedRoute(NamedTuple):
    """One route of the kernel and what happens to it."""

    route: Route
    verdict: Verdict
    elected: bool  # a kept route that is not elected waits behind a better one
    targets: tuple[Outcome, ...]


class Deletion(NamedTuple):
    """An owned route that a target should no longer have."""

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


class Choice(NamedTuple):
    """All routes of one prefix, the preferred one first, and the one that is elected."""

    prefix: Prefix
    routes: tuple[Candidate, ...]  # dropped ones too
    elected: Candidate | None


Evaluate = Callable[[Route], Verdict]


def evaluator(policy: Policy, interfaces: Mapping[int, str], routes: Iterable[Route]) -> Evaluate:
    """The rules, applied with the link gateways that these routes, all of a kernel, show."""
    gateways = link_gateways(routes)
    return lambda route: policy.evaluate(route, interfaces, link_gateway=leads_to_gateway(route, gateways))


def choose(
    routes: Iterable[Route], evaluate: Evaluate, tables: Sequence[int], details: Mapping[Route, RouteDetails]
) -> Iterator[Choice]:
    """Elect the best route of each prefix, in the order of prefixes.

    Args:
        routes: of the tables that are read, siblings in the kernel's order.
        evaluate: the rules.
        tables: numbers of the tables, preferred ones first.
        details: of these routes, as far as they have any; an expired route is never elected.
    """
    ordered = sorted(routes, key=lambda route: (route.prefix.sort_key, candidate_order(route, tables)))
    for prefix, group in groupby(ordered, key=lambda route: route.prefix):
        evaluated = tuple(Candidate(route, evaluate(route)) for route in group)
        usable = [
            it
            for it in evaluated
            if it.verdict.keep and not (it.route in details and details[it.route].expired(it.route))
        ]
        yield Choice(prefix, evaluated, next(iter(past_throws(usable)), None))


def make_plan(
    routes: Iterable[Route],
    interfaces: Mapping[int, str],
    policy: Policy,
    tables: Sequence[int],
    targets: Sequence[TargetInput],
    *,
    addresses: Sequence[InterfaceAddress] = (),
    details: Mapping[Route, RouteDetails] | None = None,
) -> Plan:
    """Work out the plan.

    Args:
        routes: all routes of the tables that are read, siblings in the kernel's order.
        interfaces: names by ifindex.
        policy: the rules.
        tables: numbers of the tables, preferred ones first.
        targets: the targets; none to explain the table alone.
        addresses: of this host's interfaces.
        details: of the routes; they show which have expired.
    """
    routes = tuple(routes)
    evaluate_for = _evaluators(targets, routes, addresses)
    planned: list[PlannedRoute] = []
    elected: dict[Prefix, Candidate] = {}
    for choice in choose(routes, evaluator(policy, interfaces, routes), tables, details or {}):
        outcomes: tuple[Outcome, ...] = ()
        if (best := choice.elected) is not None:
            elected[choice.prefix] = best
            outcomes = tuple(_outcome(best, target, evaluate_for[target.name]) for target in targets)
        planned += (
            PlannedRoute(it.route, it.verdict, it is best, outcomes if it is best else ())
            for it in choice.routes
        )
    deletions = [
        Deletion(target.name, prefix, gateway)
        for target in targets
        for prefix, gateway in sorted(target.owned.items(), key=lambda item: item[0].sort_key)
        if prefix not in elected or isinstance(evaluate_for[target.name](elected[prefix]), Ineligible)
    ]
    return Plan(tuple(planned), tuple(deletions), tuple(targets))


EvaluateAt = Callable[[Candidate], Desired | Ineligible]


def _evaluators(
    targets: Sequence[TargetInput], routes: Iterable[Route], addresses: Sequence[InterfaceAddress]
) -> dict[str, EvaluateAt]:
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

    def evaluator_of(target: TargetInput) -> EvaluateAt:
        fact = facts[target.name]
        node = NodeFacts(frozenset(own), gateways, self_addresses(addresses, fact))

        def decide(candidate: Candidate) -> Desired | Ineligible:
            current = target.owned.get(candidate.route.prefix)
            return evaluate(candidate, target.rules, fact, node, current)

        return decide

    return {target.name: evaluator_of(target) for target in targets}


def _outcome(candidate: Candidate, target: TargetInput, evaluate_at: EvaluateAt) -> Outcome:
    evaluation = evaluate_at(candidate)
    if isinstance(evaluation, Ineligible):
        fate = Fate.UNREPRESENTABLE if evaluation.reason.unrepresentable else Fate.REFUSED
        return Outcome(target.name, fate, None, evaluation.reason.value, evaluation.detail)
    fate, detail = _against_inventory(candidate.route.prefix, evaluation, target)
    return Outcome(target.name, fate, evaluation.gateway, evaluation.rule, detail, evaluation.degraded)


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
