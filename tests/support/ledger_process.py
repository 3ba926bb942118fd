"""A ledger in a process of its own, perhaps of another user: to be killed, or to meet a disk that root would not meet.

Run as a program it opens the ledger of a directory, answers each line of its input with a line of JSON, and closes the
ledger at the end of its input.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from routesync.mirror import ledger as ledger_module
from routesync.mirror.ledger import Ledger, LedgerBusyError, Row, read_owned
from routesync.route import Prefix, parse_address
from support import forks

GATEWAY = parse_address("192.0.2.1")


class LedgerProcess:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, *words: str) -> Any:
        """Send a line and return the answer; see `_answer`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Have it close its ledger."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(20) == 0


@contextmanager
def ledger_process(directory: Path, *, uid: int = 0, runtime: Path | None = None) -> Iterator[LedgerProcess]:
    """Run one for the length of a `with` block, and kill it at its end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if runtime is not None:
        environment["RUNTIME_DIRECTORY"] = str(runtime)
    with forks.start(
        "support.ledger_process",
        [str(directory), str(uid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            yield LedgerProcess(process)
        finally:
            process.kill()


def _answer(ledger: Ledger, words: list[str]) -> object:
    match words:
        case ["state"]:
            return {
                "known": ledger.known,
                "trouble": ledger.trouble,
                "written": ledger._written == ledger._noted,
            }
        case ["owned", target]:
            return [str(prefix) for prefix in ledger.owned(target)]
        case ["read", target]:  # as a command without a daemon does
            return [str(prefix) for prefix in read_owned(ledger.path.parent, target)]
        case ["note", target, *prefixes]:
            for prefix in prefixes:
                ledger.note(target, Prefix.parse(prefix), Row(GATEWAY))
        case ["forget", target, *prefixes]:
            for prefix in prefixes:
                ledger.note(target, Prefix.parse(prefix), None)
        case ["checkpoint"]:
            with sqlite3.connect(ledger.path) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.close()
        case ["pin"]:  # a reader that never ends, so that the -wal outlives an orderly end
            reader = sqlite3.connect(ledger.path, isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM route").fetchone()
            _pinned.append(reader)
    return None


_pinned: list[sqlite3.Connection] = []


def _main(directory: Path, uid: int, lines: IO[str]) -> None:
    ledger_module._RETRY_S, ledger_module._HEALED_S = 0.1, 0.3  # type: ignore[misc]
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    busy = ""
    try:
        ledger: Ledger | None = Ledger(directory)
    except LedgerBusyError as error:
        ledger, busy = None, str(error)
    for line in lines:
        said: Mapping[str, object] | object = (
            {"busy": busy} if ledger is None else _answer(ledger, line.split())
        )
        print(json.dumps(said), flush=True)
    if ledger is not None:
        ledger.end()
        if _pinned:
            os._exit(0)  # closing the reader would delete the -wal


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    _main(Path(sys.argv[1]), int(sys.argv[2]), sys.stdin)
