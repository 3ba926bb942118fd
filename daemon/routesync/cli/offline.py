"""What commands find out without the daemon: from a configuration file, the kernel, the ledger and the targets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import print_error
from routesync.config import Loaded
from routesync.config.models import TargetSettings, resolve_tables
from routesync.control.explain import explain, in_order
from routesync.control.models import (
    ExplainedPrefix,
    Explanation,
    PlanDeletion,
    PlanResponse,
    Sysctls,
    TargetExplained,
    TargetPlan,
    TargetSummary,
)
from routesync.control.views import RouteNames, plan_outcome, row_text
from routesync.kernel import KernelError, TableReading, read_table
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import LoxilbError
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.ledger import LedgerError, read_owned
from routesync.mirror.state import Phase
from routesync.plan import Choice, Fate, Outcome, Plan, TargetInput, choose, evaluator, make_plan
from routesync.route import Address, Prefix, format_address


class OfflineContext(NamedTuple):
    """The kernel's table, and the plan for it by the rules of a file."""

    file: Path
    loaded: Loaded
    tables: tuple[int, ...]
    dump: TableReading
    plan: Plan
    time: datetime

    @property
    def names(self) -> RouteNames:
        return RouteNames.of(self.loaded.names, self.dump.links)


def read_offline(file: Path, state: Path, *, contact: bool) -> OfflineContext | int:
    """Read and plan. With `contact`, read each target's table once. On failure print it; return the exit status."""
    loaded = load_or_explain(file)
    if loaded is None:
        return EX_CONFIG
    settings = loaded.settings
    tables = tuple(resolve_tables(settings.kernel, loaded.names))
    try:
        dump = read_table(tables=tables, netns=settings.kernel.netns)
    except KernelError as error:
        print_error(str(error))
        return 1
    targets = asyncio.run(_inputs(settings.targets, state, contact=contact))
    interfaces = {ifindex: link.name for ifindex, link in dump.links.items()}
    plan = make_plan(
        dump.routes,
        interfaces,
        loaded.policy,
        tables,
        targets,
        addresses=dump.addresses,
        details=dump.details,
    )
    return OfflineContext(file, loaded, tables, dump, plan, datetime.now(UTC))


async def _inputs(targets: tuple[TargetSettings, ...], state: Path, *, contact: bool) -> list[TargetInput]:
    return list(await asyncio.gather(*(_input(target, state, contact=contact) for target in targets)))


async def _input(target: TargetSettings, state: Path, *, contact: bool) -> TargetInput:
    owned: Mapping[Prefix, Address] = {}
    error = None
    inventory = None
    ends = None
    try:
        owned = read_owned(state, target.name)
    except LedgerError as problem:
        error = f"the ledger cannot be read: {problem}"
    if contact:
        try:
            async with LoxilbClient.from_settings(target) as client:
                inventory = await client.inventory()
                ends = client.ends
        except LoxilbError as problem:
            error = str(problem)
    return TargetInput(
        target.name, target.url, TargetRules.from_settings(target), inventory, owned, error, ends
    )


def plan_response(context: OfflineContext) -> PlanResponse:
    plan, dump, names = context.plan, context.dump, context.names
    return PlanResponse(
        source="files",
        sysctls=Sysctls.model_validate(dump.sysctls._asdict()),
        routes=tuple(
            names.planned(
                it.route,
                it.verdict,
                elected=it.elected,
                details=dump.details[it.route],
                outcomes=map(plan_outcome, it.targets),
            )
            for it in plan.routes
        ),
        targets=tuple(
            TargetPlan(
                name=target.name,
                url=target.url,
                read=target.inventory is not None,
                error=target.error,
                delete=tuple(
                    PlanDeletion(prefix=str(it.prefix), gateway=format_address(it.gateway))
                    for it in plan.deletions
                    if it.target == target.name
                ),
            )
            for target in plan.targets
        ),
    )


def explanation(context: OfflineContext, covered: Prefix, *, contact: bool) -> Explanation:
    """Explain an address or a prefix by the plan, as the daemon does by what it has done."""
    dump, names = context.dump, context.names
    evaluate = evaluator(context.loaded.policy, names.interfaces, dump.routes)
    covering = [route for route in dump.routes if route.prefix.covers(covered)]
    choices = {it.prefix: it for it in choose(covering, evaluate, context.tables, dump.details)}
    for length in range(covered.length + 1):
        prefix = covered.cut(length)
        if any(prefix in target.owned for target in context.plan.targets):
            choices.setdefault(prefix, Choice(prefix, (), None))
    outcomes = {
        (it.route.prefix, outcome.target): outcome
        for it in context.plan.routes
        if it.elected and it.route.prefix in choices
        for outcome in it.targets
    }
    return Explanation(
        query=str(covered),
        time=context.time,
        source="files",
        complete=True,
        tables=tuple(map(names.names.table, context.tables)),
        prefixes=tuple(
            ExplainedPrefix(
                prefix=str(choice.prefix),
                candidates=explain(choice, dump.details, names),
                targets=tuple(
                    explained
                    for target in context.plan.targets
                    if (
                        explained := _at_target(
                            context, target, choice.prefix, outcomes.get((choice.prefix, target.name))
                        )
                    )
                ),
            )
            for choice in in_order(choices.values())
        ),
        targets=tuple(
            TargetSummary(name=it.name, state=_state(it, contact=contact), error=it.error)
            for it in context.plan.targets
        ),
    )


def _state(target: TargetInput, *, contact: bool) -> str:
    if not contact:
        return "not contacted"
    return "unreachable" if target.inventory is None else "read"


_PHASES = {
    Fate.POST: Phase.PENDING,
    Fate.REPLACE: Phase.PENDING,
    Fate.CONFLICT: Phase.CONFLICTING,
    Fate.REFUSED: Phase.INELIGIBLE,
    Fate.UNREPRESENTABLE: Phase.INELIGIBLE,
}


def _at_target(
    context: OfflineContext, target: TargetInput, prefix: Prefix, outcome: Outcome | None
) -> TargetExplained | None:
    """What the daemon would find and do; None: nothing."""
    owned = target.owned.get(prefix)
    row = target.inventory.rows.get(prefix) if target.inventory else None
    if outcome is None and owned is None and row is None:
        return None
    if outcome is None:
        phase = "none" if owned is None else Phase.WITHDRAWING.value
    elif outcome.fate is Fate.STANDS:
        phase = (Phase.CONFIRMED if owned == outcome.gateway else Phase.PRESENT).value
    else:
        phase = _PHASES[outcome.fate].value
    ineligible = phase == Phase.INELIGIBLE.value
    return TargetExplained(
        target=target.name,
        phase=phase,
        desired=format_address(outcome.gateway) if outcome and outcome.gateway else None,
        owned=format_address(owned) if owned else None,
        rule=outcome.code if outcome and not ineligible else None,
        code=outcome.code if outcome and ineligible else None,
        detail=outcome.detail if outcome else "",
        degraded=bool(outcome and outcome.degraded),
        shown=None if row is None else row_text(row),
        read=context.time if target.inventory is not None else None,
    )
