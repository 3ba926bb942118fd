"""How things stand, as found out without the daemon: the kernel's table, the rules, the targets' tables."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import complain
from routesync.config import Loaded
from routesync.config.models import TargetSettings, resolve_tables
from routesync.kernel import KernelError, TableReading, read_table
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import LoxilbError
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.ledger import LedgerError, read_owned
from routesync.names import Names
from routesync.plan import Plan, TargetInput, make_plan
from routesync.route import Address, Prefix


class Situation(NamedTuple):
    """The kernel's table and what becomes of it."""

    file: Path
    names: Names
    reading: TableReading
    plan: Plan


def read_situation(file: Path, state: Path, *, contact: bool) -> Situation | int:
    """Read and plan; with `contact`, each target's table is read once. On failure complain; give the exit status."""
    loaded = load_or_explain(file)
    if loaded is None:
        return EX_CONFIG
    settings = loaded.settings
    tables = resolve_tables(settings.kernel, loaded.names)
    try:
        reading = read_table(tables=tables, netns=settings.kernel.netns)
    except KernelError as error:
        complain(str(error))
        return 1
    targets = asyncio.run(_inputs(loaded, state, contact=contact))
    interfaces = {ifindex: link.name for ifindex, link in reading.links.items()}
    return Situation(
        file, loaded.names, reading, make_plan(reading.routes, interfaces, loaded.policy, tables, targets)
    )


async def _inputs(loaded: Loaded, state: Path, *, contact: bool) -> list[TargetInput]:
    settings = loaded.settings
    return list(
        await asyncio.gather(*(_input(target, state, contact=contact) for target in settings.targets))
    )


async def _input(target: TargetSettings, state: Path, *, contact: bool) -> TargetInput:
    owned: Mapping[Prefix, Address] = {}
    error = None
    inventory = None
    try:
        owned = read_owned(state, target.name)
    except LedgerError as problem:
        error = f"the ledger cannot be read: {problem}"
    if contact:
        try:
            async with LoxilbClient.from_settings(target) as client:
                inventory = await client.inventory()
        except LoxilbError as problem:
            error = str(problem)
    return TargetInput(target.name, target.url, TargetRules.from_settings(target), inventory, owned, error)
