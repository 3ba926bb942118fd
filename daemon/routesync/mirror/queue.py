"""The work queue of one target: a map keyed by prefix, served by urgency and, for some, not before a time.

A prefix waits once, however often it changes: what is to be done is read from the desired state at the moment of doing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from enum import IntEnum
from typing import Final

from routesync.route import Prefix


class Urgency(IntEnum):
    """What goes first. A route that is wrong in loxilb is worse than one that is missing."""

    WITHDRAW = 0
    WITHDRAW_LAST = 1  # prefixes that contain the address we speak from: after all other withdrawals
    REPLACE = 2
    DEFAULT = 3
    ADD = 4
    VERIFY = 5  # a repeated POST, to prove that a route is still there


WITHDRAWALS: Final = (Urgency.WITHDRAW, Urgency.WITHDRAW_LAST)
_ALL: Final = tuple(Urgency)


class WorkQueue:
    """Prefixes that wait, each with its urgency. Times are the caller's monotonic seconds."""

    def __init__(self) -> None:
        # A plain dictionary finds its first key by going over all those that were removed before it.
        self._ready: tuple[OrderedDict[Prefix, None], ...] = tuple(OrderedDict() for _ in Urgency)
        self._urgency: dict[Prefix, Urgency] = {}
        self._due: dict[Prefix, float] = {}
        self._heap: list[tuple[float, Prefix]] = []
        self._since: dict[Prefix, float] = {}  # when each began to wait; the oldest comes first
        self._parked: set[Prefix] = set()
        self._counts = [0 for _ in Urgency]

    def put(
        self, prefix: Prefix, urgency: Urgency, *, now: float, not_before: float = 0.0, parked: bool = False
    ) -> None:
        """Let a prefix wait; if it waits already, this urgency and time apply from now on.

        Args:
            prefix: what waits.
            urgency: when it is served among others.
            now: monotonic seconds.
            not_before: it is not served earlier.
            parked: until then nothing waits for us: it only retries later, and does not count as waiting.
        """
        self._take_out(prefix)
        self._urgency[prefix] = urgency
        self._since.setdefault(prefix, now)
        self._counts[urgency] += 1
        if not_before > now:
            self._due[prefix] = not_before
            heapq.heappush(self._heap, (not_before, prefix))
            if parked:
                self._parked.add(prefix)
        else:
            self._ready[urgency][prefix] = None

    def discard(self, prefix: Prefix) -> None:
        """Forget a prefix; it need not wait."""
        self._take_out(prefix)
        self._since.pop(prefix, None)
        if not self._urgency:
            self._shrink()

    def _take_out(self, prefix: Prefix) -> None:
        urgency = self._urgency.pop(prefix, None)
        if urgency is not None:
            self._ready[urgency].pop(prefix, None)
            self._due.pop(prefix, None)
            self._parked.discard(prefix)
            self._counts[urgency] -= 1

    def _shrink(self) -> None:
        """Nothing waits: a dictionary that was large keeps its memory until it is cleared."""
        for ready in self._ready:
            ready.clear()
        self._urgency.clear()
        self._due.clear()
        self._since.clear()
        self._heap.clear()

    def first(
        self, now: float, *, least: Urgency = Urgency.VERIFY, most: Urgency = Urgency.WITHDRAW
    ) -> tuple[Prefix, Urgency] | None:
        """The most urgent prefix that may be served now and is at least as urgent as `least`, at most as `most`."""
        if self._heap:
            self._ripen(now)
        for urgency in _ALL[most : least + 1]:
            if ready := self._ready[urgency]:
                return next(iter(ready)), urgency
        return None

    def _ripen(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            due, prefix = heapq.heappop(self._heap)
            if self._due.get(prefix) == due:  # else: put again with another time, or gone
                del self._due[prefix]
                self._parked.discard(prefix)
                self._ready[self._urgency[prefix]][prefix] = None

    @property
    def waiting(self) -> int:
        """How many wait for us; parked ones do not."""
        return len(self._urgency) - len(self._parked)

    @property
    def counts(self) -> dict[Urgency, int]:
        """How many wait, by urgency, parked ones too."""
        return dict(zip(Urgency, self._counts, strict=True))

    def oldest_s(self, now: float) -> float:
        """How long the longest waiting has waited; what waits for a time of its own does not count."""
        return next((now - since for prefix, since in self._since.items() if prefix not in self._due), 0.0)

    def next_due(self) -> float | None:
        """When the next prefix that waits for a time may be served."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._urgency)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._urgency
