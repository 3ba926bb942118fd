"""What happens to each route and why: the answers of `plan` and `explain`, with the daemon and without it.

Both have the same input: of each prefix all routes of the kernel, as the rules evaluate them (`Choice`), and the
targets. In the daemon the targets are the reconcilers. Without it they are `PlannedTarget`: what a reconciler would
find and do, by one inventory and the ledger. The same eligibility decides in both.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from routesync.control.models import (
    ExplainedPrefix,
    ExplainedRoute,
    Explanation,
    Fate,
    PlanDeletion,
    PlanOutcome,
    PlanRow,
    TargetExplained,
    TargetPlan,
    TargetSummary,
)
from routesync.control.views import RouteNames, row_text, target_fields, wall_clock
from routesync.kernel import InterfaceAddress, Links
from routesync.kernel.decode import RouteDetails
from routesync.loxilb.schema import Inventory
from routesync.mirror.eligibility import (
    Desired,
    Ineligible,
    NodeFacts,
    TargetFacts,
    TargetRules,
    evaluate,
    interface_addresses,
    self_addresses,
)
from routesync.mirror.reconciler import Reconciler, RouteView
from routesync.mirror.state import MIRRORED, Phase, describe_row, is_ours
from routesync.policy import Policy
from routesync.route import (
    RTN_THROW,
    Address,
    Candidate,
    Family,
    Prefix,
    Rewrite,
    Route,
    Verdict,
    format_address,
    leads_to_gateway,
    link_gateways,
    past_throws,
    preference,
)
from routesync.url import url_address

# -- which route of a prefix is elected ------------------------------------------------------------------------


class Choice(NamedTuple):
    """All routes of one prefix, the preferred one first, and the one that is elected."""

    prefix: Prefix
    routes: tuple[Candidate, ...]  # dropped ones too; empty: the kernel has none any more
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
    ordered = sorted(
        routes, key=lambda route: (route.prefix.sort_key, preference(route, tables.index(route.table)))
    )
    for prefix, group in groupby(ordered, key=lambda route: route.prefix):
        evaluated = tuple(Candidate(route, evaluate(route)) for route in group)
        usable = [
            it
            for it in evaluated
            if it.verdict.keep and not (it.route in details and details[it.route].expired(it.route))
        ]
        yield Choice(prefix, evaluated, next(iter(past_throws(usable)), None))


# -- targets without the daemon --------------------------------------------------------------------------------


class TargetInput(NamedTuple):
    """What is known of a target without the daemon."""

    name: str
    url: str
    rules: TargetRules
    owned: Mapping[Prefix, Address]
    inventory: Inventory | None = None  # None: it was not, or could not be, read
    ends: tuple[Address, Address] | None = None  # of the connection by which it was read
    version: str | None = None  # None: not known
    state: str = "not contacted"
    error: str | None = None


class PlannedTarget:
    """A target as a reconciler would find it. It answers what `plan` and `explain` ask a `Reconciler`."""

    def __init__(
        self, given: TargetInput, facts: TargetFacts, node: NodeFacts, elected: Mapping[Prefix, Candidate]
    ) -> None:
        self.name = given.name
        self.inventory = given.inventory
        self.inventory_at = time.monotonic()
        self._given = given
        self._facts = facts
        self._node = node
        self._elected = elected

    def view(self) -> TargetSummary:
        given = self._given
        return TargetSummary(name=given.name, url=given.url, state=given.state, error=given.error)

    def prefixes(self) -> set[Prefix]:
        return {*self._elected, *self._given.owned}

    def witness_shows(self, prefix: Prefix) -> None:
        """Without the daemon there is no witness."""

    def route(self, prefix: Prefix) -> RouteView | None:
        """What a reconciler would find; None: nothing, and nothing is desired."""
        owned, candidate = self._given.owned.get(prefix), self._elected.get(prefix)
        if candidate is None:
            return None if owned is None else RouteView(Phase.WITHDRAWING, None, owned, None)
        evaluation = evaluate(candidate, self._given.rules, self._facts, self._node, owned)
        if isinstance(evaluation, Ineligible):
            phase = Phase.INELIGIBLE if owned is None else Phase.WITHDRAWING
            return RouteView(phase, evaluation, owned, None, evaluation.detail)
        phase, detail = self._by_inventory(prefix, evaluation.gateway, owned)
        return RouteView(phase, evaluation, owned, None, detail)

    def _by_inventory(self, prefix: Prefix, gateway: Address, owned: Address | None) -> tuple[Phase, str]:
        row = self.inventory.rows.get(prefix) if self.inventory else None
        if row is None:
            return Phase.PENDING, ""
        if row.gateways == (gateway,):
            phase = Phase.CONFIRMED if owned == gateway else Phase.PRESENT
            return phase, "" if is_ours(row, gateway) else describe_row(row)
        if owned is not None and is_ours(row, owned):
            return Phase.PENDING, describe_row(row)
        if (
            prefix.is_default
            and prefix.family is Family.INET
            and self._given.rules.allow_default == "override"
        ):
            return Phase.PENDING, f"beside it: {describe_row(row)}"
        return Phase.CONFLICTING, describe_row(row)


def plan_targets(
    targets: Sequence[TargetInput],
    choices: Iterable[Choice],
    addresses: Sequence[InterfaceAddress] = (),
    links: Links = MappingProxyType({}),
) -> list[PlannedTarget]:
    """The targets by what the kernel has and what is known of them; `addresses` and `links` are those of this host."""
    elected: dict[Prefix, Candidate] = {}
    gateways: set[Address] = set()
    for choice in choices:
        if choice.elected is not None:
            elected[choice.prefix] = choice.elected
        gateways.update(
            hop.gateway for it in choice.routes for hop in it.route.hops if hop.gateway is not None
        )
    facts = [
        TargetFacts(known=False)
        if it.inventory is None
        else TargetFacts.from_inventory(it.inventory, it.ends, it.owned, it.version)
        for it in targets
    ]
    own = {address for fact in facts for address in fact.addresses}
    own.update(address for it in targets if (address := url_address(it.url)) is not None)
    return [
        PlannedTarget(
            it,
            fact,
            NodeFacts(
                frozenset(own),
                frozenset(gateways),
                self_addresses(addresses, fact),
                interface_addresses(addresses, {ifindex: link.name for ifindex, link in links.items()}, fact),
            ),
            elected,
        )
        for it, fact in zip(targets, facts, strict=True)
    ]


Target: TypeAlias = Reconciler | PlannedTarget
Targets: TypeAlias = Sequence[Reconciler] | Sequence[PlannedTarget]


def withdrawn_choices(
    prefixes: Iterable[Prefix], choices: Iterable[Choice], targets: Targets
) -> list[Choice]:
    """Those of the prefixes that the kernel no longer has, and a target may still have from routesync."""
    known = {it.prefix for it in choices}
    return [
        Choice(prefix, (), None)
        for prefix in prefixes
        if prefix not in known and any(target.route(prefix) for target in targets)
    ]


# -- plan --------------------------------------------------------------------------------------------------------

NO_DETAILS: Final = RouteDetails()


class PlanRows:
    """The rows of a plan, made one by one; and, after the last one, the targets of the plan."""

    def __init__(
        self,
        choices: Iterable[Choice],
        details: Mapping[Route, RouteDetails],
        targets: Targets,
        names: RouteNames,
    ) -> None:
        self._choices = choices
        self._details = details
        self._targets = targets
        self._names = names
        self._deletions: defaultdict[str, list[PlanDeletion]] = defaultdict(list)

    def __iter__(self) -> Iterator[PlanRow | None]:
        """The rows in the order of the choices; None: no row, after as much work as for one."""
        for prefix, routes, elected in self._choices:
            outcomes = tuple(self._outcomes(prefix, wanted=elected is not None))
            yield None
            for it in routes:
                yield self._names.model(
                    PlanRow,
                    it,
                    self._details.get(it.route, NO_DETAILS),
                    elected=it is elected,
                    targets=outcomes if it is elected else (),
                )

    def _outcomes(self, prefix: Prefix, *, wanted: bool) -> Iterator[PlanOutcome]:
        for target in self._targets:
            view = target.route(prefix)
            if view is None:
                continue
            if view.owned is not None and not isinstance(view.evaluation, Desired):
                deletion = PlanDeletion(prefix=str(prefix), gateway=format_address(view.owned))
                self._deletions[target.name].append(deletion)
            if wanted and view.evaluation is not None:  # None: the daemon has not evaluated the route yet
                yield _outcome(target.name, view, view.evaluation)

    def targets(self) -> tuple[TargetPlan, ...]:
        return tuple(
            TargetPlan(
                **dict(summary(target)),
                read=target.inventory is not None,
                delete=tuple(self._deletions[target.name]),
            )
            for target in self._targets
        )


def summary(target: Target) -> TargetSummary:
    return TargetSummary.model_validate(target.view(), from_attributes=True)


def _outcome(target: str, view: RouteView, evaluation: Desired | Ineligible) -> PlanOutcome:
    if isinstance(evaluation, Ineligible):
        return PlanOutcome(
            target=target,
            fate="unrepresentable" if evaluation.reason.unrepresentable else "refused",
            code=evaluation.reason.value,
            detail=evaluation.detail,
        )
    return PlanOutcome(
        target=target,
        fate=_fate(view, evaluation.gateway),
        gateway=format_address(evaluation.gateway),
        code=evaluation.rule,
        detail=view.error,
        degraded=evaluation.degraded,
    )


def _fate(view: RouteView, gateway: Address) -> Fate:
    if view.phase is Phase.CONFLICTING:
        return "conflict"
    if view.phase in MIRRORED and view.owned in {None, gateway}:
        return "present"
    return "replace" if view.owned not in {None, gateway} else "post"


# -- explain -----------------------------------------------------------------------------------------------------


def explain(
    query: Prefix,
    choices: Iterable[Choice],
    details: Mapping[Route, RouteDetails],
    targets: Targets,
    names: RouteNames,
    *,
    tables: Sequence[int],
    source: Literal["daemon", "files"] = "daemon",
    complete: bool = True,
    held: Callable[[Choice], bool] = lambda _: True,
) -> Explanation:
    """Explain an address or a prefix.

    Args:
        query: what was asked for.
        choices: of all prefixes that cover it.
        details: of each route in the choices.
        targets: the targets.
        names: of the kernel's numbers.
        tables: numbers of the tables that are read.
        source: where all this comes from.
        complete: whether the dump is.
        held: whether the daemon has the same elected route.
    """
    found = list(choices)
    shorter = (query.cut(length) for length in range(query.length + 1))
    found += withdrawn_choices(shorter, found, targets)
    return Explanation(
        query=str(query),
        time=datetime.fromtimestamp(time.time(), UTC),
        source=source,
        complete=complete,
        tables=tuple(map(names.names.table, tables)),
        prefixes=tuple(
            ExplainedPrefix(
                prefix=str(choice.prefix),
                candidates=explain_routes(choice, details, names),
                held=held(choice),
                targets=tuple(_at_targets(choice, targets)),
            )
            for choice in sorted(found, key=lambda it: -it.prefix.length)
        ),
        targets=tuple(map(summary, targets)),
    )


def _at_targets(choice: Choice, targets: Targets) -> Iterator[TargetExplained]:
    for target in targets:
        view, inventory = target.route(choice.prefix), target.inventory
        row = None if inventory is None else inventory.rows.get(choice.prefix)
        if choice.elected is not None or view is not None or row is not None:
            yield TargetExplained(
                **target_fields(target.name, view),
                shown=None if row is None else row_text(row),
                read=None if inventory is None else wall_clock(target.inventory_at),
                witnessed=target.witness_shows(choice.prefix),
            )


def explain_routes(
    choice: Choice, details: Mapping[Route, RouteDetails], names: RouteNames
) -> tuple[ExplainedRoute, ...]:
    """Every route of a prefix, in order of preference, with a sentence that says why it is elected or not."""
    explained: list[ExplainedRoute] = []
    best = choice.elected.route if choice.elected else None
    before_best = True
    for it in choice.routes:
        wins = it.route is best
        before_best = before_best and not wins
        detail = details[it.route]
        explained.append(
            names.model(
                ExplainedRoute,
                it,
                detail,
                elected=wins,
                next_hop=_rewritten(it.verdict.rewrite),
                why=_why(it, detail, best, before_best=before_best),
            )
        )
    return tuple(explained)


def _why(candidate: Candidate, details: RouteDetails, best: Route | None, *, before_best: bool) -> str:
    route, verdict = candidate
    action = "keeps" if verdict.keep else "drops"
    decision = (
        f"no rule matches; default_action {action} it"
        if verdict.rule == "default"
        else f"rule {verdict.rule} {action} it"
    )
    if not verdict.keep:
        return decision
    if details.expired(route):
        return f"{decision}; it has expired, and the kernel no longer uses it"
    if best is None or route is best:
        return f"{decision}; elected"
    if before_best:  # by tables and metrics; only a throw route explains that another one is elected
        which = "it" if route.type == RTN_THROW else "a throw route"
        return (
            f"{decision}; not elected: {which} ends the search in its table, and the next table has a route"
        )
    return f"{decision}; not elected: {_reason(route, best)}"


def _reason(route: Route, winner: Route) -> str:
    """Why the winner, which comes earlier, is preferred."""
    if route.source != winner.source:
        other = f"; the route for packets from {winner.source} is listed first" if winner.source else ""
        return f"it applies only to packets from {route.source}{other}"
    if route.tos != winner.tos:
        other = f"; the route for TOS {winner.tos:#04x} is listed first" if winner.tos else ""
        return f"it applies only to TOS {route.tos:#04x}{other}"
    if route.table != winner.table:
        return "its table comes later in [kernel] tables"
    if route.metric != winner.metric:
        return f"its metric {route.metric} is above {winner.metric}"
    return "the kernel lists the elected route first"


def _rewritten(rewrite: Rewrite | None) -> tuple[str, ...]:
    if rewrite is None:
        return ()
    if rewrite.to_self:
        return ("self",)
    if rewrite.interface:
        return (f"the address on {rewrite.interface}",)
    return tuple(format_address(hop) for hop in (rewrite.inet, rewrite.inet6) if hop is not None)
