"""`adopt`, `repair`, `withdraw`, `forget`, by asking the running daemon. None where none runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from rich.prompt import Confirm

from routesync.cli.live import EX_FAILED, explained, explained_if_running
from routesync.cli.output import complain, many
from routesync.control.client import Client, url_of
from routesync.control.models import AdoptOrder, ForgetOrder, Order, OwnRoutes, RepairOrder, WithdrawOrder
from routesync.control.routes import RouteRow, RoutesAnswer
from routesync.mirror.state import Phase
from routesync.route import Prefix


def report(target: str, routes: int, done: str, *, as_json: bool) -> int:
    """Print what was done; return the exit status."""
    print(
        OwnRoutes(target=target, routes=routes).model_dump_json(indent=2) if as_json else f"{target}: {done}"
    )
    return 0


def adopt(
    socket: Path | None, target: str, prefixes: Sequence[Prefix], *, yes: bool, as_json: bool
) -> int | None:
    """Take ownership of routes in a target; return the exit status."""

    def work(client: Client) -> int:
        rows = _rows(client, target, Phase.PRESENT, Phase.LEFT_BEHIND)
        if _misses(rows, prefixes, f"target {target} has no route to it that is present or left-behind"):
            return EX_FAILED
        chosen = [
            row
            for row in rows
            if (Prefix.parse(row.prefix) in prefixes if prefixes else row.targets[0].phase == Phase.PRESENT)
        ]
        if not chosen:
            also = f"; {len(rows)} are left behind, and are adopted only by name" if rows else ""
            return report(target, 0, f"nothing to adopt: no route is present{also}", as_json=as_json)
        if not as_json:
            _print(chosen)
        if not yes and not Confirm.ask(adopt_question(len(chosen), target)):
            return EX_FAILED
        done = _order(client, "adopt", AdoptOrder(target=target, prefixes=_prefixes(chosen)))
        return report(target, done, f"{many(done, 'route')} adopted", as_json=as_json)

    return _asked(socket, work)


def repair(socket: Path | None, target: str, prefixes: Sequence[Prefix], *, yes: bool, as_json: bool) -> int:
    """Delete and add again what a target does not forward; return the exit status."""

    def work() -> int:
        client = Client(socket)
        rows = _rows(client, target, Phase.NOT_FORWARDED)
        if _misses(rows, prefixes, f"target {target} has no route that is not-forwarded"):
            return EX_FAILED
        chosen = [row for row in rows if not prefixes or Prefix.parse(row.prefix) in prefixes]
        if not chosen:
            return report(target, 0, "nothing to repair: no route is not-forwarded", as_json=as_json)
        if not as_json:
            _print(chosen)
        question = (
            f"Delete and add again {_these(len(chosen))} in {target}? If another writer has a route to the same "
            "prefix there, that one may be removed."
        )
        if not yes and not Confirm.ask(question):
            return EX_FAILED
        done = _order(client, "repair", RepairOrder(target=target, prefixes=_prefixes(chosen)))
        return report(target, done, f"{many(done, 'route')} to be deleted and added again", as_json=as_json)

    return explained(work)


def forget(
    socket: Path | None, target: str, prefixes: Sequence[Prefix], *, yes: bool, as_json: bool
) -> int | None:
    """Give up ownership of routes in a target; they stay. Return the exit status."""

    def work(client: Client) -> int:
        client.raw("GET", "/health/live")  # before a question is asked for nothing
        if not yes and not Confirm.ask(forget_question(prefixes, target)):
            return EX_FAILED
        done = _order(client, "forget", ForgetOrder(target=target, prefixes=tuple(prefixes)))
        if done < len(prefixes):
            complain(
                f"target {target}: {len(prefixes) - done} of {many(len(prefixes), 'prefix', 'prefixes')} not "
                "forgotten: only owned routes can be, and while the target is mirrored into only those that are left "
                f"behind (`routesync routes --target {target} --phase left-behind`)"
            )
        if not done and prefixes:
            return EX_FAILED
        return report(target, done, forgotten_text(done), as_json=as_json)

    return _asked(socket, work)


def withdraw(socket: Path | None, target: str, url: str | None, *, as_json: bool) -> int | None:
    """Remove all owned routes from a target; return the exit status."""

    def work(client: Client) -> int:
        done = _order(client, "withdraw", WithdrawOrder(target=target, url=url))
        return report(target, done, f"{many(done, 'route')} withdrawn", as_json=as_json)

    return _asked(socket, work)


def _rows(client: Client, target: str, *phases: Phase) -> tuple[RouteRow, ...]:
    url = url_of("/v1/routes", [("target", target), *(("phase", phase) for phase in phases)])
    return client.read(client.raw("GET", url), RoutesAnswer).routes


def _misses(rows: Sequence[RouteRow], prefixes: Sequence[Prefix], what: str) -> bool:
    """Complain about each prefix that is not among the rows."""
    missing = set(prefixes).difference(_prefixes(rows))
    for prefix in missing:
        complain(f"{prefix}: {what}; see `routesync explain {prefix}`")
    return bool(missing)


def _prefixes(rows: Sequence[RouteRow]) -> tuple[Prefix, ...]:
    return tuple(Prefix.parse(row.prefix) for row in rows)


def _print(rows: Sequence[RouteRow]) -> None:
    for row in rows:
        it = row.targets[0]
        print(f"{row.prefix} via {it.owned or it.desired} ({it.phase})")


def adopt_question(count: int, target: str) -> str:
    """What is asked before routes are adopted."""
    return (
        f"Take ownership of {_these(count)} in {target}? Owned routes are removed when they are not desired."
    )


def forget_question(prefixes: Collection[Prefix], target: str) -> str:
    """What is asked before routes, or all, are forgotten."""
    what = ", ".join(map(str, prefixes)) or "all routes"
    return f"Give up ownership of {what} in {target}? The routes themselves stay."


def forgotten_text(count: int) -> str:
    """What was done by `forget`."""
    return f"{many(count, 'route')} forgotten; {'it stays' if count == 1 else 'they stay'} in loxilb"


def _these(count: int) -> str:
    return f"these {count} routes" if count > 1 else "this route"


def _order(client: Client, name: str, order: Order) -> int:
    body = client.raw("POST", f"/v1/{name}", order.model_dump_json().encode())
    return client.read(body, OwnRoutes).routes


def _asked(socket: Path | None, work: Callable[[Client], int]) -> int | None:
    # a withdrawal takes as long as it takes
    return explained_if_running(socket, lambda: work(Client(socket, timeout_s=None)))
