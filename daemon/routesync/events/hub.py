"""The hub: limits floods, numbers the events, remembers the last of them, hands them to the sinks.

Flood control comes before the numbers, so that what is summed up leaves no gap in the sequence. Events that do not
change a subscriber's copy of the table (docs/events.md) are limited to a rate; all others about a route are summed up
only while a sink can hardly take more. The copy does not suffer: the retained table is folded from all events.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from routesync.events.cloudevents import Record, StreamIdentity
from routesync.events.models import (
    Event,
    KernelRouteEvent,
    RouteDropped,
    RouteEvent,
    RouteIneligible,
    RouteSummary,
    TargetPrefixEvent,
)

DROPPED_PER_SECOND: Final = 10
"""Churn can keep rules dropping for good, and a fleet of a thousand nodes sends this many events a second each."""
INELIGIBLE_PER_SECOND: Final = 100
"""Routes become ineligible at a start, a reload or a change at the target: this shows each of an ordinary node's."""
WINDOW_S: Final = 1.0
LOGGED_OTHERWISE: Final = frozenset({"route", "sync", "target", "alarm"})
"""Groups of events that the mirror itself logs, routes in batches."""


class RecordSink(Protocol):
    """Something that numbered events go to."""

    def put(self, record: Record, /) -> bool | None:
        """Take a record; neither blocks nor raises. What does not fit is dropped and counted.

        Returns:
            True asks for fewer events about routes for a while, since little more fits.
        """


class FloodControl:
    """Decides which events go out by themselves, and counts the others in windows of a second.

    Args:
        summarise: Takes the summary at the end of a window that had others.
    """

    def __init__(self, summarise: Callable[[RouteSummary], None]) -> None:
        self._summarise = summarise
        self._timer: asyncio.TimerHandle | None = None
        self._open_window()

    def _open_window(self) -> None:
        self._passed: Counter[type[Event]] = Counter()
        self._dropped: Counter[str] = Counter()  # by rule
        self._ineligible: Counter[str] = Counter()  # by reason
        self._others: Counter[str] = Counter()  # by event
        self._is_crowded = False

    def admits(self, event: Event) -> bool:
        """Whether this event goes out by itself; if not, the next summary counts it."""
        match event:
            case RouteIneligible():
                return self._passes(event, INELIGIBLE_PER_SECOND, self._ineligible, event.reason)
            case RouteDropped():
                return self._passes(event, DROPPED_PER_SECOND, self._dropped, event.rule)
            case TargetPrefixEvent() | RouteEvent() if self._is_crowded:
                return self._passes(event, 0, self._others, f"{event.group}/{event.name}")
        return True

    def note_crowded(self) -> None:
        """A sink can hardly take more: sum up all events about routes until the end of this window."""
        self._is_crowded = True
        self._start_timer()

    def _passes(self, event: Event, per_second: int, counted: Counter[str], key: str) -> bool:
        self._start_timer()
        if self._passed[type(event)] < per_second:
            self._passed[type(event)] += 1
            return True
        counted[key] += 1
        return False

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_S, self._close_window)

    def flush(self) -> None:
        """Emit the summary now: the daemon is about to end."""
        if self._timer is not None:
            self._timer.cancel()
            self._close_window()

    def _close_window(self) -> None:
        self._timer = None
        dropped, ineligible, others = self._dropped, self._ineligible, self._others
        self._open_window()
        if dropped or ineligible or others:
            self._summarise(
                RouteSummary(window_s=WINDOW_S, dropped=dropped, ineligible=ineligible, others=others)
            )


class Follower(AsyncIterator[Record]):
    """A sink to iterate over: the events from now on, through a bounded queue."""

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
        self.identity = StreamIdentity(node, epoch if epoch is not None else new_epoch())
        self.emitted: Counter[type[Event]] = Counter()
        """Events since the start, by type."""
        self._sequence = sequence
        self._clock = clock
        self._tail: deque[Record] = deque(maxlen=tail)
        self._sinks: list[RecordSink] = []
        self._folds: list[RecordSink] = []
        self._flood_control = FloodControl(self.emit)

    @property
    def sequence(self) -> int:
        """The number of the last event."""
        return self._sequence

    @property
    def tail(self) -> tuple[Record, ...]:
        """The last events, oldest first."""
        return tuple(self._tail)

    def emit(self, event: Event, /) -> None:
        """Number an event and hand it to all sinks, or leave it to the next summary."""
        if not self._flood_control.admits(event):
            record = Record(self._sequence, self._clock(), event)
            for fold in self._folds:
                fold.put(record)
            return
        self._sequence += 1
        self.emitted[type(event)] += 1
        record = Record(self._sequence, self._clock(), event)
        self._tail.append(record)
        for fold in self._folds:
            fold.put(record)
        for sink in self._sinks:
            if sink.put(record):
                self._flood_control.note_crowded()

    def flush(self) -> None:
        """Emit what waits for a summary now: the daemon is about to end."""
        self._flood_control.flush()

    def attach(self, sink: RecordSink) -> None:
        """Hand all further events to this sink, too."""
        self._sinks.append(sink)

    def attach_fold(self, sink: RecordSink) -> None:
        """Hand all further events to this sink, also those that only a summary counts: with the last number given."""
        self._folds.append(sink)

    def detach(self, sink: RecordSink) -> None:
        """Hand nothing more to this sink."""
        self._sinks.remove(sink)

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
    def attached(self, sink: RecordSink) -> Iterator[None]:
        """Hand the events to this sink, too, for the length of a `with` block."""
        self._sinks.append(sink)
        try:
            yield
        finally:
            self._sinks.remove(sink)


def new_epoch() -> str:
    """A name for a sequence that starts again."""
    return secrets.token_hex(6)


async def log_events(hub: EventHub, logger: FilteringBoundLogger | None = None) -> NoReturn:
    """Log every event, for a daemon without a broker; at debug what the mirror logs anyway, and each kernel route.

    A log that cannot keep up costs lines, never time of those who emit: their number is logged in their place.
    """
    log: FilteringBoundLogger = logger or structlog.get_logger("routesync.events")
    log.info("events_only_logged", reason="no broker is configured ([mqtt])")
    with hub.follow() as follower:
        async for record in follower:
            if follower.missed:
                log.warning("events_left_out", count=follower.missed)
                follower.missed = 0
            event = record.event
            name = f"{event.group}_{event.name}".replace("-", "_")
            is_quiet = event.group in LOGGED_OTHERWISE or isinstance(event, KernelRouteEvent)
            write = log.debug if is_quiet else log.info
            write(name, sequence=record.sequence, **event.model_dump(mode="json"))
    raise AssertionError("a follower never ends")
