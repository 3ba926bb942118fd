"""A daemon for chaos: `python -m chaos.probe DIRECTORY run …`.

SIGUSR2 makes it write how many tasks it has into the file `tasks`, and set its wall clock off by the seconds in the
file `clock`. libfaketime would do the latter for all libraries, but with it threads that wait with a timeout spin.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from routesync.cli import main


def install(directory: Path) -> None:
    """Follow the signal from now on."""
    offset_s, real = 0.0, time.time

    def follow(_number: int, _frame: FrameType | None) -> None:
        nonlocal offset_s
        offset_s = float((directory / "clock").read_text())
        try:
            tasks = asyncio.all_tasks()
        except RuntimeError:  # before the loop runs, or after
            return
        names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
        new = directory / f"tasks.{time.monotonic_ns()}"  # one signal may come while another is dealt with
        new.write_text(json.dumps(names))
        new.replace(directory / "tasks")

    time.time = lambda: real() + offset_s
    signal.signal(signal.SIGUSR2, follow)


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    main()
