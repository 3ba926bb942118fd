"""Long work lets other tasks run, by time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

from routesync.slices import SLICE_S, finish_in_slices, in_slices


class Other:
    """Another task, which counts its turns."""

    def __init__(self) -> None:
        self.turns = 0
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def test_slow_items_let_others_run_after_each() -> None:
    other = Other()
    seen = []
    async for item in in_slices(range(5)):
        busy(SLICE_S * 1.1)
        seen.append(item)
    assert seen == list(range(5))
    assert other.turns >= 4
    other.task.cancel()


async def test_quick_items_are_not_interrupted() -> None:
    other = Other()
    began = time.perf_counter()
    async for _ in in_slices(range(10)):
        pass
    if time.perf_counter() - began < SLICE_S:
        assert other.turns == 0
    other.task.cancel()


async def test_a_generator_runs_to_its_value() -> None:
    other = Other()

    def steps() -> Generator[None, None, str]:
        for _ in range(5):
            busy(SLICE_S * 1.1)
            yield
        return "value"

    assert await finish_in_slices(steps()) == "value"
    assert other.turns >= 4
    other.task.cancel()
