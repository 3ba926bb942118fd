"""The waiting work of one target: a map keyed by prefix, served by urgency and, for some, not before a time.

A prefix waits once, however often it changes: what is to be done is read from the wish at the moment of doing it.
"""

from __future__ import annotations

import heapq
from enum import IntEnum
from typing import Final

from routesync.route import Prefix


class Urgency(IntEnum):
    """What goes first. A route that is wrong in loxilb is worse than one that is missing."""

    WITHDRAW = 0
    REPLACE = 1
    DEFAULT = 2
    ADD = 3
    CHECK = 4  # a POST of what stands there already, to prove that it does


_ALL: Final = tuple(Urgency)


class Pending:
    """Prefixes that wait, each with its urgency. Times are the caller's monotonic seconds."""

    def __init__(self) -> None:
        self._ready: tuple[dict[Prefix, None], ...] = tuple({} for _ in Urgency)
        self._urgency: dict[Prefix, Urgency] = {}
        self._due: dict[Prefix, float] = {}
        self._clock: list[tuple[float, Prefix]] = []
        self._since: dict[Prefix, float] = {}  # of the first wish; the oldest stands first
        self._counts = [0 for _ in Urgency]

    def put(self, prefix: Prefix, urgency: Urgency, *, now: float, not_before: float = 0.0) -> None:
        """Let a prefix wait; if it waits already, this urgency and time hold from now on."""
        self._take_out(prefix)
        self._urgency[prefix] = urgency
        self._since.setdefault(prefix, now)
        self._counts[urgency] += 1
        if not_before:
            self._due[prefix] = not_before
            heapq.heappush(self._clock, (not_before, prefix))
        else:
            self._ready[urgency][prefix] = None

    def discard(self, prefix: Prefix) -> None:
        """Forget a prefix; it need not wait."""
        self._take_out(prefix)
        self._since.pop(prefix, None)

    def _take_out(self, prefix: Prefix) -> None:
        urgency = self._urgency.pop(prefix, None)
        if urgency is not None:
            self._ready[urgency].pop(prefix, None)
            self._due.pop(prefix, None)
            self._counts[urgency] -= 1

    def pop(
        self, now: float, *, least: Urgency = Urgency.CHECK, most: Urgency = Urgency.WITHDRAW
    ) -> tuple[Prefix, Urgency] | None:
        """Take the most urgent prefix that may go now and is at least as urgent as `least`, at most as `most`."""
        if self._clock:
            self._ripen(now)
        for urgency in _ALL[most : least + 1]:
            if ready := self._ready[urgency]:
                prefix = next(iter(ready))
                del ready[prefix]
                del self._urgency[prefix]
                del self._since[prefix]
                self._counts[urgency] -= 1
                if not self._urgency:
                    self._shrink()
                return prefix, urgency
        return None

    def _shrink(self) -> None:
        """Nothing waits: give back the room that a great many have taken, which a dictionary keeps when it empties."""
        for ready in self._ready:
            ready.clear()
        self._urgency.clear()
        self._due.clear()
        self._since.clear()
        self._clock.clear()

    def _ripen(self, now: float) -> None:
        while self._clock and self._clock[0][0] <= now:
            due, prefix = heapq.heappop(self._clock)
            if self._due.get(prefix) == due:  # else: put again with another time, or gone
                del self._due[prefix]
                self._ready[self._urgency[prefix]][prefix] = None

    def ready(self, now: float, *, least: Urgency = Urgency.CHECK, most: Urgency = Urgency.WITHDRAW) -> bool:
        """Whether `pop` would give something."""
        if self._clock:
            self._ripen(now)
        return any(self._ready[most : least + 1])

    @property
    def counts(self) -> dict[Urgency, int]:
        """How many wait, by urgency."""
        return dict(zip(Urgency, self._counts, strict=True))

    def count(self, urgency: Urgency) -> int:
        """How many wait with this urgency, also those that may not go yet."""
        return self._counts[urgency]

    def of(self, urgency: Urgency) -> frozenset[Prefix]:
        """All that waits with this urgency, also what may not go yet."""
        return frozenset(prefix for prefix, its in self._urgency.items() if its is urgency)

    def oldest_s(self, now: float) -> float:
        """How long the longest waiting has waited; what waits for a time of its own does not count."""
        return next((now - since for prefix, since in self._since.items() if prefix not in self._due), 0.0)

    def next_due(self) -> float | None:
        """When the next waiting prefix may go, if none may go now."""
        while self._clock and self._due.get(self._clock[0][1]) != self._clock[0][0]:
            heapq.heappop(self._clock)
        return self._clock[0][0] if self._clock else None

    def __len__(self) -> int:
        return len(self._urgency)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._urgency
