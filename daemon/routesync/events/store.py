"""The outbox's file: events that wait for the broker, and what has to be known of them after a restart.

Everything here runs in the outbox's thread (`routesync.events.outbox`), but for what opens the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from routesync.events.gaps import Cause, LostEvents, Number, Settled, lost_of_held, merge_causes
from routesync.events.hub import new_epoch
from routesync.files import UnfitFileError, require_regular

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

_HELD: Final = 0.1
"""Part of the bounds that events of denied topics may take."""
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
        is_whole: Whether the broker then had the tables as their manifests say.
    """

    epoch: Annotated[str, Field(pattern="^[!-~]+$")]
    sequence: Number = 0
    reserved: Number = 0
    is_clean: bool = True
    settled: Settled = Settled(0)
    is_whole: bool = False


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
        OSError, sqlite3.Error: the file cannot be opened, is damaged, or is none of ours.
    """

    def __init__(self, path: Path | None, *, epoch: str | None = None) -> None:
        self._path = path
        if path is not None:
            require_regular(path)
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
        # a damage that only a later read finds would hold up all that waits behind it
        (check,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if check != "ok":
            raise sqlite3.DatabaseError(str(check))
        self.epoch = meta.epoch
        self.sequence = meta.sequence if meta.is_clean else meta.reserved
        self.settled = meta.settled
        self.was_whole = meta.is_clean and meta.is_whole
        if max(self.last(), self.settled.acknowledged) > self.sequence:
            raise sqlite3.DatabaseError("its events have later numbers than it gave")
        self._handed_out = 0  # on its way to the broker
        self._held_upto: dict[str, int] = {}  # topic to the last of its held events that was read
        self._reserved = self.sequence + SEQUENCE_RESERVE
        if not meta.is_clean:
            killed, causes = Cause(self.sequence, "killed", time.time()), self.settled.causes
            if causes and causes[-1].reason == "killed" and causes[-1].upto >= self.last():
                causes = causes[:-1]  # nothing was written since
            self.settled = self.settled._replace(causes=merge_causes((*causes, killed)))
        with self._transaction():
            held, first, last = db.execute(
                f"SELECT count(*), min(sequence), max(sequence) FROM outbox WHERE held AND ({_DAMAGED})"  # noqa: S608
            ).fetchone()
            if held:  # they count as acknowledged, so they leave no gap
                lost = LostEvents("storage", held, first, last, time.time())
                self.settled = self.settled._replace(lost=(*self.settled.lost, lost))
            db.execute(f"DELETE FROM outbox WHERE {_DAMAGED}")  # noqa: S608 - of our own making
            db.execute("DELETE FROM retained WHERE topic GLOB '*[+#]*' OR instr(topic, char(0))")
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

    def _save(self, *, is_clean: bool = False, is_whole: bool = False) -> None:
        meta = Meta(self.epoch, self.sequence, self._reserved, is_clean, self.settled, is_whole)
        self._db.execute("UPDATE meta SET state = ?", (_META.dump_json(meta).decode(),))

    def write(
        self,
        events: Sequence[StoredEvent],
        settled: Settled,
        *,
        bounds: Bounds,
        handed_out: int = 0,
        held: Collection[int] = (),
        releasing: Collection[str] = (),
        delivered: Collection[int] = (),
    ) -> Dropped:
        """Add events, remove what is acknowledged and what exceeds the bounds: all or nothing.

        Args:
            events: Follow those that were written before.
            settled: What the broker has.
            bounds: What may wait.
            handed_out: What was handed out up to this number is on its way to the broker, so it is not dropped.
            held: Events to hold from now on.
            releasing: Topics whose held events are on their way, as far as they were read.
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
                    held=self._trim_held(bounds, releasing, settled.acknowledged) if held else {}
                )
                if events:
                    self._give(events[-1].sequence)
                # with the events: after a kill nothing else would know of them
                self.settled = settled._replace(
                    lost=(*settled.lost, *(lost_of_held(*gone) for gone in dropped.held.items())),
                    causes=merge_causes((*settled.causes, *dropped.causes)),
                )
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

    def _trim_held(
        self, bounds: Bounds, releasing: Collection[str], acknowledged: int
    ) -> dict[str, list[int]]:
        """Drop the oldest of the fullest topic until what is held is within its bounds.

        What is held behind an event that waits stays: after a kill, its number would be missing a second time.
        """
        gone: dict[str, list[int]] = {}
        counts = {topic: events.number for topic, events in self.held().items()}
        (size,) = self._db.execute("SELECT coalesce(sum(size), 0) FROM outbox WHERE held").fetchone()
        while counts and (sum(counts.values()) > bounds.events * _HELD or size > bounds.size * _HELD):
            fullest = max(counts, key=lambda topic: counts[topic])
            oldest = self._db.execute(
                "SELECT sequence, size FROM outbox WHERE held AND topic = ? AND sequence > ? AND sequence <= ? "
                "ORDER BY sequence LIMIT 1",
                (fullest, self._held_upto.get(fullest, 0) if fullest in releasing else 0, acknowledged),
            ).fetchone()
            if oldest is None:  # all of it is on its way, or behind what waits
                del counts[fullest]
                continue
            number, freed = oldest
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

    def read_held(self, topic: str, after: int, upto: int, limit: int) -> list[StoredEvent]:
        """The events of a side queue between two numbers, without the first, oldest first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE held AND topic = ? AND sequence > ? AND sequence <= ? "  # noqa: S608
            "ORDER BY sequence LIMIT ?",
            (topic, after, upto, limit),
        )
        events = [StoredEvent(*row) for row in rows]
        if events:
            self._held_upto[topic] = events[-1].sequence
        return events

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

    def close(self, sequence: int | None, *, is_whole: bool = False) -> None:
        """Close; with the last number that was given, mark an orderly end."""
        try:
            if sequence is not None:
                self.sequence = sequence
                self._save(is_clean=True, is_whole=is_whole)
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
        remedy = "move it away" if isinstance(error, UnfitFileError) else REMEDY
        return Store(None, epoch=epoch), (
            f"{path}: {error}; events go through memory and would not survive a restart, and those of before wait in "
            f"the file; {remedy}, then restart"
        )


def _put_aside(path: Path, damage: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    path.replace(aside)
    for leftover in (f"{path}-wal", f"{path}-shm"):
        Path(leftover).unlink(missing_ok=True)
    log.error("outbox_damaged", error=damage, aside=str(aside), consequence="a new epoch begins")
