"""The outbox: order, restarts, kills, bounds, failing disks."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routesync.events import outbox as outbox_module
from routesync.events.cloudevents import Record
from routesync.events.models import EventsLost, SyncLost
from routesync.events.mqtt_client import PackedProperties, Publication
from routesync.events.outbox import Outbox
from routesync.events.store import SEQUENCE_RESERVE, Bounds, HeldEvents, Meta, StoredEvent
from support.disks import fill, small_disk
from support.events import accepted
from support.waiting import eventually


@asynccontextmanager
async def opened(path: Path | None, bounds: Bounds = Bounds()) -> AsyncIterator[Outbox]:  # noqa: B008 - immutable
    outbox = Outbox.open(path, "node-1", bounds=bounds)
    try:
        yield outbox
    finally:
        await outbox.close()


def put(outbox: Outbox, *numbers: int) -> None:
    for number in numbers:
        outbox.put(Record(number, 1_700_000_000.0 + number, accepted(number)))


async def everything(outbox: Outbox) -> list[int]:
    """What waits, by number; something has to."""
    found: list[StoredEvent] = []
    last = await outbox.flush()
    while not found or found[-1].sequence < last:
        found += await outbox.read(found[-1].sequence if found else 0, 1000)
    return [message.sequence for message in found]


async def deliver(outbox: Outbox) -> list[int]:
    """Have the broker take all that waits, and look whether more comes."""
    numbers = await everything(outbox)
    outbox.acknowledge(numbers[-1])
    looking = asyncio.create_task(outbox.read(numbers[-1], 1000))
    await asyncio.sleep(0)  # it has asked
    await outbox.flush()  # and the thread has answered both
    looking.cancel()
    return numbers


def unreported(outbox: Outbox) -> list[tuple[str, int | None]]:
    return [(lost.reason, lost.number) for lost in outbox.unreported]


def report(outbox: Outbox, sequence: int) -> None:
    """Emit what reports the one kind of loss that there is."""
    (lost,) = outbox.unreported
    since = datetime.fromtimestamp(lost.since, UTC)
    event = EventsLost(count=lost.number, first=lost.first, last=lost.last, since=since, reason=lost.reason)
    outbox.put(Record(sequence, 1_700_000_000.0, event))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite"


async def test_events_wait_in_order_over_an_orderly_restart(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, *range(1, 3001))
        epoch = outbox.identity.epoch
    async with opened(file) as outbox:
        assert outbox.first_sequence == 3000
        assert outbox.identity.epoch == epoch
        assert await everything(outbox) == list(range(1, 3001))
        assert await deliver(outbox) == list(range(1, 3001))
        assert outbox.unreported == ()


async def test_what_is_acknowledged_is_gone(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, *range(1, 11))
        await outbox.flush()
        await outbox.read(0, 100)
        outbox.acknowledge(7)
        assert await everything(outbox) == [8, 9, 10]
    async with opened(file) as outbox:
        assert await everything(outbox) == [8, 9, 10]


async def test_a_reader_waits_for_the_next_event() -> None:
    async with opened(None) as outbox:
        reading = asyncio.create_task(outbox.read(0, 10))
        await outbox.flush()
        assert not reading.done()
        put(outbox, 1)
        assert [message.sequence for message in await reading] == [1]


TESTS = str(Path(__file__).parents[2])
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from routesync.events.cloudevents import Record
from routesync.events.outbox import Outbox
from support.disks import fill, small_disk
from support.events import accepted

async def main() -> None:
    outbox = Outbox.open(Path(sys.argv[1]), "node-1")
    for number in range(1, 501):
        outbox.put(Record(number, 1.0, accepted(number)))
    await outbox.flush()
    print(outbox.identity.epoch, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_was_written_and_its_numbers_are_not_given_again(
    file: Path,
) -> None:
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, file, env={"PYTHONPATH": TESTS}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await killed.communicate()
    assert killed.returncode == -9
    async with opened(file) as outbox:
        assert outbox.identity.epoch == said.decode().strip()
        assert await deliver(outbox) == list(range(1, 501))
        assert outbox.first_sequence == SEQUENCE_RESERVE
        assert unreported(outbox) == [("killed", None)]
        (lost,) = outbox.unreported
        assert (lost.first, lost.last) == (501, SEQUENCE_RESERVE)


async def test_the_reserve_moves_on_with_the_sequence(file: Path) -> None:
    outbox = Outbox.open(file, "node-1")
    put(outbox, SEQUENCE_RESERVE)
    await outbox.flush()
    copy = shutil.copyfile(file, file.with_name("copy.sqlite"))  # as a kill at this moment would leave it
    await outbox.close()
    async with opened(copy) as after:
        assert after.first_sequence == 2 * SEQUENCE_RESERVE


async def test_beyond_the_bound_in_events_the_oldest_go_and_are_counted(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        for start in range(1, 5001, 100):
            put(outbox, *range(start, start + 100))
            await outbox.flush()
        waiting = await deliver(outbox)
        assert 800 <= len(waiting) <= 1000
        assert waiting == list(range(5001 - len(waiting), 5001))
        assert unreported(outbox) == [("outbox-full", 5000 - len(waiting))]
        (lost,) = outbox.unreported
        assert (lost.first, lost.last) == (1, waiting[0] - 1)
        assert outbox.lost == {"outbox-full": 5000 - len(waiting)}


async def test_beyond_the_bound_in_bytes_the_oldest_go(file: Path) -> None:
    async with opened(file, Bounds(size=100_000)) as outbox:
        put(outbox, *range(1, 1001))
        waiting = await deliver(outbox)
        assert waiting[-1] == 1000
        assert unreported(outbox) == [("outbox-full", 1000 - len(waiting))]
        assert len(waiting) < 1000


async def deny(outbox: Outbox, *numbers: int) -> None:
    """Have the broker deny what waits."""
    last = await outbox.flush()
    events = await outbox.read(0, 1000)
    assert [event.sequence for event in events] == [*numbers]
    assert events[-1].sequence == last
    for event in events:
        outbox.deny(event)
        outbox.acknowledge(event.sequence)


async def test_what_is_held_waits_for_its_topic_and_others_pass_it(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2, 3)
        await outbox.flush()
        first, second, _ = await outbox.read(0, 10)
        outbox.hold(first)
        outbox.hold(second)
        outbox.acknowledge(3)
        assert outbox.held == {first.topic: HeldEvents(2, 1, 2)}
    async with opened(file) as outbox:
        assert (outbox.acknowledged, unreported(outbox)) == (3, [])
        assert outbox.held == {first.topic: HeldEvents(2, 1, 2)}
        put(outbox, 4)
        await outbox.flush()
        assert [event.sequence for event in await outbox.read(outbox.acknowledged, 10)] == [4]
        outbox.acknowledge(4)
        events = await outbox.read_held(first.topic, 0, 10)
        assert [(event.sequence, event.payload) for event in events] == [
            (1, first.payload),
            (2, second.payload),
        ]
        outbox.release(events[0])
        assert outbox.held == {first.topic: HeldEvents(1, 2, 2)}
        assert [event.sequence for event in await outbox.read_held(first.topic, 0, 10)] == [2]
        outbox.release(events[1])
        assert outbox.held == {}
        assert unreported(outbox) == []
    async with opened(file) as outbox:
        assert (outbox.held, outbox.backlog, unreported(outbox)) == ({}, 0, [])


async def test_what_is_held_behind_an_event_that_waits_leaves_no_gap_after_a_restart(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2, 3)
        await outbox.flush()
        _, second, _ = await outbox.read(0, 10)
        outbox.hold(second)
        outbox.acknowledge(0)  # the first is refused for the moment
    async with opened(file) as outbox:
        events = await outbox.read(0, 10)
        assert [(event.sequence, event.is_held) for event in events] == [(1, False), (2, True), (3, False)]
        outbox.hold(events[1])
        outbox.acknowledge(3)
        assert (outbox.held[second.topic].number, unreported(outbox)) == (1, [])


async def test_of_what_is_held_the_oldest_of_the_fullest_topic_go_and_are_counted(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        put(outbox, *range(1, 201))
        outbox.put(Record(201, 1.0, SyncLost(target="lb-1", prefix="10.0.0.0/8", detail="")))
        await outbox.flush()
        events = await outbox.read(0, 1000)
        for event in events:
            outbox.hold(event)
        outbox.acknowledge(201)
        await outbox.flush()
        assert outbox.held == {
            events[0].topic: HeldEvents(99, 102, 200),
            events[-1].topic: HeldEvents(1, 201, 201),
        }
        assert outbox.held_dropped == {events[0].topic: 101}
        (lost,) = outbox.unreported
        assert (lost.reason, lost.number, lost.first, lost.last) == ("denied", 101, 1, 101)
        assert lost.topics == {events[0].topic: 101}


async def hold(outbox: Outbox, *numbers: int) -> list[StoredEvent]:
    """Have the broker deny the topic of what waits."""
    await outbox.flush()
    events = await outbox.read(outbox.acknowledged, 1000)
    assert [event.sequence for event in events] == [*numbers]
    for event in events:
        outbox.hold(event)
        outbox.acknowledge(event.sequence)
    return events


async def test_what_is_dropped_of_held_events_is_known_after_a_kill_at_once(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        put(outbox, *range(1, 201))
        await hold(outbox, *range(1, 201))
        await outbox.flush()
        for suffix in ("", "-wal"):  # as a kill would leave it
            shutil.copyfile(f"{file}{suffix}", f"{file}.killed{suffix}")
    async with opened(Path(f"{file}.killed")) as outbox:
        assert [*outbox.held.values()] == [HeldEvents(100, 101, 200)]
        assert unreported(outbox) == [("denied", 100)]
        put(outbox, *range(outbox.first_sequence + 1, outbox.first_sequence + 201))
        outbox.bounds = Bounds(events=1000)
        await outbox.flush()
        for event in await outbox.read(outbox.acknowledged, 1000):
            outbox.hold(event)
            outbox.acknowledge(event.sequence)
        await outbox.flush()
        assert ("denied", 300) in unreported(outbox)


async def test_what_is_on_its_way_out_of_a_side_queue_is_not_dropped(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        put(outbox, *range(1, 101))
        (first, *_) = await hold(outbox, *range(1, 101))
        outbox.releasing.add(first.topic)
        on_their_way = await outbox.read_held(first.topic, 0, 10)
        put(outbox, *range(101, 151))
        await hold(outbox, *range(101, 151))
        await outbox.flush()
        assert outbox.held_dropped == {first.topic: 50}
        for event in on_their_way:
            outbox.release(event)
        outbox.releasing.remove(first.topic)
        rest = await outbox.read_held(first.topic, 0, 1000)
        assert [event.sequence for event in rest] == [*range(61, 151)]
        for event in rest:
            outbox.release(event)
        assert outbox.held == {}


async def test_what_is_held_behind_one_that_waits_counts_once_however_often_the_connection_breaks(
    file: Path,
) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2)
        await outbox.flush()
        _, second = await outbox.read(0, 10)
        for _ in range(3):
            outbox.hold(second)
            outbox.acknowledge(0)
        assert outbox.held == {second.topic: HeldEvents(1, 2, 2)}


async def test_what_is_held_behind_one_that_waits_is_neither_dropped_nor_released(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        put(outbox, *range(1, 202))
        await outbox.flush()
        first, *others = await outbox.read(0, 1000)
        for event in others:
            outbox.hold(event)
        await outbox.flush()
        assert not outbox.held_dropped
        assert await outbox.read_held(first.topic, 0, 10) == []
        outbox.acknowledge(201)
        put(outbox, 202)
        await hold(outbox, 202)
        await outbox.flush()
        assert outbox.held_dropped == {first.topic: 101}
        assert unreported(outbox) == [("denied", 101)]


async def test_what_a_held_report_reports_is_reported_again_if_the_report_is_dropped(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2)
        await deny(outbox, 1, 2)
        report(outbox, 3)
        await hold(outbox, 3)
        assert outbox.unreported == ()
    async with opened(file) as outbox:
        assert outbox.unreported == ()
        (held,) = await outbox.read_held(EventsLost.topic(), 0, 10)
        outbox.drop_held(held)
        assert unreported(outbox) == [("denied", 3)]
        report(outbox, 4)
        (again,) = await hold(outbox, 4)
        outbox.release(again)
        assert outbox.unreported == ()


@pytest.mark.root
async def test_what_is_held_while_the_disk_fails_is_held_when_it_is_well_again(disk: Path) -> None:
    async with opened(disk / "outbox.sqlite") as outbox:
        ballast = fill(disk)
        put(outbox, *range(1, 2001))
        await outbox.flush()
        first, *_ = await outbox.read(0, 2000)
        outbox.hold(first)
        outbox.acknowledge(2000)
        await outbox.flush()
        ballast.unlink()
        await eventually(lambda: outbox.trouble is None)
        assert [event.sequence for event in await outbox.read_held(first.topic, 0, 10)] == [1]
        assert unreported(outbox) == []


async def test_a_loss_is_remembered_until_its_report_is_delivered(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2)
        await deny(outbox, 1, 2)
    async with opened(file) as outbox:
        (lost,) = outbox.unreported
        assert (lost.reason, lost.number, lost.first, lost.last) == ("denied", 2, 1, 2)
        report(outbox, 3)
        assert outbox.unreported == ()
    async with opened(file) as outbox:  # the report waits in the outbox
        assert outbox.unreported == ()
        assert await deliver(outbox) == [3]
        put(outbox, 4)
        await deny(outbox, 4)
    async with opened(file) as outbox:
        (lost,) = outbox.unreported
        assert (lost.reason, lost.number, lost.first, lost.last) == ("denied", 1, 4, 4)


async def test_a_report_that_is_denied_is_made_again_with_its_own_number_among_the_lost(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2)
        await deny(outbox, 1, 2)
        report(outbox, 3)
        await deny(outbox, 3)
        assert unreported(outbox) == [("denied", 3)]


@pytest.mark.parametrize("first", ["taken", "denied"])
async def test_what_the_broker_took_is_not_lost_whatever_it_answers_when_it_is_sent_again(
    file: Path, first: str
) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2)
        await outbox.flush()
        for answer in (outbox.take, outbox.deny) if first == "taken" else (outbox.deny, outbox.take):
            _, event = await outbox.read(0, 10)  # the connection broke before the broker answered for 1
            answer(event)
        outbox.acknowledge(2)
        assert unreported(outbox) == []


async def test_each_gap_has_its_own_cause_over_a_kill_and_full_bounds(file: Path) -> None:
    outbox = Outbox.open(file, "node-1", bounds=Bounds(events=100))
    put(outbox, *range(1, 201))
    await outbox.flush()
    copy = shutil.copyfile(file, file.with_name("copy.sqlite"))  # as a kill at this moment would leave it
    shutil.copyfile(f"{file}-wal", f"{copy}-wal")
    await outbox.close()
    async with opened(copy, Bounds(events=50)) as after:
        put(after, *range(SEQUENCE_RESERVE + 1, SEQUENCE_RESERVE + 101))
        waiting = await deliver(after)
        assert waiting[-1] == SEQUENCE_RESERVE + 100
        dropped = 300 - len(waiting)
        assert unreported(after) == [("outbox-full", dropped), ("killed", None)]


async def test_events_that_the_disk_cannot_keep_up_with_are_counted(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "QUEUE_LIMIT", 100)
    async with opened(file) as outbox:
        put(outbox, *range(1, 20_001))  # the loop never yields, and the thread gets little of the interpreter
        kept = len(await deliver(outbox))
        assert unreported(outbox) == [("queue-full", 20_000 - kept)]
        assert 100 <= kept < 20_000
        assert outbox.lost == {"queue-full": 20_000 - kept}


async def test_the_report_of_a_loss_may_be_lost_too_and_its_count_is_not(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        put(outbox, *range(1, 1101))
        await outbox.flush()
        first = (await everything(outbox))[0]
        outbox.acknowledge(first)
        assert unreported(outbox) == [("outbox-full", first - 1)]
        report(outbox, 1101)
        await outbox.flush()
        assert outbox.unreported == ()
    async with opened(file, Bounds(events=1000)) as outbox:  # where nothing is on its way yet
        for start in range(1102, 3102, 100):
            put(outbox, *range(start, start + 100))
            await outbox.flush()
        assert unreported(outbox) == []
        waiting = await deliver(outbox)
        assert waiting[0] > 1101
        assert unreported(outbox) == [("outbox-full", 3101 - len(waiting) - 1)], (
            "every number that is missing"
        )
        (lost,) = outbox.unreported
        assert (lost.first, lost.last) == (1, waiting[0] - 1)


async def test_numbers_that_were_given_while_no_broker_was_configured_are_missing_for_that_reason() -> None:
    async with opened(None) as outbox:
        put(outbox, 1, 2, 10)
        assert await deliver(outbox) == [1, 2, 10]
        assert unreported(outbox) == [("no-broker", 7)]
        assert outbox.lost == {"no-broker": 7}


async def test_what_is_on_its_way_to_the_broker_is_not_dropped(file: Path) -> None:
    async with opened(file, Bounds(events=1000)) as outbox:
        put(outbox, *range(1, 901))
        await outbox.flush()
        sent = await outbox.read(0, 100)
        put(outbox, *range(901, 1501))
        waiting = await deliver(outbox)
        assert waiting[:100] == [message.sequence for message in sent] == list(range(1, 101))
        assert unreported(outbox) == [("outbox-full", 1500 - len(waiting))]
        assert 1500 - len(waiting) == waiting[100] - 101 > 0


def damage(file: Path) -> None:
    file.write_bytes(b"not a database at all, " * 200)


async def test_a_damaged_file_is_put_aside_and_a_new_epoch_begins(file: Path) -> None:
    async with opened(file) as outbox:
        epoch = outbox.identity.epoch
    damage(file)
    with capture_logs() as logs:
        async with opened(file) as outbox:
            assert outbox.identity.epoch != epoch
            assert outbox.first_sequence == 0
            assert outbox.trouble is None
            assert unreported(outbox) == [("storage", None)]
    assert [line["log_level"] for line in logs] == ["error"]
    assert len(list(file.parent.glob("outbox.sqlite.damaged-*"))) == 1


def change_meta(file: Path, **changes: object) -> None:
    """Change what the file knows beside its events."""
    with sqlite3.connect(file) as database:
        (state,) = database.execute("SELECT state FROM meta").fetchone()
        values = Meta(*json.loads(state))._replace(**changes)  # type: ignore[arg-type]
        database.execute("UPDATE meta SET state = ?", (json.dumps(values),))
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        {"epoch": "\xff"},
        {"epoch": ""},
        {"is_clean": 7},
        {"sequence": -1},
        {"sequence": 2},  # there are events with later numbers
        {"sequence": 2**63 - 1},
        {"settled": [4, [], []]},  # the same
        {"settled": [0, [["denied", 1, 0, 1, 1.0, 0]], []]},
        {"settled": [0, [["no reason", 1, 1, 1, 1.0, 0]], []]},
        {"settled": [0, [], [[1, "denied", 1e15]]]},
    ],
    ids=str,
)
async def test_a_damaged_count_begins_a_new_epoch(file: Path, damage: dict[str, object]) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2, 3)
        epoch = outbox.identity.epoch
    change_meta(file, **damage)
    async with opened(file) as outbox:
        assert outbox.trouble is None
        assert outbox.identity.epoch != epoch
        assert unreported(outbox) == [("storage", None)]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta",
        "UPDATE meta SET state = ''",
        "UPDATE meta SET state = 'null'",
        "UPDATE meta SET state = CAST(X'5b22ff22' AS TEXT)",
        "DROP TABLE meta",
    ],
)
async def test_a_missing_count_begins_a_new_epoch(file: Path, damage: str) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2, 3)
        epoch = outbox.identity.epoch
    with sqlite3.connect(file) as database:
        database.execute(damage)
    database.close()
    async with opened(file) as outbox:
        assert outbox.trouble is None
        assert outbox.identity.epoch != epoch


def flip(file: Path, chance: random.Random, epoch: bytes) -> None:
    """Change a bit somewhere, or near the epoch, which is a small part of the file."""
    content = bytearray(file.read_bytes())
    at = chance.choice([content.index(epoch) + chance.randrange(-12, 20), chance.randrange(len(content))])
    content[at] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def scribble(file: Path, chance: random.Random, _: bytes) -> None:
    """Overwrite a run of bytes."""
    content = bytearray(file.read_bytes())
    length = chance.randrange(1, 4096)
    at = chance.randrange(len(content) - length)
    content[at : at + length] = chance.randbytes(length)
    file.write_bytes(content)


def cut(file: Path, chance: random.Random, _: bytes) -> None:
    """Cut off the end."""
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


@pytest.mark.parametrize("corrupt", [flip, scribble, cut])
@pytest.mark.parametrize("seed", range(40))
async def test_a_corrupted_file_ends_nothing(
    file: Path, seed: int, corrupt: Callable[[Path, random.Random, bytes], None]
) -> None:
    async with opened(file) as outbox:
        put(outbox, *range(1, 31))
        await outbox.flush()
        denied, held, *_ = await outbox.read(0, 5)
        outbox.deny(denied)
        outbox.hold(held)
        outbox.acknowledge(2)
        await outbox.remember_retained(["a/b"])
        epoch = outbox.identity.epoch
    corrupt(file, random.Random(seed), epoch.encode())
    async with opened(file) as outbox:
        first = outbox.first_sequence
        put(outbox, first + 1)
        try:
            async with asyncio.timeout(0.3):
                events = await outbox.read(outbox.acknowledged, 100)
        except TimeoutError:  # what cannot be read is tried again, since nothing else would find it
            assert outbox.trouble is not None
        else:
            assert events[-1].sequence == first + 1
            for event in events:
                assert not {*"+#\0"} & {*event.topic}
                user = ("type", event.type), ("target", event.target or ""), ("prefix", event.prefix or "")
                PackedProperties(Publication(event.topic, event.payload, user=user))
                assert "\0" not in "".join(value for _, value in user)
            outbox.acknowledge(first + 1)
        for lost in outbox.unreported:
            datetime.fromtimestamp(lost.since, UTC)
        await outbox.retained()


async def test_an_event_that_no_client_would_publish_is_counted_as_lost(file: Path) -> None:
    async with opened(file) as outbox:
        put(outbox, 1, 2, 3)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE outbox SET topic = 'event/#' WHERE sequence = 2")
    database.close()
    async with opened(file) as outbox:
        assert await deliver(outbox) == [1, 3]
        assert unreported(outbox) == [("storage", 1)]


async def test_without_its_directory_the_outbox_works_in_memory_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "absent" / "outbox.sqlite") as outbox:
        assert outbox.trouble is not None
        assert "check the directory" in outbox.trouble
        put(outbox, 1)
        assert await everything(outbox) == [1]


@pytest.mark.parametrize("replace", [False, True])
async def test_an_outbox_that_is_deleted_while_the_daemon_runs_is_noticed(file: Path, replace: bool) -> None:  # noqa: FBT001
    with capture_logs() as logs:
        async with opened(file) as outbox:
            put(outbox, 1)
            assert await everything(outbox) == [1]
            file.unlink()  # noqa: ASYNC240
            if replace:
                file.touch()  # noqa: ASYNC240
            await eventually(lambda: outbox.trouble is not None)
            assert "was deleted or replaced while the daemon runs" in str(outbox.trouble)
            put(outbox, 2)
            await outbox.flush()
            assert [event.sequence for event in await outbox.read(0, 10)] == [1, 2]
    assert [line["event"] for line in logs] == ["outbox_deleted"]


async def test_a_second_daemon_does_not_share_the_file(file: Path) -> None:
    async with opened(file) as first, opened(file) as second:
        put(first, 1)
        put(second, 1)
        await first.flush()
        await second.flush()
        assert first.trouble is None
        assert second.trouble is not None
        assert "locked" in second.trouble


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small") as mount:
        yield mount


@pytest.mark.root
async def test_a_full_disk_costs_no_event_and_is_said_once_each_way(disk: Path) -> None:
    with capture_logs() as logs:
        async with opened(disk / "outbox.sqlite") as outbox:
            put(outbox, 1)
            await outbox.flush()
            ballast = fill(disk)
            put(outbox, *range(2, 2001))
            assert await everything(outbox) == list(range(1, 2001))
            assert outbox.trouble is not None
            assert f"{disk}/outbox.sqlite: database or disk is full" in outbox.trouble
            assert "the room on its disk" in outbox.trouble
            outbox.acknowledge(1900)  # what is gone needs no disk any more
            ballast.unlink()
            await eventually(lambda: outbox.trouble is None)
            assert await everything(outbox) == list(range(1901, 2001))
            assert outbox.unreported == ()
        assert [line["log_level"] for line in logs] == ["error", "info"]
        async with opened(disk / "outbox.sqlite") as outbox:
            assert await everything(outbox) == list(range(1901, 2001))


@pytest.mark.root
async def test_with_a_disk_and_no_broker_memory_is_bounded(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MEMORY_LIMIT", 500)
    async with opened(disk / "outbox.sqlite") as outbox:
        ballast = fill(disk)
        put(outbox, *range(1, 3001))
        assert await deliver(outbox) == list(range(2501, 3001))
        assert unreported(outbox) == [("storage", 2500)]
        ballast.unlink()


@pytest.mark.root
async def test_what_is_held_while_the_disk_is_full_takes_no_memory_from_new_events(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MEMORY_LIMIT", 500)
    async with opened(disk / "outbox.sqlite") as outbox:
        ballast = fill(disk)
        put(outbox, *range(1, 501))
        (topic,) = {event.topic for event in await hold(outbox, *range(1, 501))}
        put(outbox, *range(501, 601))
        await outbox.flush()
        events = await outbox.read(outbox.acknowledged, 1000)
        assert [event.sequence for event in events] == list(range(501, 601))
        outbox.acknowledge(600)
        assert outbox.held[topic] == HeldEvents(400, 101, 500)
        (lost,) = outbox.unreported
        assert (lost.reason, lost.first, lost.last, lost.topics) == ("denied", 1, 100, {topic: 100})
        ballast.unlink()
        await eventually(lambda: outbox.trouble is None)
        held = await outbox.read_held(topic, 0, 1000)
        assert [event.sequence for event in held] == list(range(101, 501))


@pytest.mark.root
async def test_what_is_lost_while_the_disk_is_full_is_reported_while_it_is_full(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MEMORY_LIMIT", 500)
    async with opened(disk / "outbox.sqlite") as outbox:
        ballast = fill(disk)
        put(outbox, *range(1, 2001))
        assert await deliver(outbox) == list(range(1501, 2001))
        assert unreported(outbox) == [("storage", 1500)]
        report(outbox, 2001)
        assert outbox.unreported == ()
        assert await deliver(outbox) == [2001]
        put(outbox, *range(2002, 2503))  # one more than what memory takes
        assert await deliver(outbox) == list(range(2003, 2503))
        assert unreported(outbox) == [("storage", 1)]
        ballast.unlink()
        await eventually(lambda: outbox.trouble is None)
        assert unreported(outbox) == [("storage", 1)]
    async with opened(disk / "outbox.sqlite") as outbox:
        assert unreported(outbox) == [("storage", 1)]


@pytest.mark.root
async def test_retained_topics_that_a_full_disk_does_not_take_stand_in_nobodys_way(disk: Path) -> None:
    async with opened(disk / "outbox.sqlite") as outbox:
        ballast = fill(disk)
        await outbox.remember_retained([f"routesync/v1/node-1/table/lb-1/{n}" for n in range(10_000)])
        put(outbox, *range(1, 11))
        assert await everything(outbox) == list(range(1, 11))
        ballast.unlink()
        await eventually(lambda: outbox.trouble is None)
        await outbox.remember_retained(["routesync/v1/node-1/status"])
        assert await outbox.retained() == {"routesync/v1/node-1/status"}
    async with opened(disk / "outbox.sqlite") as outbox:
        assert await everything(outbox) == list(range(1, 11))


@pytest.mark.root
async def test_a_disk_that_is_full_at_the_start_is_said_with_its_remedy(disk: Path) -> None:
    async with opened(disk / "outbox.sqlite") as outbox:
        put(outbox, *range(1, 11))
    ballast = fill(disk)
    async with opened(disk / "outbox.sqlite") as outbox:
        assert outbox.trouble is not None
        assert "the room on its disk, then restart" in outbox.trouble
        put(outbox, 1)
        assert await everything(outbox) == [1]
    ballast.unlink()
    async with opened(disk / "outbox.sqlite") as outbox:
        assert await everything(outbox) == list(range(1, 11))
