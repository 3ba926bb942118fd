"""The outbox against a plain list, over histories of events, acknowledgements, restarts and kills."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from routesync.events.cloudevents import Record
from routesync.events.outbox import Outbox
from routesync.events.store import StoredEvent
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
