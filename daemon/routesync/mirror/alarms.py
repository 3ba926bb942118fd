"""Alarms: states of a target that an operator should hear of when they begin and when they end.

They are looked at on a clock, not where they arise: what comes and goes between two looks need not be said.
"""

from __future__ import annotations

from typing import Final

import structlog

from routesync.events.models import (
    EventSink,
    SyncHeld,
    SyncOverdue,
    SyncReleased,
    SyncTimely,
    TargetFull,
    TargetRoom,
)
from routesync.mirror.brakes import Limits
from routesync.mirror.worklist import Worklist
from routesync.route import Family

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
OVERDUE_S: Final = 300.0
"""Work that has waited longer than this, neither for a time of its own nor for a hold, is worth an alarm."""


class Alarms:
    """Says when what should not last begins and ends."""

    def __init__(self, target: str, work: Worklist, sink: EventSink) -> None:
        self.overdue = False
        self._target = target
        self._work = work
        self._sink = sink
        self._full: set[Family] = set()
        self._start_up = 0  # routes that the start-up hold is known to hold

    def kernel_was_read(self, now: float) -> None:
        """What the kernel has is known: what it does not have, and an earlier life of ours did, is held."""
        held = self._work.held_at_start(now)
        if held and not self._start_up:
            standing = self._work.occupied
            log.warning("startup_hold", target=self._target, routes=held, of=standing)
            self._sink.emit(SyncHeld(target=self._target, cause="start-up", routes=held, standing=standing))
            self._start_up = held

    def look(self, now: float, limits: Limits, oldest_s: float, error: str | None) -> None:
        """Compare with the last look, and say what is new."""
        self._look_at_start_up(now)
        self._look_at_room(limits)
        overdue = oldest_s > OVERDUE_S
        if overdue == self.overdue:
            return
        self.overdue = overdue
        if overdue:
            waiting = self._work.waiting
            log.warning(
                "work_overdue", target=self._target, oldest_s=round(oldest_s), waiting=waiting, error=error
            )
            self._sink.emit(
                SyncOverdue(target=self._target, oldest_s=round(oldest_s, 1), waiting=waiting, error=error)
            )
        else:
            log.info("work_timely", target=self._target)
            self._sink.emit(SyncTimely(target=self._target))

    def _look_at_start_up(self, now: float) -> None:
        if not self._start_up:
            return
        held = self._work.held_at_start(now)
        if held:
            return
        over = self._work.start_up_is_over(now)
        routes = self._start_up if over else 0
        log.info("startup_hold_released", target=self._target, routes=routes)
        self._sink.emit(
            SyncReleased(
                target=self._target, cause="start-up", by="time" if over else "kernel", routes=routes
            )
        )
        self._start_up = 0

    def _look_at_room(self, limits: Limits) -> None:
        for family, waiting in self._work.without_room().items():
            if waiting and family not in self._full:
                self._full.add(family)
                limit = limits.capacity(family)
                log.warning(
                    "target_full", target=self._target, family=family.label, limit=limit, waiting=waiting
                )
                self._sink.emit(
                    TargetFull(target=self._target, family=family.label, limit=limit, waiting=waiting)
                )
            elif not waiting and family in self._full:
                self._full.remove(family)
                log.info("target_has_room", target=self._target, family=family.label)
                self._sink.emit(TargetRoom(target=self._target, family=family.label))
