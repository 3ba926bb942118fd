"""The ledger: which routes in which target are ours, kept durably.

An intent is written before the request that may make a route, and removed after the one that took it away is answered.
So after any crash the ledger holds every route that may be ours; whether it stands there is the inventory's to say. A
ledger that cannot be opened is replaced by one in memory, said loudly: then nothing from before is ours.

A ledger that cannot be written any more (a full disk) stops nobody: what it does not take is kept in memory and written
when it can be. Only a crash within that time makes routes of ours look like somebody else's, which are left alone; to
stop mirroring for fear of that would do the harm for certain.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

import structlog

from routesync.loxilb.wire import parse_prefix
from routesync.route import Address, Prefix, format_address, parse_address

log = structlog.get_logger(__name__)


class LedgerError(Exception):
    """The ledger cannot be used; the message names the file and the remedy."""


class LedgerBusyError(LedgerError):
    """Another daemon holds this state directory."""


class Row(NamedTuple):
    """One route that may be ours.

    `doubtful`: an equal route of somebody else stood there before we asked, as far as could be seen. If no answer came,
    what stands there is rather theirs.
    """

    gateway: Address
    doubtful: bool = False


class Ledger(Protocol):
    """What the reconciler asks of a ledger."""

    def owned(self, target: str) -> dict[Prefix, Row]:
        """Every route that may be ours at this target."""

    def intend(self, target: str, prefix: Prefix, gateway: Address, *, doubtful: bool = False) -> None:
        """Write, durably against a crash of this process, that the route is about to be made."""

    def forget(self, target: str, prefix: Prefix) -> None:
        """Write that the route is not, or no longer, ours."""

    def targets(self) -> dict[str, int]:
        """Every target that the ledger knows routes of, with their number."""

    @property
    def trouble(self) -> str | None:
        """Why what was written would not outlive a crash, naming place and remedy; None: it would."""

    def settle(self) -> None:
        """Try to write what could not be written before; to be called every second or so."""


class MemoryLedger:
    """A ledger that lasts as long as the process: for the demo, for tests, and where the disk fails."""

    trouble = None

    def __init__(self) -> None:
        self._rows: dict[str, dict[Prefix, Row]] = {}

    def owned(self, target: str) -> dict[Prefix, Row]:
        """See `Ledger`."""
        return dict(self._rows.get(target, {}))

    def intend(self, target: str, prefix: Prefix, gateway: Address, *, doubtful: bool = False) -> None:
        """See `Ledger`."""
        self._rows.setdefault(target, {})[prefix] = Row(gateway, doubtful)

    def forget(self, target: str, prefix: Prefix) -> None:
        """See `Ledger`."""
        self._rows.get(target, {}).pop(prefix, None)

    def targets(self) -> dict[str, int]:
        """See `Ledger`."""
        return {target: len(rows) for target, rows in self._rows.items() if rows}

    def settle(self) -> None:
        """See `Ledger`."""


_SCHEMA = """
CREATE TABLE IF NOT EXISTS route (
    target TEXT NOT NULL,
    prefix TEXT NOT NULL,
    gateway TEXT NOT NULL,
    doubtful INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, prefix)
) WITHOUT ROWID
"""
_INTEND: Final = (
    "INSERT INTO route VALUES (?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET gateway = excluded.gateway, doubtful = excluded.doubtful"
)
_FORGET: Final = "DELETE FROM route WHERE target = ? AND prefix = ?"
_RETRY_S: Final = 1.0
_HEALED_S: Final = 3.0
"""A disk that is nearly full takes some and refuses some: it is said to be well when it has been for so long."""
VERSION: Final = 2
"""1 had no `doubtful`."""


_Statement = tuple[str, tuple[str | bool, ...]]


class SqliteLedger:
    """The ledger in `ledger.sqlite` of the state directory. Holds a lock on the directory while open.

    Raises:
        LedgerBusyError: another daemon holds the directory.
        LedgerError: the file cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger.sqlite"
        self.trouble: str | None = None
        self._unwritten: dict[tuple[str, Prefix], Row | None] = {}  # None: not ours any more
        self._failed_at = float("-inf")
        self._lock = _lock(directory)
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            os.close(self._lock)
            raise LedgerError(
                f"{self.path}: {error}; move the file away and restart: routes that it knew then stay in loxilb until "
                "`routesync adopt` claims them again"
            ) from None

    def _prepare(self) -> None:
        # WAL with synchronous=NORMAL survives a killed process whole, and a power cut up to its last checkpoint:
        # what a power cut loses, the kernel beneath loxilb mostly loses too; the inventory settles the rest.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if self._db.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the file is damaged")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in {0, 1, VERSION}:
            raise sqlite3.DatabaseError(
                f"written by a newer routesync (format {version}, this one knows {VERSION})"
            )
        self._db.execute(_SCHEMA)
        if version == 1:
            self._db.execute("ALTER TABLE route ADD COLUMN doubtful INTEGER NOT NULL DEFAULT 0")
        self._db.execute(f"PRAGMA user_version={VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give up the lock."""
        if self._unwritten:
            self._write()
        self._db.close()
        os.close(self._lock)

    def owned(self, target: str) -> dict[Prefix, Row]:
        """See `Ledger`."""
        rows = _owned(self._db, target)
        for (at, prefix), row in self._unwritten.items():
            if at == target:
                rows.pop(prefix, None)
                if row is not None:
                    rows[prefix] = row
        return rows

    def intend(self, target: str, prefix: Prefix, gateway: Address, *, doubtful: bool = False) -> None:
        """See `Ledger`."""
        self._note(target, prefix, Row(gateway, doubtful))

    def forget(self, target: str, prefix: Prefix) -> None:
        """See `Ledger`."""
        self._note(target, prefix, None)

    def targets(self) -> dict[str, int]:
        """See `Ledger`."""
        names = {name for (name,) in self._db.execute("SELECT DISTINCT target FROM route")}
        counts = {name: len(self.owned(name)) for name in names | {name for name, _ in self._unwritten}}
        return {name: count for name, count in counts.items() if count}

    def settle(self) -> None:
        """See `Ledger`."""
        if self.trouble is None or time.monotonic() < self._failed_at + _RETRY_S:
            return
        self._write()
        if not self._unwritten and time.monotonic() > self._failed_at + _HEALED_S:
            self.trouble = None
            log.info("ledger_recovered", path=str(self.path))

    def _note(self, target: str, prefix: Prefix, row: Row | None) -> None:
        self._unwritten[target, prefix] = row
        if self.trouble is None:
            self._write()
        else:
            self.settle()

    def _write(self) -> None:
        statements: list[_Statement] = [
            (_FORGET, (target, str(prefix)))
            if row is None
            else (_INTEND, (target, str(prefix), format_address(row.gateway), row.doubtful))
            for (target, prefix), row in self._unwritten.items()
        ]
        try:
            if len(statements) == 1:
                self._db.execute(*statements[0])
            else:
                self._write_all(statements)
        except sqlite3.Error as error:
            self._failed_at = time.monotonic()
            if self.trouble is None:
                self.trouble = (
                    f"{self.path}: {error}; routes are mirrored, but after a crash those of this time would be left as "
                    "somebody else's; check the room on its disk, and that the file can be written"
                )
                log.error("ledger_failing", path=str(self.path), error=str(error))  # noqa: TRY400
        else:
            self._unwritten.clear()

    def _write_all(self, statements: Sequence[_Statement]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                self._db.execute(*statement)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def read_owned(directory: Path, target: str) -> dict[Prefix, Address]:
    """Read beside a running daemon which routes of a target are ours; none where there is no ledger yet.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    path = directory / "ledger.sqlite"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {prefix: row.gateway for prefix, row in _owned(database, target).items() if not row.doubtful}


def _owned(database: sqlite3.Connection, target: str) -> dict[Prefix, Row]:
    rows = database.execute("SELECT prefix, gateway, doubtful FROM route WHERE target = ?", (target,))
    return {
        parse_prefix(prefix): Row(parse_address(gateway), bool(doubtful))
        for prefix, gateway, doubtful in rows
    }


def _lock(directory: Path) -> int:
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise LedgerError(
            f"{path}: {error.strerror}; give routesync a state directory that it may write (--state)"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LedgerBusyError(
            f"{directory}: another routesync runs on this state directory; stop it, or give this one its own (--state)"
        ) from None
    return descriptor
