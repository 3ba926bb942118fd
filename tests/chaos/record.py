"""What is written while chaos or a soak runs: one JSON object a line, at once, so a run that is broken off has much.

Every line has `t`, seconds since the start, and `kind`: `sample` (a second, with the figures of the process), `fault`,
`quiet`, `contradiction`, `end`. `chaos.plots` draws them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Record:
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.began = time.monotonic()
        self._file = path.open("w", buffering=1)

    def write(self, kind: str, **fields: Any) -> None:
        """Write a line now."""
        line = {"t": round(time.monotonic() - self.began, 2), "kind": kind, **fields}
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self._file.close()


def figures(pid: int, state: Path) -> dict[str, float]:
    """What a process uses now; nothing if it has just ended.

    Args:
        pid: the process.
        state: its state directory.

    Returns:
        Memory in bytes, CPU in seconds since its start, numbers of descriptors and threads, sizes of files in bytes.
    """
    proc = Path(f"/proc/{pid}")
    try:
        stat = (proc / "stat").read_text().rpartition(")")[2].split()
        pages = (proc / "statm").read_text().split()
        found: dict[str, float] = {
            "memory": int(pages[1]) * _PAGE,
            "cpu_s": (int(stat[11]) + int(stat[12])) / _TICKS,
            "threads": int(stat[17]),
            "descriptors": len(list((proc / "fd").iterdir())),
        }
    except OSError:
        return {}
    for file in state.glob("*.sqlite*"):
        try:
            found[file.name] = file.stat().st_size
        except OSError:  # a -wal that was just removed
            continue
    return found


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process handles this signal: a moment after its start the signal would end it."""
    text = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in text.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def is_stopped(pid: int) -> bool:
    """Whether it was stopped by SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
