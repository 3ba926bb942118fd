"""The outbox: events wait here, in order, until the broker has them.

`put` only appends to a queue in memory. One thread owns the SQLite file: it encodes what has come meanwhile and writes
it in one transaction (group commit), so that neither the encoding nor the disk takes time from the event loop's work on
routes. What does not fit is dropped; the gap that it leaves in the numbers is noticed when the broker acknowledges what
follows (`routesync.events.gaps`), and survives a restart until it was reported.

Where the disk fails (full, read-only), events go on through memory, within narrower bounds, and `trouble` says so.

Concurrency: all of `Outbox` but what is marked belongs to the event loop's thread, and `GapTracker` with it. The thread
gets values only: events and calls by a queue, and the tracker's `Settled` by one assignment. It answers by callbacks on
the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar, get_args

import structlog

from routesync.events.cloudevents import Record, StreamIdentity, encode
from routesync.events.gaps import Cause, GapTracker, LostEvents, Settled, merge_causes
from routesync.events.hub import new_epoch
from routesync.events.models import EventsLost, LostReason

T = TypeVar("T")

QUEUE_LIMIT: Final = 50_000
"""Events that may wait for the thread."""
MEMORY_LIMIT: Final = 20_000
"""Events that are held in memory while the disk fails."""
_BATCH: Final = 2_000
_IDLE_S: Final = 1.0
"""Acknowledgements wait this long at most for a transaction to go with."""
_RETRY_S: Final = 1.0
HEALED_S: Final = 3.0
"""The disk is said to be well when it has been for so long: one that is nearly full takes some and refuses some."""
_CLOSE_S: Final = 5.0

SCHEMA_VERSION: Final = 2
SEQUENCE_RESERVE: Final = 2**20

_SCHEMA: Final = f"""
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY,
    type     TEXT NOT NULL,
    topic    TEXT NOT NULL,
    target   TEXT,
    prefix   TEXT,
    payload  BLOB NOT NULL,
    size     INTEGER NOT NULL
) STRICT;
CREATE TABLE lost (
    reason TEXT NOT NULL, count INTEGER, first INTEGER, last INTEGER, since REAL NOT NULL, report INTEGER NOT NULL
) STRICT;
CREATE TABLE cause (upto INTEGER NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL) STRICT;
CREATE TABLE retained (topic TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
    epoch TEXT NOT NULL, sequence INTEGER NOT NULL, reserved INTEGER NOT NULL, clean INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL
) STRICT;
PRAGMA user_version = {SCHEMA_VERSION};
"""


REMEDY: Final = "check the directory, its owner, and the room on its disk"
_DAMAGED: Final = (
    "typeof(payload) <> 'blob' OR typeof(topic) <> 'text' OR typeof(type) <> 'text' OR typeof(size) <> 'integer' "
    "OR topic GLOB '*[+#]*' OR instr(topic, char(0))"
)
"""What no client would publish: it raises an error instead."""
_END: Final = 2**62
"""Numbers stay far below what SQLite can hold."""
_LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999, the last that `datetime` knows."""
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

    @property
    def size(self) -> int:
        """What it counts for against the bound in bytes."""
        return len(self.payload) + len(self.topic) + len(self.type) + 64


class Bounds(NamedTuple):
    """What the outbox may hold."""

    events: int = 200_000
    size: int = 256 * 2**20  # bytes


class Store:
    """The outbox on disk, or in memory for `path` None.

    Durability: WAL with synchronous=NORMAL. What is committed survives the death of the process; a power failure may
    take the last commits, but never mixes up the file. No number is ever given twice, even then: numbers are reserved
    ahead on disk, and after anything but an orderly end counting goes on behind the reserve.

    Args:
        path: The file; None for memory.
        epoch: What a new one counts in; a new name by default.

    Raises:
        sqlite3.Error: the file cannot be opened or is none of ours.
    """

    def __init__(self, path: Path | None, *, epoch: str | None = None) -> None:
        self.epoch = epoch or new_epoch()
        self._db = sqlite3.connect(
            ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=1
        )
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        db = self._db
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA locking_mode = EXCLUSIVE;"
        )
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            db.execute("INSERT INTO meta VALUES (?, 0, 0, 1, 0)", (self.epoch,))
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"has schema version {version}, this program knows {SCHEMA_VERSION}")
        db.text_factory = lambda raw: raw.decode(errors="replace")
        meta = db.execute("SELECT * FROM meta").fetchone()
        if not _is_meta(meta):
            raise sqlite3.DatabaseError("its epoch and numbers are damaged")
        self.epoch, sequence, reserved, clean, acknowledged = meta
        self.sequence: int = sequence if clean else reserved
        self.settled = Settled(acknowledged, self._lost(), self._causes())
        self._reserved = 0
        self._reserve_settled = False
        if max(self.last(), acknowledged) > self.sequence:
            raise sqlite3.DatabaseError("its events have later numbers than it gave")
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"DELETE FROM outbox WHERE {_DAMAGED}")  # noqa: S608 - of our own making
        self.count: int
        self.size: int
        self.count, self.size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        db.execute("UPDATE meta SET clean = 0")
        self._reserve(self.sequence)
        if not clean:
            self._keep_causes(merge_causes((*self._causes(), Cause(self.sequence, "killed", time.time()))))
            self.settled = self.settled._replace(causes=self._causes())
        db.execute("COMMIT")
        db.execute(_TRUNCATE_WAL)  # the reserve has to be on disk before it is used
        self._reserve_settled = True

    def _reserve(self, sequence: int) -> None:
        if sequence <= self._reserved - SEQUENCE_RESERVE // 2:
            return
        self._reserved = sequence + SEQUENCE_RESERVE
        self._reserve_settled = False
        self._db.execute("UPDATE meta SET reserved = ?", (self._reserved,))

    def write(
        self,
        events: Collection[StoredEvent],
        settled: Settled,
        *,
        bounds: Bounds,
        handed_out: int = 0,
    ) -> tuple[int, list[Cause]]:
        """Add events, remove what is acknowledged and what exceeds the bounds: all or nothing.

        What was handed out is on its way to the broker, so it is not dropped.

        Returns:
            How many exceeded the bounds, and what explains the gaps that they leave.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        before = (self.count, self.size, self._reserved)
        try:
            with self._transaction():
                self._db.executemany(
                    "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(*event, event.size) for event in events],
                )
                self.count += len(events)
                self.size += sum(event.size for event in events)
                self._delete(-1, settled.acknowledged)
                self._keep_settled(settled)
                trimmed, causes = self._trim(bounds, handed_out)
                if events:
                    self.sequence = max(event.sequence for event in events)
                    self._reserve(self.sequence)
        except sqlite3.Error:
            self.count, self.size, self._reserved = before
            raise
        self.settled = settled
        self._settle_reserve()
        return trimmed, causes

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
                self._db.execute(_TRUNCATE_WAL)  # on a full disk, what was written in vain stands in the way
            raise

    def _settle_reserve(self) -> None:
        """Bring an extended reserve to the disk itself; should that fail, half of it is still left for the next try."""
        if self._reserve_settled:
            return
        with contextlib.suppress(sqlite3.Error):  # what is written stays written
            self._db.execute(_TRUNCATE_WAL)
            self._reserve_settled = True

    def _keep_settled(self, settled: Settled) -> None:
        self._db.execute("UPDATE meta SET acknowledged = ?", (settled.acknowledged,))
        if settled.lost is not self.settled.lost:
            self._db.execute("DELETE FROM lost")
            self._db.executemany("INSERT INTO lost VALUES (?, ?, ?, ?, ?, ?)", settled.lost)
        if settled.causes is not self.settled.causes:
            self._keep_causes(settled.causes)

    def _keep_causes(self, causes: Iterable[Cause]) -> None:
        self._db.execute("DELETE FROM cause")
        self._db.executemany("INSERT INTO cause VALUES (?, ?, ?)", causes)

    def _delete(self, after: int, upto: int) -> int:
        where = "WHERE sequence > ? AND sequence <= ?"
        count, size = self._db.execute(
            f"SELECT count(*), coalesce(sum(size), 0) FROM outbox {where}",  # noqa: S608 - of our own making
            (after, upto),
        ).fetchone()
        if count:
            self._db.execute(f"DELETE FROM outbox {where}", (after, upto))  # noqa: S608
            self.count -= count
            self.size -= size
        return int(count)

    def _trim(self, bounds: Bounds, handed_out: int) -> tuple[int, list[Cause]]:
        """Drop the oldest, down to 9/10 of the bounds: seldom and many, not one by one."""
        if self.count <= bounds.events and self.size <= bounds.size:
            return 0, []
        count, size = self.count, self.size
        gone = [handed_out]
        for sequence, row_size in self._db.execute(
            "SELECT sequence, size FROM outbox WHERE sequence > ? ORDER BY sequence", (handed_out,)
        ):
            if count <= bounds.events * 0.9 and size <= bounds.size * 0.9:
                break
            count, size = count - 1, size - row_size
            gone.append(sequence)
        if not (dropped := self._delete(handed_out, gone[-1])):
            return 0, []
        # one for each unbroken run: a number that was missing before has a cause of its own
        ends = [one for one, following in pairwise(gone[1:]) if following > one + 1]
        causes = [Cause(end, "outbox-full", time.time()) for end in (*ends, gone[-1])]
        self._keep_causes(merge_causes((*self._causes(), *causes)))
        return dropped, causes

    def read(self, after: int, limit: int) -> list[StoredEvent]:
        """The messages that follow a number, oldest first."""
        rows = self._db.execute(
            "SELECT sequence, type, topic, target, prefix, payload FROM outbox WHERE sequence > ? "
            "ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [StoredEvent(*row) for row in rows]

    def last(self) -> int:
        """The number of the last message; 0 for none."""
        (sequence,) = self._db.execute("SELECT coalesce(max(sequence), 0) FROM outbox").fetchone()
        return int(sequence)

    def _lost(self) -> tuple[LostEvents, ...]:
        return tuple(LostEvents(*row) for row in self._db.execute("SELECT * FROM lost") if _is_lost(*row))

    def _causes(self) -> tuple[Cause, ...]:
        rows = self._db.execute("SELECT * FROM cause ORDER BY upto")
        return tuple(Cause(*row) for row in rows if _is_number(row[0]) and _is_note(row[1], row[2]))

    def retained(self) -> frozenset[str]:
        """The retained topics that the broker may hold from us."""
        return frozenset(topic for (topic,) in self._db.execute("SELECT topic FROM retained"))

    def remember_retained(self, topics: Iterable[str]) -> None:
        """Remember these as the retained topics that the broker may hold from us, and no others."""
        with self._transaction():
            self._db.execute("DELETE FROM retained")
            self._db.executemany("INSERT INTO retained VALUES (?)", [(topic,) for topic in topics])

    def close(self, sequence: int | None) -> None:
        """Close; with a number, mark an orderly end at it."""
        try:
            if sequence is None:
                return
            self._db.execute("UPDATE meta SET clean = 1, sequence = ?", (sequence,))
        finally:
            self._db.close()


def _is_number(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < _END


def _is_meta(row: object) -> bool:
    match row:
        case (str(epoch), sequence, reserved, 0 | 1, acknowledged):
            named = bool(epoch) and epoch.isascii() and epoch.isprintable()
            return named and _is_number(sequence) and _is_number(reserved) and _is_number(acknowledged)
    return False


def _is_note(reason: object, since: object) -> bool:
    return reason in get_args(LostReason) and isinstance(since, float) and 0 <= since < _LAST_SECOND


def _is_lost(reason: object, *numbers: object) -> bool:
    *known, since, report = numbers
    return (
        all(each is None or (each != 0 and _is_number(each)) for each in known)
        and _is_number(report)
        and _is_note(reason, since)
    )


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
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the second quotes what is damaged
            _put_aside(path, str(error))
            store = Store(path, epoch=epoch)
            lost = LostEvents("storage", None, None, None, time.time())
            store.settled = store.settled._replace(lost=(lost,))
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


class Outbox:
    """Events on their way to the broker. A `RecordSink`; all but `open` belong to the event loop's thread."""

    def __init__(
        self, store: Store, node: str, bounds: Bounds, *, place: str = "memory", trouble: str | None = None
    ) -> None:
        self.identity = StreamIdentity(node, store.epoch)
        self.first_sequence = store.sequence
        """Where the hub's counting goes on."""
        self.trouble = trouble
        """What is wrong with the disk; None where all is well."""
        self._place = place
        self._store = store
        self._bounds = bounds
        self._queue: queue.SimpleQueue[Record | Callable[[], None] | None] = queue.SimpleQueue()
        self._given = store.sequence
        self._gaps = GapTracker(store.settled)
        self._settled = store.settled  # read by the thread
        self.lost: Counter[LostReason] = Counter()
        """Events that were lost since the start; where it cannot be known how many, one."""
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._defect: Exception | None = None
        self._asked: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._guarded, name="outbox", daemon=True)
        # the thread's own:
        self._unwritten: deque[StoredEvent] = deque()
        self._written: Settled | None = None
        self._handed_out = 0
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
        outbox = cls(store, node, bounds, place=str(path or "memory"), trouble=trouble)
        outbox._thread.start()
        return outbox

    @property
    def backlog(self) -> int:
        """Events that the broker does not have yet, about."""
        return self._store.count + len(self._unwritten) + self._queue.qsize()

    @property
    def size(self) -> int:
        """What the waiting events take in the file, in bytes, about."""
        return self._store.size

    @property
    def bounds(self) -> Bounds:
        """What it may hold."""
        return self._bounds

    def put(self, record: Record, /) -> None:
        """Take an event, or drop it when too many wait for the disk."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if record.sequence > self._given + 1:  # it was not attached for a while
            cause = Cause(record.sequence - 1, "no-broker", record.time)
            self._note_dropped(record.sequence - self._given - 1, [cause])
        self._given = record.sequence
        if isinstance(record.event, EventsLost):
            self._gaps.reported(record.event.reason, record.sequence)
            self._settled = self._gaps.settled
        if self._queue.qsize() < QUEUE_LIMIT:
            self._queue.put(record)
        else:
            self._note_dropped(1, [Cause(record.sequence, "queue-full", record.time)])

    def limit(self, bounds: Bounds) -> None:
        """Hold it to other bounds from now on."""
        self._bounds = bounds

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
        self._settled = self._gaps.settled

    def deny(self, sequence: int) -> None:
        """The broker denied this one, which is acknowledged next."""
        self._gaps.deny(sequence)
        self.lost["denied"] += 1

    def lose_unknown(self, reason: LostReason) -> None:
        """Events are lost, and it cannot be known which and how many."""
        self._gaps.lose_unknown(reason)
        self._settled = self._gaps.settled
        self.lost[reason] += 1

    def _note_dropped(self, count: int, causes: Collection[Cause]) -> None:
        self._gaps.explain(*causes)
        self._settled = self._gaps.settled
        for reason in {cause.reason for cause in causes}:  # there is one
            self.lost[reason] += count

    async def read(self, after: int, limit: int) -> list[StoredEvent]:
        """The next events behind this number, as soon as there is one."""
        while True:
            self._news.clear()
            given = self._given  # the call follows these through the queue
            try:
                events = await self._call(lambda: self._read(after, limit))
            except sqlite3.Error:  # skipping what cannot be read would lose it
                await asyncio.sleep(_RETRY_S)
                continue
            if events:
                self._gaps.hand_out(event.sequence for event in events)
                return events
            self._gaps.nothing_waits(given)
            self._settled = self._gaps.settled
            await self._news.wait()

    async def retained(self) -> frozenset[str]:
        """The retained topics that the broker may hold from us."""
        with contextlib.suppress(
            sqlite3.Error
        ):  # then something may be left behind after a rename; nothing worse
            return await self._call(self._store.retained)
        return frozenset()

    async def remember_retained(self, topics: Iterable[str]) -> None:
        """Remember these as the retained topics that the broker may hold from us, and no others."""
        remembered = frozenset(topics)
        with contextlib.suppress(sqlite3.Error):
            await self._call(lambda: self._store.remember_retained(remembered))

    async def flush(self) -> int:
        """Wait until all that was put is written (or the disk has failed).

        Returns:
            The number of the last event that waits for the broker; 0 for none, or where it cannot be known.
        """
        with contextlib.suppress(sqlite3.Error):
            return await self._call(self._last)
        return 0

    async def close(self) -> None:
        """Write what waits, mark an orderly end, close the file; a disk that hangs is left to itself after a while."""
        self.end()
        await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def end(self) -> None:
        """Do as `close`, and do not wait for it."""
        self._queue.put(None)

    async def _call(self, function: Callable[[], T]) -> T:
        if self._defect is not None:
            raise self._defect
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._asked.add(answer)
        answer.add_done_callback(self._asked.discard)

        def settle(outcome: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(outcome)  # type: ignore[arg-type]  # T may itself be optional

        def call() -> None:
            try:
                outcome = function()
            except sqlite3.Error as error:
                self._failed(error)
                self._tell_loop(settle, None, error)
            else:
                self._tell_loop(settle, outcome, None)

        self._queue.put(call)
        return await answer

    def _tell_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        if self._loop is None:
            return  # nobody has asked for anything yet
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _fail(self, error: Exception) -> None:
        """End those who wait for the thread, which has died; the publisher dies of it, and is not silent about it."""
        self._defect = error
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(error)

    # ---- below runs in the thread ----

    def _guarded(self) -> None:
        try:
            self._work()
        except Exception as error:
            log.exception("outbox_defect")
            self._tell_loop(self._fail, error)

    def _work(self) -> None:
        while True:
            records, calls, closing = self._collect(_IDLE_S)
            self._unwritten.extend(encoded(record, self.identity) for record in records)
            self._write()
            if records:
                self._tell_loop(self._news.set)
            for call in calls:
                call()
            if closing:
                with contextlib.suppress(sqlite3.Error):
                    # what could not be written is missed at the next start, as after a kill
                    self._store.close(None if self._unwritten else self._given)
                return

    def _collect(self, timeout_s: float) -> tuple[list[Record], list[Callable[[], None]], bool]:
        """Take what waits, or wait for something: records up to the first call, then calls only."""
        records: list[Record] = []
        calls: list[Callable[[], None]] = []
        try:
            item = self._queue.get(timeout=timeout_s)
            while item is not None:
                if callable(item):
                    calls.append(item)
                else:
                    records.append(item)
                if len(records) >= _BATCH:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            return records, calls, False
        return records, calls, item is None

    def _write(self) -> None:
        settled = self._settled
        if not self._unwritten and settled is self._written:
            self._note_well()
            return
        if time.monotonic() >= self._retry_at:
            try:
                trimmed, causes = self._store.write(
                    self._unwritten, settled, bounds=self._bounds, handed_out=self._handed_out
                )
            except sqlite3.Error as error:
                self._failed(error)
            else:
                if trimmed:
                    self._tell_loop(self._note_dropped, trimmed, causes)
                self._written = settled
                self._unwritten.clear()
                self._note_well()
                return
        while self._unwritten and self._unwritten[0].sequence <= settled.acknowledged:
            self._unwritten.popleft()
        self._bound_memory()

    def _bound_memory(self) -> None:
        on_its_way = sum(1 for _ in takewhile(lambda m: m.sequence <= self._handed_out, self._unwritten))
        excess = len(self._unwritten) - MEMORY_LIMIT
        if excess <= 0:
            return
        dropped: StoredEvent | None = None
        for _ in range(excess):
            dropped = self._unwritten[on_its_way]
            del self._unwritten[on_its_way]
        if dropped is not None:
            self._tell_loop(self._note_dropped, excess, [Cause(dropped.sequence, "storage", time.time())])

    def _failed(self, error: sqlite3.Error) -> None:
        self._failed_at = time.monotonic()
        self._retry_at = self._failed_at + _RETRY_S
        if self.trouble is None:
            self.trouble = (
                f"{self._place}: {error}; events go on through memory and would not survive a restart; "
                f"{REMEDY}"
            )
            log.error("outbox_failing", error=str(error))

    def _note_well(self) -> None:
        if self._failed_at is not None and time.monotonic() - self._failed_at > HEALED_S:
            self._failed_at = None
            self.trouble = None
            log.info("outbox_recovered")

    def _read(self, after: int, limit: int) -> list[StoredEvent]:
        events = self._store.read(after, limit)
        events.extend(m for m in self._unwritten if m.sequence > after)
        found = events[:limit]
        if found:
            self._handed_out = found[-1].sequence
        return found

    def _last(self) -> int:
        return self._unwritten[-1].sequence if self._unwritten else self._store.last()
