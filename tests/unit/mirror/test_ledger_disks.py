"""The ledger on disks and in directories that do not let it write: {full, read-only, of another owner} and more."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.disks import fill, small_disk
from support.ledger_process import LedgerProcess, ledger_process
from support.waiting import eventually_sync

pytestmark = pytest.mark.root

NOBODY = 65534
BEFORE = [f"10.{number // 250}.{number % 250}.0/24" for number in range(400)]
LAST, NEW = "10.200.0.0/24", "10.201.0.0/24"


@pytest.fixture
def disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are for root alone
        Path(directory).chmod(0o755)
        with small_disk(Path(directory) / "disk") as mount:
            mount.chmod(0o755)
            yield mount


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def give(disk: Path, uid: int, mode: int) -> None:
    for path in disk.glob("ledger.sqlite*"):
        os.chown(path, uid, uid)
        path.chmod(mode)


class Obstacle(NamedTuple):
    """What keeps a daemon from writing, how it ends, and as whom the daemon runs."""

    begin: Callable[[Path], object]
    end: Callable[[Path], object]
    uid: int = 0
    readable: bool = True


OBSTACLES = {
    "full": Obstacle(fill, lambda disk: (disk / "ballast").unlink()),
    "read-only": Obstacle(lambda disk: remount(disk, "ro"), lambda disk: remount(disk, "rw")),
    "another owner's 0644": Obstacle(
        lambda disk: give(disk, 0, 0o644), lambda disk: give(disk, NOBODY, 0o644), NOBODY
    ),
    "another owner's 0600": Obstacle(
        lambda disk: give(disk, 0, 0o600), lambda disk: give(disk, NOBODY, 0o600), NOBODY, readable=False
    ),
}


def earlier_run(disk: Path, uid: int, ending: str, wal: str) -> None:
    """Leave a ledger behind that has BEFORE and LAST, LAST only in the -wal if that is to be full."""
    os.chown(disk, uid, uid)
    with ledger_process(disk, uid=uid) as ledger:
        ledger.ask("note", "lb", *BEFORE)
        until_written(ledger)
        ledger.ask("checkpoint")
        if ending == "closed" and wal == "full":
            ledger.ask("pin")
        ledger.ask("note", "lb", LAST)
        until_written(ledger)
        if ending == "killed" and wal == "empty":
            ledger.ask("checkpoint")
        if ending == "killed":
            ledger.kill()
        else:
            ledger.close()
    left = disk / "ledger.sqlite-wal"
    assert bool(left.exists() and left.stat().st_size) == (wal == "full")


def until_written(ledger: LedgerProcess) -> None:
    eventually_sync(lambda: bool(ledger.ask("state")["written"]), what="the commit")


def trouble_ends(ledger: LedgerProcess) -> None:
    eventually_sync(
        lambda: ledger.ask("state")["trouble"] is None,
        what="the end of the trouble",
        but=lambda: str(ledger.ask("state")["trouble"]),
    )


@pytest.mark.parametrize("wal", ["empty", "full"])
@pytest.mark.parametrize("ending", ["killed", "closed"])
@pytest.mark.parametrize("name", OBSTACLES)
def test_ownership_survives_a_disk_that_cannot_be_written(
    disk: Path, name: str, ending: str, wal: str
) -> None:
    begin, end, uid, readable = OBSTACLES[name]
    earlier_run(disk, uid, ending, wal)
    begin(disk)
    known = {*BEFORE, LAST} if readable else set()
    with ledger_process(disk, uid=uid) as ledger:
        if readable:
            assert set(ledger.ask("read", "lb")) == known, "by a command"
        ledger.ask("note", "lb", NEW)  # on a disk that is full, only this may find it out
        ledger.ask("forget", "lb", BEFORE[0])
        eventually_sync(lambda: bool(ledger.ask("state")["trouble"]), what="the trouble")
        state = ledger.ask("state")
        assert str(disk) in state["trouble"]
        assert state["known"] == readable
        assert set(ledger.ask("owned", "lb")) == {*known, NEW} - {BEFORE[0]}
        with ledger_process(disk, uid=uid) as second:
            assert "another routesync runs" in second.ask("state")["busy"]
        end(disk)
        trouble_ends(ledger)
        # what could not be read was not withdrawn by this run, so it is still claimed
        after = {*BEFORE, LAST, NEW} - ({BEFORE[0]} if readable else set())
        assert set(ledger.ask("owned", "lb")) == after
        ledger.kill()
    with ledger_process(disk, uid=uid) as ledger:
        assert set(ledger.ask("owned", "lb")) == after
        assert ledger.ask("state") == {"known": True, "trouble": None, "written": True}


@pytest.mark.parametrize("place", ["runtime", "none"])
def test_the_copy_is_made_where_there_is_room_and_leaves_nothing_behind(
    disk: Path, tmp_path: Path, place: str
) -> None:
    earlier_run(disk, 0, "closed", "empty")
    runtime = tmp_path / "run"
    if place == "runtime":
        runtime.mkdir()
    remount(disk, "ro")
    with ledger_process(disk, runtime=runtime) as ledger:
        assert set(ledger.ask("owned", "lb")) == {*BEFORE, LAST}
        assert "read-only" in ledger.ask("state")["trouble"]
        assert not list(tmp_path.glob("run/*"))
        remount(disk, "rw")


def test_what_a_full_disk_does_not_take_while_it_runs_is_written_when_it_can_be(disk: Path) -> None:
    with ledger_process(disk) as ledger:
        ledger.ask("note", "lb", LAST)
        until_written(ledger)
        ballast = fill(disk)
        ledger.ask("note", "lb", *BEFORE)
        ledger.ask("forget", "lb", LAST)
        eventually_sync(lambda: bool(ledger.ask("state")["trouble"]), what="the trouble")
        assert "ledger.sqlite: database or disk is full" in ledger.ask("state")["trouble"]
        assert set(ledger.ask("owned", "lb")) == {*BEFORE}
        ballast.unlink()
        trouble_ends(ledger)
        ledger.kill()
    with ledger_process(disk) as ledger:
        assert set(ledger.ask("owned", "lb")) == {*BEFORE}


def test_a_vanished_ledger_on_a_disk_that_cannot_be_written_is_said_and_put_right_later(disk: Path) -> None:
    earlier_run(disk, 0, "closed", "empty")
    (disk / "ledger.sqlite").unlink()
    remount(disk, "ro")
    with ledger_process(disk) as ledger:
        assert "it had routes" in ledger.ask("state")["trouble"]
        ledger.ask("note", "lb", NEW)
        remount(disk, "rw")
        eventually_sync(lambda: "damaged or missing" in ledger.ask("state")["trouble"], what="the new file")
        until_written(ledger)
        ledger.kill()
    with ledger_process(disk) as ledger:
        assert set(ledger.ask("owned", "lb")) == {NEW}


def test_a_damaged_ledger_on_a_disk_that_cannot_be_written_keeps_what_can_be_read(disk: Path) -> None:
    earlier_run(disk, 0, "closed", "empty")
    path = disk / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    at = content.index(b"10.1.7.0/24")
    content[at + 3] ^= 1
    path.write_bytes(content)
    remount(disk, "ro")
    rest = {*BEFORE, LAST} - {"10.1.7.0/24"}
    with ledger_process(disk) as ledger:
        assert set(ledger.ask("owned", "lb")) == rest
        assert "1 of its rows cannot be read" in ledger.ask("state")["trouble"]
        remount(disk, "rw")
        eventually_sync(lambda: "damaged or missing" in ledger.ask("state")["trouble"], what="the new file")
        eventually_sync(lambda: set(ledger.ask("read", "lb")) == rest, what="the rows in the new file")
