"""An outbox with damaged bytes: what can be read goes out, a loss is reported, and new events pass."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.events.cloudevents import Record
from routesync.events.outbox import Outbox
from routesync.events.store import StoredEvent
from support.damage import damaged_bytes, each
from support.events import accepted

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - many files, and no disk is to wait for
EVENTS: Final = 60
NEW: Final = 3


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


async def _fill(path: Path) -> None:
    outbox = Outbox.open(path, "node-1")
    for number in range(1, EVENTS + 1):
        outbox.put(Record(number, 0.0, accepted(number)))
    await outbox.flush()
    for event in (await outbox.read(0, EVENTS))[:5]:
        outbox.hold(event)
        outbox.acknowledge(event.sequence)
    await outbox.remember_retained(["status", "table/lb-1/2a"])
    await outbox.flush()
    shutil.copytree(path.parent, path.parent.with_name("killed"))
    await outbox.close()


@cache
def _files() -> list[dict[str, bytes]]:
    """Outboxes as runs leave them: killed, with a log that was not merged yet; and after an orderly end."""
    with _directory() as directory:
        (directory / "closed").mkdir()
        asyncio.run(_fill(directory / "closed" / "outbox"))
        found = [
            {path.name: path.read_bytes() for path in place.iterdir() if not path.name.endswith("-shm")}
            for place in (directory / "killed", directory / "closed")
        ]
    assert len(found[0]) == 2, "a log"
    return found


async def _go_on(path: Path) -> None:
    """Put new events, and take all that wait; each step comes to an end, and the numbers rise."""
    outbox = Outbox.open(path, "node-1")
    first = outbox.first_sequence
    for number in range(first + 1, first + 1 + NEW):
        outbox.put(Record(number, 0.0, accepted(number)))
    await outbox.flush()
    found: list[StoredEvent] = []
    while not found or found[-1].sequence < first + NEW:
        async with asyncio.timeout(5):
            found += await outbox.read(found[-1].sequence if found else 0, 20)
    numbers = [event.sequence for event in found]
    assert numbers == sorted(set(numbers))
    assert all(type(event.payload) is bytes for event in found)
    for topic in list(outbox.held):
        await outbox.read_held(topic, 0, 20)
    outbox.acknowledge(numbers[-1])
    missing = EVENTS - sum(1 for number in numbers if number <= min(first, EVENTS))
    if missing > 0:
        assert outbox.unreported or outbox.trouble, "what is missing is reported"
    await outbox.retained()
    await outbox.close()
    if outbox.trouble is None:
        again = Outbox.open(path, "node-1")
        assert again.first_sequence == first + NEW
        await again.close()


def attempt(chance: random.Random) -> None:
    with _directory() as directory:
        files = dict(chance.choice(_files()))
        name = chance.choice([name for name, content in files.items() if content])
        files[name] = damaged_bytes(files[name], chance, [files[name]])
        for each_name, content in files.items():
            (directory / each_name).write_bytes(content)
        asyncio.run(_go_on(directory / "outbox"))


@given(st.integers(0, 2**32))
def test_a_damaged_outbox_holds_up_nothing_and_loses_nothing_in_silence(seed: int) -> None:
    each(seed, 1, attempt)


def test_a_held_event_that_cannot_be_sent_any_more_is_reported_as_lost() -> None:
    with _directory() as directory:
        for name, content in _files()[1].items():
            (directory / name).write_bytes(content)
        with closing(sqlite3.connect(directory / "outbox")) as database, database:
            database.execute("UPDATE outbox SET type = type || char(0) WHERE sequence IN (2, 4)")
        outbox = asyncio.run(_opened(directory / "outbox"))
        (lost,) = outbox.unreported
        assert lost[:4] == ("storage", 2, 2, 4)


async def test_a_retained_topic_that_nobody_can_publish_to_is_forgotten() -> None:
    with _directory() as directory:
        outbox = Outbox.open(directory / "outbox", "node-1")
        await outbox.remember_retained(["a/status", "a/table/l#/2a", "a/t+ble/lb/2a", "a/\0"])
        await outbox.close()
        again = Outbox.open(directory / "outbox", "node-1")
        assert await again.retained() == {"a/status"}
        await again.close()


async def _opened(path: Path) -> Outbox:
    outbox = Outbox.open(path, "node-1")
    await outbox.close()
    return outbox


@pytest.mark.parametrize("kind", ["pipe", "device"])
async def test_what_is_no_file_leaves_events_in_memory_and_stays_where_it_is(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "outbox"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    outbox = Outbox.open(path, "node-1")
    outbox.put(Record(1, 0.0, accepted(1)))
    assert len(await outbox.read(0, 10)) == 1
    assert f"{path}: not a regular file; events go through memory" in str(outbox.trouble)
    assert "move it away, then restart" in str(outbox.trouble)
    await outbox.close()
    assert not path.is_file()
