"""What commands find out without the daemon: from a configuration file, the kernel, the ledger and the targets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from routesync.cli.check import load_with_addresses
from routesync.cli.output import fail
from routesync.config import Loaded
from routesync.config.models import TargetSettings
from routesync.control.models import Explanation, PlanResponse, Sysctls
from routesync.control.plan import (
    Choice,
    PlannedTarget,
    PlanRows,
    TargetInput,
    choose,
    evaluator,
    explain,
    plan_targets,
    withdrawn_choices,
)
from routesync.control.views import RouteNames
from routesync.kernel import KernelError, Links, TableDump, dump_tables_sync
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import LoxilbError
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.ledger import LedgerError, read_owned
from routesync.mirror.namespace import SHARED, Sharing, sharing
from routesync.mirror.status import TargetState
from routesync.route import Address, Prefix


class OfflineContext(NamedTuple):
    """The kernel's table by the rules of a file, and the targets by what is known of them without the daemon."""

    file: Path
    loaded: Loaded
    tables: tuple[int, ...]
    dump: TableDump
    choices: list[Choice]
    targets: list[PlannedTarget]

    @property
    def names(self) -> RouteNames:
        return RouteNames.of(self.loaded.names, self.dump.links)


def read_offline(file: Path, state: Path, *, contact: bool) -> OfflineContext:
    """Read and plan. With `contact`, read each target's table once. A failure ends the command."""
    loaded = load_with_addresses(file)
    settings = loaded.settings
    tables = settings.kernel.tables
    try:
        dump = dump_tables_sync(tables=tables, netns=settings.kernel.netns)
    except KernelError as error:
        fail(str(error))
    interfaces = RouteNames.of(loaded.names, dump.links).interfaces
    evaluate = evaluator(loaded.policy, interfaces, dump.routes)
    choices = list(choose(dump.routes, evaluate, tables, dump.details))
    written_to = settings.targets if settings.mode == "mirror" else ()
    inputs = asyncio.run(_inputs(written_to, state, dump.links if contact else None))
    targets = plan_targets(inputs, choices, dump.addresses, dump.links)
    return OfflineContext(file, loaded, tables, dump, choices, targets)


async def _inputs(targets: tuple[TargetSettings, ...], state: Path, links: Links | None) -> list[TargetInput]:
    return list(await asyncio.gather(*(_input(target, state, links) for target in targets)))


async def _input(target: TargetSettings, state: Path, links: Links | None) -> TargetInput:
    """What is known of a target; `links` are those of this host, None: do not contact it."""
    owned: Mapping[Prefix, Address] = {}
    error = None
    try:
        owned = read_owned(state, target.name)
    except LedgerError as problem:
        error = f"the ledger cannot be read: {problem}"
    found = TargetInput(target.name, target.url, TargetRules.from_settings(target), owned, error=error)
    if links is None:
        return found
    try:
        async with LoxilbClient.from_settings(target) as client:
            version = await client.version()
            if sharing(await client.ports(), links) is Sharing.YES:
                return found._replace(state=TargetState.SHARED_NAMESPACE, error=SHARED)
            inventory = await client.inventory()
            return found._replace(inventory=inventory, version=version, ends=client.ends, state="read")
    except LoxilbError as problem:
        return found._replace(state="unreachable", error=str(problem))


def plan_response(context: OfflineContext) -> PlanResponse:
    owned = {prefix for target in context.targets for prefix in target.prefixes()}
    choices = context.choices + withdrawn_choices(owned, context.choices, context.targets)
    choices.sort(key=lambda it: it.prefix.sort_key)
    rows = PlanRows(choices, context.dump.details, context.targets, context.names)
    return PlanResponse(
        source="files",
        mode=context.loaded.settings.mode,
        sysctls=Sysctls.model_validate(context.dump.sysctls, from_attributes=True),
        routes=tuple(row for row in rows if row is not None),
        targets=rows.targets(),
    )


def explanation(context: OfflineContext, covered: Prefix) -> Explanation:
    """Explain an address or a prefix by the plan, as the daemon does by what it has done."""
    return explain(
        covered,
        [it for it in context.choices if it.prefix.covers(covered)],
        context.dump.details,
        context.targets,
        context.names,
        tables=context.tables,
        source="files",
    )
