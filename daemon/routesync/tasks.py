"""Endless tasks: start, replace, restart, stop.

The contract:

- A task of a `Supervisor` is meant to run until it is cancelled. If it ends by itself, with an error or without, it has
  failed; this is logged with its name and its error.
- A task with a `Backoff` is then started again, after a growing delay. The failure of any other ends the whole:
  `Supervisor.wait` stops what still runs and raises `TaskDied`, with the error as its cause.
- Tasks are stopped one after the other, the last started first, so that a consumer outlives its producers. A task that
  replaces another has that one's place in this order. All of them together have `stop_within_s`; one that has not ended
  by then is named in the log and left behind.
- Everything happens in one event loop and its thread; nothing here may be called from another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import structlog

from routesync.backoff import Backoff

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Run = Callable[[], Coroutine[object, object, None]]
"""Makes the coroutine of a task, again for each restart."""

RESTART: Final = Backoff(first_s=0.5, most_s=30)
"""For tasks that are started again."""


class TaskDied(Exception):  # noqa: N818 - says what happened
    """An endless task ended; the message names it, the cause is its error, if it had one."""


class Supervisor:
    """The tasks that make up the daemon."""

    def __init__(self, *, stop_within_s: float = 10.0) -> None:
        self._stop_within_s = stop_within_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop_requested = asyncio.Event()
        self._death: TaskDied | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that run, in the order in which they were started."""
        return tuple(self._tasks)

    def start(self, name: str, run: Run, *, restart: Backoff | None = None) -> None:
        """Start a task.

        Raises:
            ValueError: a task of that name runs already.
        """
        if name in self._tasks:
            raise ValueError(f"a task named {name!r} runs already")
        self._create(name, run, restart)

    async def replace(self, name: str, run: Run, *, restart: Backoff | None = None) -> None:
        """Stop the task of this name, if there is one, and start this one when that has ended."""
        if name in self._tasks:
            await self._stop([name])
        self._create(name, run, restart)

    async def end(self, name: str) -> None:
        """Stop one task, and return when it has ended.

        Raises:
            KeyError: no such task.
        """
        await self._stop([name])
        del self._tasks[name]

    def request_stop(self) -> None:
        """Let `wait` stop everything; returns at once."""
        self._stop_requested.set()

    async def wait(self) -> None:
        """Return when a stop was requested and all tasks have ended.

        Raises:
            TaskDied: a task that is not restarted ended by itself.
        """
        try:
            await self._stop_requested.wait()
        finally:
            await self._stop(list(reversed(self._tasks)))
            self._tasks.clear()
        if self._death is not None:
            raise self._death

    def _create(self, name: str, run: Run, restart: Backoff | None) -> None:
        work = self._supervise(name, run, restart)
        self._tasks[name] = asyncio.get_running_loop().create_task(work, name=name)

    async def _stop(self, names: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._stop_within_s
        for name in names:
            task = self._tasks[name]
            task.cancel()
            _, late = await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
            if late:
                log.error("task_did_not_stop", task=name, within_s=self._stop_within_s)
            elif not task.cancelled() and (error := task.exception()) is not None:
                log.error("task_failed_while_stopping", task=name, error=_text(error))

    async def _supervise(self, name: str, run: Run, restart: Backoff | None) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            started = loop.time()
            error: Exception | None = None
            try:
                await run()
            except Exception as raised:
                if _is_cancelled():
                    raise
                error = raised
            if _is_cancelled():
                return
            text = "it ended" if error is None else _text(error)
            if restart is None:
                log.critical("task_died", task=name, error=text, exc_info=error)
                if self._death is None and not self._stop_requested.is_set():
                    self._death = TaskDied(f"{name}: {text}")
                    self._death.__cause__ = error
                self._stop_requested.set()
                return
            deaths = 1 if loop.time() - started > restart.most_s else deaths + 1
            delay_s = restart.delay_s(deaths)
            log.error(
                "task_restarts",
                task=name,
                error=text,
                deaths=deaths,
                delay_s=round(delay_s, 3),
                exc_info=error,
            )
            await asyncio.sleep(delay_s)


def _is_cancelled() -> bool:
    """Whether the running task was asked to end, and what it does now is only its way out."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
