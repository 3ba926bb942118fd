"""A daemon that notes how long the steps of its event loop take: `python -m support.stall_probe FILE run …`.

A step is one callback, or a task from one `await` to the next: nothing else happens meanwhile, so its length is a
stall. Steps from `NOTED_S` on are appended to the file, one JSON array a line: seconds, seconds of CPU, what it was.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from routesync.cli import main

NOTED_S: Final = 0.005


class Stall(NamedTuple):
    """One long step. Where other processes want the processor too, it takes longer than its own CPU time."""

    seconds: float
    cpu_s: float
    what: str


class StallLog:
    """Reads what the probe wrote.

    Args:
        path: the file that the probe was given.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def take(self) -> Stall:
        """The longest stall since the last call."""
        with self._path.open(encoding="utf-8") as file:
            file.seek(self._offset)
            lines = file.read().splitlines()
            self._offset = file.tell()
        return max((Stall(*json.loads(line)) for line in lines), default=Stall(0, 0, "none"))


def describe(handle: asyncio.Handle) -> str:
    """Name what a handle runs; of a task, its coroutine."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "__qualname__", repr(owner))
    return str(getattr(callback, "__qualname__", repr(callback)))


def install(path: Path) -> None:
    """Measure every step from now on."""
    file = path.open("a", buffering=1, encoding="utf-8")
    run = asyncio.Handle._run

    def timed(self: asyncio.Handle) -> None:
        began, cpu = time.perf_counter(), time.thread_time()
        run(self)
        if (took := time.perf_counter() - began) >= NOTED_S:
            file.write(json.dumps([took, time.thread_time() - cpu, describe(self)]) + "\n")

    asyncio.Handle._run = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    main()
