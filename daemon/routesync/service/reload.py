"""Reload of the configuration while the daemon runs: the whole file is validated, then applied, or rejected.

An invalid file is rejected, and the running configuration stays. The faults are logged with the lines of
`routesync check`, published as an event, and shown in the status until a valid file is loaded. A key that cannot change
while the daemon runs (`node.name`, which is part of every topic) keeps its value, and the status reports it.

Concurrency: `run` is one task for the life of the daemon; it performs all reloads, one after the other.
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
"""The faults of the file, one line each; empty: it is active."""

_NODE_NAME: Final = "configuration: node.name takes effect when the daemon is restarted"


class Reloader:
    """Reloads the file on request.

    Args:
        loaded: the active configuration.
        probe: tries whether the kernel settings of a configuration work; raises KernelError.
        apply: makes a valid configuration the active one.
        sink: takes the events.
        notifier: notifies systemd of the beginning and the end of a reload.
        status: the status line.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        probe: Callable[[Loaded], None],
        apply: Callable[[Loaded], Awaitable[None]],
        sink: EventSink,
        notifier: Notifier,
        status: Callable[[], str],
    ) -> None:
        self.loaded = loaded
        """The active configuration."""
        self.reasons: Sequence[str] = ()
        """Why the daemon does not run with its file as it is, one line each."""
        self._probe = probe
        self._apply = apply
        self._sink = sink
        self._notifier = notifier
        self._status = status
        self._asked: list[asyncio.Future[Outcome]] = []
        self._wanted = asyncio.Event()

    def request(self) -> None:
        """Request a reload; returns at once."""
        self._wanted.set()

    async def reload(self) -> Outcome:
        """Reload, and return the outcome."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._wanted.set()
        return await answer

    async def run(self) -> None:
        """Perform the requested reloads until cancelled."""
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
            log.warning("config_partly_applied", reason=reason)
        await self._apply(loaded)
        self.loaded, self.reasons = loaded, reasons
        log.info("config_reloaded", path=str(path), digest=loaded.digest)
        self._sink.emit(ConfigLoaded(path=str(path), digest=loaded.digest))
        return ()

    def _reject(self, problems: Outcome) -> Outcome:
        for problem in problems:
            log.error("config_rejected", problem=problem, consequence="the running configuration stays")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.reasons = (f"configuration rejected, the running one stays: {problems[0]}{more}",)
        self._sink.emit(ConfigRejected(path=str(self.loaded.path), errors=problems))
        return problems


def _keep_fixed(before: Loaded, loaded: Loaded) -> tuple[Loaded, Sequence[str]]:
    """Restore what cannot change at run time; return it with the reasons."""
    if loaded.settings.node == before.settings.node:
        return loaded, ()
    settings = loaded.settings.model_copy(update={"node": before.settings.node})
    return loaded._replace(settings=settings), (_NODE_NAME,)
