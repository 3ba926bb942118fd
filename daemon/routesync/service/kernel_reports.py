"""What the kernel side reports, as events for subscribers and lines in the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from routesync.events.models import EventSink, KernelDrift, KernelOverrun, KernelResynced, RouteDropped
from routesync.kernel import BadMessage, Drift, Dropped, KernelReport, Links, Overrun, ResyncDone
from routesync.names import Names

log = structlog.get_logger(__name__)


QUIET_S: Final = 60.0
"""Without an overrun for so long, it is over."""


@dataclass(slots=True)
class _Overruns:
    began: float
    last: float
    count: int = 0
    lost: int = 0


class KernelReporter:
    """Takes the reports of the kernel side; cheap, and never raises."""

    def __init__(
        self,
        sink: EventSink,
        names: Names,
        links: Callable[[], Links],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self.names = names
        self._links = links
        self._overruns = 0
        self._clock = clock
        self._episode: _Overruns | None = None

    def __call__(self, report: KernelReport) -> None:
        """Take a report."""
        match report:
            case ResyncDone():
                cause = ", ".join(report.causes)
                figures = {"kept": report.kept, "corrected": report.corrected}
                self._log_end_of_overruns()
                log.debug("kernel_resynced", cause=cause, routes=report.routes, **figures)
                self._sink.emit(
                    KernelResynced(cause=cause, duration_ms=round(report.duration_s * 1e3, 3), **figures)
                )
            case Drift():
                prefixes = tuple(str(prefix) for prefix in report.prefixes)
                log.error("kernel_drift", count=report.count, prefixes=prefixes)
                self._sink.emit(KernelDrift(count=report.count, prefixes=prefixes))
            case Overrun():
                self._overruns += 1
                self._log_overrun(report)
                self._sink.emit(KernelOverrun(total=self._overruns))
            case Dropped() if report.verdict.report:
                self._dropped(report)
            case BadMessage():
                log.error(
                    "kernel_message_not_understood", error=report.error, remedy="the table is read anew"
                )

    def _log_overrun(self, report: Overrun) -> None:
        """Say it once, though it may go on: in a storm the buffer overflows time and again."""
        self._log_end_of_overruns()
        now = self._clock()
        if self._episode is None:
            self._episode = _Overruns(began=now, last=now)
            log.warning(
                "kernel_overrun",
                lost=report.lost,
                receive_buffer=report.receive_buffer,
                consequence="everything is read anew",
            )
        self._episode.last = now
        self._episode.count += 1
        self._episode.lost += report.lost

    def _log_end_of_overruns(self) -> None:
        episode = self._episode
        if episode is not None and self._clock() - episode.last > QUIET_S:
            self._episode = None
            took_s = round(episode.last - episode.began)
            log.info("kernel_overruns_ended", overruns=episode.count, lost=episode.lost, took_s=took_s)

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
