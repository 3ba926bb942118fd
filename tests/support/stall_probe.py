"""A daemon that notes how long the steps of its event loop take: `python -m support.stall_probe FILE run …`.

A step is one callback, or a task from one `await` to the next: nothing else happens meanwhile, so its length is a
stall. The time that the thread was ready and another process had the processor is not part of it (schedstat in
proc_pid_schedstat(5)): a busy machine would be measured, not the daemon. Waits for a disk or for the interpreter's lock
are. Steps from `NOTED_S` on are appended to the file, one JSON array a line: seconds, seconds of CPU, what it was.
A thread looks at the stack of a step that already takes long, so that the file names the line, not only the task.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import routesync
from routesync.cli import main

NOTED_S: Final = 0.005
SAMPLED_EVERY_S: Final = 0.005
PACKAGE: Final = str(Path(routesync.__file__).parent) + "/"


class Stall(NamedTuple):
    """One long step; `seconds` is CPU and waits."""

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

    def take(self) -> list[Stall]:
        """The stalls since the last call, the longest first."""
        with self._path.open(encoding="utf-8") as file:
            file.seek(self._offset)
            lines = file.read().splitlines()
            self._offset = file.tell()
        return sorted((Stall(*json.loads(line)) for line in lines), reverse=True)


def describe(handle: asyncio.Handle) -> str:
    """Name what a handle runs; of a task, its coroutine."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "__qualname__", repr(owner))
    return str(getattr(callback, "__qualname__", repr(callback)))


def place(frame: FrameType | None) -> str | None:
    """The innermost frame in routesync's own code, as FILE:FUNCTION:LINE."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            return f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_qualname}:{frame.f_lineno}"
        frame = frame.f_back
    return None


class Sampler:
    """Looks at the main thread while a step takes long."""

    def __init__(self) -> None:
        self.began: float | None = None  # of the present step; None between steps
        self.places: Counter[str] = Counter()
        threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True).start()

    def _watch(self, watched: int) -> None:
        while True:
            time.sleep(SAMPLED_EVERY_S)
            if (began := self.began) is None or time.perf_counter() - began < NOTED_S:
                continue
            if (seen := place(sys._current_frames().get(watched))) is not None:
                self.places[seen] += 1

    def take(self) -> str:
        """Where the step was seen most."""
        places, self.places = self.places, Counter()
        return ", ".join(name for name, _ in places.most_common(2))


class Collector:
    """How long the garbage collector has worked."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began


def install(path: Path) -> None:
    """Measure every step from now on."""
    file = path.open("a", buffering=1, encoding="utf-8")
    run = asyncio.Handle._run
    sampler, collector = Sampler(), Collector()
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def queued_s() -> float:
        """How long this thread has waited for a processor since it began."""
        return int(os.pread(schedstat, 64, 0).split()[1]) / 1e9

    def timed(self: asyncio.Handle) -> None:
        queued, cpu = queued_s(), time.thread_time()
        began = sampler.began = time.perf_counter()
        run(self)
        took = time.perf_counter() - began
        sampler.began = None
        collected, collector.seconds = collector.seconds, 0.0
        if took >= NOTED_S and (own := took - (queued_s() - queued)) >= NOTED_S:
            what = f"{describe(self)} ({sampler.take()}; collecting garbage {collected * 1e3:.0f} ms)"
            file.write(json.dumps([own, time.thread_time() - cpu, what]) + "\n")

    asyncio.Handle._run = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    main()
