"""What all commands have in common that ask or tell a running daemon: its socket, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from routesync.cli.output import complain
from routesync.control.client import ControlError, Failed, NotAllowed, NotRunning
from routesync.route import Prefix

EX_FAILED: Final = 1
"""It came to nothing; of `status`: the daemon is degraded."""
EX_USAGE: Final = 2
"""What was asked makes no sense."""
EX_NOT_RUNNING: Final = 3
"""Nobody serves the socket (LSB: program is not running)."""
EX_NOT_ALLOWED: Final = 4
"""The socket may not be opened, or the change not be made (LSB: status unknown)."""


def explained(work: Callable[[], int]) -> int:
    """Do the work of a command; explain in one line what goes wrong, and return the exit status."""
    try:
        return work()
    except ControlError as error:
        complain(str(error))
        return exit_of(error)


def explained_if_running(socket: Path | None, work: Callable[[], int]) -> int | None:
    """The same for a command that can do without a daemon: None where none runs, and no socket was named."""
    try:
        return work()
    except ControlError as error:
        if isinstance(error, NotRunning) and socket is None:
            return None
        complain(str(error))
        return exit_of(error)


def exit_of(error: ControlError) -> int:
    """The exit status of a command that ended so."""
    match error:
        case NotRunning():
            return EX_NOT_RUNNING
        case NotAllowed():
            return EX_NOT_ALLOWED
        case Failed() if error.problem.name in ("bad-request", "unknown-target"):
            return EX_USAGE
        case _:
            return EX_FAILED


def read_prefixes(texts: Sequence[str], where: str = "") -> tuple[Prefix, ...] | None:
    """Read prefixes of the command line; complain and return None where one is none. `where` names the option."""
    try:
        return tuple(dict.fromkeys(map(Prefix.parse, texts)))
    except ValueError as error:
        complain(f"{where}{error}")
        return None


def print_json(body: bytes) -> None:
    """Show an answer as it came, laid out for people."""
    print(json.dumps(json.loads(body), indent=2, ensure_ascii=False))
