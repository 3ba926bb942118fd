"""The ledger's file: its format, how it is read when SQLite cannot open it for writing, and the lock. Blocking.

SQLite needs to write even to read: a WAL database needs its `-shm`, which a full or read-only disk does not give.
`mode=ro` fails there after an orderly stop, and `immutable=1` ignores the `-wal` and so reads stale ownership. A copy
of the database and its `-wal` in a directory that can be written has neither fault. The `-shm` is never copied: SQLite
makes it again from the `-wal`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

from routesync.files import UnfitFileError, require_regular
from routesync.loxilb.schema import parse_prefix
from routesync.route import Address, Prefix, format_address, parse_address

NAME: Final = "ledger.sqlite"
VERSION: Final = 3
"""1 had target, prefix, gateway; 2 added `doubtful`; 3 has `clean` and `checksum` instead."""
_MARKER: Final = "ledger.nonempty"
"""An empty file that exists while the ledger has rows: so a ledger that was deleted or emptied is noticed."""
_BUSY_S: Final = 1.0
_COPIES: Final = 5
"""How often a file that changes while it is copied is copied again."""

_SCHEMA: Final = """
CREATE TABLE route (
    target   TEXT NOT NULL,
    prefix   TEXT NOT NULL,
    gateway  TEXT NOT NULL,
    clean    INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (target, prefix)
) STRICT, WITHOUT ROWID
"""
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
_FORMATS: Final = {
    ("target", "prefix", "gateway"): 1,
    ("target", "prefix", "gateway", "doubtful"): 2,
    ("target", "prefix", "gateway", "clean", "checksum"): 3,
}
_SMALLEST: Final = 512
"""Bytes of the smallest database; SQLite takes a file of a few bytes for an empty one, without a word."""
_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""The second when SQLite's words for a damage quote it."""
_PLACE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
"""Result codes that say something of the disk or of other processes; all others mean that the file is damaged."""


class LedgerError(Exception):
    """The ledger cannot be used; the message names the file and the remedy."""


class LedgerBusyError(LedgerError):
    """Another daemon holds this state directory."""


class Row(NamedTuple):
    """One route that routesync added, or may have added.

    `clean`: the inventory before our first POST had no row for the prefix, which is part of the proof that an IPv6
    DELETE takes our route.
    """

    gateway: Address
    clean: bool = False


Rows = dict[str, dict[Prefix, Row]]
"""By target."""
Changes = Mapping[tuple[str, Prefix], Row | None]
"""None: the route is not ours."""


class Content(NamedTuple):
    """What a file holds. Damaged rows are left out; `damage` says what is wrong, "" that nothing is."""

    rows: Rows
    damage: str = ""
    current: bool = False  # the table has today's format


def lock_directory(directory: Path) -> int:
    """Lock the state directory itself: a lock file could not be made on a full, read-only or foreign one.

    Returns:
        The descriptor that holds the lock.

    Raises:
        LedgerBusyError: another process has the lock.
        LedgerError: there is no directory that could be locked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise LedgerError(
            f"{directory}: {error.strerror}; give routesync a state directory that it can use (--state)"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LedgerBusyError(
            f"{directory}: another routesync runs on this state directory; stop it, or give this one its own (--state)"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise LedgerError(
            f"{directory}: it cannot be locked ({error.strerror}); put the state directory on a local file system"
        ) from None
    return descriptor


def is_open_as(path: Path, descriptor: int) -> bool:
    """Whether a descriptor is of what has this path now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def open_to_write(path: Path) -> tuple[sqlite3.Connection, Content]:
    """Open the file for writing, make it where there is none, and read it.

    Raises:
        OSError, sqlite3.Error: it cannot be written now.
        LedgerError: a newer routesync wrote it.
    """
    damage = ""
    require_regular(path)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
    try:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            # NORMAL loses the last commits in a power cut; loxilb on another host then keeps routes nobody owns
            database.execute("PRAGMA synchronous=FULL")
            database.execute("BEGIN IMMEDIATE")  # SQLite opens a file read-only without a word
            database.execute("ROLLBACK")
        except _ERRORS as error:
            if not _is_damage(error) and _version_is_sound(path):
                raise
            damage = str(error)
        content = read_content(database)
        return database, content._replace(damage=content.damage or damage)
    except BaseException:
        database.close()
        raise


def _version_is_sound(path: Path) -> bool:
    """Look at the two bytes that make SQLite take a file for one that only newer versions of it may write."""
    with path.open("rb") as file:
        file.seek(18)
        return file.read(2) in {b"", b"\1\1", b"\2\2"}


def read_content(database: sqlite3.Connection) -> Content:
    """Read all rows of any format. A damaged row costs that row, a damaged page the rows in it.

    Raises:
        sqlite3.Error: the disk does not allow it, or another process has it locked.
        LedgerError: a newer routesync wrote it.
    """
    database.text_factory = lambda raw: raw.decode(errors="replace")
    reader = _Reader()
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        columns = tuple(str(row[1]) for row in database.execute("PRAGMA table_info(route)"))
        if version > VERSION:
            raise LedgerError(
                f"a newer routesync wrote it (format {version}, this one reads up to {VERSION})"
            )
        if columns and columns not in _FORMATS:
            return Content({}, "its table is not one of routesync's")
        if columns:
            reader.read(database, _FORMATS[columns])
        (check,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if check != "ok":
            reader.damage = reader.damage or str(check)
    except _ERRORS as error:
        if not _is_damage(error):
            raise
        return Content(reader.rows, reader.damage or str(error))
    return Content(reader.rows, reader.damage, current=_FORMATS.get(columns) == VERSION == version)


class _Reader:
    def __init__(self) -> None:
        self.rows: Rows = {}
        self.damage = ""
        self._shared: dict[tuple[str, bool], Row] = {}  # few gateways, many rows

    def read(self, database: sqlite3.Connection, version: int) -> None:
        bad: dict[tuple[object, ...], None] = {}
        for order in (
            "",
            "ORDER BY target DESC, prefix DESC",
        ):  # the second way reaches what is behind a damage
            try:
                for row in database.execute(f"SELECT * FROM route {order}"):  # noqa: S608 - of our own making
                    try:
                        self._take(version, row)
                    except (ValueError, OSError):
                        bad[row] = None
            except _ERRORS as error:
                if _is_damage(error):
                    self.damage = str(error)
                    continue
                raise
            break
        if bad:
            self.damage = (
                self.damage or f"{len(bad)} of its rows cannot be read, such as {next(iter(bad))!r:.200}"
            )

    def _take(self, version: int, values: Sequence[object]) -> None:
        target, prefix, gateway, *more = values
        mark, checksum = (*more, 0, 0)[:2]
        if not (isinstance(target, str) and isinstance(prefix, str) and isinstance(gateway, str)):
            raise ValueError("type")  # noqa: TRY004 - it is the value that is damaged
        if version == VERSION and checksum != _checksum(target, prefix, gateway, mark):
            raise ValueError("checksum")
        parsed = parse_prefix(prefix)
        key = (gateway, version == VERSION and mark == 1)
        if (row := self._shared.get(key)) is None:
            row = self._shared[key] = Row(parse_address(gateway), key[1])
        if _REPLACED in target:
            raise ValueError("name")
        if version != 2 or mark == 0:  # doubtful rows were not ours, as far as could be seen
            self.rows.setdefault(target, {})[parsed] = row


def _checksum(target: str, prefix: str, gateway: str, clean: object) -> int:
    """A flipped bit in a prefix makes another valid prefix, which may be another writer's route."""
    return zlib.crc32(f"{target} {prefix} {gateway} {clean}".encode(errors="replace"))


def _is_damage(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _PLACE


def write(database: sqlite3.Connection, changes: Changes, *, new_table: bool) -> None:
    """Write in one transaction; with `new_table`, the changes are all that the file will hold.

    Raises:
        sqlite3.Error: nothing was changed.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        if new_table:
            database.execute("DROP TABLE IF EXISTS route")
            database.execute(_SCHEMA)
            database.execute(f"PRAGMA user_version={VERSION}")
        database.executemany("INSERT OR REPLACE INTO route VALUES (?, ?, ?, ?, ?)", _inserts(changes))
        database.executemany(
            "DELETE FROM route WHERE target = ? AND prefix = ?",
            ((target, str(prefix)) for (target, prefix), row in changes.items() if row is None),
        )
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _inserts(changes: Changes) -> Iterator[tuple[str, str, str, int, int]]:
    for (target, prefix), row in changes.items():
        if row is not None:
            values = (target, str(prefix), format_address(row.gateway), int(row.clean))
            yield (*values, _checksum(*values))


def read_copy(path: Path) -> Content:
    """Read a file that cannot be opened for writing, from a copy in the runtime directory or in memory.

    Nobody may write to the file meanwhile: either the caller holds the lock, or no daemon runs that could.

    Raises:
        OSError, sqlite3.Error: it cannot be copied or read.
        LedgerError: a newer routesync wrote it, or it changes all the time.
    """
    require_regular(path)
    for place in (os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0], "/dev/shm"):  # noqa: S108
        if place and os.access(place, os.W_OK | os.X_OK):
            with suppress(OSError, sqlite3.Error):
                return _read_copy(path, place)
    return _read_copy(path, None)


def _read_copy(path: Path, place: str | None) -> Content:
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=place, ignore_cleanup_errors=True) as directory:
        copy = Path(directory) / NAME
        for _ in range(_COPIES):
            before = _signature(path)
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            if _signature(path) == before:
                break
        else:
            raise LedgerError("another process writes to it all the time; end that")
        with closing(sqlite3.connect(copy)) as database:
            return read_content(database)


def _signature(path: Path) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for suffix in ("", "-wal"):
        try:
            status = Path(f"{path}{suffix}").stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def read_ledger(directory: Path) -> Content:
    """Read the ledger for a command: without the lock, beside a running daemon, on any disk.

    Raises:
        LedgerError: it cannot be read; the message names the file.
    """
    path = directory / NAME
    try:
        require_regular(path)
        if size(path) < _SMALLEST:
            return Content({}, vanished(directory))
        with suppress(sqlite3.Error), closing(_open_to_read(path)) as database:
            return read_content(database)
        return read_copy(path)
    except (OSError, sqlite3.Error, LedgerError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise LedgerError(f"{path}: {words}") from None


def _open_to_read(path: Path) -> sqlite3.Connection:
    # when root opens it, SQLite gives the files that it makes beside it to the database's owner
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)


def read_owned(directory: Path, target: str) -> dict[Prefix, Address]:
    """Read which routes of a target are ours, as `read_ledger`; none where there is no ledger yet.

    Raises:
        LedgerError: it cannot be read; the message names the file.
    """
    return {prefix: row.gateway for prefix, row in read_ledger(directory).rows.get(target, {}).items()}


def size(path: Path) -> int:
    """Size of a file; 0 where there is none.

    Raises:
        OSError: it cannot be seen.
    """
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def mark(directory: Path, *, rows: bool) -> None:
    """Keep the file that says whether the ledger has rows, as far as the disk allows."""
    with suppress(OSError):
        if rows:
            (directory / _MARKER).touch()
        else:
            (directory / _MARKER).unlink(missing_ok=True)


def vanished(directory: Path) -> str:
    """Say in words that the ledger had rows and is missing or empty; "" otherwise."""
    path = directory / NAME
    with suppress(OSError):
        if size(path) < _SMALLEST and ((directory / _MARKER).exists() or size(Path(f"{path}-wal"))):
            return "it is empty or missing, but it had routes"
    return ""


def put_aside(directory: Path) -> Path:
    """Keep a damaged ledger under another name, and the marker in the place of one that is missing.

    Raises:
        OSError: it cannot be renamed.
    """
    path = directory / NAME
    stamp = int(time.time())
    while (aside := directory / f"{NAME}.damaged-{stamp}").exists():
        stamp += 1
    marker = directory / _MARKER
    if path.exists():
        path.rename(aside)
    else:
        marker.touch()
        marker.rename(aside)
    with suppress(FileNotFoundError):
        Path(f"{path}-wal").rename(f"{aside}-wal")  # never left beside a new file: SQLite would apply it
    Path(f"{path}-shm").unlink(missing_ok=True)
    return aside


def set_aside(directory: Path) -> list[Path]:
    """The damaged ledgers that were put aside and that no operator has removed yet."""
    return [
        path
        for path in sorted(directory.glob(f"{NAME}.damaged-*"))
        if not path.name.endswith(("-wal", "-shm"))
    ]


def explain(path: Path, error: Exception) -> str:
    """Say why the file cannot be opened or written, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, LedgerError):
        return str(error)
    if isinstance(error, UnfitFileError):
        return f"{error}; move it away"
    with suppress(OSError):
        space = os.statvfs(path.parent)
        if space.f_flag & os.ST_RDONLY:
            return f"{error}; its file system is read-only, remount it read-write"
        if code == sqlite3.SQLITE_FULL or not space.f_bavail:
            return f"{error}; its disk is full, make room"
        if code == sqlite3.SQLITE_BUSY:
            return f"{error}; `fuser {path}` names the process that locks it, end it"
        for allowed, verb in ((os.R_OK, "read"), (os.W_OK, "write")):
            if path.exists() and not os.access(path, allowed):
                return f"{error}; user id {os.geteuid()} may not {verb} it, give it back with `chown`"
    return f"{error}; check its disk, its directory, owner and mode"
