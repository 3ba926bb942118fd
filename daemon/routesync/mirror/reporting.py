"""What happens at one target, as events and, where it matters, in the log; and its alarms.

An alarm is a condition that an operator should know about while it lasts (RFC 8632's model). Alarms are computed from
the state every second and compared with the ones before: a condition that comes and goes in between is not reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

import structlog

from routesync.best_routes import OwnNode
from routesync.events.models import (
    AlarmCleared,
    AlarmKind,
    AlarmRaised,
    Event,
    EventSink,
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteIneligible,
    RouteRefused,
    RouteWithdrawn,
    SyncCompleted,
    SyncFailed,
    SyncLost,
    SyncStarted,
    TargetDown,
    TargetRefused,
    TargetUp,
)
from routesync.measure import CONVERGENCE_S, Histogram
from routesync.mirror.eligibility import Desired, Ineligible, Reason
from routesync.route import Address, Prefix, format_address

log = structlog.get_logger(__name__)

Stage = Literal["accepted", "confirmed", "withdrawn"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
Fate = Literal["accepted", "confirmed", "withdrawn", "refused", "ineligible", "conflicting", "lost"]
"""What happened to a route at a target, as in the events of the same names."""


@dataclass(slots=True)
class Measures:
    """Plain counters.

    Attributes:
        fates: routes by what happened to them.
        convergence: time from reading a change off the kernel until each stage, in seconds. What the first dump found,
            and what no kernel change caused, does not count.
    """

    fates: Counter[Fate] = field(default_factory=Counter)
    convergence: dict[Stage, Histogram] = field(
        default_factory=lambda: {stage: Histogram(CONVERGENCE_S) for stage in STAGES}
    )


class Alarm(NamedTuple):
    """A condition that an operator should know about.

    Attributes:
        detail: what, where and what to do, in one line.
        routes: how many routes it is about.
        prefixes: the first of them.
    """

    detail: str
    routes: int = 0
    prefixes: tuple[str, ...] = ()


class Reporter:
    """Reports what happens to the routes of one target.

    Each change of a route is an event. The log has one line for each batch of changes.
    """

    def __init__(self, target: str, sink: EventSink, node: OwnNode) -> None:
        self.measures = Measures()
        self.alarms: dict[AlarmKind, Alarm] = {}
        """Those that are raised now."""
        self._raised_at: dict[AlarmKind, float] = {}
        self._target = target
        self._sink = sink
        self._node = node
        self._batch: Counter[str] = Counter()
        self._first: Prefix | None = None
        self._longest_gap_ms = 0.0

    def reached(self, stage: Stage, kernel_changed_at: float | None, now: float) -> None:
        """A kernel change, read at that monotonic time, has reached a stage; None: no kernel change caused this."""
        if kernel_changed_at is not None:
            self.measures.convergence[stage].observe(now - kernel_changed_at)

    # -- routes -----------------------------------------------------------------------------------------------------

    def _route(self, fate: Fate, event: Callable[..., Event], prefix: Prefix, **details: object) -> None:
        self.measures.fates[fate] += 1
        if (kernel := self._node.in_words(prefix)) is not None:
            details |= kernel._asdict()
        self._sink.emit(event(target=self._target, prefix=str(prefix), family=prefix.family.label, **details))

    def _note_change(self, change: str, prefix: Prefix) -> None:
        self._batch[change] += 1
        if self._first is None:
            self._first = prefix

    def log_batch(self) -> None:
        """Log what changed at the target since the last call; nothing, if nothing did."""
        if self._batch:
            log.info(
                "routes_changed",
                target=self._target,
                changes=", ".join(f"{change} {count}" for change, count in self._batch.items()),
                first=str(self._first),
                gap_ms=self._longest_gap_ms or None,
            )
        self._batch.clear()
        self._first, self._longest_gap_ms = None, 0.0

    def accepted(
        self, prefix: Prefix, desired: Desired, previous: Address | None, gap_ms: float | None
    ) -> None:
        """The target took the route; `previous` is the gateway that it had for it before."""
        self._note_change("added" if previous is None else "replaced", prefix)
        self._longest_gap_ms = max(self._longest_gap_ms, gap_ms or 0.0)
        self._route(
            "accepted",
            RouteAccepted,
            prefix,
            gateway=format_address(desired.gateway),
            rule=desired.rule,
            degraded=desired.degraded,
            previous_gateway=format_address(previous) if previous else None,
            gap_ms=gap_ms,
        )

    def confirmed(self, prefix: Prefix, gateway: Address) -> None:
        """The target's table shows our route."""
        self._route("confirmed", RouteConfirmed, prefix, gateway=format_address(gateway))

    def withdrawn(self, prefix: Prefix, gateway: Address, reason: str) -> None:
        """Our route is no longer there; or, with the reason `left-behind`, no longer desired and not removable."""
        self._note_change("withdrew" if reason != "left-behind" else "left behind", prefix)
        self._route("withdrawn", RouteWithdrawn, prefix, gateway=format_address(gateway), reason=reason)

    def refused(self, prefix: Prefix, desired: Desired, status: int, words: str, retry_in_s: float) -> None:
        """The target does not take the route."""
        self._note_change("refused", prefix)
        gateway = format_address(desired.gateway)
        self._route(
            "refused",
            RouteRefused,
            prefix,
            gateway=gateway,
            status=status,
            message=words,
            retry_in_s=retry_in_s,
        )

    def conflicting(self, prefix: Prefix, desired: Desired, detail: str) -> None:
        """Another writer has the prefix."""
        self._note_change("conflicting", prefix)
        gateway = format_address(desired.gateway)
        self._route("conflicting", RouteConflicting, prefix, gateway=gateway, detail=detail)

    def ineligible(self, prefix: Prefix, evaluation: Ineligible) -> None:
        """The target may not have the route."""
        reason, detail, rule = evaluation
        if reason is Reason.TARGET_UNKNOWN:
            # undecided, and thousands of routes are so while a target is down
            return
        self._route("ineligible", RouteIneligible, prefix, reason=reason.value, detail=detail, rule=rule)

    def lost(self, prefix: Prefix, detail: str) -> None:
        """The target lost a route of ours by itself."""
        self._note_change("lost", prefix)
        self.measures.fates["lost"] += 1
        self._sink.emit(SyncLost(target=self._target, prefix=str(prefix), detail=detail))

    # -- the target -------------------------------------------------------------------------------------------------

    def target_up(self, url: str, version: str) -> None:
        """The handshake is done."""
        log.info("target_up", target=self._target, url=url, version=version)
        self._sink.emit(TargetUp(target=self._target, url=url, version=version))

    def target_down(self, url: str, error: str, sync_retry_in_s: float | None) -> None:
        """The target does not answer any more; with a time, a sync was going on and is tried again after it."""
        log.warning("target_down", target=self._target, url=url, error=error)
        self._sink.emit(TargetDown(target=self._target, url=url, error=error))
        if sync_retry_in_s is not None:
            self._sink.emit(
                SyncFailed(target=self._target, error=error, retry_in_s=round(sync_retry_in_s, 1))
            )

    def target_refused(
        self,
        url: str,
        reason: Literal["shared-namespace", "own-route-seen"],
        detail: str,
        left: Collection[str],
    ) -> None:
        """Nothing is mirrored into the target; `left` are routes of ours that could not be taken back."""
        if reason == "own-route-seen":
            log.error("target_refused", target=self._target, url=url, reason=detail, left=list(left))
        self._sink.emit(TargetRefused(target=self._target, url=url, reason=reason, detail=detail))

    def sync_started(self, desired: int, waiting: int) -> None:
        """A batch of work begins."""
        self._sink.emit(SyncStarted(target=self._target, desired=desired, waiting=waiting))

    def sync_completed(
        self, *, routes: int, posted: int, deleted: int, duration_s: float, complete: bool
    ) -> None:
        """Nothing waits any more."""
        done = SyncCompleted(
            target=self._target,
            routes=routes,
            posted=posted,
            deleted=deleted,
            duration_s=round(duration_s, 3),
            complete=complete,
        )
        log.info(
            "target_synced",
            target=self._target,
            routes=routes,
            posted=posted,
            deleted=deleted,
            duration_s=done.duration_s,
            complete=complete,
        )
        self._sink.emit(done)

    # -- alarms -----------------------------------------------------------------------------------------------------

    def set_alarms(self, current: Mapping[AlarmKind, Alarm], now: float) -> None:
        """Take the conditions that exist now; report those that are new and those that have ended."""
        for kind in [kind for kind in self.alarms if kind not in current]:
            self.clear(kind, now)
        for kind, alarm in current.items():
            self.raise_(kind, alarm, now)

    def raise_(self, kind: AlarmKind, alarm: Alarm, now: float) -> None:
        """The condition exists; it is reported if it did not before."""
        news = kind not in self.alarms
        self.alarms[kind] = alarm
        if not news:
            return
        self._raised_at[kind] = now
        log.warning("alarm_raised", target=self._target, kind=kind, detail=alarm.detail)
        self._sink.emit(
            AlarmRaised(
                target=self._target,
                kind=kind,
                detail=alarm.detail,
                count=alarm.routes,
                prefixes=alarm.prefixes,
            )
        )

    def clear(self, kind: AlarmKind, now: float, detail: str = "") -> None:
        """The condition has ended; `detail` says by what, where that is worth saying."""
        if self.alarms.pop(kind, None) is None:
            return
        lasted_s = round(now - self._raised_at.pop(kind, now), 1)
        log.warning("alarm_cleared", target=self._target, kind=kind, lasted_s=lasted_s, detail=detail or None)
        self._sink.emit(
            AlarmCleared(target=self._target, kind=kind, lasted_s=lasted_s, detail=detail or None)
        )
