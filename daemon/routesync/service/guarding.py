"""Mode guard in the daemon: the guard and its watch over each target, as the configuration says.

A guard that stays keeps what it knows of routes that come back. Another namespace or other tables get a new guard, and
another endpoint a new verifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from routesync.best_routes import BestRoutes, Consumer
from routesync.config import Loaded
from routesync.config.credentials import Endpoint, endpoint_of
from routesync.config.models import GuardSettings, TargetSettings
from routesync.events.models import EventSink
from routesync.events.node_status import GuardStatus
from routesync.guard.guard import Guard
from routesync.guard.verify import Quiet, Verifier
from routesync.kernel import KernelReport
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.status import TargetView
from routesync.tasks import Supervisor

log = structlog.get_logger(__name__)

ELSEWHERE = (
    "guard: the socket that was handed over lives in another network namespace, where routes can be read and not "
    "removed; name the namespace by kernel.netns, or run there"
)


@dataclass(slots=True)
class _Watched:
    verifier: Verifier
    client: LoxilbClient
    endpoint: Endpoint


class Guarding(Consumer):
    """What mode guard consists of; in other modes it is empty.

    Args:
        best_routes: follows the kernel whose routes are guarded.
        sink: takes the events.
        supervisor: runs the tasks.
    """

    def __init__(self, best_routes: BestRoutes, sink: EventSink, supervisor: Supervisor) -> None:
        self._best_routes = best_routes
        self._sink = sink
        self._supervisor = supervisor
        self.guard: Guard | None = None
        """None: the mode is another."""
        self._place: object = None
        self._quiet: Quiet | None = None
        self._watched: dict[str, _Watched] = {}
        self._troubles: tuple[str, ...] = ()
        best_routes.consumers.append(self)

    def on_report(self, report: KernelReport, /) -> None:
        """See `Consumer`."""
        if self.guard is not None:
            self.guard.on_report(report)

    # -- status ------------------------------------------------------------------------------------------------------

    def status(self) -> GuardStatus | None:
        """The guard's part of the status; None: there is no guard."""
        return self.guard.status() if self.guard else None

    def views(self) -> list[TargetView]:
        """The state of each target."""
        return [watched.verifier.view() for watched in self._watched.values()]

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why the daemon is degraded by it, one line each."""
        return (*self._troubles, *(self.guard.troubles if self.guard else ()))

    async def contacted(self) -> None:
        """Wait until each target has answered, or failed to, once."""
        for watched in list(self._watched.values()):
            await watched.verifier.contacted.wait()

    # -- the configuration -------------------------------------------------------------------------------------------

    async def apply(self, loaded: Loaded) -> None:
        """Apply a configuration."""
        settings = loaded.settings
        on = settings.mode == "guard" and not self._best_routes.readable_only
        self._troubles = (ELSEWHERE,) if settings.mode == "guard" and not on else ()
        for trouble in self._troubles:
            log.error("guard_cannot_work", reason=trouble)
        place = (settings.kernel.tables, settings.kernel.netns)
        if self.guard is not None and (not on or place != self._place):
            await self._supervisor.end("guard")
            self.guard.ended()
            self.guard = None
        await self._watch(settings.targets if on else ())
        if not on:
            return
        if self.guard is None:
            self.guard = self._begin(settings.guard, *place)
            self._place = place
        else:
            self.guard.reconfigure(settings.guard)
        self.guard.verifiers = tuple(watched.verifier for watched in self._watched.values())

    def _begin(self, settings: GuardSettings, tables: tuple[int, ...], netns: str | None) -> Guard:
        guard = Guard(
            settings,
            tables=tables,
            netns=netns,
            evaluate=self._best_routes.evaluate,
            sink=self._sink,
        )
        for prefix, verdict in self._best_routes.source.followed():  # what was reported before it was made
            if verdict.guard:
                guard.look_at(prefix)
        self._supervisor.start("guard", guard.run)
        return guard

    async def _watch(self, targets: tuple[TargetSettings, ...]) -> None:
        endpoints = {target.name: endpoint_of(target) for target in targets}
        for name, watched in list(self._watched.items()):
            if endpoints.get(name) != watched.endpoint:
                await self._supervisor.end(f"guard target {name}")
                await watched.client.__aexit__(None, None, None)
                del self._watched[name]
        for target in targets:
            if target.name not in self._watched:
                await self._begin_watch(target)

    async def _begin_watch(self, target: TargetSettings) -> None:
        client = LoxilbClient.from_settings(target)
        await client.__aenter__()
        self._quiet = self._quiet or Quiet(self._best_routes)
        verifier = Verifier(
            target.name,
            client,
            links=self._best_routes.links,
            quiet=self._quiet,
            sink=self._sink,
        )
        self._watched[target.name] = _Watched(verifier, client, endpoint_of(target))
        self._supervisor.start(f"guard target {target.name}", verifier.run)

    async def close(self) -> None:
        """Close the ways to the targets; their tasks have ended."""
        for watched in self._watched.values():
            await watched.client.__aexit__(None, None, None)
