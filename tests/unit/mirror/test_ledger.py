"""The ledger: durable, locked, and careful with files that are not as they should be."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routesync.mirror import ledger as ledger_module
from routesync.mirror import ledger_file
from routesync.mirror.ledger import (
    Ledger,
    LedgerBusyError,
    LedgerError,
    Row,
    read_ledger,
    read_owned,
)
from routesync.route import Prefix, parse_address
from support.memory_ledger import MemoryLedger
from support.waiting import eventually, eventually_sync

PREFIX, PREFIX6 = Prefix.parse("10.1.0.0/16"), Prefix.parse("2001:db8::/32")
GATEWAY, GATEWAY6 = parse_address("192.0.2.1"), parse_address("2001:db8:ffff::1")
MANY = [Prefix.parse(f"10.{number // 250}.{number % 250}.0/24") for number in range(300)]
NAME = "ledger.sqlite"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_RETRY_S", 0.05)
    monkeypatch.setattr(ledger_module, "_LOOK_S", 0.05)
    monkeypatch.setattr(ledger_module, "_HEALED_S", 0.1)
    monkeypatch.setattr(ledger_file, "_BUSY_S", 0.1)


def holding(directory: Path, *prefixes: Prefix, target: str = "lb") -> Path:
    """A ledger of an earlier run that had these."""
    with Ledger(directory) as ledger:
        for prefix in prefixes:
            ledger.note(target, prefix, Row(GATEWAY))
    return directory / NAME


async def written(ledger: Ledger | MemoryLedger) -> None:
    if (committed := ledger.committed()) is not None:
        async with asyncio.timeout(10):
            await committed


def trouble_ends(ledger: Ledger) -> None:
    eventually_sync(
        lambda: ledger.trouble is None, what="the end of the trouble", but=lambda: str(ledger.trouble)
    )


# -- what it is for --------------------------------------------------------------------------------


def test_it_remembers_across_a_restart_what_may_be_ours(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.note("lb", PREFIX, Row(GATEWAY))
        ledger.note("lb", PREFIX6, Row(GATEWAY6, clean=True))
        ledger.note("other", PREFIX, Row(GATEWAY))
        ledger.note("other", PREFIX, None)
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY), PREFIX6: Row(GATEWAY6, clean=True)}
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY), PREFIX6: Row(GATEWAY6, clean=True)}
        assert ledger.owned("other") == {}
        assert ledger.targets() == {"lb": 2}
        assert ledger.trouble is None


@pytest.mark.parametrize("make", [Ledger, lambda _: MemoryLedger()], ids=["sqlite", "memory"])
async def test_both_kinds_take_and_give_the_same(
    tmp_path: Path, make: Callable[[Path], Ledger | MemoryLedger]
) -> None:
    ledger = make(tmp_path)
    assert ledger.committed() is None
    ledger.note("lb", PREFIX, None)
    ledger.note("lb", PREFIX, Row(GATEWAY))
    ledger.note("lb", PREFIX6, Row(GATEWAY6))
    ledger.note("lb", PREFIX6, None)
    await written(ledger)
    assert ledger.committed() is None
    assert ledger.owned("lb") == {PREFIX: Row(GATEWAY)}
    assert ledger.targets() == {"lb": 1}
    assert ledger.trouble is None
    await ledger.close()


async def test_what_is_committed_is_on_disk(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for prefix in MANY:
            ledger.note("lb", prefix, Row(GATEWAY))
            await written(ledger)
            assert read_ledger(tmp_path).rows["lb"][prefix] == Row(GATEWAY)


async def test_what_comes_during_a_commit_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    go_on = threading.Event()

    def write(database: sqlite3.Connection, changes: ledger_file.Changes, *, new_table: bool) -> None:
        batches.append(len(changes))
        assert go_on.wait(10)
        original(database, changes, new_table=new_table)

    original = ledger_file.write
    with Ledger(tmp_path) as ledger:
        monkeypatch.setattr(ledger_file, "write", write)
        ledger.note("lb", PREFIX, Row(GATEWAY))
        await eventually(lambda: batches == [1], what="the first commit, at once")
        first = ledger.committed()
        for prefix in MANY:
            ledger.note("lb", prefix, Row(GATEWAY))
        second, cancelled = ledger.committed(), ledger.committed()
        assert first is not None
        assert second is not None
        assert cancelled is not None
        cancelled.cancel()
        await asyncio.sleep(0)
        assert not first.done()
        go_on.set()
        async with asyncio.timeout(10):
            await first
            await second
        assert batches == [1, len(MANY)]


async def test_a_disk_that_hangs_is_trouble_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_HANGING_S", 0.1)
    go_on = threading.Event()
    original = ledger_file.write

    def write(database: sqlite3.Connection, changes: ledger_file.Changes, *, new_table: bool) -> None:
        assert go_on.wait(10)
        original(database, changes, new_table=new_table)

    with Ledger(tmp_path) as ledger:
        monkeypatch.setattr(ledger_file, "write", write)
        ledger.note("lb", PREFIX, Row(GATEWAY))
        await written(ledger)
        assert "has not answered" in str(ledger.trouble)
        assert ledger.committed() is None
        go_on.set()
        await eventually(lambda: ledger.trouble is None, what="the end of the trouble")
        assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}


# -- the lock --------------------------------------------------------------------------------------


def test_a_second_daemon_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(LedgerBusyError, match=str(tmp_path)):
        Ledger(tmp_path)
    Ledger(tmp_path).end()


def test_the_lock_follows_a_directory_that_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with Ledger(directory) as ledger:
        ledger.note("lb", PREFIX, Row(GATEWAY))
        directory.rename(tmp_path / "gone")
        directory.mkdir(exist_ok=True)

        def is_locked() -> bool:
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
            return False

        eventually_sync(is_locked, within_s=30, what="the lock of the new directory")
        with pytest.raises(LedgerBusyError):
            Ledger(directory)
        eventually_sync(lambda: ledger.trouble is None, within_s=30, what="recovery")
    assert read_owned(directory, "lb") == {PREFIX: GATEWAY}


def test_a_directory_that_cannot_be_is_trouble_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Ledger(tmp_path / "file" / "state") as ledger:
        assert "state directory" in str(ledger.trouble)
        assert not ledger.known
        ledger.note("lb", PREFIX, Row(GATEWAY))
        (tmp_path / "file").unlink()
        trouble_ends(ledger)
        with pytest.raises(LedgerBusyError):
            Ledger(tmp_path / "file" / "state")
    assert read_owned(tmp_path / "file" / "state", "lb") == {PREFIX: GATEWAY}


# -- reading without a daemon ----------------------------------------------------------------------


def test_it_can_be_read_beside_a_running_daemon(tmp_path: Path) -> None:
    assert read_owned(tmp_path, "lb") == {}
    assert read_owned(tmp_path / "none", "lb") == {}
    with Ledger(tmp_path) as ledger:
        ledger.note("lb", PREFIX, Row(GATEWAY))
        eventually_sync(lambda: read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}, what="the commit")


def test_what_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite: Is a directory"):
        read_owned(tmp_path, "lb")


@pytest.fixture(params=["pipe", "device"])
def no_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "no_file"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def test_what_is_no_file_is_trouble_until_it_is_moved_away(tmp_path: Path, no_file: Path) -> None:
    no_file.rename(tmp_path / NAME)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite: not a regular file"):
        read_owned(tmp_path, "lb")
    with Ledger(tmp_path) as ledger:
        assert not ledger.known
        assert f"{tmp_path / NAME}: not a regular file; move it away; " in str(ledger.trouble)
        ledger.note("lb", PREFIX, Row(GATEWAY))
        (tmp_path / NAME).unlink()
        trouble_ends(ledger)
    assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}


def test_what_is_no_file_is_put_aside_where_there_were_routes(tmp_path: Path, no_file: Path) -> None:
    holding(tmp_path, PREFIX)
    no_file.replace(tmp_path / NAME)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite: not a regular file"):
        read_owned(tmp_path, "lb")
    with Ledger(tmp_path) as ledger:
        (aside,) = tmp_path.glob("ledger.sqlite.damaged-*")
        assert not aside.is_file()
        assert f"{aside}: this ledger was damaged" in str(ledger.trouble)
        ledger.note("lb", PREFIX, Row(GATEWAY))
    assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}


def test_an_odd_name_of_the_directory_is_none_of_the_ledgers_business(tmp_path: Path) -> None:
    odd = tmp_path / "50% of? it#"
    holding(odd, PREFIX)
    assert read_owned(odd, "lb") == {PREFIX: GATEWAY}


# -- formats ---------------------------------------------------------------------------------------

FORMAT_1 = (
    "CREATE TABLE route (target TEXT NOT NULL, prefix TEXT NOT NULL, gateway TEXT NOT NULL, "
    "PRIMARY KEY (target, prefix)) WITHOUT ROWID; INSERT INTO route VALUES ('lb', '10.1.0.0/16', '192.0.2.1')"
)
FORMAT_2 = (
    "CREATE TABLE route (target TEXT NOT NULL, prefix TEXT NOT NULL, gateway TEXT NOT NULL, "
    "doubtful INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (target, prefix)) WITHOUT ROWID; "
    "INSERT INTO route VALUES ('lb', '10.1.0.0/16', '192.0.2.1', 0), ('lb', '10.2.0.0/16', '192.0.2.1', 1)"
)


@pytest.mark.parametrize(("version", "script"), [(1, FORMAT_1), (2, FORMAT_2)])
def test_earlier_formats_are_taken_over_without_what_was_doubtful(
    tmp_path: Path, version: int, script: str
) -> None:
    with sqlite3.connect(tmp_path / NAME) as database:
        database.executescript(f"PRAGMA journal_mode=WAL; {script}; PRAGMA user_version={version}")
    database.close()
    assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY)}
        ledger.note("lb", PREFIX6, Row(GATEWAY6, clean=True))
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY), PREFIX6: Row(GATEWAY6, clean=True)}
        assert ledger.trouble is None
    with sqlite3.connect(tmp_path / NAME) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)
    database.close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = holding(tmp_path, PREFIX)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    before = path.read_bytes()
    with Ledger(tmp_path) as ledger:
        assert "newer routesync" in str(ledger.trouble)
        assert not ledger.known
        ledger.note("lb", PREFIX6, Row(GATEWAY6))
        assert ledger.owned("lb") == {PREFIX6: Row(GATEWAY6)}
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="newer routesync"):
        read_owned(tmp_path, "lb")


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look at" * 50, b"SQLite format 3\0garbage" * 90]
)
def test_a_damaged_file_is_kept_and_said_until_it_is_removed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with capture_logs() as logs, Ledger(tmp_path) as ledger:
        assert ledger.known
        ledger.note("lb", PREFIX, Row(GATEWAY))
    assert [line["event"] for line in logs] == ["ledger_damaged"]
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY)}, "this run's changes survive all the same"
        (aside,) = tmp_path.glob("ledger.sqlite.damaged-*")
        assert aside.read_bytes() == content
        assert f"{aside}: this ledger was damaged" in str(ledger.trouble)
        assert "adopt" in str(ledger.trouble)
        assert not ledger.failing
        aside.unlink()
        trouble_ends(ledger)


@pytest.mark.parametrize(
    "change",
    [
        "prefix = '10.2.0.0/16'",
        "prefix = '10.1.0.0/15'",
        "gateway = '192.0.2.3'",
        "clean = 1",
        "target = 'la'",
        "checksum = 0",
    ],
)
def test_a_changed_row_costs_that_row(tmp_path: Path, change: str) -> None:
    with sqlite3.connect(holding(tmp_path, PREFIX, *MANY)) as database:
        database.execute(f"UPDATE route SET {change} WHERE prefix = '10.1.0.0/16'")  # noqa: S608
    database.close()
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == dict.fromkeys(MANY, Row(GATEWAY))
        assert ledger.targets() == {"lb": len(MANY)}
        assert "damaged" in str(ledger.trouble)


def test_a_file_that_a_damaged_one_replaces_while_it_runs_is_written_again_whole(tmp_path: Path) -> None:
    path = holding(tmp_path, *MANY)
    with Ledger(tmp_path) as ledger:
        (tmp_path / "other").write_bytes(b"\xa5" * 8192)
        (tmp_path / "other").rename(path)
        ledger.note("lb", PREFIX, Row(GATEWAY))
        eventually_sync(lambda: bool(list(tmp_path.glob("*.damaged-*"))), what="the repair")
        eventually_sync(lambda: not ledger.failing, what="a well ledger")
    assert read_owned(tmp_path, "lb") == dict.fromkeys([*MANY, PREFIX], GATEWAY)


@pytest.mark.parametrize("kind", ["flip", "byte", "cut", "page", "wal"])
@pytest.mark.parametrize("seed", range(20))
def test_random_damage_never_raises_and_never_claims_what_was_not_ours(
    tmp_path: Path, kind: str, seed: int
) -> None:
    chance = random.Random(f"{kind} {seed}")
    source = tmp_path / "source"
    path = tmp_path / "state" / NAME
    path.parent.mkdir()
    with Ledger(source) as ledger:
        for prefix in MANY:
            ledger.note("lb", prefix, Row(GATEWAY))
        eventually_sync(lambda: len(read_owned(source, "lb")) == len(MANY), what="the commit")
        if kind == "wal":  # as after a kill
            shutil.copy(f"{source / NAME}-wal", f"{path}-wal")
            shutil.copy(source / NAME, path)
    if kind != "wal":
        shutil.copy(source / NAME, path)
    victim = Path(f"{path}-wal") if kind == "wal" and chance.random() < 0.7 else path
    content = bytearray(victim.read_bytes())
    at = chance.randrange(len(content))
    match kind:
        case "cut":
            del content[at:]
        case "page":
            content[at : at + 4096] = chance.randbytes(4096)
        case "byte":
            content[at] = chance.randrange(256)
        case _:
            content[at] ^= 1 << chance.randrange(8)
    victim.write_bytes(content)
    try:
        found = set(read_owned(path.parent, "lb"))
    except LedgerError:
        found = set()
    assert found <= set(MANY)
    with Ledger(path.parent) as ledger:
        owned = ledger.owned("lb")
        assert owned.items() <= dict.fromkeys(MANY, Row(GATEWAY)).items()
        assert ledger.targets().keys() <= {"lb"}
        ledger.note("lb", PREFIX6, Row(GATEWAY6))
        failing = ledger.failing
        if kind != "wal" and len(owned) < len(MANY):
            assert ledger.trouble is not None
    if not failing:
        with Ledger(path.parent) as ledger:
            assert ledger.owned("lb") == {**owned, PREFIX6: Row(GATEWAY6)}


# -- a history that is gone ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vanish", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["deleted", "emptied"]
)
def test_a_ledger_that_vanished_beside_its_history_is_said(
    tmp_path: Path, vanish: Callable[[Path], object]
) -> None:
    vanish(holding(tmp_path, PREFIX))
    assert read_ledger(tmp_path).damage
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == {}
        assert "was damaged or missing" in str(ledger.trouble)
    with Ledger(tmp_path) as ledger:
        assert "was damaged or missing" in str(ledger.trouble), "after a restart, too"
        for aside in tmp_path.glob("*.damaged-*"):
            aside.unlink()
        trouble_ends(ledger)


@pytest.mark.parametrize(
    "vanish", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["deleted", "emptied"]
)
def test_an_empty_ledger_may_vanish_in_silence(tmp_path: Path, vanish: Callable[[Path], object]) -> None:
    path = holding(tmp_path, PREFIX)
    with Ledger(tmp_path) as ledger:
        ledger.note("lb", PREFIX, None)
    vanish(path)
    with Ledger(tmp_path) as ledger:
        assert ledger.trouble is None


def test_an_emptied_ledger_does_not_lose_its_wal_in_silence(tmp_path: Path) -> None:
    with Ledger(tmp_path / "run") as ledger:
        ledger.note("lb", PREFIX, Row(GATEWAY))
        eventually_sync(lambda: bool(read_owned(tmp_path / "run", "lb")), what="the commit")
        (tmp_path / "state").mkdir()
        shutil.copy(tmp_path / "run" / f"{NAME}-wal", tmp_path / "state")
    (tmp_path / "state" / NAME).touch()
    with Ledger(tmp_path / "state") as ledger:
        assert "was damaged or missing" in str(ledger.trouble)
    (kept,) = (tmp_path / "state").glob("*.damaged-*-wal")
    assert kept.stat().st_size


@pytest.mark.parametrize(
    "vanish", [Path.unlink, lambda path: path.rename(f"{path}.old")], ids=["deleted", "moved"]
)
def test_a_file_that_is_taken_away_while_it_runs_is_written_again(
    tmp_path: Path, vanish: Callable[[Path], object]
) -> None:
    path = holding(tmp_path, *MANY)
    with Ledger(tmp_path) as ledger:
        vanish(path)
        eventually_sync(lambda: ledger.failing, what="the trouble")
        assert "deleted or replaced" in str(ledger.trouble)
        trouble_ends(ledger)
        assert set(read_owned(tmp_path, "lb")) == set(MANY)
        vanish(path)
        ledger.note("lb", PREFIX, Row(GATEWAY))
    assert set(read_owned(tmp_path, "lb")) == {*MANY, PREFIX}, "at an orderly end, too"


# -- a file that cannot be opened for a while ------------------------------------------------------


async def test_a_file_that_another_process_locks_is_read_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "_BUSY_S", 1.0)
    path = holding(tmp_path, *MANY)
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("PRAGMA locking_mode=EXCLUSIVE")
    shell.execute("BEGIN EXCLUSIVE")
    longest, ends = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not ends.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    ledger = await asyncio.to_thread(Ledger, tmp_path)
    try:
        assert ledger.known
        assert "fuser" in str(ledger.trouble)
        assert set(ledger.owned("lb")) == set(MANY)
        ledger.note("lb", PREFIX, Row(GATEWAY))
        ledger.note("lb", MANY[0], None)
        await written(ledger)
        await asyncio.sleep(0.3)
        shell.close()
        await eventually(lambda: ledger.trouble is None, what="the end of the trouble")
    finally:
        ends.set()
        await watching
        await ledger.close()
    assert longest < ledger_file._BUSY_S / 2, "the event loop waited for the lock"
    assert set(read_owned(tmp_path, "lb")) == {*MANY[1:], PREFIX}


def exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step (renameat2(2)): the ledger may look at any moment."""
    at_cwd, rename_exchange = -100, 2
    done = ctypes.CDLL(None, use_errno=True).renameat2(
        at_cwd, bytes(one), at_cwd, bytes(other), rename_exchange
    )
    assert done == 0, os.strerror(ctypes.get_errno())


async def test_what_becomes_readable_only_later_gets_this_runs_changes_over_it(tmp_path: Path) -> None:
    kept, replaced, touched = MANY[0], MANY[1], MANY[2]
    with Ledger(tmp_path) as ledger:
        for prefix in (kept, replaced, touched):
            ledger.note("lb", prefix, Row(GATEWAY, clean=True))
    path = tmp_path / NAME
    hidden = path.rename(tmp_path / "hidden")
    path.mkdir()  # neither opened nor copied
    read: list[dict[Prefix, Row]] = []
    with Ledger(tmp_path) as ledger:
        ledger.when_read(lambda: read.append(ledger.owned("lb")))
        assert not ledger.known
        assert ledger.owned("lb") == {}
        assert "not known as owned" in str(ledger.trouble)
        assert "move" not in str(ledger.trouble)
        ledger.note("lb", PREFIX, Row(GATEWAY))
        ledger.note("lb", replaced, Row(GATEWAY6))
        ledger.note("lb", touched, Row(GATEWAY))  # posted, answered 409: it is the one of the earlier run
        ledger.note("lb", touched, None)
        await written(ledger)
        exchange(path, hidden)
        await eventually(lambda: ledger.trouble is None, what="the end of the trouble")
        assert read == [
            {
                kept: Row(GATEWAY, clean=True),
                replaced: Row(GATEWAY6),
                touched: Row(GATEWAY, clean=False),
                PREFIX: Row(GATEWAY),
            }
        ]
    with Ledger(tmp_path) as ledger:
        assert ledger.owned("lb") == read[0]
