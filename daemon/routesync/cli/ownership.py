"""`adopt`, `withdraw`, `forget`: which routes in a loxilb are ours, changed by hand.

A running daemon is asked. Where none runs, or files are named, they work on the ledger itself, and no daemon may run
on it meanwhile: the lock of the state directory sees to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from rich.prompt import Confirm

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import complain
from routesync.cli.ownership_live import report
from routesync.cli.situation import Situation, read_situation
from routesync.config.models import TargetSettings
from routesync.events.models import Event
from routesync.kernel import KernelError, read_table
from routesync.mirror.ledger import LedgerBusyError, Row, SqliteLedger
from routesync.plan import Fate
from routesync.route import format_address
from routesync.service.emptying import empty


def adopt(config: Path, state: Path, target: str, *, yes: bool, as_json: bool) -> int:
    """Claim the routes in a target that equal the wanted ones; return the exit status."""
    situation = read_situation(config, state, contact=True)
    if isinstance(situation, int):
        return situation
    asked = next((each for each in situation.plan.targets if each.name == target), None)
    if asked is None:
        return _unknown_target(situation, target)
    if asked.inventory is None:
        complain(f"target {target}: {asked.error}")
        return 1
    found = [
        (planned.route.prefix, end.gateway)
        for planned in situation.plan.routes
        for end in planned.targets
        if end.target == target and end.fate is Fate.STANDS and end.gateway is not None
    ]
    strange = [(prefix, gateway) for prefix, gateway in found if prefix not in asked.owned]
    if not strange:
        told = f"nothing to adopt; {len(found)} wanted routes stand there, all of them ours"
        return report(target, 0, told, as_json=as_json)
    if not as_json:
        for prefix, gateway in strange:
            print(f"{prefix} via {format_address(gateway)}")
    if not yes and not Confirm.ask(
        f"Claim these {len(strange)} routes in {target} as ours, to be withdrawn when unwanted?"
    ):
        return 1

    def claim(ledger: SqliteLedger) -> int:
        for prefix, gateway in strange:
            ledger.note(target, prefix, Row(gateway))
        return report(target, len(strange), f"{len(strange)} routes adopted", as_json=as_json)

    return _with_ledger(state, claim)


def forget(state: Path, target: str, *, yes: bool, as_json: bool) -> int:
    """Give up all claims on a target; its routes stay. Return the exit status."""

    def work(ledger: SqliteLedger) -> int:
        owned = ledger.owned(target)
        if not owned:
            return _nothing(ledger, target, as_json=as_json)
        if not yes and not Confirm.ask(
            f"Forget that {len(owned)} routes in {target} are ours? They stay there."
        ):
            return 1
        for prefix in owned:
            ledger.note(target, prefix, None)
        told = f"{len(owned)} routes forgotten; they stay where they are"
        return report(target, len(owned), told, as_json=as_json)

    return _with_ledger(state, work)


def withdraw(config: Path, state: Path, target: str, url: str | None, *, as_json: bool) -> int:
    """Take all of our routes out of a target; return the exit status."""
    loaded = load_or_explain(config)
    if loaded is None:
        return EX_CONFIG
    settings = next((each for each in loaded.settings.targets if each.name == target), None)
    if settings is None:
        if url is None:
            complain(
                f"{config} has no target {target}; if it was taken out, say where it is: --url http://…:11111"
            )
            return EX_CONFIG
        settings = TargetSettings(name=target, url=url)

    def work(ledger: SqliteLedger) -> int:
        if not ledger.owned(target):
            return _nothing(ledger, target, as_json=as_json)
        try:
            links = read_table(tables=(), netns=loaded.settings.kernel.netns).links
        except KernelError as error:
            complain(str(error))
            return 1
        done = asyncio.run(empty(settings, ledger, _Silence(), links=lambda: links))
        if done.left:
            complain(f"target {target}: {done.error}; {done.left} routes are still there, and still ours")
            return 1
        return report(target, done.withdrawn, f"{done.withdrawn} routes withdrawn", as_json=as_json)

    return _with_ledger(state, work)


class _Silence:
    def emit(self, event: Event, /) -> None:
        """Say nothing: what happens is shown when it is done."""


def _nothing(ledger: SqliteLedger, target: str, *, as_json: bool) -> int:
    known = ", ".join(f"{name} ({count})" for name, count in sorted(ledger.targets().items())) or "none"
    return report(target, 0, f"no route in it is ours; targets with routes of ours: {known}", as_json=as_json)


def _unknown_target(situation: Situation, target: str) -> int:
    names = ", ".join(each.name for each in situation.plan.targets) or "none"
    complain(f"{situation.file} has no target {target}; it has: {names}")
    return EX_CONFIG


def _with_ledger(state: Path, work: Callable[[SqliteLedger], int]) -> int:
    try:
        with SqliteLedger(state) as ledger:
            status = work(ledger) if ledger.known else 1
        if not ledger.failing:
            return status
        complain(str(ledger.trouble))
    except LedgerBusyError:
        complain(
            f"{state}: the daemon runs and keeps this ledger; name neither it nor a configuration, to ask the daemon, "
            "or stop it first: systemctl stop routesync"
        )
    return 1
