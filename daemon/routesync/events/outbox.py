"""The outbox: events wait here, in order, until the broker has them.

`put` only appends to a queue in memory. A thread encodes what has come meanwhile and writes it in one transaction
(group commit), so that neither the encoding nor the disk takes time from the event loop's work on routes. What does
not fit is dropped; the gap that it leaves in the numbers is noticed when the broker acknowledges what follows
(`routesync.events.gaps`), and survives a restart until it was reported.

Events of a topic that the broker denies are held: they stay here, in a side queue of their topic, while others pass
them. They count as acknowledged, since nothing that follows waits for them, and come late once the topic is allowed.

Where the disk fails (full, read-only), events go on through memory, within narrower bounds, and `trouble` says so.

Concurrency: `Outbox` and `GapTracker` belong to the event loop's thread, `Store` to the outbox's thread. A job for that
thread gets values and returns values; jobs are done one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import structlog

from routesync.events.cloudevents import Record, StreamIdentity, encode
from routesync.events.gaps import Cause, GapTracker, LostEvents, Settled
from routesync.events.models import EventsLost, LostReason
from routesync.events.store import REMEDY, Bounds, Dropped, HeldEvents, Store, StoredEvent, open_store

T = TypeVar("T")

QUEUE_LIMIT: Final = 50_000
"""Events that may wait for the thread."""
_CROWDED: Final = 0.75
"""From this part of the limit on, events about routes are summed up; the rest is for other events."""
MEMORY_LIMIT: Final = 20_000
"""Events that are held in memory while the disk fails."""
_BATCH: Final = 2_000
_TICK_S: Final = 1.0
"""Acknowledgements wait this long at most for a transaction to go with; a failing disk is tried again so often."""
HEALED_S: Final = 3.0
"""The disk counts as well after so long without an error: one that is nearly full takes some and refuses some."""
_CLOSE_S: Final = 5.0

log = structlog.get_logger("routesync.events")


def encoded(record: Record, identity: StreamIdentity) -> StoredEvent:
    """Make an event ready to be sent."""
    event = record.event
    target, prefix = getattr(event, "target", None), getattr(event, "prefix", None)
    return StoredEvent(
        record.sequence, event.type_name(), event.topic(), target, prefix, encode(record, identity)
    )


class _Worker:
    """A thread that does jobs in order: a daemon thread, so that a disk that hangs does not hold up the end."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    def do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have it done; call this within the event loop."""
        done: Future[T] = Future()
        self._jobs.put((done, job))
        return asyncio.wrap_future(done)

    def end(self) -> None:
        """End behind the jobs that wait."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            done, job = item
            if not done.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                done.set_exception(error)
            else:
                done.set_result(result)


class _Written(NamedTuple):
    """What became of a batch."""

    kept: Sequence[StoredEvent] = ()  # not on disk
    error: sqlite3.Error | None = None
    dropped: Dropped = Dropped()
    held: frozenset[int] = frozenset()
    delivered: frozenset[int] = frozenset()


class Outbox:
    """Events on their way to the broker. A `RecordSink`."""

    def __init__(
        self, store: Store, node: str, bounds: Bounds, *, place: str = "memory", trouble: str | None = None
    ) -> None:
        self.identity = StreamIdentity(node, store.epoch)
        self.first_sequence = store.sequence
        """Where the hub's counting goes on."""
        self.trouble = trouble
        """What is wrong with the disk; None where all is well."""
        self.lost: Counter[LostReason] = Counter()
        """Events that were lost since the start; where it cannot be known how many, one."""
        self.tables_were_whole = store.was_whole
        """Whether the run before left the tables at the broker as their manifests say."""
        self.tables_are_whole = False
        """The same of this run, when it ends."""
        self.bounds = bounds
        """What it may hold; may be changed at any time."""
        self._place = place
        self._store = store
        self._worker = _Worker()
        self._gaps = GapTracker(store.settled)
        self._given = store.sequence
        self._queue: deque[Record] = deque()  # not encoded yet
        self._batch: list[Record] = []  # what the thread encodes and writes now
        self._is_writing = False
        self._unwritten: deque[StoredEvent] = deque()  # while the disk fails
        self._handed_out = 0
        self.held: dict[str, HeldEvents] = store.held_at_start
        """The side queues of topics that the broker denies."""
        self.releasing: set[str] = set()
        """Those of them whose events are on their way to the broker again."""
        self.held_dropped: Counter[str] = Counter()
        """Topic to how many of its held events were dropped since the start."""
        self._newly_held: set[int] = set()  # not on disk yet
        self._delivered_late: set[int] = set()  # the same
        self._idle = asyncio.Event()  # nothing is in the queue or the batch
        self._idle.set()
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Future[bool] | None = None
        self._retry_at = 0.0
        self._failed_at: float | None = None  # last; None: the disk is well

    @classmethod
    def open(
        cls,
        path: Path | None,
        node: str,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 - immutable
        epoch: str | None = None,
    ) -> Self:
        """Open the outbox in this file, or in memory for None.

        A damaged file is put aside and a new epoch begins. Where the file cannot be had at all (no directory, no
        permission), memory takes its place, and `trouble` says why.
        """
        store, trouble = open_store(path, epoch)
        if trouble is not None:
            log.error("outbox_not_opened", error=trouble)
        return cls(store, node, bounds, place=str(path or "memory"), trouble=trouble)

    @property
    def backlog(self) -> int:
        """Events that the broker does not have yet, about."""
        return self._store.count + len(self._unwritten) + len(self._batch) + len(self._queue)

    @property
    def size(self) -> int:
        """What the waiting events take in the file, in bytes, about."""
        return self._store.size

    def put(self, record: Record, /) -> bool:
        """Take an event, or drop it when too many wait for the disk."""
        if record.sequence > self._given + 1:  # it was not attached for a while
            self._note_dropped(
                record.sequence - self._given - 1, [Cause(record.sequence - 1, "no-broker", record.time)]
            )
        self._given = record.sequence
        if isinstance(record.event, EventsLost):
            self._gaps.reported(record.event.reason, record.sequence)
        if len(self._queue) < QUEUE_LIMIT:
            self._queue.append(record)
        else:
            self._note_dropped(1, [Cause(record.sequence, "queue-full", record.time)])
        self._write()
        return len(self._queue) > QUEUE_LIMIT * _CROWDED

    @property
    def unreported(self) -> tuple[LostEvents, ...]:
        """What was lost and is to be reported by an `events/lost` now."""
        return self._gaps.unreported

    @property
    def acknowledged(self) -> int:
        """The number up to which the broker has, or will never get, all events."""
        return self._gaps.acknowledged

    def acknowledge(self, upto: int) -> None:
        """The broker has answered for all that was read up to this number: remove them."""
        self._gaps.acknowledge(upto)

    def take(self, event: StoredEvent) -> None:
        """The broker has this one, which is acknowledged next."""
        self._gaps.take(event.sequence)

    def deny(self, event: StoredEvent) -> None:
        """The broker will never take this one, which is acknowledged next."""
        self._gaps.deny(event.sequence, event.topic)
        self.lost["denied"] += 1

    def hold(self, event: StoredEvent) -> None:
        """Put this one, which is acknowledged next, into the side queue of its topic."""
        is_new = self._gaps.hold(event.sequence)
        if event.is_held or not is_new:
            return
        self._newly_held.add(event.sequence)
        count, first, last = self.held.get(event.topic, HeldEvents(0, event.sequence, 0))
        self.held[event.topic] = HeldEvents(count + 1, min(first, event.sequence), max(last, event.sequence))

    def release(self, event: StoredEvent) -> None:
        """The broker has this one, which was held, and all of its topic that were held before it."""
        self._gaps.release(event.sequence)
        self._remove_held(event)

    def drop_held(self, event: StoredEvent) -> None:
        """The broker will never take this one, which was held."""
        self._gaps.lose_held(event.topic, [event.sequence])
        self.lost["denied"] += 1
        self._remove_held(event)

    def _remove_held(self, event: StoredEvent) -> None:
        self._delivered_late.add(event.sequence)
        self._take_from_held(event.topic, event.sequence)

    def _take_from_held(self, topic: str, upto: int, number: int = 1) -> None:
        count, _, last = self.held[topic]
        if count <= number:
            del self.held[topic]
        else:
            self.held[topic] = HeldEvents(count - number, upto + 1, last)

    def lose_unknown(self, reason: LostReason) -> None:
        """Events are lost, and it cannot be known which and how many."""
        self._gaps.lose_unknown(reason)
        self.lost[reason] += 1

    def _note_dropped(self, count: int, causes: Sequence[Cause]) -> None:
        self._gaps.explain(*causes)
        self.lost[causes[0].reason] += count

    async def read(self, after: int, limit: int) -> list[StoredEvent]:
        """The next events behind this number, as soon as there is one."""
        while True:
            self._news.clear()
            try:
                events = await self._worker.do(partial(self._store.read, after, limit))
            except sqlite3.Error as error:  # skipping what cannot be read would lose it
                self._note_failure(error)
                await asyncio.sleep(_TICK_S)
                continue
            last = events[-1].sequence if events else after
            events += islice(
                (event for event in self._unwritten if event.sequence > last), limit - len(events)
            )
            if events:
                self._handed_out = events[-1].sequence
                self._gaps.hand_out(event.sequence for event in events)
                return events
            if self._idle.is_set():  # else something is still on its way to the store
                self._gaps.nothing_waits(self._given)
            await self._news.wait()

    async def read_held(self, topic: str, after: int, limit: int) -> list[StoredEvent]:
        """The next events behind this number in the side queue of this topic; none while the disk fails.

        What is held behind an event that waits comes only when that one is acknowledged.
        """
        await self.flush()
        return await self._try(partial(self._store.read_held, topic, after, self.acknowledged, limit), [])

    async def retained(self) -> frozenset[str]:
        """The retained topics that the broker may hold from us."""
        # without them something may be left behind after a rename; nothing worse
        return await self._try(self._store.retained, frozenset())

    async def remember_retained(self, topics: Iterable[str]) -> None:
        """Remember these as the retained topics that the broker may hold from us, and no others."""
        await self._try(partial(self._store.remember_retained, frozenset(topics)), None)

    async def flush(self) -> int:
        """Wait until all that was put is written (or the disk has failed).

        Returns:
            The number of the last event that waits for the broker; 0 for none, or where it cannot be known.
        """
        await self._idle.wait()
        self._write_all()
        await self._idle.wait()
        return self._unwritten[-1].sequence if self._unwritten else await self._try(self._store.last, 0)

    async def close(self) -> None:
        """Write what waits, mark an orderly end, close the file; a disk that hangs is left to itself after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.flush()
                # what could not be written is missed at the next start, as after a kill
                close = partial(self._store.close, None if self._unwritten else self._given)
                await self._try(partial(close, is_whole=self.tables_are_whole), None)
        if self._timer is not None:
            self._timer.cancel()
        self._worker.end()

    async def _try(self, job: Callable[[], T], otherwise: T) -> T:
        try:
            return await self._worker.do(job)
        except sqlite3.Error as error:
            self._note_failure(error)
            return otherwise

    # ---- writing ----

    def _tick(self) -> None:
        self._timer = None
        if self._failed_at is not None and time.monotonic() - self._failed_at > HEALED_S:
            self._failed_at = None
            self.trouble = None
            log.info("outbox_recovered")
        self._write_all()
        if self._looking is None:
            self._looking = self._worker.do(self._store.is_gone)
            self._looking.add_done_callback(self._note_whether_gone)

    def _note_whether_gone(self, looking: asyncio.Future[bool]) -> None:
        self._looking = None
        if looking.cancelled() or not looking.result() or self.trouble is not None:
            return
        self.trouble = (
            f"{self._place}: it was deleted or replaced while the daemon runs; the events that wait go on, and would "
            "not survive a restart; restart the daemon when the broker has them"
        )
        log.error("outbox_deleted", path=self._place)

    def _write(self) -> None:
        """Have the thread write what waits in the queue; when it is done with a batch, this is called again."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        if self._is_writing:
            return
        if self._queue:
            self._write_batch()
        else:
            self._idle.set()

    def _write_all(self) -> None:
        """The same, and write what else is not on disk yet."""
        waits = self._unwritten or self._newly_held or self._delivered_late
        if not self._is_writing and (waits or self._gaps.settled != self._store.settled):
            self._write_batch()
        self._write()

    def _write_batch(self) -> None:
        self._idle.clear()
        self._is_writing = True
        self._batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
        if time.monotonic() < self._retry_at:
            job = partial(_encode_batch, self.identity, tuple(self._unwritten), self._batch)
        else:
            job = partial(
                _write_batch,
                self._store,
                self.identity,
                tuple(self._unwritten),
                self._batch,
                settled=self._gaps.settled,
                bounds=self.bounds,
                handed_out=self._handed_out,
                held=frozenset(self._newly_held),
                releasing=frozenset(self.releasing),
                delivered=frozenset(self._delivered_late),
            )
        self._worker.do(job).add_done_callback(self._note_written)

    def _note_written(self, done: asyncio.Future[_Written]) -> None:
        self._is_writing = False
        batch, self._batch = self._batch, []
        try:
            written = done.result()
        except Exception:  # this must not end the stream
            log.exception("outbox_defect")
            if batch:
                self._note_dropped(len(batch), [Cause(batch[-1].sequence, "storage", time.time())])
        else:
            self._unwritten = deque(written.kept)
            if written.error is not None:
                self._note_failure(written.error)
            self._newly_held -= written.held
            self._delivered_late -= written.delivered
            if written.dropped.number:
                self._note_dropped(written.dropped.number, written.dropped.causes)
            for topic, sequences in written.dropped.held.items():
                self._note_held_dropped(topic, sequences)
        self._bound_memory()
        self._news.set()
        self._write()

    def _note_held_dropped(self, topic: str, sequences: Sequence[int]) -> None:
        self._gaps.lose_held(topic, sequences)
        self.lost["denied"] += len(sequences)
        self.held_dropped[topic] += len(sequences)
        self._take_from_held(topic, max(sequences), len(sequences))

    def _bound_memory(self) -> None:
        def stays(event: StoredEvent) -> bool:
            return event.sequence > self.acknowledged or event.sequence in self._newly_held

        self._unwritten = deque(filter(stays, self._unwritten))
        if len(self._unwritten) <= MEMORY_LIMIT:
            return
        held = [event for event in self._unwritten if event.sequence <= self.acknowledged]
        for event in held[: len(self._unwritten) - MEMORY_LIMIT]:  # they go first: new events need the room
            self._newly_held.remove(event.sequence)
            self._note_held_dropped(event.topic, [event.sequence])
        self._unwritten = deque(filter(stays, self._unwritten))
        excess = len(self._unwritten) - MEMORY_LIMIT
        if excess <= 0:
            return
        on_its_way = sum(1 for event in self._unwritten if event.sequence <= self._handed_out)
        events = [*self._unwritten]
        gone = events[on_its_way : on_its_way + excess]
        self._unwritten = deque(events[:on_its_way] + events[on_its_way + excess :])
        if gone:
            self._note_dropped(len(gone), [Cause(gone[-1].sequence, "storage", time.time())])

    def _note_failure(self, error: sqlite3.Error) -> None:
        self._failed_at = time.monotonic()
        self._retry_at = self._failed_at + _TICK_S
        if self.trouble is None:
            self.trouble = (
                f"{self._place}: {error}; events go on through memory and would not survive a restart; "
                f"{REMEDY}"
            )
            log.error("outbox_failing", error=str(error))


# ---- jobs of the thread ----


def _encode_batch(
    identity: StreamIdentity, unwritten: Sequence[StoredEvent], records: Sequence[Record]
) -> _Written:
    return _Written([*unwritten, *(encoded(record, identity) for record in records)])


def _write_batch(
    store: Store,
    identity: StreamIdentity,
    unwritten: Sequence[StoredEvent],
    records: Sequence[Record],
    *,
    settled: Settled,
    bounds: Bounds,
    handed_out: int,
    held: frozenset[int],
    releasing: frozenset[str],
    delivered: frozenset[int],
) -> _Written:
    events = [*unwritten, *(encoded(record, identity) for record in records)]
    try:
        dropped = store.write(
            events,
            settled,
            bounds=bounds,
            handed_out=handed_out,
            held=held,
            releasing=releasing,
            delivered=delivered,
        )
    except sqlite3.Error as error:
        return _Written(events, error)
    return _Written(dropped=dropped, held=held, delivered=delivered)
