"""`adopt`, `repair`, `forget`, `withdraw`: which routes in a loxilb are owned, changed by an operator.

The running daemon is asked. If none runs, or files are named, the commands work on the ledger itself, under the lock of
the state directory, so that no daemon runs on it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import typer
from rich.prompt import Confirm

from routesync.characters import many
from routesync.cli.check import load_or_fail
from routesync.cli.offline import read_offline
from routesync.cli.output import EX_CONFIG, EX_FAILED, fail, print_error
from routesync.cli.requests import daemon_errors, daemon_runs
from routesync.config import ConfigError, Loaded, unconfigured_target
from routesync.config.models import Settings, TargetSettings
from routesync.config.resolve import look_up_name, target_named
from routesync.control.client import Client, url_of
from routesync.control.models import (
    OwnedRoutes,
    OwnershipRequest,
    RequestModel,
    RoutesResponse,
    WithdrawRequest,
)
from routesync.control.ownership import Withdrawn, withdraw_all
from routesync.events.models import Event
from routesync.kernel import KernelError, dump_tables_sync
from routesync.mirror.eligibility import Desired
from routesync.mirror.ledger import Ledger, LedgerBusyError, Row
from routesync.mirror.state import Phase
from routesync.route import Prefix, format_address, parse_address
from routesync.service import logs
from routesync.url import BaseUrl


class Where(NamedTuple):
    """Where ownership is changed: at the running daemon, or, if it does not run or `offline`, in the files."""

    config: Path
    state: Path
    socket: Path | None = None
    offline: bool = False


class TargetRow(NamedTuple):
    """A route in a target, or one that may be there."""

    prefix: Prefix
    gateway: str
    phase: str


# -- who knows and changes which routes are owned: the daemon, or the ledger. What cannot be done ends the command. ---


class _Daemon:
    def __init__(self, socket: Path | None) -> None:
        self._client = Client(socket, timeout_s=None)  # a withdrawal takes as long as it takes

    def rows(self, target: str, *phases: Phase) -> Sequence[TargetRow]:
        """Routes in these phases at a target."""
        url = url_of("/v1/routes", [("target", target), *(("phase", phase) for phase in phases)])
        with daemon_errors():
            found = self._client.ask(RoutesResponse, "GET", url).routes
        return [
            TargetRow(Prefix.parse(row.prefix), it.owned or it.desired or "?", it.phase)
            for row in found
            for it in row.targets
        ]

    def adoptable(self, target: str) -> Sequence[TargetRow]:
        return self.rows(target, Phase.PRESENT, Phase.LEFT_BEHIND)

    def adopt(self, target: str, rows: Sequence[TargetRow]) -> int:
        return self._change("adopt", OwnershipRequest(target=target, prefixes=_prefixes(rows)))

    def repair(self, target: str, rows: Sequence[TargetRow]) -> int:
        return self._change("repair", OwnershipRequest(target=target, prefixes=_prefixes(rows)))

    def forget(self, target: str, prefixes: Collection[Prefix]) -> int:
        return self._change("forget", OwnershipRequest(target=target, prefixes=tuple(prefixes)))

    def withdraw(self, target: str, url: str | None) -> int:
        return self._change("withdraw", WithdrawRequest(target=target, url=url))

    def _change(self, name: str, body: RequestModel) -> int:
        with daemon_errors():
            return self._client.ask(OwnedRoutes, "POST", f"/v1/{name}", body).routes


class _Files:
    def __init__(self, ledger: Ledger, where: Where, *, as_json: bool) -> None:
        self._ledger = ledger
        self._where = where
        self._as_json = as_json

    def adoptable(self, target: str) -> Sequence[TargetRow]:
        """Routes that are present, and owned ones, as confirmed."""
        context = read_offline(self._where.config, self._where.state, contact=True)
        found = next((it for it in context.targets if it.name == target), None)
        if found is None:
            known = ", ".join(it.name for it in context.targets) or "none"
            fail(f"{context.file} has no target {target}; it has: {known}", EX_CONFIG)
        if found.inventory is None:
            fail(f"target {target}: {found.view().error}")
        return [
            TargetRow(choice.prefix, format_address(view.evaluation.gateway), view.phase.value)
            for choice in context.choices
            if (view := found.route(choice.prefix)) is not None
            and view.phase in (Phase.PRESENT, Phase.CONFIRMED)
            and isinstance(view.evaluation, Desired)
        ]

    def adopt(self, target: str, rows: Sequence[TargetRow]) -> int:
        for row in rows:
            self._ledger.note(target, row.prefix, Row(parse_address(row.gateway)))
        return len(rows)

    def check_forget(self, target: str, prefixes: Collection[Prefix]) -> None:
        """Find what speaks against `forget`, before the operator is asked."""
        owned = self._owned(target)
        missing = [prefix for prefix in prefixes if prefix not in owned]
        if missing:
            fail("\n".join(f"{prefix}: no route to it in target {target} is owned" for prefix in missing))

    def forget(self, target: str, prefixes: Collection[Prefix]) -> int:
        forgotten = prefixes or tuple(self._ledger.owned(target))
        for prefix in forgotten:
            self._ledger.note(target, prefix, None)
        return len(forgotten)

    def withdraw(self, target: str, url: str | None) -> int:
        loaded = load_or_fail(self._where.config)
        found = [it for it in self._reached(loaded, target, url) if self._ledger.owned(it.name)]
        if not found:
            self._owned(target)
        try:
            links = dump_tables_sync(tables=(), netns=loaded.settings.kernel.netns).links
        except KernelError as error:
            fail(str(error))

        async def withdraw() -> list[Withdrawn]:
            work = (withdraw_all(it, self._ledger, _NoSink(), links=lambda: links) for it in found)
            return await asyncio.gather(*work)

        faults = []
        for settings, done in zip(found, withdrawn := asyncio.run(withdraw()), strict=True):
            left = f"target {settings.name}: {done.error}; {many(done.left, 'route')} left, and still owned"
            if done.left and not done.is_reachable and _is_gone(loaded.settings, target, settings):
                print_error(
                    f"{left}; if no loxilb gets this address again: routesync forget -t {settings.name}"
                )
            elif done.left:
                faults.append(left)
        if faults:
            fail("\n".join(faults))
        return sum(done.withdrawn for done in withdrawn)

    def _reached(self, loaded: Loaded, target: str, url: str | None) -> Iterator[TargetSettings]:
        """How to reach the target: as configured, or at `url`.

        One with `all_addresses` is each address in the ledger, also those that its name does not resolve to any more.
        """
        settings = loaded.settings
        configured = target_named(settings, target)
        if configured is not None:
            yield configured.model_copy(update={"all_addresses": False})
            others = {it.name for it in settings.targets}
            for name in sorted(self._ledger.targets().keys() - others) if configured.all_addresses else ():
                if name.startswith(f"{target}-") and (one := target_named(settings, name)) is not None:
                    yield one
            return
        if url is None:
            fail(
                f"{self._where.config} has no target {target}; if it is no longer configured, give its URL: "
                "--url http://…:11111",
                EX_CONFIG,
            )
        try:
            yield unconfigured_target(loaded, target, url)
        except ConfigError as error:
            fail(str(error), EX_CONFIG)

    def _owned(self, target: str) -> Collection[Prefix]:
        """Routes owned in a target. If there are none the command ends, without an error: there is nothing to do."""
        owned = self._ledger.owned(target)
        if not owned:
            known = ", ".join(f"{name} ({count})" for name, count in sorted(self._ledger.targets().items()))
            text = f"no route in it is owned; targets with owned routes: {known or 'none'}"
            _report(target, 0, text, as_json=self._as_json)
            raise typer.Exit
        return owned


def _is_gone(settings: Settings, name: str, one: TargetSettings) -> bool:
    """Whether a target with `all_addresses` has other addresses now than this one."""
    whole = target_named(settings, name)
    try:
        found = (
            look_up_name(BaseUrl.parse(whole.url).host) if whole is not None and whole.all_addresses else ()
        )
    except OSError:  # nobody knows
        return False
    return bool(found) and BaseUrl.parse(one.url).host not in found


class _NoSink:
    def emit(self, event: Event, /) -> None:
        """Drop the event: the command prints the result."""


@contextmanager
def _owner(where: Where, *, as_json: bool) -> Iterator[_Daemon | _Files]:
    if not where.offline and daemon_runs(where.socket):
        yield _Daemon(where.socket)
        return
    logs.configure("error", "console")  # on standard error; what is left, and why, is in the result
    try:
        with Ledger(where.state) as ledger:
            if not ledger.known:
                fail(str(ledger.trouble))
            yield _Files(ledger, where, as_json=as_json)
    except LedgerBusyError:
        fail(
            f"{where.state}: the daemon runs and uses this ledger; leave out --state and --config to ask the daemon, "
            "or stop it first: systemctl stop routesync"
        )
    if ledger.failing:
        fail(str(ledger.trouble))


# -- the commands -----------------------------------------------------------------------------------------------


def adopt(where: Where, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool) -> None:
    """Take ownership of routes in a target."""
    with _owner(where, as_json=as_json) as owner:
        found = owner.adoptable(target)
        rows = [row for row in found if row.phase in (Phase.PRESENT, Phase.LEFT_BEHIND)]
        what = f"target {target} has no route to it that is present or left-behind"
        _require(target, rows, prefixes, what, owned=_prefixes(found))
        chosen = [row for row in rows if (row.prefix in prefixes if prefixes else row.phase == Phase.PRESENT)]
        if not chosen:
            also = f"; {len(rows)} are left behind, and are adopted only by name" if rows else ""
            _report(target, 0, f"nothing to adopt: no route is present{also}", as_json=as_json)
            return
        question = (
            f"Take ownership of {_these(chosen)} in {target}? "
            "Owned routes are removed when they are not desired."
        )
        _confirm(question, chosen, yes=yes, as_json=as_json)
        done = owner.adopt(target, chosen)
        _report(target, done, f"{many(done, 'route')} adopted", as_json=as_json)


def repair(
    socket: Path | None, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool
) -> None:
    """Delete and add again what a target does not forward. Needs the daemon."""
    daemon = _Daemon(socket)
    rows = daemon.rows(target, Phase.NOT_FORWARDED)
    _require(target, rows, prefixes, f"target {target} has no route that is not-forwarded")
    chosen = [row for row in rows if not prefixes or row.prefix in prefixes]
    if not chosen:
        _report(target, 0, "nothing to repair: no route is not-forwarded", as_json=as_json)
        return
    question = (
        f"Delete and add again {_these(chosen)} in {target}? If another writer has a route to the same prefix "
        "there, that one may be removed."
    )
    _confirm(question, chosen, yes=yes, as_json=as_json)
    done = daemon.repair(target, chosen)
    _report(target, done, f"{many(done, 'route')} to be deleted and added again", as_json=as_json)


def forget(where: Where, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool) -> None:
    """Give up ownership of routes in a target; they stay."""
    with _owner(where, as_json=as_json) as owner:
        if isinstance(owner, _Files):  # the daemon checks this itself
            owner.check_forget(target, prefixes)
        what = ", ".join(map(str, prefixes)) or "all routes"
        question = f"Give up ownership of {what} in {target}? The routes themselves stay."
        _confirm(question, (), yes=yes, as_json=as_json)
        done = owner.forget(target, prefixes)
        if done < len(prefixes):
            print_error(
                f"target {target}: {len(prefixes) - done} of {many(len(prefixes), 'prefix', 'prefixes')} not "
                "forgotten: only owned routes can be, and while the target is mirrored into only those that are left "
                f"behind (`routesync routes --target {target} --phase left-behind`)"
            )
        if not done and prefixes:
            raise typer.Exit(EX_FAILED)
        text = f"{many(done, 'route')} forgotten; {'it stays' if done == 1 else 'they stay'} in loxilb"
        _report(target, done, text, as_json=as_json)


def withdraw(where: Where, target: str, url: str | None, *, as_json: bool) -> None:
    """Withdraw all owned routes from a target."""
    with _owner(where, as_json=as_json) as owner:
        done = owner.withdraw(target, url)
        _report(target, done, f"{many(done, 'route')} withdrawn", as_json=as_json)


def _report(target: str, routes: int, done: str, *, as_json: bool) -> None:
    result = OwnedRoutes(target=target, routes=routes)
    print(result.model_dump_json(indent=2) if as_json else f"{target}: {done}")


def _require(
    target: str,
    rows: Sequence[TargetRow],
    prefixes: Collection[Prefix],
    what: str,
    owned: Collection[Prefix] = (),
) -> None:
    """End the command with an error for each prefix that is not among the rows."""
    faults = [
        f"{prefix}: {f'is owned already in target {target}' if prefix in owned else what}; "
        f"see `routesync explain {prefix}`"
        for prefix in prefixes
        if prefix not in _prefixes(rows)
    ]
    if faults:
        fail("\n".join(faults))


def _prefixes(rows: Sequence[TargetRow]) -> tuple[Prefix, ...]:
    return tuple(row.prefix for row in rows)


def _these(rows: Sequence[TargetRow]) -> str:
    return f"these {len(rows)} routes" if len(rows) > 1 else "this route"


def _confirm(question: str, rows: Sequence[TargetRow], *, yes: bool, as_json: bool) -> None:
    """Show the routes and ask; a no ends the command."""
    if not as_json:
        for row in rows:
            print(f"{row.prefix} via {row.gateway} ({row.phase})")
    if not yes and not Confirm.ask(question):
        raise typer.Exit(EX_FAILED)
