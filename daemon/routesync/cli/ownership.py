"""`adopt`, `repair`, `forget`, `withdraw`: which routes in a loxilb are owned, changed by an operator.

The running daemon is asked. If none runs, or files are named, the commands work on the ledger itself, under the lock of
the state directory, so that no daemon runs on it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.prompt import Confirm

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.offline import read_offline
from routesync.cli.output import many, print_error
from routesync.cli.requests import EX_FAILED, explained, explained_if_running
from routesync.config.models import TargetSettings
from routesync.control.client import Client, url_of
from routesync.control.models import (
    OwnedRoutes,
    OwnershipRequest,
    RequestModel,
    RoutesResponse,
    WithdrawRequest,
)
from routesync.control.ownership import withdraw_all
from routesync.events.models import Event
from routesync.kernel import KernelError, read_table
from routesync.mirror.eligibility import Desired
from routesync.mirror.ledger import Ledger, LedgerBusyError, Row
from routesync.mirror.state import Phase
from routesync.route import Prefix, format_address, parse_address


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


class Owner(Protocol):
    """Knows and changes which routes are owned. Each method prints and raises `Stop` if it cannot."""

    def adoptable(self, target: str) -> Sequence[TargetRow]:
        """Routes that are present or left behind; maybe also owned ones, as confirmed."""

    def adopt(self, target: str, rows: Sequence[TargetRow]) -> int:
        """Take ownership; return of how many routes."""

    def check_forget(self, target: str, prefixes: Collection[Prefix]) -> None:
        """Find what speaks against `forget`, before the operator is asked."""

    def forget(self, target: str, prefixes: Collection[Prefix]) -> int:
        """Give up ownership of these, or of all; return of how many routes."""

    def withdraw(self, target: str, url: str | None) -> int:
        """Withdraw all owned routes; return how many."""


class Stop(Exception):  # noqa: N818 - the end of a command, not always an error
    """The command ends here, with an exit status; the reason is printed."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Daemon:
    """The running daemon."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def rows(self, target: str, *phases: Phase) -> Sequence[TargetRow]:
        url = url_of("/v1/routes", [("target", target), *(("phase", phase) for phase in phases)])
        found = self._client.read(self._client.raw("GET", url), RoutesResponse).routes
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

    def check_forget(self, target: str, prefixes: Collection[Prefix]) -> None:
        del target, prefixes
        self._client.raw("GET", "/health/live")

    def forget(self, target: str, prefixes: Collection[Prefix]) -> int:
        return self._change("forget", OwnershipRequest(target=target, prefixes=tuple(prefixes)))

    def withdraw(self, target: str, url: str | None) -> int:
        return self._change("withdraw", WithdrawRequest(target=target, url=url))

    def _change(self, name: str, body: RequestModel) -> int:
        answer = self._client.raw("POST", f"/v1/{name}", body.model_dump_json().encode())
        return self._client.read(answer, OwnedRoutes).routes


class _Files:
    """The ledger, which is locked, and the configuration."""

    def __init__(self, ledger: Ledger, where: Where, *, as_json: bool) -> None:
        self._ledger = ledger
        self._where = where
        self._as_json = as_json

    def adoptable(self, target: str) -> Sequence[TargetRow]:
        context = read_offline(self._where.config, self._where.state, contact=True)
        if isinstance(context, int):
            raise Stop(context)
        found = next((it for it in context.targets if it.name == target), None)
        if found is None:
            known = ", ".join(it.name for it in context.targets) or "none"
            print_error(f"{context.file} has no target {target}; it has: {known}")
            raise Stop(EX_CONFIG)
        if found.inventory is None:
            print_error(f"target {target}: {found.view().error}")
            raise Stop(EX_FAILED)
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
        owned = self._owned(target)
        missing = [prefix for prefix in prefixes if prefix not in owned]
        for prefix in missing:
            print_error(f"{prefix}: no route to it in target {target} is owned")
        if missing:
            raise Stop(EX_FAILED)

    def forget(self, target: str, prefixes: Collection[Prefix]) -> int:
        forgotten = prefixes or tuple(self._ledger.owned(target))
        for prefix in forgotten:
            self._ledger.note(target, prefix, None)
        return len(forgotten)

    def withdraw(self, target: str, url: str | None) -> int:
        loaded = load_or_explain(self._where.config)
        if loaded is None:
            raise Stop(EX_CONFIG)
        settings = next((it for it in loaded.settings.targets if it.name == target), None)
        if settings is None:
            if url is None:
                print_error(
                    f"{self._where.config} has no target {target}; if it is no longer configured, give its URL: "
                    "--url http://…:11111"
                )
                raise Stop(EX_CONFIG)
            settings = TargetSettings(name=target, url=url)
        self._owned(target)
        try:
            links = read_table(tables=(), netns=loaded.settings.kernel.netns).links
        except KernelError as error:
            print_error(str(error))
            raise Stop(EX_FAILED) from None
        done = asyncio.run(withdraw_all(settings, self._ledger, _NoSink(), links=lambda: links))
        if done.left:
            print_error(f"target {target}: {done.error}; {many(done.left, 'route')} left, and still owned")
            raise Stop(EX_FAILED)
        return done.withdrawn

    def _owned(self, target: str) -> Collection[Prefix]:
        """Routes owned in a target. If there are none the command ends, without an error: there is nothing to do."""
        owned = self._ledger.owned(target)
        if not owned:
            known = ", ".join(f"{name} ({count})" for name, count in sorted(self._ledger.targets().items()))
            text = f"no route in it is owned; targets with owned routes: {known or 'none'}"
            raise Stop(_report(target, 0, text, as_json=self._as_json))
        return owned


class _NoSink:
    def emit(self, event: Event, /) -> None:
        """Drop the event: the command prints the result."""


def _run(where: Where, work: Callable[[Owner], int], *, as_json: bool) -> int:
    if not where.offline:
        # no timeout: a withdrawal takes as long as it takes
        client = Client(where.socket, timeout_s=None)
        status = explained_if_running(where.socket, lambda: work(_Daemon(client)))
        if status is not None:
            return status
    try:
        with Ledger(where.state) as ledger:
            status = work(_Files(ledger, where, as_json=as_json)) if ledger.known else EX_FAILED
        if not ledger.failing:
            return status
        print_error(str(ledger.trouble))
    except LedgerBusyError:
        print_error(
            f"{where.state}: the daemon runs and uses this ledger; leave out --state and --config to ask the daemon, "
            "or stop it first: systemctl stop routesync"
        )
    except Stop as stop:
        return stop.status
    return EX_FAILED


def adopt(where: Where, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool) -> int:
    """Take ownership of routes in a target; return the exit status."""

    def work(owner: Owner) -> int:
        found = owner.adoptable(target)
        rows = [row for row in found if row.phase in (Phase.PRESENT, Phase.LEFT_BEHIND)]
        owned = set(_prefixes(found)).difference(_prefixes(rows)).intersection(prefixes)
        for prefix in owned:
            print_error(f"{prefix}: is owned already in target {target}")
        unknown = [prefix for prefix in prefixes if prefix not in owned]
        what = f"target {target} has no route to it that is present or left-behind"
        if _misses(rows, unknown, what) or owned:
            return EX_FAILED
        chosen = [row for row in rows if (row.prefix in prefixes if prefixes else row.phase == Phase.PRESENT)]
        if not chosen:
            also = f"; {len(rows)} are left behind, and are adopted only by name" if rows else ""
            return _report(target, 0, f"nothing to adopt: no route is present{also}", as_json=as_json)
        question = (
            f"Take ownership of {_these(chosen)} in {target}? "
            "Owned routes are removed when they are not desired."
        )
        if not _confirmed(question, chosen, yes=yes, as_json=as_json):
            return EX_FAILED
        done = owner.adopt(target, chosen)
        return _report(target, done, f"{many(done, 'route')} adopted", as_json=as_json)

    return _run(where, work, as_json=as_json)


def repair(
    socket: Path | None, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool
) -> int:
    """Delete and add again what a target does not forward; return the exit status. Needs the daemon."""

    def work() -> int:
        daemon = _Daemon(Client(socket))
        rows = daemon.rows(target, Phase.NOT_FORWARDED)
        if _misses(rows, prefixes, f"target {target} has no route that is not-forwarded"):
            return EX_FAILED
        chosen = [row for row in rows if not prefixes or row.prefix in prefixes]
        if not chosen:
            return _report(target, 0, "nothing to repair: no route is not-forwarded", as_json=as_json)
        question = (
            f"Delete and add again {_these(chosen)} in {target}? If another writer has a route to the same prefix "
            "there, that one may be removed."
        )
        if not _confirmed(question, chosen, yes=yes, as_json=as_json):
            return EX_FAILED
        done = daemon.repair(target, chosen)
        return _report(target, done, f"{many(done, 'route')} to be deleted and added again", as_json=as_json)

    return explained(work)


def forget(where: Where, target: str, prefixes: Collection[Prefix], *, yes: bool, as_json: bool) -> int:
    """Give up ownership of routes in a target; they stay. Return the exit status."""

    def work(owner: Owner) -> int:
        owner.check_forget(target, prefixes)
        what = ", ".join(map(str, prefixes)) or "all routes"
        question = f"Give up ownership of {what} in {target}? The routes themselves stay."
        if not _confirmed(question, (), yes=yes, as_json=as_json):
            return EX_FAILED
        done = owner.forget(target, prefixes)
        if done < len(prefixes):
            print_error(
                f"target {target}: {len(prefixes) - done} of {many(len(prefixes), 'prefix', 'prefixes')} not "
                "forgotten: only owned routes can be, and while the target is mirrored into only those that are left "
                f"behind (`routesync routes --target {target} --phase left-behind`)"
            )
        if not done and prefixes:
            return EX_FAILED
        text = f"{many(done, 'route')} forgotten; {'it stays' if done == 1 else 'they stay'} in loxilb"
        return _report(target, done, text, as_json=as_json)

    return _run(where, work, as_json=as_json)


def withdraw(where: Where, target: str, url: str | None, *, as_json: bool) -> int:
    """Withdraw all owned routes from a target; return the exit status."""

    def work(owner: Owner) -> int:
        done = owner.withdraw(target, url)
        return _report(target, done, f"{many(done, 'route')} withdrawn", as_json=as_json)

    return _run(where, work, as_json=as_json)


def _report(target: str, routes: int, done: str, *, as_json: bool) -> int:
    result = OwnedRoutes(target=target, routes=routes)
    print(result.model_dump_json(indent=2) if as_json else f"{target}: {done}")
    return 0


def _misses(rows: Sequence[TargetRow], prefixes: Collection[Prefix], what: str) -> bool:
    """Print an error for each prefix that is not among the rows."""
    missing = set(prefixes).difference(_prefixes(rows))
    for prefix in missing:
        print_error(f"{prefix}: {what}; see `routesync explain {prefix}`")
    return bool(missing)


def _prefixes(rows: Sequence[TargetRow]) -> tuple[Prefix, ...]:
    return tuple(row.prefix for row in rows)


def _these(rows: Sequence[TargetRow]) -> str:
    return f"these {len(rows)} routes" if len(rows) > 1 else "this route"


def _confirmed(question: str, rows: Sequence[TargetRow], *, yes: bool, as_json: bool) -> bool:
    if not as_json:
        for row in rows:
            print(f"{row.prefix} via {row.gateway} ({row.phase})")
    return yes or Confirm.ask(question)
