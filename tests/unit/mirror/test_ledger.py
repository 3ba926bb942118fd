"""The ledger: durable, locked, and careful with files that are not as they should be."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routesync.mirror import ledger as ledger_module
from routesync.mirror.ledger import LedgerBusyError, LedgerError, Row, SqliteLedger, read_owned
from routesync.route import Prefix, parse_address
from support.disks import fill, small_disk
from support.netns import needs_root
from support.waiting import eventually_sync

PREFIX, PREFIX6 = Prefix.parse("10.1.0.0/16"), Prefix.parse("2001:db8::/32")
GATEWAY, GATEWAY6 = parse_address("192.0.2.1"), parse_address("2001:db8:ffff::1")


def test_it_remembers_across_a_restart_what_may_be_ours(tmp_path: Path) -> None:
    with SqliteLedger(tmp_path) as ledger:
        ledger.intend("lb", PREFIX, GATEWAY)
        ledger.intend("lb", PREFIX6, GATEWAY6)
        ledger.intend("other", PREFIX, GATEWAY)
        ledger.forget("other", PREFIX)
    with SqliteLedger(tmp_path) as ledger:
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY), PREFIX6: Row(GATEWAY6)}
        assert ledger.owned("other") == {}
        assert ledger.targets() == {"lb": 2}


def test_a_second_daemon_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with SqliteLedger(tmp_path), pytest.raises(LedgerBusyError, match=str(tmp_path)):
        SqliteLedger(tmp_path)
    SqliteLedger(tmp_path).close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look at" * 50, b"SQLite format 3\0garbage" * 90]
)
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite.*move the file away"):
        SqliteLedger(tmp_path)


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(LedgerError, match="newer routesync"):
        SqliteLedger(tmp_path)


def test_a_directory_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="state directory"):
        SqliteLedger(tmp_path / "file" / "state")


def test_it_can_be_read_beside_a_running_daemon(tmp_path: Path) -> None:
    assert read_owned(tmp_path, "lb") == {}
    with SqliteLedger(tmp_path) as ledger:
        ledger.intend("lb", PREFIX, GATEWAY)
        assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}


def test_a_ledger_of_the_first_format_is_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        database.execute(
            "CREATE TABLE route (target TEXT NOT NULL, prefix TEXT NOT NULL, gateway TEXT NOT NULL, "
            "PRIMARY KEY (target, prefix)) WITHOUT ROWID"
        )
        database.execute("INSERT INTO route VALUES ('lb', '10.1.0.0/16', '192.0.2.1')")
        database.execute("PRAGMA user_version=1")
    database.close()
    with SqliteLedger(tmp_path) as ledger:
        assert ledger.owned("lb") == {PREFIX: Row(GATEWAY)}
        ledger.intend("lb", PREFIX6, GATEWAY6, doubtful=True)
        assert ledger.owned("lb")[PREFIX6] == Row(GATEWAY6, doubtful=True)
        assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY}
        ledger.intend("lb", PREFIX6, GATEWAY6)
        assert read_owned(tmp_path, "lb") == {PREFIX: GATEWAY, PREFIX6: GATEWAY6}


@needs_root
def test_what_a_full_disk_does_not_take_is_kept_and_written_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_HEALED_S", 0.2)
    many = [Prefix.parse(f"10.{number // 250}.{number % 250}.0/24") for number in range(5000)]
    with small_disk(tmp_path / "small") as disk, capture_logs() as logs:
        with SqliteLedger(disk) as ledger:
            ledger.intend("lb", PREFIX, GATEWAY)
            ballast = fill(disk)
            for prefix in many:
                ledger.intend("lb", prefix, GATEWAY)
            ledger.forget("lb", PREFIX)
            assert ledger.trouble is not None
            assert "ledger.sqlite: database or disk is full" in ledger.trouble
            assert ledger.owned("lb") == dict.fromkeys(many, Row(GATEWAY))
            assert ledger.targets() == {"lb": len(many)}
            ballast.unlink()

            def healed() -> bool:
                ledger.settle()
                return ledger.trouble is None

            eventually_sync(healed)
        with SqliteLedger(disk) as ledger:
            assert ledger.owned("lb") == dict.fromkeys(many, Row(GATEWAY))
    assert [line["log_level"] for line in logs] == ["error", "info"]
