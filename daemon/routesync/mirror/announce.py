"""The words of one target: what happened to a route there, as events and, where it matters, in the log."""

from __future__ import annotations

from typing import Literal

import structlog

from routesync.events.models import (
    EventSink,
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteIneligible,
    RouteRefused,
    RouteWithdrawn,
    SyncHeld,
    SyncLost,
    SyncReleased,
)
from routesync.loxilb.errors import Rejected
from routesync.mirror.eligibility import Desired, Ineligible
from routesync.mirror.measures import Measures
from routesync.route import Address, Prefix, format_address

log = structlog.get_logger(__name__)


class Announcer:
    """Says what happens to the routes of one target."""

    def __init__(self, target: str, sink: EventSink, measures: Measures) -> None:
        self.measures = measures
        self._target = target
        self._sink = sink
        self._standing: dict[Prefix, Address] = {}  # what subscribers take to stand there

    def standing(self, prefix: Prefix) -> Address | None:
        """The gateway by which subscribers take our route to stand there; None: they know of none."""
        return self._standing.get(prefix)

    def accepted(
        self, prefix: Prefix, wanted: Desired, previous: Address | None, gap_ms: float | None = None
    ) -> None:
        """The target took the route."""
        self.measures.fates["accepted"] += 1
        self._standing[prefix] = wanted.gateway
        self._sink.emit(
            RouteAccepted(
                target=self._target,
                prefix=str(prefix),
                family=prefix.family.label,
                gateway=format_address(wanted.gateway),
                rule=wanted.rule,
                degraded=wanted.degraded,
                previous_gateway=format_address(previous) if previous else None,
                gap_ms=gap_ms,
            )
        )

    def confirmed(self, prefix: Prefix, gateway: Address) -> None:
        """Its table shows our route."""
        self.measures.fates["confirmed"] += 1
        self._standing[prefix] = gateway
        self._sink.emit(
            RouteConfirmed(
                target=self._target,
                prefix=str(prefix),
                family=prefix.family.label,
                gateway=format_address(gateway),
            )
        )

    def withdrawn(self, prefix: Prefix, gateway: Address, reason: str) -> None:
        """Our route is no longer there, and shall not be."""
        self.measures.fates["withdrawn"] += 1
        self._standing.pop(prefix, None)
        self._sink.emit(
            RouteWithdrawn(
                target=self._target,
                prefix=str(prefix),
                family=prefix.family.label,
                gateway=format_address(gateway),
                reason=reason,
            )
        )

    def gone(self, prefix: Prefix, reason: str) -> None:
        """Our route is not there; should subscribers have it otherwise, it is withdrawn for them, too."""
        if (gateway := self.standing(prefix)) is not None:
            self.withdrawn(prefix, gateway, reason)

    def refused(self, prefix: Prefix, wanted: Desired, error: Rejected, retry_in_s: float) -> None:
        """The target does not take the route."""
        self.measures.fates["refused"] += 1
        self._standing.pop(prefix, None)
        self._sink.emit(
            RouteRefused(
                target=self._target,
                prefix=str(prefix),
                family=prefix.family.label,
                gateway=format_address(wanted.gateway),
                status=error.status,
                message=error.words,
                retry_in_s=retry_in_s,
            )
        )

    def conflicting(self, prefix: Prefix, wanted: Desired, detail: str) -> None:
        """Somebody else's route holds the prefix."""
        self.measures.fates["conflicting"] += 1
        self._standing.pop(prefix, None)
        log.warning("route_conflicting", target=self._target, prefix=str(prefix), detail=detail)
        self._sink.emit(
            RouteConflicting(
                target=self._target,
                prefix=str(prefix),
                family=prefix.family.label,
                gateway=format_address(wanted.gateway),
                detail=detail,
            )
        )

    def judged(self, prefix: Prefix, judgement: Desired | Ineligible | None) -> None:
        """The route is not told to the target, and why; a wanted one speaks when it is accepted."""
        if isinstance(judgement, Ineligible):
            self.measures.fates["ineligible"] += 1
            self._sink.emit(
                RouteIneligible(
                    target=self._target,
                    prefix=str(prefix),
                    family=prefix.family.label,
                    reason=judgement.reason.value,
                    detail=judgement.detail,
                    rule=judgement.rule,
                )
            )

    def lost(self, prefix: Prefix, detail: str) -> None:
        """The target lost a route of ours by itself."""
        self.measures.fates["lost"] += 1
        self._standing.pop(prefix, None)
        self._sink.emit(SyncLost(target=self._target, prefix=str(prefix), detail=detail))

    def braked(self, routes: int, standing: int) -> None:
        """A mass withdrawal is held back."""
        log.warning(
            "withdrawals_held",
            target=self._target,
            routes=routes,
            of=standing,
            remedy="it goes when a second reading of the kernel asks for the same, or by hand",
        )
        self._sink.emit(SyncHeld(target=self._target, cause="mass", routes=routes, standing=standing))

    def released(self, routes: int, by: Literal["second-reading", "hand", "kernel"]) -> None:
        """It is not held back any more."""
        log.warning("withdrawals_released", target=self._target, routes=routes, by=by)
        self._sink.emit(SyncReleased(target=self._target, cause="mass", by=by, routes=routes))
