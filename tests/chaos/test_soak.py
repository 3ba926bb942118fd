"""Half an hour without trouble, at 100 changes a second: nothing grows. Left out without --bench; `make soak` runs it.

ROUTESYNC_SOAK_S sets for how long. What it writes is drawn by `chaos.plots`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from chaos.arena import Arena, arena, batch
from chaos.plots import draw
from chaos.record import Record, figures

SECONDS: Final = float(os.environ.get("ROUTESYNC_SOAK_S", "1800"))
OUTPUT: Final = Path(os.environ.get("ROUTESYNC_SOAK_OUTPUT", "build/chaos/soak.jsonl"))
CHANGES: Final = 10
STEP_S: Final = 0.1
PREFIXES: Final = [f"10.{103 + number // 250}.{number % 250}.0/24" for number in range(500)]
"""Each comes or goes every five seconds."""
WARM_S: Final = 120.0
"""Until pools, caches and the files have the size that they keep; at most a fifth of the run."""
BOUNDS: Final = {
    "memory": 3 << 20,
    "descriptors": 1.0,
    "threads": 0.5,
    "tasks": 1.0,
    "outbox.sqlite": 1 << 20,
    "outbox.sqlite-wal": 1 << 20,
    "ledger.sqlite": 1 << 17,
    "ledger.sqlite-wal": 1 << 20,
    "lag_ms": 20.0,
    "waiting": 100.0,
}
"""By how much each may grow over the whole run, as its slope says."""
MOST_WAITING_SHARE: Final = 0.9
"""In at least a tenth of the samples nothing waits: it keeps up."""


GROUP: Final = 8


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Change per second, by least squares through the least value of each group: a request at work is no growth."""
    least = [
        (points[at][0], min(value for _, value in points[at : at + GROUP]))
        for at in range(0, len(points) - GROUP + 1, GROUP)
    ]
    return statistics.linear_regression(*zip(*least, strict=True)).slope


class Soak:
    """One run."""

    def __init__(self, place: Arena, record: Record) -> None:
        self.arena = place
        self.record = record
        self.there: set[str] = set()
        self.samples: list[dict[str, Any]] = []
        self._next = 0

    def change(self) -> None:
        """Let some routes come that are gone, and those go that are there, in turn."""
        lines = []
        for _ in range(CHANGES):
            prefix = PREFIXES[self._next]
            self._next = (self._next + 1) % len(PREFIXES)
            verb = "del" if prefix in self.there else "add"
            self.there ^= {prefix}
            lines.append(f"route {verb} {prefix} via 192.168.10.1 proto bird")
        batch(self.arena.node.node, lines)

    def sample(self) -> None:
        node = self.arena.node
        assert node.process is not None
        status = node.get("/v1/status")
        target = status["targets"][0]
        seen: dict[str, Any] = figures(node.process.pid, node.state) | {
            "tasks": sum(node.tasks().values()),
            "lag_ms": status["status"]["kernel"]["lag_ms"],
            "wanted": target["desired"],
            "loxilb": self.arena.standin.state().entries,
            "waiting": target["waiting"],
            "state": target["state"],
        }
        self.samples.append({"t": time.monotonic() - self.record.began} | seen)
        self.record.write("sample", **seen)

    def growth(self) -> dict[str, float]:
        """By how much each figure grew between the warm-up and the end, as its slope says."""
        first = min(WARM_S, SECONDS / 5)
        warm = [it for it in self.samples if it["t"] - self.samples[0]["t"] >= first]
        duration = warm[-1]["t"] - warm[0]["t"]
        return {
            name: slope(points) * duration
            for name in BOUNDS
            if len(points := [(it["t"], it[name]) for it in warm if name in it]) >= 2 * GROUP
        }


@pytest.mark.bench
@pytest.mark.timeout(SECONDS + 300)
def test_nothing_grows_at_100_changes_a_second(tmp_path: Path) -> None:
    record = Record(OUTPUT)
    record.write("begin", seconds=SECONDS)
    with arena(tmp_path) as place:
        place.node.configure(writers=1)
        place.node.start()
        soak = Soak(place, record)
        end = time.monotonic() + SECONDS
        step_at = sample_at = time.monotonic()
        while (now := time.monotonic()) < end:
            if now >= step_at:
                step_at += STEP_S
                soak.change()
            if now >= sample_at:
                sample_at = now + max(1.0, SECONDS / 600)
                soak.sample()
            time.sleep(max(0.0, min(step_at, sample_at) - time.monotonic()))
        growth = soak.growth()
        record.write("end", growth=growth)
        record.close()
        draw(OUTPUT)
        print({name: round(value, 2) for name, value in growth.items()})
        grown = {name: value for name, value in growth.items() if value > BOUNDS[name]}
        assert not grown
        waiting = sum(it["waiting"] > 0 for it in soak.samples) / len(soak.samples)
        assert waiting <= MOST_WAITING_SHARE, "it does not keep up"
        assert not [it for it in soak.samples if it["state"] not in {"synced", "syncing"}]
