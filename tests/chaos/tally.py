"""Counts what became of every event: it arrived, or a report says that it did not, or it was lost silently.

Truth comes from three sides: the node says which numbers it has on disk, the gate which the broker has acknowledged,
and a subscriber which have arrived there.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any, Final

from routesync.events.mqtt_client import WINDOW

LAG_S: Final = 2.0
"""An acknowledgement is on the node's disk after so long, on a busy machine too."""
_REPORT: Final = "io.routesync.events.lost.v1"


class Order:
    """Finds what arrives behind higher numbers."""

    def __init__(self) -> None:
        self.overtaken = 0
        """By how many events that were in flight with it one was overtaken, at most."""
        self._highest = 0
        self._latest: deque[int] = deque(maxlen=4 * WINDOW)

    def note(self, number: int) -> None:
        """This one has arrived, for the first time."""
        if number < self._highest:
            self.overtaken = max(self.overtaken, sum(other > number for other in self._latest))
        self._highest = max(self._highest, number)
        self._latest.append(number)


class Tally:
    """One node's events, of one epoch."""

    def __init__(self) -> None:
        self.on_disk: list[range] = []
        """Numbers of events that were on disk at some time, of each life of the node."""
        self.unsure = 0
        """Events that the node knew nothing certain of when it was killed: it may count them as lost, or not."""
        self.acknowledged: set[int] = set()
        """Numbers that the broker acknowledged."""
        self.last_acknowledged = 0
        self._acknowledged_at: deque[float] = deque()
        self.arrived: set[int] = set()
        """Numbers that reached the subscriber."""
        self.again = 0
        """Events that reached the subscriber more than once."""
        self.late = 0
        """Events that were held, and came late."""
        self.epochs: set[str] = set()
        self._reports: dict[str, dict[str, Any]] = {}  # by id
        self._all = Order()
        self._topics: dict[str, Order] = {}

    def note_acknowledged(self, event: dict[str, Any]) -> None:
        self.last_acknowledged = self._note(event)
        self.acknowledged.add(self.last_acknowledged)
        now = time.monotonic()
        self._acknowledged_at.append(now)
        while self._acknowledged_at[0] < now - 10 * LAG_S:
            self._acknowledged_at.popleft()

    def note_kill(self, at: float) -> None:
        """The node was killed then: what was acknowledged just before may still have been in its outbox."""
        self.unsure += sum(at - LAG_S < when for when in self._acknowledged_at)

    def note_arrived(self, event: dict[str, Any]) -> None:
        number = self._note(event)
        if number in self.arrived:
            self.again += 1
            return
        self.arrived.add(number)
        self._topics.setdefault(event["type"], Order()).note(number)
        if event.get("late"):
            self.late += 1
        else:
            self._all.note(number)

    def _note(self, event: dict[str, Any]) -> int:
        self.epochs.add(event["epoch"])
        if event["type"] == _REPORT:
            self._reports[event["id"]] = event["data"]
        return int(event["sequence"])

    @property
    def given(self) -> int:
        """Events that were on disk at some time."""
        return sum(map(len, self.on_disk))

    @property
    def overtaken(self) -> int:
        """By how many others an event was overtaken, at most: of its topic, or of all that came in time."""
        return max(order.overtaken for order in (self._all, *self._topics.values()))

    @property
    def kills(self) -> int:
        """Reports of kills, whose numbers cannot be known."""
        return sum(report["count"] is None for report in self._reports.values())

    @property
    def reasons(self) -> Counter[str]:
        """Reason to how many events were reported as lost, where the count is known."""
        counts: Counter[str] = Counter()
        for report in self._reports.values():
            counts[report["reason"]] += report["count"] or 0
        return +counts

    @property
    def reported(self) -> int:
        """Events that were reported as lost, with their count."""
        return self.reasons.total()

    def missing(self) -> list[int]:
        """What was on disk, and the broker never acknowledged."""
        return [number for life in self.on_disk for number in life if number not in self.acknowledged]

    def silent(self) -> int:
        """How many events are missing that no report counts, or whose number lies in none."""
        missing, outside = self.missing(), 0
        ranges = sorted((it["first"], it["last"]) for it in self._reports.values() if it["count"] is not None)
        upto, waiting = 0, iter([*ranges, (float("inf"), 0)])
        first, last = next(waiting)
        for number in missing:
            while first <= number:
                upto = max(upto, last)
                first, last = next(waiting)
            outside += number > upto
        return max(outside, len(missing) - self.reported)

    def untrue(self) -> int:
        """How many events more were reported as lost than can be."""
        return max(0, self.reported - len(self.missing()) - self.unsure)
