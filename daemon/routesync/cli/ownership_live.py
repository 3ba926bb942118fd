"""`adopt`, `withdraw`, `forget`, by asking the running daemon. None where none runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.prompt import Confirm

from routesync.cli.live import explained_if_running
from routesync.control.client import Client, url_of
from routesync.control.models import AdoptOrder, ForgetOrder, Order, OwnRoutes, WithdrawOrder
from routesync.control.routes import RoutesAnswer
from routesync.route import Prefix


def report(target: str, routes: int, told: str, *, as_json: bool) -> int:
    """Say what was done; return the exit status."""
    print(
        OwnRoutes(target=target, routes=routes).model_dump_json(indent=2) if as_json else f"{target}: {told}"
    )
    return 0


def adopt(socket: Path | None, target: str, *, yes: bool, as_json: bool) -> int | None:
    """Claim the routes in a target that equal the wanted ones; return the exit status."""

    def work(client: Client) -> int:
        wanted = url_of("/v1/routes", [("target", target), ("phase", "present")])
        present = client.read(client.raw("GET", wanted), RoutesAnswer).routes
        if not present:
            told = "nothing to adopt; no wanted route stands there that is not ours"
            return report(target, 0, told, as_json=as_json)
        if not as_json:
            for row in present:
                print(f"{row.prefix} via {row.targets[0].desired}")
        if not yes and not Confirm.ask(
            f"Claim these {len(present)} routes in {target} as ours, to be withdrawn when unwanted?"
        ):
            return 1
        prefixes = tuple(Prefix.parse(row.prefix) for row in present)
        done = _order(client, "adopt", AdoptOrder(target=target, prefixes=prefixes))
        return report(target, done, f"{done} routes adopted", as_json=as_json)

    return _asked(socket, work)


def forget(socket: Path | None, target: str, *, yes: bool, as_json: bool) -> int | None:
    """Give up all claims on a target; its routes stay. Return the exit status."""

    def work(client: Client) -> int:
        client.raw("GET", "/health/live")  # before anybody is bothered with a question
        if not yes and not Confirm.ask(f"Forget which routes in {target} are ours? They stay there."):
            return 1
        done = _order(client, "forget", ForgetOrder(target=target))
        return report(target, done, f"{done} routes forgotten; they stay where they are", as_json=as_json)

    return _asked(socket, work)


def withdraw(socket: Path | None, target: str, url: str | None, *, as_json: bool) -> int | None:
    """Take all of our routes out of a target; return the exit status."""

    def work(client: Client) -> int:
        done = _order(client, "withdraw", WithdrawOrder(target=target, url=url))
        return report(target, done, f"{done} routes withdrawn", as_json=as_json)

    return _asked(socket, work)


def _order(client: Client, name: str, order: Order) -> int:
    body = client.raw("POST", f"/v1/{name}", order.model_dump_json().encode())
    return client.read(body, OwnRoutes).routes


def _asked(socket: Path | None, work: Callable[[Client], int]) -> int | None:
    # a withdrawal takes as long as it takes
    return explained_if_running(socket, lambda: work(Client(socket, timeout_s=None)))
