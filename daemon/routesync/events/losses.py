"""Events that are gone: how many, since when and why, until an event has told it.

A loss is on disk as soon as the disk takes it, so that a restart does not hide it; and it is told from memory when the
disk does not. What tells a loss is an event like others and may be lost itself: then it is to be told again.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from routesync.events.models import EventsLost

LossReason = Literal["outbox-full", "queue-full", "storage", "denied", "killed"]


class Loss(NamedTuple):
    """Events that are gone; `lost` None: nobody knows how many."""

    reason: LossReason
    lost: int | None
    since: float


def loss_told_by(type_name: str, payload: bytes) -> Loss | None:
    """The loss that an encoded event tells, if it tells one."""
    if type_name != EventsLost.type_name():
        return None
    told = EventsLost.model_validate(json.loads(payload)["data"])
    return Loss(told.reason, told.count, told.since.timestamp())


class LossBook:
    """What is to be told: on disk, or not there yet. Used by two threads.

    Args:
        stored: What the disk knows of.
    """

    def __init__(self, stored: Iterable[Loss]) -> None:
        self._lock = threading.Lock()
        self.total: Counter[LossReason] = Counter()
        """Events that were lost since the start, told or not."""
        self._stored = tuple(stored)
        self._new: tuple[Loss, ...] = ()
        self._told: tuple[Loss, ...] = ()

    def add(self, loss: Loss) -> None:
        """Note a loss that is to be told, be it for the second time."""
        with self._lock:
            self._new = _sum((*self._new, loss))

    def count(self, reason: LossReason, lost: int) -> None:
        """Count events that are gone now, for the total."""
        with self._lock:
            self.total[reason] += lost

    def told(self, losses: Iterable[Loss]) -> None:
        """Forget these: events that tell them are on their way."""
        with self._lock:
            self._told = _sum((*self._told, *losses))

    @property
    def untold(self) -> tuple[Loss, ...]:
        """What waits for being told."""
        with self._lock:
            return _difference((*self._stored, *self._new), self._told)

    def unwritten(self) -> tuple[tuple[Loss, ...], tuple[Loss, ...]]:
        """What the disk does not know of: new losses, and those told."""
        with self._lock:
            return self._new, self._told

    def written(self, new: Iterable[Loss], told: Iterable[Loss], stored: Iterable[Loss]) -> None:
        """Note that the disk knows of these, and what stands there now."""
        with self._lock:
            self._new = _difference(self._new, new)
            self._told = _difference(self._told, told)
            self._stored = tuple(stored)


def _sum(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    total: dict[LossReason, Loss] = {}
    for loss in losses:
        before = total.get(loss.reason)
        if before is not None:
            known = before.lost is not None and loss.lost is not None
            lost = (before.lost or 0) + (loss.lost or 0) if known else None
            loss = Loss(loss.reason, lost, min(before.since, loss.since))  # noqa: PLW2901 - the sum up to here
        total[loss.reason] = loss
    return tuple(total.values())


def _difference(losses: Iterable[Loss], less: Iterable[Loss]) -> tuple[Loss, ...]:
    taken = {loss.reason: loss for loss in _sum(less)}
    left: list[Loss] = []
    for loss in _sum(losses):
        other = taken.get(loss.reason)
        if other is None or (loss.lost is None and other.lost is not None):
            left.append(loss)
        elif loss.lost is not None and other.lost is not None and loss.lost > other.lost:
            left.append(loss._replace(lost=loss.lost - other.lost))
    return tuple(left)
