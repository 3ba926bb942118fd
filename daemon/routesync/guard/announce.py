"""The words of the guard: each thing that it does is one event and one line in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict

import structlog

from routesync.events.models import (
    EventSink,
    GuardFailed,
    GuardRemoved,
    GuardReturned,
    GuardSkipped,
    GuardWouldRemove,
)
from routesync.guard.redundancy import Needed, Redundant
from routesync.guard.returns import Return
from routesync.kernel import Links
from routesync.route import Route, Verdict

log = structlog.get_logger(__name__)


class _Subject(TypedDict):
    """What all events of the guard say of the route."""

    prefix: str
    family: Literal["ipv4", "ipv6"]
    interface: str | None
    rule: str


class Announcer:
    """Says what becomes of guarded routes."""

    def __init__(self, sink: EventSink, links: Callable[[], Links]) -> None:
        self._sink = sink
        self._links = links

    def _subject(self, route: Route, verdict: Verdict) -> _Subject:
        link = self._links().get(route.hops[0].ifindex) if route.hops else None
        return {
            "prefix": str(route.prefix),
            "family": route.prefix.family.label,
            "interface": link.name if link else None,
            "rule": verdict.rule,
        }

    def would_remove(self, route: Route, verdict: Verdict, finding: Redundant) -> None:
        """A dry run: it would go."""
        about = self._subject(route, verdict)
        log.info("guard_would_remove", **about, covered_by=str(finding.by))
        self._sink.emit(GuardWouldRemove(**about, covered_by=str(finding.by)))

    def removed(self, route: Route, verdict: Verdict, finding: Redundant) -> None:
        """It was taken out."""
        about = self._subject(route, verdict)
        log.warning("guard_removed", **about, covered_by=str(finding.by))
        self._sink.emit(GuardRemoved(**about, covered_by=str(finding.by)))

    def returned(self, route: Route, verdict: Verdict, what: Return) -> None:
        """It is back."""
        about = self._subject(route, verdict)
        figures = {
            "away_s": round(what.away_s, 3),
            "contended": what.contended,
            "stays_s": round(what.stays_s, 3),
        }
        if what.contended:
            log.warning("guard_contended", **about, **figures)
        else:
            log.info("guard_returned", **about, **figures)
        self._sink.emit(
            GuardReturned(
                **about, away_s=figures["away_s"], contended=what.contended, stays_s=figures["stays_s"]
            )
        )

    def skipped(self, route: Route, verdict: Verdict, finding: Needed) -> None:
        """It stays."""
        about = self._subject(route, verdict)
        log.info("guard_skipped", **about, reason=finding.reason.value, detail=finding.detail)
        self._sink.emit(GuardSkipped(**about, reason=finding.reason.value, detail=finding.detail))

    def failed(
        self,
        route: Route,
        verdict: Verdict,
        reason: Literal["not-permitted", "put-back", "kernel"],
        detail: str,
    ) -> None:
        """It should have gone and did not."""
        about = self._subject(route, verdict)
        log.error("guard_failed", **about, reason=reason, detail=detail)
        self._sink.emit(GuardFailed(**about, reason=reason, detail=detail))
