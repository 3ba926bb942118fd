"""The outbox against a plain list, over histories of events, acknowledgements, refusals, restarts and kills."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from routesync.events.cloudevents import Record
from routesync.events.models import RouteAccepted
from routesync.events.outbox import Outbox
from routesync.events.store import Bounds, StoredEvent
from support.events import accepted

STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 50)),
    st.tuples(st.just("acknowledge"), st.integers(1, 50)),
    st.tuples(st.sampled_from(["restart", "kill"]), st.just(0)),
)


def killed_copy(path: Path, number: int) -> Path:
    """The files as a kill at this moment would leave them."""
    copy = path.with_name(f"outbox-{number}")
    shutil.copyfile(path, copy)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
    return copy


async def contents(outbox: Outbox) -> list[int]:
    last = await outbox.flush()
    found: list[StoredEvent] = []
    while last and (not found or found[-1].sequence < last):
        found += await outbox.read(found[-1].sequence if found else 0, 20)
    return [message.sequence for message in found]


async def live(directory: Path, steps: list[tuple[str, int]]) -> None:
    path = directory / "outbox"
    outbox = Outbox.open(path, "node-1")
    sequence, waiting = outbox.first_sequence, list[int]()
    given: set[int] = set()
    for number, (step, count) in enumerate(steps):
        match step:
            case "put":
                for _ in range(count):
                    sequence += 1
                    assert sequence not in given
                    given.add(sequence)
                    waiting.append(sequence)
                    outbox.put(Record(sequence, 0.0, accepted(sequence)))
            case "acknowledge" if waiting:
                outbox.acknowledge(waiting[min(count, len(waiting)) - 1])
                waiting = waiting[count:]
            case "restart":
                await outbox.close()
                outbox = Outbox.open(path, "node-1")
                assert outbox.first_sequence == sequence
            case "kill":
                await outbox.flush()
                copy = killed_copy(path, number)
                await outbox.close()
                path, outbox = copy, Outbox.open(copy, "node-1")
                assert outbox.first_sequence > sequence
                sequence = outbox.first_sequence
        assert await contents(outbox) == waiting
    assert outbox.trouble is None
    killed = any(step == "kill" for step, _ in steps)
    assert {lost.reason for lost in outbox.unreported} <= ({"killed"} if killed else set()), (
        "nothing else is missing"
    )
    await outbox.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_what_waits_is_what_was_put_and_not_acknowledged(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(Path(directory), steps))


FATES = st.one_of(
    st.tuples(st.sampled_from(["put", "take", "hold", "deny", "release"]), st.integers(1, 40)),
    st.tuples(st.sampled_from(["restart", "kill"]), st.just(0)),
)
NARROW = Bounds(events=50)
"""Of which five may be held."""


async def settle(directory: Path, steps: list[tuple[str, int]]) -> tuple[int, int]:
    """Return how many events were given, and what became of how many: taken, or counted as lost."""
    path = directory / "outbox"
    outbox = Outbox.open(path, "node-1", bounds=NARROW)
    given, taken, sequence = 0, set[int](), 0

    async def put(count: int) -> None:
        nonlocal given, sequence
        for _ in range(count):
            given, sequence = given + 1, sequence + 1
            outbox.put(Record(sequence, 0.0, accepted(sequence)))
        await outbox.flush()

    async def answer(count: int, kind: str) -> None:
        last = await outbox.flush()
        if last <= outbox.acknowledged:
            return
        for event in (await outbox.read(outbox.acknowledged, 1000))[:count]:
            match "hold" if event.is_held else kind:
                case "take":
                    taken.add(event.sequence)
                case "hold":
                    outbox.hold(event)
                case "deny":
                    outbox.deny(event)
            outbox.acknowledge(event.sequence)

    async def release(count: int) -> None:
        for event in await outbox.read_held(RouteAccepted.topic(), 0, count):
            taken.add(event.sequence)
            outbox.release(event)

    for number, (step, count) in enumerate(steps):
        match step:
            case "put":
                await put(count)
            case "take" | "hold" | "deny":
                await answer(count, step)
            case "release":
                await release(count)
            case "restart":
                await outbox.close()
                outbox = Outbox.open(path, "node-1", bounds=NARROW)
            case "kill":
                await outbox.flush()
                copy = killed_copy(path, number)
                await outbox.close()
                path, outbox = copy, Outbox.open(copy, "node-1", bounds=NARROW)
                sequence = outbox.first_sequence
    await put(1)  # behind what may be missing
    await answer(1000, "take")
    await release(1000)
    assert not outbox.held
    lost = sum(lost.number or 0 for lost in outbox.unreported)
    await outbox.close()
    return given, len(taken) + lost


@settings(max_examples=25, deadline=None)
@given(st.lists(FATES, max_size=15))
def test_what_was_put_is_taken_or_counted_as_lost(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        put, settled = asyncio.run(settle(Path(directory), steps))
        assert settled == put
