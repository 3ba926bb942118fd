"""Requests to the running daemon: exit statuses, and the commands `resync`, `release`, `pause`, `resume`, `reload`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from routesync.cli.check import EX_CONFIG
from routesync.cli.output import Page, many, print_error
from routesync.control.client import Client, ControlError, Failed, NotAllowed, NotRunning
from routesync.control.models import Done, Released, Reloaded, ResyncRequest, TargetRequest

EX_FAILED: Final = 1
"""The command failed; of `status`: the daemon is degraded."""
EX_USAGE: Final = 2
"""Wrong arguments."""
EX_NOT_RUNNING: Final = 3
"""The daemon does not run (LSB: program is not running)."""
EX_NOT_ALLOWED: Final = 4
"""Permission to open the socket, or to change anything, is missing (LSB: status unknown)."""


def explained(work: Callable[[], int]) -> int:
    """Run a command; print one line if the request fails, and return the exit status."""
    try:
        return work()
    except ControlError as error:
        print_error(str(error))
        return exit_of(error)


def explained_if_running(socket: Path | None, work: Callable[[], int]) -> int | None:
    """The same for a command that works without a daemon, too: None if none runs and no socket was named."""
    try:
        return work()
    except ControlError as error:
        if isinstance(error, NotRunning) and socket is None:
            return None
        print_error(str(error))
        return exit_of(error)


def exit_of(error: ControlError) -> int:
    match error:
        case NotRunning():
            return EX_NOT_RUNNING
        case NotAllowed():
            return EX_NOT_ALLOWED
        case Failed() if error.problem.name in ("bad-request", "unknown-target"):
            return EX_USAGE
        case _:
            return EX_FAILED


def print_json(body: bytes) -> None:
    """Print a response as it came, indented."""
    print(json.dumps(json.loads(body), indent=2, ensure_ascii=False))


def request(
    name: Literal["resync", "release", "pause", "resume"],
    socket: Path | None,
    target: str | None,
    *,
    as_json: bool,
    force: bool = False,
) -> int:
    def work() -> int:
        client = Client(socket)
        what = ResyncRequest(target=target, force=force) if name == "resync" else TargetRequest(target=target)
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
    """Reload the configuration file; return the exit status, 78 if the file is rejected."""

    def work() -> int:
        client = Client(socket)
        try:
            body = client.raw("POST", "/v1/reload")
        except Failed as error:
            if error.problem.name != "rejected":
                raise
            print_error(f"{error}\nthe running configuration stays")
            return EX_CONFIG
        if as_json:
            print_json(body)
        else:
            print(f"{client.read(body, Reloaded).config.path} is active")
        return 0

    return explained(work)
