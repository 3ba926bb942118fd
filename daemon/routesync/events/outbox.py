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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self, TypeVar

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from routesync.events.cloudevents import Record, StreamIdentity, encode
from routesync.events.gaps import Cause, GapTracker, LostEvents, Number, Settled, merge_causes
from routesync.events.hub import new_epoch
from routesync.events.models import EventsLost, LostReason

T = TypeVar("T")

QUEUE_LIMIT: Final = 50_000
"""Events that may wait for the thread."""
_CROWDED: Final = 0.75
"""From this part of the limit on, events about routes are summed up; the rest is for other events."""
_HELD: Final = 0.1
"""Part of the bounds that events of denied topics may take."""
MEMORY_LIMIT: Final = 20_000
"""Events that are held in memory while the disk fails."""
_BATCH: Final = 2_000
_TICK_S: Final = 1.0
"""Acknowledgements wait this long at most for a transaction to go with; a failing disk is tried again so often."""
HEALED_S: Final = 3.0
"""The disk counts as well after so long without an error: one that is nearly full takes some and refuses some."""
_CLOSE_S: Final = 5.0

SCHEMA_VERSION: Final = 4
SEQUENCE_RESERVE: Final = 2**20

_SCHEMA: Final = (
    """
    CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY,
        type     TEXT NOT NULL,
        topic    TEXT NOT NULL,
        target   TEXT,
        prefix   TEXT,
        payload  BLOB NOT NULL,
        size     INTEGER NOT NULL,
        held     INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    "CREATE INDEX held ON outbox (topic, sequence) WHERE held",
    "CREATE TABLE retained (topic TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    "CREATE TABLE meta (state TEXT NOT NULL) STRICT",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

REMEDY: Final = "check the directory, its owner, and the room on its disk"
_DAMAGED: Final = (
    "typeof(payload) <> 'blob' OR typeof(topic) <> 'text' OR typeof(type) <> 'text' OR typeof(size) <> 'integer' "
    "OR typeof(target) NOT IN ('text', 'null') OR typeof(prefix) NOT IN ('text', 'null') "
    "OR topic GLOB '*[+#]*' OR instr(topic || type || ifnull(target, '') || ifnull(prefix, ''), char(0))"
)
"""What no client would publish: it raises an error instead."""
_TRUNCATE_WAL: Final = "PRAGMA wal_checkpoint(TRUNCATE)"


log = structlog.get_logger("routesync.events")


class StoredEvent(NamedTuple):
    """An event, ready to be sent."""

    sequence: int
    type: str
    topic: str  # below <root>/<node>/
    target: str | None
    prefix: str | None
    payload: bytes
    is_held: bool = False

    @property
    def size(self) -> int:
        """What it counts for against the bound in bytes."""
        return len(self.payload) + len(self.topic) + len(self.type) + 64


class Bounds(NamedTuple):
    """What the outbox may hold; a tenth of it for topics that the broker denies."""

    events: int = 200_000
    size: int = 256 * 2**20  # bytes


class Meta(NamedTuple):
    """What the file knows beside its events; kept as JSON in a row of its own.

    Attributes:
        epoch: What the sequence counts in.
        sequence: The last number that was given, after an orderly end.
        reserved: No number above this one was given.
        is_clean: Whether the end was orderly.
        settled: What the broker has, and what it will never get.
    """

    epoch: Annotated[str, Field(pattern="^[!-~]+$")]
    sequence: Number = 0
    reserved: Number = 0
    is_clean: bool = True
    settled: Settled = Settled(0)


_META: Final = TypeAdapter(Meta)


class Dropped(NamedTuple):
    """Events that exceeded the bounds.

    Attributes:
        number: How many.
        causes: What explains the gaps that they leave.
        held: Topic to those that were held, which leave no gap.
    """

    number: int = 0
    causes: tuple[Cause, ...] = ()
    held: Mapping[str, Sequence[int]] = {}


class HeldEvents(NamedTuple):
    """The side queue of a topic: how many, and their first and last number."""

    number: int
    first: int
    last: int


_COLUMNS: Final = "sequence, type, topic, target, prefix, payload, held"


class Store:
    """The outbox on disk, or in memory for `path` None.

    Durability: WAL with synchronous=NORMAL. What is committed survives the death of the process; a power failure may
    take the last commits, but never mixes up the file. No number is ever given twice, even then: numbers are reserved
    ahead on disk, and after anything but an orderly end counting goes on behind the reserve.

    Args:
        path: The file; None for memory.
        epoch: What a new one counts in; a new name by default.

    Raises:
        sqlite3.Error: the file cannot be opened, is damaged, or is none of ours.
    """

    def __init__(self, path: Path | None, *, epoch: str | None = None) -> None:
        self._path = path
        self._db = sqlite3.connect(
            ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=1
        )
        try:
            self._open(epoch or new_epoch())
            self._identity = self._file_identity()
        except BaseException:
            self._db.close()
            raise

    def _open(self, new_epoch: str) -> None:
        db = self._db
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA locking_mode = EXCLUSIVE;"
        )
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO meta VALUES (?)", (_META.dump_json(Meta(new_epoch)).decode(),))
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"has schema version {version}, this program knows {SCHEMA_VERSION}")
        db.text_factory = lambda raw: raw.decode(errors="replace")
        (state,) = db.execute("SELECT state FROM meta").fetchone() or ("",)
        try:
            meta = _META.validate_json(state)
        except ValidationError:
            raise sqlite3.DatabaseError("its epoch and numbers are damaged") from None
        self.epoch = meta.epoch
        self.sequence = meta.sequence if meta.is_clean else meta.reserved
        self.settled = meta.settled
        if max(self.last(), self.settled.acknowledged) > self.sequence:
            raise sqlite3.DatabaseError("its events have later numbers than it gave")
        self._handed_out = 0  # on its way to the broker
        self._reserved = self.sequence + SEQUENCE_RESERVE
        if not meta.is_clean:
            killed = Cause(self.sequence, "killed", time.time())
            self.settled = self.settled._replace(causes=merge_causes((*self.settled.causes, killed)))
        with self._transaction():
            db.execute(f"DELETE FROM outbox WHERE {_DAMAGED}")  # noqa: S608 - of our own making
            self._save()
        self.count: int
        self.size: int
        self.count, self.size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        self.held_at_start = self.held()
        db.execute(_TRUNCATE_WAL)  # the reserve has to be on disk before it is used
        self._is_reserve_on_disk = True

    def _file_identity(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        found = self._path.stat()
        return found.st_dev, found.st_ino

    def is_gone(self) -> bool:
        """Whether the file was deleted or replaced since it was opened; SQLite goes on in a file without a name."""
        try:
            return self._file_identity() != self._identity
        except OSError:
            return True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._db.execute(_TRUNCATE_WAL)  # on a full disk, what was written in vain is in the way
            raise

    def _save(self, *, is_clean: bool = False) -> None:
        meta = Meta(self.epoch, self.sequence, self._reserved, is_clean, self.settled)
        self._db.execute("UPDATE meta SET state = ?", (_META.dump_json(meta).decode(),))

    def write(
        self,
        events: Sequence[StoredEvent],
        settled: Settled,
        *,
        bounds: Bounds,
        handed_out: int = 0,
        held: Collection[int] = (),
        delivered: Collection[int] = (),
    ) -> Dropped:
        """Add events, remove what is acknowledged and what exceeds the bounds: all or nothing.

        Args:
            events: Follow those that were written before.
            settled: What the broker has.
            bounds: What may wait.
            handed_out: What was handed out up to this number is on its way to the broker, so it is not dropped.
            held: Events to hold from now on.
            delivered: Events that were held, and that the broker has now.

        Returns:
            What exceeded the bounds.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        before = self.count, self.size, self.sequence, self._reserved, self.settled
        try:
            with self._transaction():
                self._db.executemany(
                    f"INSERT INTO outbox ({_COLUMNS}, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                    [(*event, event.size) for event in events],
                )
                self.count += len(events)
                self.size += sum(event.size for event in events)
                self._db.executemany(
                    "UPDATE outbox SET held = 1 WHERE sequence = ?", [(number,) for number in held]
                )
                for number in delivered:
                    self._delete("sequence = ?", number)
                self._delete("sequence <= ? AND NOT held", settled.acknowledged)
                dropped = self._trim(bounds, max(handed_out, self._handed_out))._replace(
                    held=self._trim_held(bounds) if held else {}
                )
                if events:
                    self._give(events[-1].sequence)
                self.settled = settled._replace(causes=merge_causes((*settled.causes, *dropped.causes)))
                self._save()
        except sqlite3.Error:
            self.count, self.size, self.sequence, self._reserved, self.settled = before
            raise
        if not self._is_reserve_on_disk:
            with contextlib.suppress(sqlite3.Error):  # half of the reserve is left for the next try
                self._db.execute(_TRUNCATE_WAL)
                self._is_reserve_on_disk = True
        return dropped

    def _give(self, sequence: int) -> None:
        self.sequence = sequence
        if sequence > self._reserved - SEQUENCE_RESERVE // 2:
            self._reserved = sequence + SEQUENCE_RESERVE
            self._is_reserve_on_disk = False

    def _delete(self, where: str, *values: object) -> int:
        count, size = self._db.execute(
            f"SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE {where}",  # noqa: S608 - of our own making
            values,
        ).fetchone()
        if count:
            self._db.execute(f"DELETE FROM outbox WHERE {where}", values)  # noqa: S608
            self.count -= count
            self.size -= size
        return int(count)

    def held(self) -> dict[str, HeldEvents]:
        """The side queues, by topic."""
        rows = self._db.execute(
            "SELECT topic, count(*), min(sequence), max(sequence) FROM outbox WHERE held GROUP BY topic"
        )
        return {topic: HeldEvents(*numbers) for topic, *numbers in rows}

    def _trim_held(self, bounds: Bounds) -> dict[str, list[int]]:
        """Drop the oldest of the fullest topic until what is held is within its bounds."""
        gone: dict[str, list[int]] = {}
        counts = {topic: events.number for topic, events in self.held().items()}
        (size,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM outbox WHERE held").fetchone()
        while sum(counts.values()) > bounds.events * _HELD or size > bounds.size * _HELD:
            fullest = max(counts, key=lambda topic: counts[topic])
            number, freed = self._db.execute(
                "SELECT sequence, size FROM outbox WHERE held AND topic = ? ORDER BY sequence LIMIT 1",
                (fullest,),
            ).fetchone()
            self._delete("sequence = ?", number)
            counts[fullest] -= 1
            size -= freed
            gone.setdefault(fullest, []).append(number)
        return gone

    def _trim(self, bounds: Bounds, handed_out: int) -> Dropped:
        """Drop the oldest, down to 9/10 of the bounds: seldom and many, not one by one."""
        if self.count <= bounds.events and self.size <= bounds.size:
            return Dropped()
        count, size = self.count, self.size
        gone: list[int] = []
        for sequence, row_size in self._db.execute(
            "SELECT sequence, size FROM outbox WHERE sequence > ? AND NOT held ORDER BY sequence",
            (handed_out,),
        ):
            if count <= bounds.events * 0.9 and size <= bounds.size * 0.9:
                break
            count, size = count - 1, size - row_size
            gone.append(sequence)
        if not gone:
            return Dropped()
        # one for each unbroken run: a number that was missing before has a cause of its own
        ends = [one for one, following in pairwise(gone) if following > one + 1]
        causes = tuple(Cause(end, "outbox-full", time.time()) for end in (*ends, gone[-1]))
        number = self._delete("sequence > ? AND sequence <= ? AND NOT held", handed_out, gone[-1])
        return Dropped(number, causes)

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """The events that follow a number, oldest first; they are handed out then."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE sequence > ? ORDER BY sequence LIMIT ?",  # noqa: S608
            (after, limit),
        )
        events = [StoredEvent(*row) for row in rows]
        if events:
            self._handed_out = events[-1].sequence
        return events

    def read_held(self, topic: str, after: int, limit: int) -> list[StoredEvent]:
        """The events of a side queue that follow a number, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE held AND topic = ? AND sequence > ? "  # noqa: S608
            "ORDER BY sequence LIMIT ?",
            (topic, after, limit),
        )
        return [StoredEvent(*row) for row in rows]

    def last(self) -> int:
        """The number of the last event; 0 for none."""
        (sequence,) = self._db.execute("SELECT coalesce(max(sequence), 0) FROM outbox").fetchone()
        return int(sequence)

    def retained(self) -> frozenset[str]:
        """The retained topics that the broker may hold from us."""
        return frozenset(topic for (topic,) in self._db.execute("SELECT topic FROM retained"))

    def remember_retained(self, topics: Iterable[str]) -> None:
        """Remember these as the retained topics that the broker may hold from us, and no others."""
        with self._transaction():
            self._db.execute("DELETE FROM retained")
            self._db.executemany("INSERT INTO retained VALUES (?)", [(topic,) for topic in topics])

    def close(self, sequence: int | None) -> None:
        """Close; with the last number that was given, mark an orderly end."""
        try:
            if sequence is not None:
                self.sequence = sequence
                self._save(is_clean=True)
        finally:
            self._db.close()


def open_store(path: Path | None, epoch: str | None) -> tuple[Store, str | None]:
    """Open a store, in memory for None.

    A damaged file is put aside and a new epoch begins. Where the file cannot be had at all, memory takes its place.

    Returns:
        The store; and why it is not the one that was asked for, or None.
    """
    if path is None:
        return Store(None, epoch=epoch), None
    try:
        try:
            return Store(path, epoch=epoch), None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the second quotes what is damaged
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise  # the file cannot be had; SQLITE_ERROR means that a table or a column is missing
            _put_aside(path, str(error))
            store = Store(path, epoch=epoch)
            lost = LostEvents("storage", None, None, None, time.time())
            store.settled = Settled(0, (lost,))
            return store, None
    except (sqlite3.Error, OSError) as error:
        return Store(None, epoch=epoch), (
            f"{path}: {error}; events go through memory and would not survive a restart, and those of before wait in "
            f"the file; {REMEDY}, then restart"
        )


def _put_aside(path: Path, damage: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    path.replace(aside)
    for leftover in (f"{path}-wal", f"{path}-shm"):
        Path(leftover).unlink(missing_ok=True)
    log.error("outbox_damaged", error=damage, aside=str(aside), consequence="a new epoch begins")


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

    def deny(self, event: StoredEvent) -> None:
        """The broker will never take this one, which is acknowledged next."""
        self._gaps.deny(event.sequence, event.topic)
        self.lost["denied"] += 1

    def hold(self, event: StoredEvent) -> None:
        """Put this one, which is acknowledged next, into the side queue of its topic."""
        if event.is_held:
            return
        self._newly_held.add(event.sequence)
        count, first, last = self.held.get(event.topic, HeldEvents(0, event.sequence, 0))
        self.held[event.topic] = HeldEvents(count + 1, min(first, event.sequence), max(last, event.sequence))

    def release(self, event: StoredEvent) -> None:
        """The broker has this one, which was held, and all of its topic that were held before it."""
        self._delivered_late.add(event.sequence)
        self._take_from_held(event.topic, event.sequence)

    def drop_held(self, event: StoredEvent) -> None:
        """The broker will never take this one, which was held."""
        self.release(event)
        self._gaps.lose_held(event.topic, [event.sequence])
        self.lost["denied"] += 1

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
        """The next events behind this number in the side queue of this topic; none while the disk fails."""
        await self.flush()
        return await self._try(partial(self._store.read_held, topic, after, limit), [])

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
                await self._try(partial(self._store.close, None if self._unwritten else self._given), None)
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
                self._gaps.lose_held(topic, sequences)
                self.lost["denied"] += len(sequences)
                self.held_dropped[topic] += len(sequences)
                self._take_from_held(topic, max(sequences), len(sequences))
        self._bound_memory()
        self._news.set()
        self._write()

    def _bound_memory(self) -> None:
        self._unwritten = deque(
            event
            for event in self._unwritten
            if event.sequence > self.acknowledged or event.sequence in self._newly_held
        )
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
    delivered: frozenset[int],
) -> _Written:
    events = [*unwritten, *(encoded(record, identity) for record in records)]
    try:
        dropped = store.write(
            events, settled, bounds=bounds, handed_out=handed_out, held=held, delivered=delivered
        )
    except sqlite3.Error as error:
        return _Written(events, error)
    return _Written(dropped=dropped, held=held, delivered=delivered)
