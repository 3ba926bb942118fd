"""Eternal tasks, and the end of them.

The contract:

- A task given to a `Supervisor` is meant to run until it is cancelled. When it ends by itself, with an error
  or without, that is a death, and it is said in the log with its name and its error.
- A task with a `Backoff` is then started again, after a growing delay. The death of any other ends the whole:
  `Supervisor.wait` stops what still runs and raises `TaskDied`, with the error as its cause.
- Tasks are stopped one after the other, the last started first, so that what others feed is ended after its
  feeders. All of them together have `stop_within_s`; one that does not heed its cancellation by then is named and
  left behind.
- Everything happens in one event loop and its thread; nothing here may be called from another.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

import structlog

from routesync.backoff import Backoff

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


RESTART: Final = Backoff(first_s=0.5, most_s=30)
"""For tasks that are started again."""


class TaskDied(Exception):  # noqa: N818 - says what happened
    """An eternal task ended; the message names it, the cause is its error, if it had one."""


class Supervisor:
    """The tasks that make up the daemon."""

    def __init__(self, *, stop_within_s: float = 10.0) -> None:
        self._stop_within_s = stop_within_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._death: TaskDied | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that run, in the order in which they were started."""
        return tuple(self._tasks)

    def start(
        self, name: str, run: Callable[[], Coroutine[object, object, None]], *, restart: Backoff | None = None
    ) -> None:
        """Start a task; `run` makes its coroutine, anew for each restart.

        Raises:
            ValueError: a task of that name runs already.
        """
        if name in self._tasks:
            raise ValueError(f"a task named {name!r} runs already")
        guarded = self._guard(name, run) if restart is None else _keep_alive(name, run, restart)
        self._tasks[name] = asyncio.get_running_loop().create_task(guarded, name=name)

    async def end(self, name: str) -> None:
        """Stop one task, and return when it is done.

        Raises:
            KeyError: no such task.
        """
        await self._end([name])

    def request_stop(self) -> None:
        """Let `wait` stop everything; returns at once."""
        self._stop.set()

    async def wait(self) -> None:
        """Return when a stop was requested and all tasks have ended.

        Raises:
            TaskDied: a task that is not restarted ended by itself.
        """
        try:
            await self._stop.wait()
        finally:
            await self._end(list(reversed(self._tasks)))
        if self._death is not None:
            raise self._death

    async def _end(self, names: list[str]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._stop_within_s
        for name in names:
            task = self._tasks.pop(name)
            task.cancel()
            _, late = await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
            if late:
                log.error("task_did_not_stop", task=name, within_s=self._stop_within_s)
            elif not task.cancelled() and (error := task.exception()) is not None:
                log.error("task_failed_while_stopping", task=name, error=_say(error))

    async def _guard(self, name: str, run: Callable[[], Coroutine[object, object, None]]) -> None:
        try:
            await run()
        except Exception as error:
            if _is_cancelled():
                raise
            log.critical("task_died", task=name, error=_say(error), exc_info=error)
            self._die(TaskDied(f"{name}: {_say(error)}"), error)
        else:
            if not _is_cancelled():
                log.critical("task_died", task=name, error="it ended")
                self._die(TaskDied(f"{name}: it ended"), None)

    def _die(self, death: TaskDied, cause: Exception | None) -> None:
        if self._death is None and not self._stop.is_set():
            death.__cause__ = cause
            self._death = death
        self._stop.set()


async def _keep_alive(
    name: str, run: Callable[[], Coroutine[object, object, None]], backoff: Backoff
) -> None:
    loop = asyncio.get_running_loop()
    deaths = 0
    while True:
        born = loop.time()
        try:
            await run()
        except Exception as error:
            if _is_cancelled():
                raise
            said = _say(error)
            trace: Exception | None = error
        else:
            if _is_cancelled():
                return
            said, trace = "it ended", None
        deaths = 1 if loop.time() - born > backoff.most_s else deaths + 1
        delay_s = backoff.delay_s(deaths)
        log.error(
            "task_restarts", task=name, error=said, deaths=deaths, delay_s=round(delay_s, 3), exc_info=trace
        )
        await asyncio.sleep(delay_s)


@contextlib.contextmanager
def signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `stop`, and SIGHUP `reload`, for the length of a `with` block."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _is_cancelled() -> bool:
    """Whether the running task was asked to end, and what it does now is only its way out."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__
