"""The guard's part in the wiring: made from the settings, and seen in the status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from routesync.events.models import EventSink
from routesync.events.status import GuardStatus
from routesync.guard.guard import Guard, GuardView
from routesync.guard.returns import Patience
from routesync.guard.verify import Quiet, Verifier
from routesync.kernel import KernelSource, Links
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.pace import TokenBucket
from routesync.names import Names
from routesync.route import Route, Verdict
from routesync.settings import GuardSettings, Settings, resolve_tables


def make_verifiers(
    clients: Sequence[tuple[str, LoxilbClient]],
    settings: GuardSettings,
    *,
    source: KernelSource,
    sink: EventSink,
) -> list[Verifier]:
    """One for each target, by its name and the way to it."""
    quiet = Quiet(lambda: source.stats.events)
    return [
        Verifier(
            name,
            client,
            links=lambda: source.links,
            quiet=quiet,
            sink=sink,
            timeout_s=settings.verify_timeout_s,
        )
        for name, client in clients
    ]


def make_guard(
    settings: Settings,
    names: Names,
    *,
    evaluate: Callable[[Route, Links], Verdict],
    sink: EventSink,
    verifiers: Sequence[Verifier],
) -> Guard:
    """The guard, as the settings want it."""
    guard = settings.guard
    return Guard(
        dry_run=guard.dry_run,
        patience=Patience(
            settle_s=guard.settle_s,
            check_interval_s=guard.check_interval_s,
            contended_within_s=guard.contended_within_s,
            contended_delay_s=guard.contended_delay_s,
            contended_delay_most_s=guard.contended_delay_most_s,
        ),
        bucket=TokenBucket(guard.removals_per_minute / 60, guard.burst, asyncio.get_running_loop().time()),
        tables=resolve_tables(settings.kernel, names),
        netns=settings.kernel.netns,
        evaluate=evaluate,
        sink=sink,
        verifiers=verifiers,
    )


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
