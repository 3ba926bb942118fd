"""What mode guard does. In other modes all of it is 0."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from routesync.guard.guard import GuardView
from routesync.service.metrics.families import counter, gauge


def metrics(view: GuardView | None) -> Iterator[Metric]:
    """Routes that are guarded, and what became of others."""
    yield gauge(
        "guard_standing_routes",
        "Mode guard: routes of rules with `guard = true` that stand in the kernel.",
        view.standing if view else 0,
    )
    yield gauge(
        "guard_redundant_routes",
        "Mode guard: of these, those that would be, or wait to be, removed.",
        view.redundant if view else 0,
    )
    yield gauge(
        "guard_contended_routes",
        "Mode guard: of these, those that came back at once after their removal.",
        view.contended if view else 0,
    )
    yield counter("guard_removed", "Mode guard: routes removed from the kernel.", view.removed if view else 0)
    yield counter(
        "guard_returned", "Mode guard: removed routes that came back.", view.returned if view else 0
    )
    yield counter(
        "guard_failed",
        "Mode guard: routes that should have been removed and were not.",
        view.failed if view else 0,
    )
