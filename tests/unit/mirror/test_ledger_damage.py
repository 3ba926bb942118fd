"""A ledger with damaged bytes: what can be read of it is true, what cannot is said, and the next run has it right."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routesync.mirror import ledger as ledger_module
from routesync.mirror import ledger_file as file
from routesync.mirror.ledger import Ledger, LedgerError, Row, read_ledger
from routesync.mirror.ledger_file import Rows
from routesync.route import Prefix, parse_address
from support.damage import damaged_bytes, each

OLD: Final = Row(parse_address("192.0.2.1"))
NEW: Final = Row(parse_address("192.0.2.2"), clean=True)
PREFIXES: Final = [Prefix.parse(f"10.{number}.0.0/16") for number in range(200)]
ADDED: Final = Prefix.parse("2001:db8::/32")
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - many files, and no disk is to wait for


@cache
def _files() -> list[dict[str, bytes]]:
    """Ledgers as runs leave them: after an orderly end, and with a log that was not merged yet."""
    found: list[dict[str, bytes]] = []
    with _directory() as directory:
        with Ledger(directory) as ledger:
            for prefix in PREFIXES:
                ledger.note("lb", prefix, OLD)
        found.append(_content(directory))
        with closing(sqlite3.connect(directory / file.NAME, isolation_level=None)) as database:
            changes = {("lb", prefix): NEW for prefix in PREFIXES[::3]} | {("lb", PREFIXES[1]): None}
            file.write(database, changes, new_table=False)
            found.append(_content(directory))
    assert any(len(files) > 2 for files in found), "one has a log"
    return found


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


def _require_true(rows: Rows) -> None:
    """What is owned was noted once: else a DELETE could take a route of another writer."""
    for target, found in rows.items():
        assert target == "lb"
        for prefix, row in found.items():
            assert prefix in PREFIXES
            assert row in (OLD, NEW)


def _damage(directory: Path, chance: random.Random) -> None:
    files = dict(chance.choice(_files()))
    name = chance.choice([name for name, content in files.items() if content])
    files[name] = damaged_bytes(files[name], chance, [files[name]])
    for each_name, content in files.items():
        (directory / each_name).write_bytes(content)


def attempt_to_read(chance: random.Random) -> None:
    with _directory() as directory:
        _damage(directory, chance)
        try:
            content = read_ledger(directory)
        except LedgerError as error:
            words = str(error)
        else:
            _require_true(content.rows)
            known = sum(map(len, content.rows.values()))
            assert content.damage or known >= len(PREFIXES) - 1, "what is missing is said"
            return
        assert str(directory) in words
        assert "\n" not in words


def attempt_to_run(chance: random.Random) -> None:
    with _directory() as directory:
        _damage(directory, chance)
        with Ledger(directory) as ledger:
            owned, trouble = ledger.owned("lb"), ledger.trouble
            _require_true({"lb": owned})
            assert trouble or len(owned) >= len(PREFIXES) - 1, "what is missing is said"
            ledger.note("lb", ADDED, NEW)
        with Ledger(directory) as ledger:
            assert ledger.owned("lb") == owned | {ADDED: NEW}, (trouble, ledger.trouble)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_BUSY_S", 0.1)
    monkeypatch.setattr(ledger_module, "_RETRY_S", 0.05)


@given(st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_of_a_damaged_ledger_is_true(seed: int) -> None:
    each(seed, 2, attempt_to_read)


@given(st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_on_a_damaged_ledger_knows_what_is_left_and_notes_on(seed: int) -> None:
    each(seed, 1, attempt_to_run)


@pytest.mark.parametrize("length", [0, 1, 99, 511])
def test_a_ledger_that_was_cut_to_a_few_bytes_is_not_taken_for_an_empty_one(length: int) -> None:
    with _directory() as directory:
        for name, content in _files()[0].items():
            (directory / name).write_bytes(content[:length] if name == file.NAME else content)
        assert read_ledger(directory).damage
        with Ledger(directory) as ledger:
            assert ledger.trouble
