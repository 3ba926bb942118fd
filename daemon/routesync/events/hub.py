"""The hub: numbers the events, remembers the last of them, hands them to the outlets."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from routesync.events.cloudevents import Identity, Record
from routesync.events.flood import DropGate
from routesync.events.models import Event, RouteDropped


class Outlet(Protocol):
    """Something that events go out by."""

    def put(self, record: Record, /) -> None:
        """Take a record; neither blocks nor raises. What does not fit is dropped and counted."""


class Follower(AsyncIterator[Record]):
    """An outlet to iterate over: the events from now on, through a bounded queue."""

    def __init__(self, limit: int) -> None:
        self.missed = 0
        """Records that did not fit since this was last set to 0."""
        self._limit = limit
        self._records: deque[Record] = deque()
        self._news = asyncio.Event()

    def put(self, record: Record, /) -> None:
        """Take a record, or count it as missed."""
        if len(self._records) >= self._limit:
            self.missed += 1
            return
        self._records.append(record)
        self._news.set()

    async def __anext__(self) -> Record:
        while not self._records:
            self._news.clear()
            await self._news.wait()
        return self._records.popleft()


class EventHub:
    """The one `EventSink` of a daemon.

    Args:
        node: The node's name.
        epoch: What the sequence counts in; a new one by default.
        sequence: The last number that was given in that epoch.
        tail: How many of the last events are remembered.
        clock: The wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        node: str,
        *,
        epoch: str | None = None,
        sequence: int = 0,
        tail: int = 1000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.identity = Identity(node, epoch if epoch is not None else new_epoch())
        self.emitted: Counter[type[Event]] = Counter()
        """Events since the start, by type."""
        self._sequence = sequence
        self._clock = clock
        self._tail: deque[Record] = deque(maxlen=tail)
        self._outlets: list[Outlet] = []
        self._drops = DropGate(self.emit)

    @property
    def sequence(self) -> int:
        """The number of the last event."""
        return self._sequence

    @property
    def tail(self) -> tuple[Record, ...]:
        """The last events, oldest first."""
        return tuple(self._tail)

    def emit(self, event: Event, /) -> None:
        """Number an event and hand it to all outlets. Drops that come in a flood are summed up instead."""
        if isinstance(event, RouteDropped) and not self._drops.admits(event):
            return
        self._sequence += 1
        self.emitted[type(event)] += 1
        record = Record(self._sequence, self._clock(), event)
        self._tail.append(record)
        for outlet in self._outlets:
            outlet.put(record)

    def flush(self) -> None:
        """Tell the drops that wait for a summary now: the daemon is about to end."""
        self._drops.flush()

    def attach(self, outlet: Outlet) -> None:
        """Hand all further events to this outlet, too."""
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        """Hand nothing more to this outlet."""
        self._outlets.remove(outlet)

    def continue_in(self, epoch: str, sequence: int) -> None:
        """Count on in an epoch that is kept elsewhere, behind a number that was given there.

        Within one epoch the count never goes back. Events that counted in another are no longer remembered.
        """
        if epoch == self.identity.epoch:
            self._sequence = max(self._sequence, sequence)
            return
        self.identity = self.identity._replace(epoch=epoch)
        self._sequence = sequence
        self._tail.clear()

    @contextmanager
    def follow(self, limit: int = 10_000) -> Iterator[Follower]:
        """Follow the events for the length of a `with` block; at most `limit` may wait."""
        follower = Follower(limit)
        with self.attached(follower):
            yield follower

    @contextmanager
    def attached(self, outlet: Outlet) -> Iterator[None]:
        """Hand the events to this outlet, too, for the length of a `with` block."""
        self._outlets.append(outlet)
        try:
            yield
        finally:
            self._outlets.remove(outlet)


def new_epoch() -> str:
    """A name for a sequence that starts anew."""
    return secrets.token_hex(6)
