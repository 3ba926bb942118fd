"""Work that is exchanged while its task runs."""

from __future__ import annotations

import asyncio

import pytest

from routesync.service.exchange import Exchangeable
from support.waiting import eventually


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    async def work(self, name: str) -> None:
        self.lines.append(f"{name} begins")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.lines.append(f"{name} has ended")


async def test_one_work_has_ended_before_the_next_begins() -> None:
    log, task = Log(), Exchangeable()
    running = asyncio.create_task(task.run())
    task.exchange(lambda: log.work("a"))
    await eventually(lambda: log.lines == ["a begins"])
    task.exchange(lambda: log.work("skipped"))
    task.exchange(lambda: log.work("b"))
    await eventually(lambda: len(log.lines) == 3)
    running.cancel()
    await asyncio.wait({running})
    assert log.lines == ["a begins", "a has ended", "b begins", "b has ended"]


async def test_work_that_dies_ends_the_task_with_its_error() -> None:
    async def dies() -> None:
        raise ValueError("defect")

    task = Exchangeable()
    task.exchange(dies)
    with pytest.raises(ValueError, match="defect"):
        await task.run()
