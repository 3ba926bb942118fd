"""What the kernel side reports, as events for subscribers and lines in the log."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from routesync.events.models import EventSink, KernelDrift, KernelOverrun, KernelResynced, RouteDropped
from routesync.kernel import BadMessage, Drift, Dropped, KernelReport, Links, Overrun, ResyncDone
from routesync.names import Names

log = structlog.get_logger(__name__)


class KernelReporter:
    """Takes the reports of the kernel side; cheap, and never raises."""

    def __init__(self, sink: EventSink, names: Names, links: Callable[[], Links]) -> None:
        self._sink = sink
        self.names = names
        self._links = links
        self._overruns = 0

    def __call__(self, report: KernelReport) -> None:
        """Take a report."""
        match report:
            case ResyncDone():
                cause = ", ".join(report.causes)
                figures = {"kept": report.kept, "corrected": report.corrected}
                log.debug("kernel resynced", cause=cause, routes=report.routes, **figures)
                self._sink.emit(
                    KernelResynced(cause=cause, duration_ms=round(report.duration_s * 1e3, 3), **figures)
                )
            case Drift():
                prefixes = tuple(str(prefix) for prefix in report.prefixes)
                log.error("kernel drift", count=report.count, prefixes=prefixes)
                self._sink.emit(KernelDrift(count=report.count, prefixes=prefixes))
            case Overrun():
                self._overruns += 1
                log.warning("kernel overrun", lost=report.lost, receive_buffer=report.receive_buffer)
                self._sink.emit(KernelOverrun(total=self._overruns))
            case Dropped() if report.verdict.report:
                self._dropped(report)
            case BadMessage():
                log.error(
                    "kernel message not understood", error=report.error, remedy="the table is read anew"
                )

    def _dropped(self, report: Dropped) -> None:
        route = report.route
        link = self._links().get(route.hops[0].ifindex) if route.hops else None
        self._sink.emit(
            RouteDropped(
                prefix=str(route.prefix),
                family=route.prefix.family.label,
                protocol=self.names.protocol(route.protocol),
                rule=report.verdict.rule,
                interface=link.name if link else None,
            )
        )
