"""`adopt`, `withdraw`, `forget` without a daemon: which routes in a loxilb are owned, changed by hand.

They work on the ledger itself. No daemon may run on it meanwhile: the lock of the state directory sees to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

from rich.prompt import Confirm

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import complain, many
from routesync.cli.ownership_live import adopt_question, forget_question, forgotten_text, report
from routesync.cli.situation import Situation, read_situation
from routesync.events.models import Event
from routesync.kernel import KernelError, read_table
from routesync.mirror.ledger import LedgerBusyError, Row, SqliteLedger
from routesync.plan import Fate
from routesync.route import Prefix, format_address
from routesync.service.emptying import empty
from routesync.settings import TargetSettings


def adopt(
    config: Path, state: Path, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool
) -> int:
    """Take ownership of the routes in a target that equal desired ones; return the exit status."""
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
    present = [
        (prefix, gateway)
        for prefix, gateway in found
        if prefix not in asked.owned and (not prefixes or prefix in prefixes)
    ]
    missing = set(prefixes).difference(prefix for prefix, _ in present)
    for prefix in missing:
        why = "is owned already" if prefix in asked.owned else "no route to it equals the desired one"
        complain(f"{prefix}: {why} in target {target}")
    if missing:
        return 1
    if not present:
        done = f"nothing to adopt: {len(found)} desired routes are there, all of them owned"
        return report(target, 0, done, as_json=as_json)
    if not as_json:
        for prefix, gateway in present:
            print(f"{prefix} via {format_address(gateway)} (present)")
    if not yes and not Confirm.ask(adopt_question(len(present), target)):
        return 1

    def take(ledger: SqliteLedger) -> int:
        for prefix, gateway in present:
            ledger.note(target, prefix, Row(gateway))
        return report(target, len(present), f"{many(len(present), 'route')} adopted", as_json=as_json)

    return _with_ledger(state, take)


def forget(state: Path, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool) -> int:
    """Give up ownership of routes in a target; they stay. Return the exit status."""

    def work(ledger: SqliteLedger) -> int:
        owned = ledger.owned(target)
        if not owned:
            return _nothing(ledger, target, as_json=as_json)
        missing = [prefix for prefix in prefixes if prefix not in owned]
        for prefix in missing:
            complain(f"{prefix}: no route to it in target {target} is owned")
        if missing:
            return 1
        if not yes and not Confirm.ask(forget_question(prefixes, target)):
            return 1
        forgotten = prefixes or owned
        for prefix in forgotten:
            ledger.note(target, prefix, None)
        return report(target, len(forgotten), forgotten_text(len(forgotten)), as_json=as_json)

    return _with_ledger(state, work)


def withdraw(config: Path, state: Path, target: str, url: str | None, *, as_json: bool) -> int:
    """Remove all owned routes from a target; return the exit status."""
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
            complain(f"target {target}: {done.error}; {many(done.left, 'route')} left, and still owned")
            return 1
        return report(target, done.withdrawn, f"{many(done.withdrawn, 'route')} withdrawn", as_json=as_json)

    return _with_ledger(state, work)


class _Silence:
    def emit(self, event: Event, /) -> None:
        """Say nothing: what happens is shown when it is done."""


def _nothing(ledger: SqliteLedger, target: str, *, as_json: bool) -> int:
    known = ", ".join(f"{name} ({count})" for name, count in sorted(ledger.targets().items())) or "none"
    return report(target, 0, f"no route in it is owned; targets with owned routes: {known}", as_json=as_json)


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
