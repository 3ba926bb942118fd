"""Requests to the running daemon: one way to make them, and the commands that are one request each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console

from routesync.characters import many
from routesync.cli.output import (
    EX_CONFIG,
    EX_FAILED,
    EX_NOT_ALLOWED,
    EX_USAGE,
    Page,
    fail,
    print_json,
    work_left,
)
from routesync.control.client import Client, ControlError, Failed, NotAllowed, NotRunning
from routesync.control.models import (
    Done,
    Health,
    Released,
    Reloaded,
    RequestModel,
    ResyncRequest,
    StatusResponse,
    TargetRequest,
)
from routesync.mirror.status import TargetState

WORKING: Final = (TargetState.CONNECTING, TargetState.STARTING, TargetState.SYNCING)
"""States that pass by themselves."""
_POLL_S: Final = 0.5

A = TypeVar("A", bound=BaseModel)


def ask(
    socket: Path | None,
    call: str,
    model: type[A],
    show: Callable[[A], None],
    *,
    as_json: bool,
    body: RequestModel | None = None,
    hint: str = "",
) -> A:
    """Ask the daemon, and print its answer: with `as_json` as it came, else by `show`. A failure ends the command.

    Args:
        socket: the daemon's; None: this host's.
        call: method and path, such as "GET /v1/status".
        model: of the answer.
        show: prints the answer for people.
        as_json: for machines.
        body: of the request.
        hint: what works without the daemon, for the error's line.
    """
    client = Client(socket)
    method, _, url = call.partition(" ")
    with daemon_errors(hint):
        content = client.raw(method, url, body)
        answer = client.read(content, model)
    if as_json:
        print_json(content)
    else:
        show(answer)
    return answer


@contextmanager
def daemon_errors(hint: str = "") -> Iterator[None]:
    """End the command with one line and an exit status if a request fails."""
    try:
        yield
    except NotRunning as error:
        from routesync.cli.unanswered import fail_without_socket

        fail_without_socket(error)
    except NotAllowed as error:
        fail(f"{error}{hint}", EX_NOT_ALLOWED)
    except ControlError as error:
        problem = error.problem.name if isinstance(error, Failed) else None
        if problem == "rejected":
            fail(f"{error}\nthe running configuration stays", EX_CONFIG)
        fail(f"{error}{hint}", EX_USAGE if problem in ("bad-request", "unknown-target") else EX_FAILED)


def health(socket: Path | None, *, live: bool) -> None:
    """Print whether the daemon is alive, or ready; a daemon that is not ends the command with a status other than 0."""
    call = f"GET /health/{'live' if live else 'ready'}"
    ask(socket, call, Health, lambda answer: print(answer.status), as_json=False)


def daemon_runs(socket: Path | None, hint: str = "") -> bool:
    """Whether a daemon runs here. If it cannot be asked, or none serves a socket that was named, the command ends."""
    with daemon_errors(hint):
        try:
            Client(socket).raw("GET", "/health/live")
        except NotRunning:
            if socket is not None:
                raise
            return False
    return True


def change(
    name: Literal["pause", "resume"], socket: Path | None, target: str | None, *, as_json: bool
) -> None:
    body = TargetRequest(target=target)
    ask(socket, f"POST /v1/{name}", Done, lambda done: _show(done.targets), as_json=as_json, body=body)


def resync(socket: Path | None, target: str | None, *, force: bool, wait: bool, as_json: bool) -> None:
    """Order it, and perhaps wait for its end. Exit status 1: then something is not as it should be."""

    def show(done: Done) -> None:
        print("a dump of the kernel's table is ordered")
        _show(done.targets)

    resyncs = _resyncs(_status(socket)) if wait else 0
    body = ResyncRequest(target=target, force=force)
    ask(socket, "POST /v1/resync", Done, show, as_json=as_json, body=body)
    if wait:
        _wait_for_sync(socket, target, resyncs, as_json=as_json)


def _wait_for_sync(socket: Path | None, target: str | None, resyncs: int, *, as_json: bool) -> None:
    with Console(stderr=True).status("the kernel's table is dumped") as line:
        while True:
            answer = _status(socket)
            targets = [it for it in answer.targets if target in (None, it.name)]
            working = [it for it in targets if it.state in WORKING]
            if working:
                line.update(
                    ", ".join(
                        f"{it.name}: {work_left(it.waiting, it.rate, it.remaining_s)}" for it in working
                    )
                )
            elif _resyncs(answer) > resyncs:
                break
            time.sleep(_POLL_S)
    if not as_json:
        _show({it.name: f"{it.state}, {'complete' if it.complete else 'not complete'}" for it in targets})
    if not all(it.state == TargetState.SYNCED and it.complete for it in targets):
        raise typer.Exit(EX_FAILED)


def _status(socket: Path | None) -> StatusResponse:
    client = Client(socket)
    with daemon_errors():
        return client.ask(StatusResponse, "GET", "/v1/status")


def _resyncs(answer: StatusResponse) -> int:
    return answer.status.kernel.resyncs if answer.status.kernel else 0


def known_targets(config: Path) -> list[str]:
    """Names of targets, by the daemon or else by the file; empty where neither can be asked. Prints nothing."""
    client = Client(timeout_s=1)
    with suppress(ControlError):
        answer = client.ask(StatusResponse, "GET", "/v1/status")
        return [it.name for it in answer.status.targets]
    from routesync.config import ConfigError, load

    with suppress(ConfigError, OSError):
        return [it.name for it in load(config).settings.targets]
    return []


def release(socket: Path | None, target: str | None, *, as_json: bool) -> None:
    def show(answer: Released) -> None:
        released = answer.released.items()
        _show(
            {it: f"{many(n, 'withdrawal')} released" if n else "nothing was held back" for it, n in released}
        )

    ask(socket, "POST /v1/release", Released, show, as_json=as_json, body=TargetRequest(target=target))


def reload(socket: Path | None, *, as_json: bool) -> None:
    def show(answer: Reloaded) -> None:
        print(f"{answer.config.path} is active")

    ask(socket, "POST /v1/reload", Reloaded, show, as_json=as_json)


def _show(done: Mapping[str, str]) -> None:
    page = Page()
    for target, text in done.items():
        page.line((target, "bold"), f": {text}")
    if not done:
        page.line("the daemon mirrors into no target")
