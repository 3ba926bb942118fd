"""Looks at the state directory without touching it, also beside a running daemon and as another user."""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from routesync.doctor.facts import DaemonFacts, DatabaseFacts, StateFacts
from routesync.doctor.gather.host import effective_capabilities
from routesync.mirror.ledger import LedgerError, read_ledger
from routesync.mirror.ledger_file import set_aside

_MAGIC: Final = b"SQLite format 3\0"


def find_daemon(directory: Path) -> DaemonFacts:
    """Whether a daemon holds the directory's lock, by the kernel's list of locks (proc(5)); takes none itself."""
    try:
        lock = directory.stat()
    except FileNotFoundError:
        return DaemonFacts(running=False)
    except OSError:
        return DaemonFacts(running=None)
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return DaemonFacts(running=None)
    for line in lines:  # "1: FLOCK  ADVISORY  WRITE 1234 08:01:123456 0 EOF"
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == device:
            pid = int(fields[4])
            known = pid if pid > 0 else None  # 0 or -1: it lives in another process namespace
            capabilities = effective_capabilities(str(pid)) if known else None
            return DaemonFacts(running=True, pid=known, capabilities=capabilities)
    return DaemonFacts(running=False)


def read_state(directory: Path, *, running: bool | None) -> StateFacts:
    """See what lies in the state directory, and whose it is."""
    ledger = DatabaseFacts(directory / "ledger.sqlite")
    outbox = DatabaseFacts(directory / "outbox.sqlite")
    try:
        found = directory.stat()
    except FileNotFoundError:
        return _absent(directory, ledger, outbox)
    except OSError:
        return _absent(directory, ledger, outbox)._replace(exists=True)
    space = os.statvfs(directory)
    ledger, owned = _ledger(directory, ledger.path)
    outbox, waiting = _outbox(outbox.path, running=running)
    return StateFacts(
        directory,
        exists=True,
        owner=found.st_uid,
        owner_name=_user(found.st_uid),
        owner_may_write=found.st_uid == 0 or found.st_mode & stat.S_IRWXU == stat.S_IRWXU,
        readable=os.access(directory, os.R_OK | os.X_OK),
        read_only=bool(space.f_flag & os.ST_RDONLY),
        free_bytes=space.f_bavail * space.f_frsize,
        ledger=ledger,
        owned=owned,
        outbox=outbox,
        outbox_events=waiting,
        ledger_aside=next(iter(set_aside(directory)[-1:]), None),
    )


def _absent(directory: Path, ledger: DatabaseFacts, outbox: DatabaseFacts) -> StateFacts:
    return StateFacts(
        directory,
        exists=False,
        owner=None,
        owner_name="",
        owner_may_write=True,
        readable=False,
        read_only=False,
        free_bytes=0,
        ledger=ledger,
        owned={},
        outbox=outbox,
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _ledger(directory: Path, path: Path) -> tuple[DatabaseFacts, Mapping[str, int]]:
    facts = _file(path)
    if facts.error is not None:
        return facts, {}
    try:
        content = read_ledger(directory)
    except LedgerError as error:
        return facts._replace(error=str(error).removeprefix(f"{path}: ")), {}
    damage = f"the file is damaged: {content.damage}" if content.damage else None
    return facts._replace(error=damage), {target: len(rows) for target, rows in content.rows.items() if rows}


def _outbox(path: Path, *, running: bool | None) -> tuple[DatabaseFacts, int]:
    facts = _file(path)
    if not facts.exists or facts.error is not None or not path.stat().st_size:
        return facts, 0
    if running is not False:  # it is locked for good while the daemon runs
        return facts._replace(busy=True), 0
    try:
        with closing(_open(path)) as database:
            (count,) = database.execute("SELECT count(*) FROM outbox").fetchone()
            return facts, int(count)
    except sqlite3.Error as error:
        return facts._replace(error=str(error)), 0


def _open(path: Path) -> sqlite3.Connection:
    # SQLite gives files that it makes beside a database to the database's owner when root opens it
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)


def _file(path: Path) -> DatabaseFacts:
    """Look at the file itself: SQLite's own words for a file that is none, or is not to be read, say little."""
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        return DatabaseFacts(path)
    except OSError as error:
        return DatabaseFacts(path, exists=True, error=error.strerror)
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        return DatabaseFacts(path, exists=True, owner=owner, error=f"cannot be read: {error.strerror}")
    if head and head != _MAGIC:
        return DatabaseFacts(path, exists=True, owner=owner, error="this is no SQLite file: it is damaged")
    return DatabaseFacts(path, exists=True, owner=owner)
