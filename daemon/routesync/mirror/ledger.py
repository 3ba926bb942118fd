"""The ledger: which routes in which target are owned by routesync, kept across crashes and power cuts.

A route is noted before the request that may make it, and removed after the answer to the one that deleted it. So after
any crash the ledger names every route that may be ours; whether a route exists is for the inventory to say.

The whole content is in memory. One thread owns the file: it writes what was noted meanwhile in one transaction, so the
event loop never waits for the disk, and whoever needs a note on disk awaits `committed()`.

A file that cannot be written (full or read-only disk, another owner, locked) stops nobody: its content is read from a
copy, changes are kept in memory, `trouble` says so, and the thread tries again each second. When it succeeds, the file
gets its content with the changes of this run over it, in one transaction. A damaged file is put aside with all that
can be read of it carried over.

Concurrency: `note`, `owned`, `targets`, `committed` belong to the event loop; `_wake` guards what both threads use.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from routesync.mirror import ledger_file as file
from routesync.mirror.ledger_file import LedgerBusyError, LedgerError, Row, Rows, read_ledger, read_owned
from routesync.route import Prefix

__all__ = [
    "Ledger",
    "LedgerBusyError",
    "LedgerError",
    "Row",
    "read_ledger",
    "read_owned",
]

log = structlog.get_logger(__name__)

_RETRY_S: Final = 1.0
_LOOK_S: Final = 5.0
"""How often the thread looks whether the file still exists."""
_HEALED_S: Final = 3.0
"""A disk that is nearly full takes some writes and refuses others: the trouble ends when none failed for so long."""
_HANGING_S: Final = 10.0
"""A commit that takes longer is trouble, and nobody waits for it any more."""
_CLOSE_S: Final = 5.0
_ASIDE: Final = (
    "{}: this ledger was damaged or missing, and routes that only it knew stay in loxilb; "
    "`routesync adopt --target NAME` claims those that equal desired ones; then delete this file"
)


def _put(rows: Rows, target: str, prefix: Prefix, row: Row | None) -> None:
    if row is not None:
        rows.setdefault(target, {})[prefix] = row
    elif target in rows:
        rows[target].pop(prefix, None)


class Ledger:
    """The ledger in `ledger.sqlite` of the state directory. Holds a lock on the directory while open.

    Making one reads the file, which may take a second where another process locks it: not for the event loop's thread.

    Raises:
        LedgerBusyError: another daemon holds the directory. Nothing else is raised; see `trouble`.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / file.NAME
        self.known = False
        """Whether the file's content is known; False: what an earlier run noted cannot be read yet."""
        self._directory = directory
        self._wake = threading.Condition()
        self._rows: Rows = {}
        self._unwritten: dict[tuple[str, Prefix], Row | None] = {}
        self._noted = 0
        self._written = 0  # how many notes are on disk
        self._failing: str | None = None
        self._failed_at = 0.0
        self._closing = False
        # the event loop's own:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._when_read: Callable[[], None] | None = None
        self._shared: dict[Row, Row] = {}  # few gateways, many routes
        # the thread's own:
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._new_table = False
        self._marked: bool | None = None
        self._damage = ""  # found, and not put aside yet
        self._aside: str | None = None
        try:
            self._lock = file.lock_directory(directory)
        except LedgerBusyError:
            raise
        except LedgerError as error:
            self._failed(error)
        else:
            self._attempt()
        self._look_aside()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    async def close(self) -> None:
        """Write what is left, close the file, release the lock; a disk that hangs is left to itself after a while."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """Do as `close` and block: for commands."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(_CLOSE_S)

    @property
    def trouble(self) -> str | None:
        """Why what was noted would not survive a crash, or what was lost; names place and remedy. None: all is well."""
        return "; ".join(filter(None, (self._failing, self._aside))) or None

    @property
    def failing(self) -> bool:
        """Whether what was noted last is not on disk, or might not be."""
        return self._failing is not None

    def owned(self, target: str) -> dict[Prefix, Row]:
        """Every route that may be ours at this target."""
        with self._wake:
            return dict(self._rows.get(target, {}))

    def targets(self) -> dict[str, int]:
        """Every target where routes may be ours, with their number."""
        with self._wake:
            return {target: len(rows) for target, rows in self._rows.items() if rows}

    def note(self, target: str, prefix: Prefix, row: Row | None) -> None:
        """Note that the route may be ours (row), or is not (None): in memory at once, on disk with the next commit."""
        if row is not None:
            row = self._shared.setdefault(row, row)
        with self._wake:
            _put(self._rows, target, prefix, row)
            self._unwritten[target, prefix] = row
            self._noted += 1
            self._wake.notify()

    def committed(self) -> asyncio.Future[None] | None:
        """None when all that was noted is on disk, or cannot be written; else a future that is done when that is so.

        It never raises. Each caller gets a future of its own and may cancel it.
        """
        if self._written == self._noted or self._failing is not None:
            return None
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((self._noted, future))
        overdue = loop.call_later(_HANGING_S, self._overdue)
        future.add_done_callback(lambda _: overdue.cancel())
        self._release()  # the thread may have been faster
        return future

    def when_read(self, callback: Callable[[], None]) -> None:
        """Have this called in the event loop if rows of earlier runs become known only later: `owned` has them then."""
        self._loop = asyncio.get_running_loop()
        self._when_read = callback

    def _release(self) -> None:
        while self._waiting and (self._waiting[0][0] <= self._written or self._failing is not None):
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    def _overdue(self) -> None:
        self._say_failing(f"{self.path}: its disk has not answered for {_HANGING_S:.0f} s; check it")
        self._release()

    def _say_failing(self, text: str) -> None:
        with self._wake:
            first, self._failing, self._failed_at = self._failing is None, text, time.monotonic()
        if first and self.known:
            log.error("ledger_failing", path=str(self.path), error=text)
        elif first:
            log.error("ledger_unusable", path=str(self.path), error=text)

    # ---- below runs in the thread (and in `__init__`, before there is one) ----

    def _work(self) -> None:
        look_at = 0.0
        while self._await_work():
            known = self.known
            self._attempt()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_S
                self._look_aside()
            if self._when_read is not None and self.known and not known:
                self._call(self._when_read)
            if self._waiting:
                self._call(self._release)
        for _ in range(2):  # the first may find that the file was deleted
            if self._unwritten:
                self._attempt()
        if self._db is not None and not self._unwritten:
            self._failing = None
        self._drop()
        if self._lock is not None:
            os.close(self._lock)
        self._call(self._release)

    def _await_work(self) -> bool:
        with self._wake:
            if self._failing is None:
                self._wake.wait_for(lambda: self._closing or self._unwritten, _LOOK_S)
            else:
                self._wake.wait_for(lambda: self._closing, _RETRY_S)
            return not self._closing

    def _call(self, callback: Callable[[], None]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(callback)

    def _attempt(self) -> None:
        """Bring to the file what it lacks."""
        try:
            if self._lock is not None and not file.is_open_as(self._directory, self._lock):
                os.close(self._lock)  # the directory was replaced: this locks the one that is gone
                self._lock = None
            if self._lock is None:
                self._lock = file.lock_directory(self._directory)
            if self._db is None:
                self._db = self._open()
            self._write(self._db)
        except Exception as error:  # noqa: BLE001 - whatever a broken disk makes of it must not end the thread
            self._failed(error)
        else:
            if self._failing is not None and time.monotonic() > self._failed_at + _HEALED_S:
                self._failing = None
                log.info("ledger_recovered", path=str(self.path))

    def _open(self) -> sqlite3.Connection:
        """Open the file for writing, and note what it lacks of what is known."""
        if not self.known and (damage := file.vanished(self._directory)):
            self._damage = damage
            self._put_aside()
        database, content = file.open_to_write(self.path)
        try:
            self._learn(content.rows, whole=True)
            self._damage = content.damage
            if self._damage:
                database.close()
                self._put_aside()
                return self._open()
            self._new_table = not content.current
            self._inode = self.path.stat().st_ino
            with self._wake:
                owned = {target: dict(rows) for target, rows in self._rows.items()}
            found: Rows = {} if self._new_table else content.rows
            lacking: dict[tuple[str, Prefix], Row | None] = {
                (target, prefix): None
                for target, rows in found.items()
                for prefix in rows.keys() - owned.get(target, {}).keys()
            }
            for target, rows in owned.items():
                there = found.get(target, {})
                lacking.update(
                    {(target, prefix): row for prefix, row in rows.items() if there.get(prefix) != row}
                )
            with self._wake:
                self._unwritten = lacking | self._unwritten
        except BaseException:
            database.close()
            raise
        return database

    def _learn(self, rows: Rows, *, whole: bool) -> None:
        """Take what earlier runs noted, and lay this run's changes over it; `whole`: there is no more to learn."""
        with self._wake:
            if self.known:
                return
            for target, found in rows.items():
                ours = self._rows.setdefault(target, {})
                for prefix, row in found.items():
                    key = (target, prefix)
                    if key not in self._unwritten:
                        ours[prefix] = row
                    elif self._unwritten[key] is None:
                        # This run withdrew what it added, or found a route there, perhaps the one of the earlier run.
                        # The inventory will tell; of what happened meanwhile there is no proof for IPv6.
                        ours[prefix] = self._unwritten[key] = row._replace(clean=False)
            self.known = whole

    def _put_aside(self) -> None:
        aside = file.put_aside(self._directory)
        routes = sum(self.targets().values())
        log.error("ledger_damaged", error=self._damage, aside=str(aside), routes=routes)
        self._damage, self._marked = "", None
        self._look_aside()

    def _look_aside(self) -> None:
        with suppress(OSError):
            kept = file.set_aside(self._directory)
            self._aside = _ASIDE.format(kept[-1]) if kept else None

    def _write(self, database: sqlite3.Connection) -> None:
        with self._wake:
            batch, self._unwritten = self._unwritten, {}
            noted = self._noted
            rows = any(self._rows.values())
        try:
            if rows:
                self._mark(rows=True)
            if batch or self._new_table:
                file.write(database, batch, new_table=self._new_table)
            else:  # in quiet: then the -wal is used again from its start, also when the disk is full by then
                with suppress(sqlite3.Error):
                    database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._require_file()
        except BaseException:
            with self._wake:
                self._unwritten = batch | self._unwritten
            raise
        self._new_table = False
        self._written = noted
        if not rows:
            self._mark(rows=False)

    def _require_file(self) -> None:
        with suppress(FileNotFoundError):
            status = self.path.stat()
            if status.st_ino == self._inode and status.st_size:
                return
        raise LedgerError(f"{self.path}: another process deleted or replaced it; it is written again")

    def _mark(self, *, rows: bool) -> None:
        if self._marked is not rows:
            file.mark(self._directory, rows=rows)
            self._marked = rows

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, sqlite3.Error | OSError | LedgerError):
            log.error("ledger_defect", exc_info=error)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}:
            self._drop()  # a file that was opened read-only stays so, whatever happens to its disk
        if not self.known and not self._damage and self._lock is not None:
            with suppress(Exception):
                content = file.read_copy(self.path)
                self._damage = content.damage or file.vanished(self._directory)
                self._learn(content.rows, whole=not self._damage)
        if self._damage:
            consequence = f"{self._damage}: routes that only it knew stay in loxilb"
        elif not self.known:
            consequence = (
                "what earlier runs added is not known as owned and stays in loxilb until it can be read"
            )
        else:
            consequence = "changes are kept in memory, and a crash would lose them; no restart is needed"
        reason = file.explain(self.path, error)
        where = "" if str(self._directory) in reason else f"{self.path}: "
        self._say_failing(f"{where}{reason}; {consequence}")

    def _drop(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None
