"""The kernel side: what was read, lost, judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import Metric, SummaryMetricFamily

from routesync.kernel import KernelSource
from routesync.service.metrics.families import PREFIX, counter, counters, gauge, gauges


def metrics(source: KernelSource, kept: Mapping[str, int], *, unreadable: bool) -> Iterator[Metric]:
    """Everything of the kernel side.

    Args:
        source: the kernel side.
        unreadable: whether the kernel's routes cannot be read at the moment.
        kept: elected routes by the rule that keeps them.
    """
    stats = source.stats
    dropped = stats.table.items()
    yield gauges(
        "routes",
        "Routes of the kernel by verdict and rule: elected ones that are kept, and those dropped at the last reading.",
        ("verdict", "rule"),
        [
            *((("keep", rule), count) for rule, count in kept.items()),
            *((("drop", rule), count) for rule, count in dropped),
        ],
    )
    yield gauge("kernel_synced", "1 when a first reading is done.", source.synced.is_set())
    yield gauge(
        "kernel_unreadable",
        "1 while the kernel's routes cannot be read and those of before are held.",
        unreadable,
    )
    yield gauge("kernel_table_routes", "Routes that the last full reading saw.", stats.table_routes)
    yield gauge("kernel_prefixes", "Prefixes of which the rules keep a route.", stats.kept)
    yield counter("kernel_events", "Route messages of the kernel in the tables read.", stats.events)
    yield counters(
        "kernel_dropped_events",
        "Route messages that a rule dropped.",
        ("rule",),
        (((rule,), count) for rule, count in stats.dropped.items()),
    )
    yield gauge("kernel_lag_seconds", "Age of the oldest change that is not judged yet.", source.lag_s)
    yield gauge(
        "kernel_receive_buffer_bytes",
        "Receive buffer of the netlink socket as the kernel accounts it.",
        stats.receive_buffer,
    )
    yield counter("kernel_overruns", "Times at which that buffer overflowed.", stats.overruns)
    yield counter("kernel_lost_messages", "Messages that the kernel says were lost by that.", stats.lost)
    yield counter("kernel_bad_messages", "Messages that could not be understood.", stats.bad_messages)
    yield counters(
        "kernel_readings",
        "Full readings of the tables by cause; one reading can have several.",
        ("cause",),
        (((cause,), count) for cause, count in stats.resyncs.items()),
    )
    yield SummaryMetricFamily(
        f"{PREFIX}_kernel_reading_seconds",
        "Time that full readings of the tables took.",
        count_value=stats.dumps,
        sum_value=stats.dumps_s,
    )
    yield counter(
        "kernel_void_readings",
        "Readings that were done again, for something was lost or interrupted.",
        stats.void_dumps,
    )
    yield counter(
        "kernel_drift_prefixes", "Prefixes that an audit found held wrongly; should stay 0.", stats.drift
    )
