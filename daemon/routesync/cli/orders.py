"""`routesync resync`, `release`, `pause`, `resume`: what a running daemon is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from routesync.cli.check import EX_CONFIG
from routesync.cli.live import explained, print_json
from routesync.cli.output import Page, complain, many
from routesync.control.client import Client, Failed
from routesync.control.models import Done, Released, Reloaded, ResyncOrder, TargetOrder

Name = Literal["resync", "release", "pause", "resume"]


NOTHING: Final = "nothing was held back"


def order(name: Name, socket: Path | None, target: str | None, *, as_json: bool, force: bool = False) -> int:
    """Give an order; return the exit status."""

    def work() -> int:
        client = Client(socket)
        what = ResyncOrder(target=target, force=force) if name == "resync" else TargetOrder(target=target)
        body = client.raw("POST", f"/v1/{name}", what.model_dump_json().encode())
        if as_json:
            print_json(body)
        elif name == "release":
            released = client.read(body, Released).released
            _show(
                {
                    it: f"{many(count, 'withdrawal')} released" if count else "nothing was held back"
                    for it, count in released.items()
                }
            )
        else:
            if name == "resync":
                print("a dump of the kernel's table is ordered")
            _show(client.read(body, Done).targets)
        return 0

    return explained(work)


def _show(done: Mapping[str, str]) -> None:
    page = Page()
    for target, text in done.items():
        page.line((target, "bold"), f": {text}")
    if not done:
        page.line("the daemon mirrors into no target")


def reload(socket: Path | None, *, as_json: bool) -> int:
    """Have the configuration taken up anew; return the exit status: 78 where the file does not hold."""

    def work() -> int:
        client = Client(socket)
        try:
            body = client.raw("POST", "/v1/reload")
        except Failed as error:
            if error.problem.name != "rejected":
                raise
            complain(f"{error}\nthe configuration before stays in force")
            return EX_CONFIG
        if as_json:
            print_json(body)
        else:
            print(f"{client.read(body, Reloaded).config.path} is in force")
        return 0

    return explained(work)
