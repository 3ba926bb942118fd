"""The outbox's tables in SQLite. Blocking; used by one thread at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, get_args

import structlog

from routesync.events.hub import new_epoch
from routesync.events.losses import Loss, LossReason, loss_told_by
from routesync.events.models import EventsLost

log = structlog.get_logger("routesync.events")

SCHEMA_VERSION: Final = 1
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
CREATE TABLE loss (reason TEXT PRIMARY KEY, count INTEGER, since REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE retained (topic TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
    epoch TEXT NOT NULL, sequence INTEGER NOT NULL, reserved INTEGER NOT NULL, clean INTEGER NOT NULL
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


class Message(NamedTuple):
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
            db.execute("INSERT INTO meta VALUES (?, 0, 0, 1)", (self.epoch,))
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"has schema version {version}, this program knows {SCHEMA_VERSION}")
        db.text_factory = lambda raw: raw.decode(errors="replace")
        meta = db.execute("SELECT * FROM meta").fetchone()
        if not _is_meta(meta):
            raise sqlite3.DatabaseError("its epoch and numbers are damaged")
        self.epoch, sequence, reserved, clean = meta
        self.killed = not clean
        self.sequence: int = sequence if clean else reserved
        self._reserved = 0
        self._reserve_settled = False
        self._trimmed = 0
        if self.last() > self.sequence:
            raise sqlite3.DatabaseError("its events have later numbers than it gave")
        db.execute("BEGIN IMMEDIATE")
        if damaged := db.execute(f"DELETE FROM outbox WHERE {_DAMAGED}").rowcount:  # noqa: S608 - of our own making
            self.note_loss(Loss("storage", damaged, time.time()))
        self.count: int
        self.size: int
        self.count, self.size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        db.execute("UPDATE meta SET clean = 0")
        self._reserve(self.sequence)
        if self.killed:
            self.note_loss(Loss("killed", None, time.time()))
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
        messages: Collection[Message],
        *,
        acknowledged: int,
        losses: Iterable[Loss],
        told: Iterable[Loss],
        bounds: Bounds,
        handed_out: int = 0,
    ) -> list[Loss]:
        """Add messages, take away what is acknowledged and what exceeds the bounds: all or nothing.

        What was handed out is on its way to the broker, so it is not dropped: it would be counted, and yet arrive.

        Returns:
            The losses that are to be told from now on.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        before = (self.count, self.size, self._reserved)
        try:
            with self._transaction():
                self._db.executemany(
                    "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)", [(*m, m.size) for m in messages]
                )
                self.count += len(messages)
                self.size += sum(message.size for message in messages)
                self._delete(-1, acknowledged)
                for loss in losses:
                    self.note_loss(loss)
                for loss in told:
                    self._subtract_loss(loss)
                trimmed = self._trim(bounds, handed_out)
                if messages:
                    self.sequence = max(message.sequence for message in messages)
                    self._reserve(self.sequence)
                untold = self.losses()
        except sqlite3.Error:
            self.count, self.size, self._reserved = before
            raise
        self._trimmed += trimmed
        self._settle_reserve()
        return untold

    def take_trimmed(self) -> int:
        """How many messages exceeded the bounds since this was asked last."""
        trimmed, self._trimmed = self._trimmed, 0
        return trimmed

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

    def _trim(self, bounds: Bounds, handed_out: int) -> int:
        """Drop the oldest, down to 9/10 of the bounds: seldom and many, not one by one; tell how many."""
        if self.count <= bounds.events and self.size <= bounds.size:
            return 0
        count, size = self.count, self.size
        last = handed_out
        for sequence, row_size in self._db.execute(
            "SELECT sequence, size FROM outbox WHERE sequence > ? ORDER BY sequence", (handed_out,)
        ):
            if count <= bounds.events * 0.9 and size <= bounds.size * 0.9:
                break
            count, size, last = count - 1, size - row_size, sequence
        tellers = self._db.execute(
            "SELECT type, payload FROM outbox WHERE sequence > ? AND sequence <= ? AND type = ?",
            (handed_out, last, EventsLost.type_name()),
        ).fetchall()
        dropped = self._delete(handed_out, last)
        if not dropped:
            return 0
        self.note_loss(Loss("outbox-full", dropped, time.time()))
        for loss in (loss_told_by(*teller) for teller in tellers):
            if loss is not None:
                self.note_loss(loss)  # told by an event that is dropped now
        return dropped

    def note_loss(self, loss: Loss) -> None:
        """Remember a loss that is to be told."""
        self._db.execute(
            "INSERT INTO loss VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
            "SET count = count + excluded.count, since = min(since, excluded.since)",
            loss,
        )

    def _subtract_loss(self, loss: Loss) -> None:
        if loss.lost is None:
            self._db.execute("DELETE FROM loss WHERE reason = ?", (loss.reason,))
        else:
            self._db.execute("UPDATE loss SET count = count - ? WHERE reason = ?", (loss.lost, loss.reason))
            self._db.execute("DELETE FROM loss WHERE reason = ? AND count <= 0", (loss.reason,))

    def read(self, after: int, limit: int) -> list[Message]:
        """The messages that follow a number, oldest first."""
        rows = self._db.execute(
            "SELECT sequence, type, topic, target, prefix, payload FROM outbox WHERE sequence > ? "
            "ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [Message(*row) for row in rows]

    def last(self) -> int:
        """The number of the last message; 0 for none."""
        (sequence,) = self._db.execute("SELECT coalesce(max(sequence), 0) FROM outbox").fetchone()
        return int(sequence)

    def losses(self) -> list[Loss]:
        """What was lost and not told yet."""
        rows = self._db.execute("SELECT reason, count, since FROM loss ORDER BY since")
        return [Loss(*row) for row in rows if _is_loss(*row)]

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


def _is_meta(row: object) -> bool:
    match row:
        case (str(epoch), int(sequence), int(reserved), 0 | 1):
            named = bool(epoch) and epoch.isascii() and epoch.isprintable()
            return named and 0 <= sequence < _END and 0 <= reserved < _END
    return False


def _is_loss(reason: object, count: object, since: object) -> bool:
    known = count is None or (isinstance(count, int) and 0 < count < _END)
    return reason in get_args(LossReason) and known and isinstance(since, float) and 0 <= since < _LAST_SECOND


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
            store.note_loss(Loss("storage", None, time.time()))
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
