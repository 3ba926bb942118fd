"""Mode guard in the daemon: the guard and its watch over each target, as the configuration says.

A guard that stays keeps what it knows of routes that come back. Another place to guard, or another target, is begun
anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, TypedDict

import structlog

from routesync.best_routes import BestRoutes, Consumer
from routesync.config import Loaded
from routesync.config.credentials import Endpoint, endpoint_of
from routesync.config.models import GuardSettings, TargetSettings
from routesync.events.models import EventSink
from routesync.events.node_status import GuardStatus
from routesync.guard.guard import Guard, GuardView
from routesync.guard.returns import Patience
from routesync.guard.verify import Quiet, Verifier
from routesync.kernel import KernelReport
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.limits import TokenBucket
from routesync.mirror.status import TargetView
from routesync.tasks import Supervisor

log = structlog.get_logger(__name__)

BURST: Final = 3
"""Removals at once after a quiet time: a lease with a gateway and two DNS servers brings three host routes."""
CHECK_INTERVAL_S: Final = 300.0
"""A safety net: changes of routes, links and addresses cause an examination at once."""
CONTENDED_DELAY_MOST_S: Final = 3600.0
"""One attempt an hour is harmless to the program that wants the route, and finds the end of the contention."""
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
        self._guard: Guard | None = None
        self._place: object = None
        self._quiet: Quiet | None = None
        self._watched: dict[str, _Watched] = {}
        self._troubles: tuple[str, ...] = ()
        best_routes.consumers.append(self)

    def on_report(self, report: KernelReport, /) -> None:
        """See `Consumer`."""
        if self._guard is not None:
            self._guard.heed(report)

    # -- status ------------------------------------------------------------------------------------------------------

    def status(self) -> GuardStatus | None:
        """The guard's part of the status; None: there is no guard."""
        return _guard_status(self._guard.view()) if self._guard else None

    def views(self) -> list[TargetView]:
        """The state of each target."""
        return [watched.verifier.view() for watched in self._watched.values()]

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why the daemon is degraded by it, one line each."""
        return (*self._troubles, *(self._guard.view().troubles if self._guard else ()))

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
        if self._guard is not None and (not on or place != self._place):
            await self._supervisor.end("guard")
            self._guard = None
        await self._watch(settings.targets if on else (), settings.guard)
        if not on:
            return
        if self._guard is None:
            self._begin(settings.guard, *place)
            self._place = place
        else:
            self._guard.reconfigure(
                dry_run=settings.guard.dry_run, patience=_patience(settings.guard), **_pace(settings.guard)
            )
            self._guard.verifiers = self._verifiers

    def _begin(self, settings: GuardSettings, tables: tuple[int, ...], netns: str | None) -> None:
        self._guard = Guard(
            dry_run=settings.dry_run,
            patience=_patience(settings),
            bucket=TokenBucket(**_pace(settings), now=asyncio.get_running_loop().time()),
            tables=tables,
            netns=netns,
            evaluate=self._best_routes.evaluate,
            sink=self._sink,
            verifiers=self._verifiers,
        )
        for prefix, verdict in self._best_routes.source.followed():  # what was told before it came
            if verdict.guard:
                self._guard.stir(prefix)
        self._supervisor.start("guard", self._guard.run)

    @property
    def _verifiers(self) -> tuple[Verifier, ...]:
        return tuple(watched.verifier for watched in self._watched.values())

    async def _watch(self, targets: tuple[TargetSettings, ...], settings: GuardSettings) -> None:
        endpoints = {target.name: endpoint_of(target) for target in targets}
        for name, watched in list(self._watched.items()):
            if endpoints.get(name) != watched.endpoint:
                await self._supervisor.end(f"guard target {name}")
                await watched.client.__aexit__(None, None, None)
                del self._watched[name]
            else:
                watched.verifier.timeout_s = settings.verify_timeout_s
        for target in targets:
            if target.name not in self._watched:
                await self._begin_watch(target, settings)

    async def _begin_watch(self, target: TargetSettings, settings: GuardSettings) -> None:
        client = LoxilbClient.from_settings(target)
        await client.__aenter__()
        self._quiet = self._quiet or Quiet(lambda: self._best_routes.source.stats.events)
        verifier = Verifier(
            target.name,
            client,
            links=self._best_routes.links,
            quiet=self._quiet,
            sink=self._sink,
            timeout_s=settings.verify_timeout_s,
        )
        self._watched[target.name] = _Watched(verifier, client, endpoint_of(target))
        self._supervisor.start(f"guard target {target.name}", verifier.run)

    async def close(self) -> None:
        """Close the ways to the targets; their tasks have ended."""
        for watched in self._watched.values():
            await watched.client.__aexit__(None, None, None)


def _patience(settings: GuardSettings) -> Patience:
    return Patience(
        settle_s=settings.settle_s,
        check_interval_s=CHECK_INTERVAL_S,
        contended_within_s=settings.contended_within_s,
        contended_delay_s=settings.contended_delay_s,
        contended_delay_most_s=CONTENDED_DELAY_MOST_S,
    )


class _Pace(TypedDict):
    rate: float
    burst: int


def _pace(settings: GuardSettings) -> _Pace:
    return {"rate": settings.removals_per_minute / 60, "burst": BURST}


def _guard_status(view: GuardView) -> GuardStatus:
    """The guard's part of the status."""
    return GuardStatus(
        dry_run=view.dry_run,
        permitted=view.permitted,
        standing=view.standing,
        redundant=view.redundant,
        contended=view.contended,
        removed=view.removed,
        returned=view.returned,
        failed=view.failed,
    )
