"""The outbox's tables in SQLite. Blocking; used by one thread at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import structlog

from routesync.events.hub import new_epoch

log = structlog.get_logger("routesync.events")

SCHEMA_VERSION: Final = 1
SEQUENCE_RESERVE: Final = 2**20

LossReason = Literal["outbox-full", "queue-full", "storage", "denied", "killed"]

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


class Loss(NamedTuple):
    """Events that are gone; `lost` None: nobody knows how many."""

    reason: LossReason
    lost: int | None
    since: float


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
        self.epoch, sequence, reserved, clean = db.execute("SELECT * FROM meta").fetchone()
        self.killed = not clean
        self.sequence: int = sequence if clean else reserved
        self._reserved = 0
        self.count: int
        self.size: int
        self.count, self.size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE meta SET clean = 0")
        self._reserve(self.sequence)
        if self.killed:
            self._add_loss(Loss("killed", None, time.time()))
        db.execute("COMMIT")
        db.execute(_TRUNCATE_WAL)  # the reserve has to be on disk before it is used

    def _reserve(self, sequence: int) -> bool:
        if sequence <= self._reserved - SEQUENCE_RESERVE // 2:
            return False
        self._reserved = sequence + SEQUENCE_RESERVE
        self._db.execute("UPDATE meta SET reserved = ?", (self._reserved,))
        return True

    def write(
        self,
        messages: Collection[Message],
        *,
        acknowledged: int,
        losses: Iterable[Loss],
        told: Iterable[Loss],
        bounds: Bounds,
    ) -> int:
        """Add messages, take away what is acknowledged and what exceeds the bounds: all or nothing.

        Returns:
            How many exceeded the bounds.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        db = self._db
        before = (self.count, self.size, self._reserved)
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(
                "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)", [(*m, m.size) for m in messages]
            )
            self.count += len(messages)
            self.size += sum(message.size for message in messages)
            self._delete_upto(acknowledged)
            for loss in losses:
                self._add_loss(loss)
            for loss in told:
                self._subtract_loss(loss)
            trimmed = self._trim(bounds)
            extended = False
            if messages:
                self.sequence = max(message.sequence for message in messages)
                extended = self._reserve(self.sequence)
            db.execute("COMMIT")
        except BaseException:
            self.count, self.size, self._reserved = before
            if db.in_transaction:
                db.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                db.execute(_TRUNCATE_WAL)  # on a full disk, what was written in vain stands in the way
            raise
        if extended:
            db.execute(_TRUNCATE_WAL)
        return trimmed

    def _delete_upto(self, sequence: int) -> int:
        count, size = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE sequence <= ?", (sequence,)
        ).fetchone()
        if count:
            self._db.execute("DELETE FROM outbox WHERE sequence <= ?", (sequence,))
            self.count -= count
            self.size -= size
        return int(count)

    def _trim(self, bounds: Bounds) -> int:
        """Drop the oldest, down to 9/10 of the bounds: seldom and many, not one by one."""
        if self.count <= bounds.events and self.size <= bounds.size:
            return 0
        count, size = self.count, self.size
        last = 0
        for sequence, row_size in self._db.execute("SELECT sequence, size FROM outbox ORDER BY sequence"):
            if count <= bounds.events * 0.9 and size <= bounds.size * 0.9:
                break
            count, size, last = count - 1, size - row_size, sequence
        dropped = self._delete_upto(last)
        self._add_loss(Loss("outbox-full", dropped, time.time()))
        return dropped

    def _add_loss(self, loss: Loss) -> None:
        self._db.execute(
            "INSERT INTO loss VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count", loss
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
        return [
            Loss(*row) for row in self._db.execute("SELECT reason, count, since FROM loss ORDER BY since")
        ]

    def retained(self) -> frozenset[str]:
        """The retained topics that the broker may hold from us."""
        return frozenset(topic for (topic,) in self._db.execute("SELECT topic FROM retained"))

    def remember_retained(self, topics: Iterable[str]) -> None:
        """Remember these as the retained topics that the broker may hold from us, and no others."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM retained")
        self._db.executemany("INSERT INTO retained VALUES (?)", [(topic,) for topic in topics])
        self._db.execute("COMMIT")

    def close(self, sequence: int | None) -> None:
        """Close; with a number, mark an orderly end at it."""
        try:
            if sequence is None:
                return
            self._db.execute("UPDATE meta SET clean = 1, sequence = ?", (sequence,))
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
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            _put_aside(path, str(error))
            return Store(path, epoch=epoch), None
    except (sqlite3.Error, OSError) as error:
        trouble = f"{path}: {error}; events would not survive a restart; check the directory and its owner"
        return Store(None, epoch=epoch), trouble


def _put_aside(path: Path, damage: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    path.replace(aside)
    for leftover in (f"{path}-wal", f"{path}-shm"):
        Path(leftover).unlink(missing_ok=True)
    log.error("the outbox was damaged and is put aside; a new epoch begins", error=damage, aside=str(aside))
