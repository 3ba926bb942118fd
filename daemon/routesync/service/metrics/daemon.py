"""What the daemon says of itself."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from prometheus_client.metrics_core import InfoMetricFamily, Metric

from routesync import __version__
from routesync.service.metrics.families import PREFIX, gauge
from routesync.service.status import StatusBuilder


def metrics(status: StatusBuilder) -> Iterator[Metric]:
    """Who it is, since when, and whether all is well."""
    build = {"version": __version__, "python": platform.python_version(), "mode": status.mode}
    yield InfoMetricFamily(f"{PREFIX}_build", "The running program; always 1.", value=build)
    yield gauge(
        "start_time_seconds", "When the daemon started, in seconds since 1970.", status.started.timestamp()
    )
    yield gauge(
        "degraded_reasons", "Reasons that `routesync status` gives for being degraded.", len(status.reasons())
    )
