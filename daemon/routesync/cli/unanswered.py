"""What commands say where the daemon does not answer: what the lock, systemd and the ledger show of it."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from routesync.characters import many
from routesync.cli.output import (
    EX_FAILED,
    EX_NOT_ALLOWED,
    EX_NOT_RUNNING,
    MARGIN,
    Page,
    fail,
    head,
    print_error,
    print_object,
)
from routesync.control import state_directory
from routesync.control.client import ControlError, NotAllowed, NotRunning
from routesync.doctor.daemon import find_daemon, read_state, read_unit, unserved, why_it_ended
from routesync.doctor.facts import DaemonFacts, StateFacts, UnitFacts


def fail_without_socket(error: NotRunning) -> NoReturn:
    """End a command: no daemon runs, or one runs that does not serve its socket."""
    directory = state_directory()
    if (found := find_daemon(directory)).running:
        fail(unserved(found, directory, error.path))
    fail(str(error), EX_NOT_RUNNING)


def show_host(error: ControlError, path: Path, directory: Path, *, as_json: bool) -> int:
    """Print what is known without the daemon; return the exit status."""
    found, unit = find_daemon(directory), read_unit()
    state = read_state(directory, found, unit)
    is_hidden = isinstance(error, NotRunning) and found.running
    words = unserved(found, directory, path) if is_hidden else str(error)
    print_error(words)
    if as_json:
        facts = {
            "error": words,
            "running": found.running,
            "pid": found.pid,
            "stopped": found.stopped,
            "systemd": unit._asdict() if unit else None,
            "owned": None if state.ledger.error else dict(state.owned),
        }
        print_object(facts)
    else:
        _show_host(found, unit, state)
    if isinstance(error, NotAllowed):
        return EX_NOT_ALLOWED
    return EX_NOT_RUNNING if isinstance(error, NotRunning) and not is_hidden else EX_FAILED


def _show_host(found: DaemonFacts, unit: UnitFacts | None, state: StateFacts) -> None:
    page = Page()
    runs = {True: "runs", False: "does not run", None: "may run"}[found.running]
    lock = f", by the lock on {state.directory}"
    process = f", process {found.pid}" if found.pid else ""
    page.line(head("daemon"), f"{runs}{process}{lock}", hang=MARGIN)
    if found.stopped:
        stopped = f"a signal or a debugger has stopped it: kill -CONT {found.pid} lets it go on"
        page.line(head(""), (stopped, "red"), hang=MARGIN)
    if unit is not None:
        text = f": {unit.text}" if unit.text else ""
        page.line(head("systemd"), f"{unit.active} ({unit.sub}){text}", hang=MARGIN)
        if unit.active != "active" and (ended := why_it_ended(unit)) is not None:
            page.line(head(""), ("; ".join(ended), "red"), hang=MARGIN)
    owned = ", ".join(f"{many(count, 'route')} in {name}" for name, count in state.owned.items())
    page.line(head("ledger"), state.ledger.error or f"owned: {owned or 'no route'}", hang=MARGIN)
