"""What a host shows of the daemon, whether it answers or not: the lock, the process, the systemd unit, the state files.

`routesync status` uses it, too, where the daemon does not answer.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from routesync.control.client import ANSWER_WITHIN_S, Client, ControlError, NotRunning
from routesync.control.models import StatusResponse
from routesync.doctor.facts import DaemonFacts, DatabaseFacts, StateFacts, UnitFacts, User
from routesync.files import require_regular
from routesync.mirror.ledger import LedgerError, read_ledger
from routesync.mirror.ledger_file import set_aside

UNIT: Final = "routesync.service"
_CONFIGURATION_STATUS: Final = 78
_CREDENTIALS_STATUS: Final = 243
"""EXIT_CREDENTIALS of systemd.exec(5)."""
_COMMAND_WITHIN_S: Final = 2.0
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_ENDS: Final[Mapping[str, str]] = {
    "watchdog": "systemd ended it, since it hung",
    "oom-kill": "it was ended, since memory ran out; see MemoryMax= of the unit",
    "start-limit-hit": "it was started too often",
    "timeout": "it did not start or stop in time",
    "core-dump": "it crashed",
    "resources": "systemd lacks a resource that the unit needs",
}
"""What `Result` of a unit means."""

# -- the process ----------------------------------------------------------------------------------------------


def find_daemon(directory: Path) -> DaemonFacts:
    """Whether a daemon has the directory's lock, by the kernel's list of locks (proc(5)); takes none itself."""
    try:
        lock = directory.stat()
    except FileNotFoundError:
        return DaemonFacts(running=False)
    except OSError:
        return DaemonFacts(running=None)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return DaemonFacts(running=None)
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    for line in lines:  # "1: FLOCK  ADVISORY  WRITE 1234 08:01:123456 0 EOF"
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == device:
            pid = int(fields[4])
            return (
                _process(pid) if pid > 0 else DaemonFacts(running=True)
            )  # it is in another process namespace
    return DaemonFacts(running=False)


def _process(pid: int) -> DaemonFacts:
    fields = process_status(str(pid))
    user = None
    if "Uid" in fields:
        uid, gid = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))  # the effective ones
        user = User(uid, frozenset({gid, *map(int, fields.get("Groups", "").split())}))
    return DaemonFacts(
        running=True,
        pid=pid,
        user=user,
        capabilities=int(fields["CapEff"], 16) if "CapEff" in fields else None,
        stopped=fields.get("State", "")[:1] in {"T", "t"},
    )


def process_status(process: str) -> Mapping[str, str]:
    """What proc(5) shows of a process; empty where it is not visible."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def ask_daemon(found: DaemonFacts) -> DaemonFacts:
    """Ask the daemon at the control socket for its status; it is that of `found` if the process is the same."""
    client = Client(timeout_s=ANSWER_WITHIN_S)
    try:
        answer = client.ask(StatusResponse, "GET", "/v1/status")
    except ControlError as error:
        return found if found.running is False else found._replace(error=error)
    if found.running is False or found.pid not in (None, answer.pid):
        other = f"{client.path}: another daemon, process {answer.pid}, answers; name its state directory by --state"
        return found._replace(error=NotRunning(client.path, other))
    return found._replace(running=True, answer=answer)


def unserved(found: DaemonFacts, directory: Path, path: Path) -> str:
    """A daemon runs, and there is no socket at this path that it serves: in one line, with the remedy."""
    who = f"process {found.pid}, " if found.pid else ""
    return (
        f"routesync runs ({who}it has the lock on {directory}), and does not serve {path}; systemctl restart routesync "
        "makes the directory again, or name its socket with --socket"
    )


# -- systemd --------------------------------------------------------------------------------------------------


def systemd_version(root: Path) -> int | None:
    """The version of the systemd that runs here; None: none does (sd_booted(3))."""
    if not (root / "run/systemd/system").is_dir():
        return None
    found = re.match(r"systemd (\d+)", _systemctl("--version"))
    return int(found[1]) if found else None


def read_unit() -> UnitFacts | None:
    """What systemd knows of the service; None: systemd does not run here, or has no such unit."""
    if systemd_version(Path("/")) is None:
        return None
    names = "LoadState,ActiveState,SubState,Result,ExecMainStatus,NRestarts,StatusText,User"
    lines = _systemctl("show", UNIT, f"--property={names}").splitlines()
    of = {name: value for name, _, value in (line.partition("=") for line in lines)}
    if of.get("LoadState") != "loaded":
        return None
    status = _number(of.get("ExecMainStatus"))
    settings = list(service_settings(_systemctl("cat", UNIT)))
    missing = missing_credentials(settings) if status == _CREDENTIALS_STATUS else ()
    return UnitFacts(
        active=of.get("ActiveState", ""),
        sub=of.get("SubState", ""),
        result=of.get("Result", ""),
        status=status,
        restarts=_number(of.get("NRestarts")),
        text=of.get("StatusText", ""),
        user=of.get("User", ""),
        missing=tuple(str(path) for _, path in missing),
        credentials=credentials_of(settings),
    )


def service_settings(text: str) -> Iterator[tuple[str, str]]:
    """The settings below [Service] of a unit and its drop-ins, as `systemctl cat` shows them."""
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line.strip()):
            section = found[1]
        elif section == "Service" and "=" in line and not line.lstrip().startswith(("#", ";")):
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


def credentials_of(settings: Sequence[tuple[str, str]]) -> Mapping[str, Path | None]:
    """The credentials of a service by name, with the file; None: encrypted, or not from a file of a known name."""
    found: dict[str, Path | None] = {}
    for key, value in settings:
        if key.startswith(("LoadCredential", "SetCredential")):
            name, _, source = value.partition(":")
            known = key == "LoadCredential" and source.startswith("/")
            found = found | {name: Path(source) if known else None} if value else {}
    return found


def missing_credentials(settings: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Path]]:
    """The credentials whose file does not exist: name and file."""
    for name, path in credentials_of(settings).items():
        if path is None:
            continue
        try:
            path.stat()
        except FileNotFoundError:
            yield name, path
        except OSError:  # this user may not look there
            continue


def why_it_ended(unit: UnitFacts) -> tuple[str, str] | None:
    """Why systemd does not have the service running, and what to do; None: nothing went wrong."""
    again = f", {unit.restarts} times in a row" if unit.restarts else ""
    if unit.status == _CONFIGURATION_STATUS:
        return "it refused its configuration (status 78)", "routesync check"
    if unit.status == _CREDENTIALS_STATUS:
        missing = f": {', '.join(unit.missing)} missing" if unit.missing else ""
        remedy = "create the files that LoadCredential= names: systemctl cat routesync"
        return f"systemd could not load its credentials (status 243){missing}", remedy
    if unit.result in _ENDS:
        return f"{_ENDS[unit.result]}{again}", "journalctl -u routesync"
    if unit.result not in {"success", ""}:
        return f"it ended with {unit.result}, status {unit.status}{again}", "journalctl -u routesync"
    return None


def _systemctl(*arguments: str) -> str:
    command = shutil.which("systemctl")
    if command is None:
        return ""
    try:
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=False, timeout=_COMMAND_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


# -- the state directory --------------------------------------------------------------------------------------


def read_state(directory: Path, daemon: DaemonFacts, unit: UnitFacts | None = None) -> StateFacts:
    """See what the state directory contains and what the daemon may write; change nothing."""
    state = StateFacts(
        directory, DatabaseFacts(directory / "ledger.sqlite"), DatabaseFacts(directory / "outbox.sqlite")
    )
    try:
        found = directory.stat()
    except FileNotFoundError:
        return state._replace(exists=False)
    except OSError:
        return state
    user = daemon.user or _user_of_unit(unit) or _user_of_directory(found)
    space = os.statvfs(directory)
    ledger, owned = _read_ledger(directory, state.ledger.path, user)
    outbox, waiting = _read_outbox(state.outbox.path, user, running=daemon.running)
    return state._replace(
        user=_name(user.uid) if user else state.user,
        writable=_may_write(found, user),
        read_only=bool(space.f_flag & os.ST_RDONLY),
        free_bytes=space.f_bavail * space.f_frsize,
        ledger=ledger,
        owned=owned,
        outbox=outbox,
        outbox_events=waiting,
        ledger_aside=next(iter(set_aside(directory)[-1:]), None),
    )


def _user_of_unit(unit: UnitFacts | None) -> User | None:
    try:
        found = pwd.getpwnam(unit.user) if unit is not None and unit.user else None
    except KeyError:
        return None
    return User(found.pw_uid, frozenset({found.pw_gid})) if found else None


def _user_of_directory(found: os.stat_result) -> User | None:
    """Its owner, unless every user may write: as on a volume that a container gets."""
    return None if found.st_mode & stat.S_IWOTH else User(found.st_uid, frozenset({found.st_gid}))


def _may_write(found: os.stat_result, user: User | None) -> bool:
    """Whether this user may, by the mode; yes, where the user is not known."""
    if user is None or user.uid == 0:
        return True
    if found.st_uid == user.uid:
        return bool(found.st_mode & stat.S_IWUSR)
    return bool(found.st_mode & (stat.S_IWGRP if found.st_gid in user.gids else stat.S_IWOTH))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read_ledger(directory: Path, path: Path, user: User | None) -> tuple[DatabaseFacts, Mapping[str, int]]:
    facts = _file(path, user)
    if facts.error is not None:
        return facts, {}
    try:
        content = read_ledger(directory)
    except LedgerError as error:
        return facts._replace(error=str(error).removeprefix(f"{path}: ")), {}
    damage = f"the file is damaged: {content.damage}" if content.damage else None
    return facts._replace(error=damage), {target: len(rows) for target, rows in content.rows.items() if rows}


def _read_outbox(path: Path, user: User | None, *, running: bool | None) -> tuple[DatabaseFacts, int]:
    facts = _file(path, user)
    # the daemon keeps it locked
    if running is not False or not facts.exists or facts.error is not None or not path.stat().st_size:
        return facts, 0
    try:
        # when root opens it, SQLite gives the files that it makes beside it to the database's owner
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        with contextlib.closing(database):
            (count,) = database.execute("SELECT count(*) FROM outbox").fetchone()
            return facts, int(count)
    except sqlite3.Error as error:
        return facts._replace(error=str(error)), 0


def _file(path: Path, user: User | None) -> DatabaseFacts:
    """Look at the file itself: SQLite's words for a file that is none, or is not readable, say little."""
    facts = DatabaseFacts(path)
    try:
        found = path.stat()
        owner, writable = _name(found.st_uid), _may_write(found, user)
        facts = DatabaseFacts(path, exists=True, owner=owner, writable=writable)
        require_regular(path)
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except FileNotFoundError:
        return facts
    except OSError as error:
        return facts._replace(exists=True, error=f"cannot be read: {error.strerror}")
    if head and head != _SQLITE_MAGIC:
        return facts._replace(error="this is no SQLite file: it is damaged")
    return facts
