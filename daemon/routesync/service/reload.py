"""Taking up a new configuration while the daemon runs: validated whole, then put in force, or not at all.

A file that does not hold changes nothing. It is said in the log, line by line as `routesync check` says it, as an
event, and in the status until a file was taken. What cannot change while the daemon runs (`node.name`, which names
everything that was ever published) keeps its old value, and the status says so.

Concurrency: `run` is one eternal task; all reloads go through it, one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from routesync.config import ConfigError, Loaded, Problem, load
from routesync.config.problems import line_of
from routesync.events.models import ConfigLoaded, ConfigRejected, EventSink
from routesync.kernel import KernelError
from routesync.service.notify import Notifier

log = structlog.get_logger(__name__)

Outcome = tuple[str, ...]
"""What is wrong with the file, one line each; empty: it is in force."""

_NODE_NAME: Final = "configuration: node.name takes effect when the daemon is restarted"


class Reloader:
    """Reads the file again when asked to.

    Args:
        loaded: the configuration in force.
        probe: finds out by trying whether one can be put in force; raises KernelError.
        put_in_force: puts one in force that holds.
        sink: takes the events.
        notifier: systemd, which is told that a reload begins, and that it is done.
        status: the status line.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        probe: Callable[[Loaded], None],
        put_in_force: Callable[[Loaded], Awaitable[None]],
        sink: EventSink,
        notifier: Notifier,
        status: Callable[[], str],
    ) -> None:
        self.loaded = loaded
        """The configuration in force."""
        self.reasons: Sequence[str] = ()
        """Why the daemon is not as its file says, one line each."""
        self._probe = probe
        self._put_in_force = put_in_force
        self._sink = sink
        self._notifier = notifier
        self._status = status
        self._asked: list[asyncio.Future[Outcome]] = []
        self._wanted = asyncio.Event()

    def request(self) -> None:
        """Have the file read again; returns at once."""
        self._wanted.set()

    async def reload(self) -> Outcome:
        """Have the file read again, and wait for what comes of it."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._wanted.set()
        return await answer

    async def run(self) -> None:
        """Do what is requested, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            asked, self._asked = self._asked, []
            self._notifier.reloading("reading the configuration again")
            outcome = await self._reload()
            self._notifier.ready(self._status())
            for answer in asked:
                if not answer.done():
                    answer.set_result(outcome)

    async def _reload(self) -> Outcome:
        path = self.loaded.path
        try:
            loaded = await asyncio.to_thread(load, path)
        except ConfigError as error:
            return self._reject(tuple(map(str, error.problems)))
        try:
            self._probe(loaded)
        except KernelError as error:
            line = line_of(loaded.lines, ("kernel", "netns"))
            return self._reject((str(Problem(str(path), "[kernel], key netns", line, str(error))),))
        for warning in loaded.warnings:
            log.warning("config_warning", warning=warning)
        loaded, reasons = _keep_fixed(self.loaded, loaded)
        for reason in reasons:
            log.warning("config_partly_in_force", reason=reason)
        await self._put_in_force(loaded)
        self.loaded, self.reasons = loaded, reasons
        log.info("config_reloaded", path=str(path), digest=loaded.digest)
        self._sink.emit(ConfigLoaded(path=str(path), digest=loaded.digest))
        return ()

    def _reject(self, problems: Outcome) -> Outcome:
        for problem in problems:
            log.error("config_rejected", problem=problem, consequence="the one in force stays")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.reasons = (f"configuration rejected, the one before is in force: {problems[0]}{more}",)
        self._sink.emit(ConfigRejected(path=str(self.loaded.path), errors=problems))
        return problems


def _keep_fixed(before: Loaded, loaded: Loaded) -> tuple[Loaded, Sequence[str]]:
    """Put back what cannot change at run time; say what that was."""
    if loaded.settings.node == before.settings.node:
        return loaded, ()
    settings = loaded.settings.model_copy(update={"node": before.settings.node})
    return loaded._replace(settings=settings), (_NODE_NAME,)
