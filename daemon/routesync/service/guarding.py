"""The guard, for as long as the configuration asks for one; and how it is seen in the status."""

from __future__ import annotations

import asyncio

from routesync.config import Loaded
from routesync.events.models import EventSink
from routesync.events.status import GuardStatus
from routesync.guard.guard import Guard, GuardView
from routesync.guard.returns import Patience
from routesync.guard.verify import Quiet, Verifier
from routesync.kernel import KernelReport
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.pace import TokenBucket
from routesync.mirror.status import TargetView
from routesync.service.kernel_side import KernelSide
from routesync.service.supervise import Supervisor
from routesync.service.target_parts import make_client
from routesync.settings import resolve_tables

_TASK = "guard"


class Guarding:
    """The guard and its verifiers, one for each target. None of them where the mode is another.

    Args:
        kernel: whose routes are guarded, and by whose rules.
        sink: takes their events.
        supervisor: runs their tasks.
    """

    def __init__(self, kernel: KernelSide, sink: EventSink, supervisor: Supervisor) -> None:
        self._kernel = kernel
        self._sink = sink
        self._supervisor = supervisor
        self._guard: Guard | None = None
        self._verifiers: list[Verifier] = []
        self._clients: list[LoxilbClient] = []
        self._in_force: object = None
        kernel.listeners.append(self._heed)

    def _heed(self, report: KernelReport) -> None:
        if self._guard is not None:
            self._guard.heed(report)

    def view(self) -> GuardView | None:
        """How the guard stands; None: there is none."""
        return None if self._guard is None else self._guard.view()

    def views(self) -> list[TargetView]:
        """How the targets stand that are verified."""
        return [verifier.view() for verifier in self._verifiers]

    async def contacted(self) -> None:
        """Wait until each has answered, or failed to, once."""
        for verifier in self._verifiers:
            await verifier.contacted.wait()

    async def apply(self, loaded: Loaded) -> None:
        """Put a configuration in force. A guard that is to work otherwise than before begins anew."""
        settings = loaded.settings
        wanted = None
        if settings.mode == "guard":
            wanted = (
                settings.guard,
                settings.targets,
                settings.kernel,
                resolve_tables(settings.kernel, loaded.names),
            )
        if wanted == self._in_force:
            return
        self._in_force = wanted
        await self._end()
        if wanted is not None:
            await self._begin(loaded)
            if self._kernel.source.synced.is_set():  # else the first reading tells
                self._kernel.source.tell_drops_again()

    async def _begin(self, loaded: Loaded) -> None:
        settings, guard = loaded.settings, loaded.settings.guard
        kernel = self._kernel
        quiet = Quiet(lambda: kernel.source.stats.events)
        for target in settings.targets:
            client = make_client(target)
            await client.__aenter__()
            self._clients.append(client)
            self._verifiers.append(
                Verifier(
                    target.name,
                    client,
                    links=lambda: kernel.links,
                    quiet=quiet,
                    sink=self._sink,
                    timeout_s=guard.verify_timeout_s,
                )
            )
        self._guard = Guard(
            dry_run=guard.dry_run,
            patience=Patience(
                settle_s=guard.settle_s,
                check_interval_s=guard.check_interval_s,
                contended_within_s=guard.contended_within_s,
                contended_delay_s=guard.contended_delay_s,
                contended_delay_most_s=guard.contended_delay_most_s,
            ),
            bucket=TokenBucket(
                guard.removals_per_minute / 60, guard.burst, asyncio.get_running_loop().time()
            ),
            tables=resolve_tables(settings.kernel, loaded.names),
            netns=settings.kernel.netns,
            evaluate=kernel.evaluate,
            sink=self._sink,
            verifiers=self._verifiers,
        )
        for verifier in self._verifiers:
            self._supervisor.start(f"target {verifier.name}", verifier.run)
        self._supervisor.start(_TASK, self._guard.run)

    async def _end(self) -> None:
        if self._guard is not None:
            await self._supervisor.end(_TASK)
        for verifier in self._verifiers:
            await self._supervisor.end(f"target {verifier.name}")
        self._guard, self._verifiers = None, []
        await self.close()

    async def close(self) -> None:
        """Close the ways to the targets; the tasks have ended."""
        clients, self._clients = self._clients, []
        for client in clients:
            await client.__aexit__(None, None, None)


def guard_status(view: GuardView) -> GuardStatus:
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
