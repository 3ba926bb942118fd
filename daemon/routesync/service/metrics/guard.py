"""The guard: what it sees, and what it did."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from routesync.events.node_status import GuardStatus
from routesync.service.metrics.families import counter, gauge


def metrics(view: GuardStatus) -> Iterator[Metric]:
    """Everything of the guard."""
    yield gauge("guard_dry_run", "1 while it only says what it would do.", view.dry_run)
    yield gauge("guard_permitted", "1 while it may change routes.", bool(view.permitted))
    yield gauge("guard_routes", "Routes in the kernel that its rules name.", view.present)
    yield gauge("guard_redundant_routes", "Of these, those that nothing needs.", view.redundant)
    yield gauge(
        "guard_contended_routes", "Of these, those that another program adds again at once.", view.contended
    )
    yield counter("guard_removed_routes", "Routes that it took out of the kernel.", view.removed)
    yield counter("guard_returned_routes", "Routes that came back.", view.returned)
    yield counter("guard_failures", "Routes that it should have taken out and could not.", view.failed)
