"""Which events the broker will never get: the gaps in the numbers that it acknowledged, and why they are there.

Every event has a number, and events go out in the order of their numbers. So when the broker has acknowledged 7 and 9,
and nothing between them was handed out, 8 is lost, whatever became of it. What drops events notes the cause; the count
never depends on that note. Only an event of a denied topic counts as acknowledged while it is held: what drops it
counts it, in the same transaction.

`events/lost` reports what is lost. That report is an event with a number like others: what it reports counts as
reported when the broker has it, and is reported again when the report was lost itself.

Pure: no I/O. Belongs to the event loop's thread.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from routesync.events.models import LostReason

Number = Annotated[int, Field(ge=0, lt=2**62)]
"""Of an event, or of events: stays far below what SQLite can hold."""
Timestamp = Annotated[float, Field(ge=0, lt=253_402_300_799)]
"""In seconds since 1970; `datetime` knows no year beyond 9999."""


class Cause(NamedTuple):
    """Why numbers are missing: those up to this one, from the cause before it on."""

    upto: Number
    reason: LostReason
    since: Timestamp


class LostEvents(NamedTuple):
    """Events that the broker does not have and will not get; None where it cannot be known.

    `report` is the number of the `events/lost` that is on its way to the broker with these; 0 for none.
    """

    reason: LostReason
    number: Annotated[Number, Field(gt=0)] | None
    first: Annotated[Number, Field(gt=0)] | None
    last: Annotated[Number, Field(gt=0)] | None
    since: Timestamp
    topics: dict[str, int] = {}  # noqa: RUF012 - never changed; of denied ones: topic to how many
    report: Number = 0


class Settled(NamedTuple):
    """What has to survive a restart."""

    acknowledged: Number
    lost: tuple[LostEvents, ...] = ()
    causes: tuple[Cause, ...] = ()


def lost_of_held(topic: str, sequences: Sequence[int]) -> LostEvents:
    """These were held, so they count as acknowledged; now they are lost."""
    count = len(sequences)
    return LostEvents("denied", count, min(sequences), max(sequences), time.time(), {topic: count})


def merge_causes(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    """Sort them, and make one of neighbours with the same reason.

    Kills stay apart: events between them may be dropped later, and count, whereas the numbers behind a kill do not.
    """
    merged: list[Cause] = []
    for cause in sorted(causes):
        if merged and merged[-1].reason == cause.reason != "killed":
            merged[-1] = cause._replace(since=min(cause.since, merged[-1].since))
        else:
            merged.append(cause)
    return tuple(merged)


class GapTracker:
    """Follows what the broker acknowledges.

    Args:
        settled: What the run before knew.
    """

    def __init__(self, settled: Settled) -> None:
        self.acknowledged, lost, self._causes = settled
        self._unreported: dict[LostReason, LostEvents] = {}
        self._in_flight = {each.reason: each for each in lost if each.report}
        self._handed_out: deque[int] = deque()
        self._denied: dict[int, str] = {}  # to topic
        self._taken: set[int] = set()  # not acknowledged yet
        self._held: set[int] = set()  # not acknowledged yet
        self._nothing_waits_upto = 0
        self._lost: tuple[LostEvents, ...] = lost
        for each in lost:
            if not each.report:
                self._add(each)

    @property
    def settled(self) -> Settled:
        """What has to survive a restart."""
        return Settled(self.acknowledged, self._lost, self._causes)

    @property
    def unreported(self) -> tuple[LostEvents, ...]:
        """What is to be reported now. One report of each reason is on its way at a time."""
        return tuple(lost for reason, lost in self._unreported.items() if reason not in self._in_flight)

    def reported(self, reason: LostReason, report: int) -> None:
        """An `events/lost` with this number reports what is lost for this reason."""
        if (lost := self._unreported.pop(reason, None)) is not None:
            self._in_flight[reason] = lost._replace(report=report)
            self._note_change()

    def hand_out(self, sequences: Iterable[int]) -> None:
        """These go to the broker next, in this order; what went before, over a broken connection, may be among them."""
        last = self._handed_out[-1] if self._handed_out else self.acknowledged
        self._handed_out.extend(sequence for sequence in sequences if sequence > last)

    def nothing_waits(self, upto: int) -> None:
        """All events up to this number were handed out or are lost."""
        self._nothing_waits_upto = upto
        self._settle_tail()

    def take(self, sequence: int) -> None:
        """The broker has this one, whatever it answers when a connection breaks and this one is sent again."""
        self._taken.add(sequence)

    def deny(self, sequence: int, topic: str) -> None:
        """The broker answered, and will never take this one."""
        self._denied[sequence] = topic

    def hold(self, sequence: int) -> bool:
        """This one is acknowledged next although the broker does not have it: it is held.

        Returns whether that is new: what waits behind one that is not acknowledged is handed out again after a
        connection broke.
        """
        is_new = sequence not in self._held
        self._held.add(sequence)
        return is_new

    def release(self, sequence: int) -> None:
        """The broker has this one, which was held."""
        self._drop_reports(sequence)

    def lose_held(self, topic: str, sequences: Sequence[int]) -> None:
        """These were held, and are lost."""
        for sequence in sequences:
            self._return_reports(sequence, sequence)
        self._add(lost_of_held(topic, sequences))

    def acknowledge(self, upto: int) -> None:
        """The broker has answered for all that was handed out up to this number."""
        while self._handed_out and self._handed_out[0] <= upto:
            sequence = self._handed_out.popleft()
            self._miss(self.acknowledged + 1, sequence - 1)
            topic, is_taken = self._denied.pop(sequence, None), sequence in self._taken
            self._taken.discard(sequence)
            if topic is not None and not is_taken:
                self.lose_held(topic, [sequence])
            elif sequence in self._held:
                self._held.remove(sequence)
            else:
                self._drop_reports(sequence)
            self.acknowledged = max(self.acknowledged, sequence)
        self._settle_tail()
        if self._causes and self._causes[0].upto <= self.acknowledged:
            self._causes = tuple(cause for cause in self._causes if cause.upto > self.acknowledged)

    def explain(self, *causes: Cause) -> None:
        """Note why numbers are missing."""
        self._causes = merge_causes((*self._causes, *causes))

    def lose_unknown(self, reason: LostReason) -> None:
        """Events are lost, and it cannot be known which and how many."""
        self._add(LostEvents(reason, None, None, None, time.time()))

    def _settle_tail(self) -> None:
        if not self._handed_out and self.acknowledged < self._nothing_waits_upto:
            self._miss(self.acknowledged + 1, self._nothing_waits_upto)
            self.acknowledged = self._nothing_waits_upto

    def _miss(self, first: int, last: int) -> None:
        if first > last:
            return
        self._return_reports(first, last)
        while first <= last:
            cause = next((cause for cause in self._causes if cause.upto >= first), None)
            if cause is None:  # it was written once and is no longer there
                cause = Cause(last, "storage", time.time())
            upto = min(last, cause.upto)
            count = None if cause.reason == "killed" else upto - first + 1
            self._add(LostEvents(cause.reason, count, first, upto, cause.since))
            first = upto + 1

    def _add(self, lost: LostEvents) -> None:
        before = self._unreported.get(lost.reason)
        self._unreported[lost.reason] = lost if before is None else _sum(before, lost)
        self._note_change()

    def _return_reports(self, first: int, last: int) -> None:
        """Report again what a report between these numbers was to report: it is lost itself."""
        for lost in [lost for lost in self._in_flight.values() if first <= lost.report <= last]:
            del self._in_flight[lost.reason]
            self._add(lost._replace(report=0))

    def _drop_reports(self, sequence: int) -> None:
        """The broker has the report with this number, if it is one."""
        for lost in [lost for lost in self._in_flight.values() if lost.report == sequence]:
            del self._in_flight[lost.reason]
            self._note_change()

    def _note_change(self) -> None:
        self._lost = (*self._unreported.values(), *self._in_flight.values())


def _sum(one: LostEvents, other: LostEvents) -> LostEvents:
    return LostEvents(
        one.reason,
        None if one.number is None or other.number is None else one.number + other.number,
        min((each for each in (one.first, other.first) if each is not None), default=None),
        max((each for each in (one.last, other.last) if each is not None), default=None),
        min(one.since, other.since),
        dict(Counter(one.topics) + Counter(other.topics)),
    )
