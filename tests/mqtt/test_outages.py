"""Outages: of the broker, of the daemon, of both; nothing is lost within the bounds, and nobody waits."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from routesync.events.models import EventsLost
from routesync.events.store import Bounds
from support.broker import Broker, broker
from support.events import Node, listening, publishing
from support.waiting import eventually

BACKLOG = 100_000


@pytest.fixture
def gated() -> Iterator[Broker]:
    """A broker that lets the node in only when its password is right: so a listener can be there before it."""
    with broker(users={"node": "right", "listener": "listener"}, extra="max_queued_messages 0") as made:
        yield made


@asynccontextmanager
async def shut_out(
    gated: Broker,
    directory: Path,
    bounds: Bounds = Bounds(),  # noqa: B008 - immutable
) -> AsyncIterator[tuple[Node, Path]]:
    """A node that has no broker at first, and the file that it reads its password from."""
    password = directory / "password"
    password.write_text("wrong")
    settings = gated.settings(username="node", password_file=str(password))
    gated.kill()
    async with publishing(settings, outbox_path=directory / "outbox.sqlite", bounds=bounds) as node:
        await eventually(lambda: "Connection refused" in node.publisher.state)
        yield node, password


@pytest.mark.long
async def test_a_backlog_of_100_000_events_is_delivered_in_order_and_whole(
    gated: Broker, tmp_path: Path
) -> None:
    async with shut_out(gated, tmp_path) as (node, password):
        for _ in range(BACKLOG // 1000):
            node.emit(1000)
            await node.outbox.flush()  # as it would be over an outage of minutes
        assert node.outbox.unreported == ()
        await asyncio.to_thread(gated.start)
        collecting = asyncio.create_task(
            asyncio.to_thread(
                gated.collect,
                "routesync/+/+/event/#",
                BACKLOG,
                within_s=60,
                user="listener",
                password="listener",
            )
        )
        await eventually(lambda: gated.subscriptions("routesync/+/+/event/#") == 1)
        password.write_text("right")
        payloads = await collecting
    assert [int(json.loads(payload)["sequence"]) for payload in payloads] == list(range(1, BACKLOG + 1))


async def test_a_daemon_restarted_during_an_outage_delivers_what_the_former_one_left(
    mosquitto: Broker, tmp_path: Path
) -> None:
    mosquitto.kill()
    file = tmp_path / "outbox.sqlite"
    for _ in range(3):
        async with publishing(mosquitto.settings(), outbox_path=file) as node:
            node.emit(100)
    await asyncio.to_thread(mosquitto.start)
    async with (
        listening(mosquitto.settings()) as listener,
        publishing(mosquitto.settings(), outbox_path=file),
    ):
        await eventually(lambda: len(listener.events) == 300)
    assert listener.sequences == list(range(1, 301))


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from routesync.config.models import MqttSettings
from support.events import publishing
from support.waiting import eventually

async def main() -> None:
    settings = MqttSettings(host=sys.argv[1], port=int(sys.argv[2]))
    async with publishing(settings, outbox_path=Path(sys.argv[3])) as node:
        await node.connected()
        node.emit(3000)
        await node.outbox.flush()
        await eventually(lambda: node.outbox.acknowledged > 500)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_killed_daemon_delivers_the_rest_after_its_restart(mosquitto: Broker, tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    tests = str(Path(__file__).parents[1])
    async with listening(mosquitto.settings()) as listener:

        def losses() -> list[tuple[object, object]]:
            lost = [heard.data for heard in listener.events if heard.topic.endswith("events/lost")]
            return [(loss["reason"], loss["count"]) for loss in lost]

        killed = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            KILLED,
            mosquitto.address,
            str(mosquitto.port),
            file,
            env={"PYTHONPATH": tests},
        )
        assert await killed.wait() == -9
        async with publishing(mosquitto.settings(), outbox_path=file) as node:
            node.emit(1)
            await eventually(lambda: node.hub.sequence in listener.sequences)
            await eventually(lambda: losses() == [("killed", None)], what="the loss")
        unique = {heard.envelope["id"]: heard.sequence for heard in listener.events}
        before = [number for number in unique.values() if number <= 3000]
        assert before == list(range(1, 3001))  # first arrivals in order, all of them, known by their id


async def test_what_is_emitted_while_the_broker_is_frozen_comes_when_it_thaws(
    mosquitto: Broker, tmp_path: Path
) -> None:
    async with (
        listening(mosquitto.settings()) as listener,
        publishing(mosquitto.settings(), outbox_path=tmp_path / "outbox.sqlite") as node,
    ):
        await node.connected()
        node.emit(1)
        await eventually(lambda: node.outbox.acknowledged == 1)
        mosquitto.freeze()
        try:
            node.emit(5000)
            assert await node.outbox.flush() == 5001  # on disk, all of them, while nothing gets through
            assert node.outbox.acknowledged == 1
        finally:
            mosquitto.thaw()
        await eventually(lambda: len(listener.events) == 5001, within_s=30)
        assert listener.sequences == list(range(1, 5002))


async def test_a_broker_that_hangs_is_given_up_and_what_it_did_not_acknowledge_comes_again(
    mosquitto: Broker, tmp_path: Path
) -> None:
    settings = mosquitto.settings(timeout_s=1).model_copy(update={"keepalive_s": 1})
    async with (
        listening(mosquitto.settings()) as listener,
        publishing(settings, outbox_path=tmp_path / "outbox.sqlite") as node,
    ):
        await node.connected()
        node.emit(100)
        await eventually(lambda: node.outbox.acknowledged == 100)
        mosquitto.freeze()
        try:
            node.emit(100)
            await eventually(lambda: "does not answer" in node.publisher.state)
        finally:
            mosquitto.thaw()
        node.emit(100)
        await eventually(lambda: 300 in listener.sequences)
    first = {heard.envelope["id"]: heard.sequence for heard in listener.events}
    assert [*first.values()] == list(range(1, 301))  # known by their id, in order, whole


async def test_what_was_dropped_during_an_outage_is_losses_with_its_count(
    gated: Broker, tmp_path: Path
) -> None:
    async with shut_out(gated, tmp_path, Bounds(events=2000)) as (node, password):
        for _ in range(10):
            node.emit(1000)
            await node.outbox.flush()
            assert node.outbox.backlog <= 2000
        await asyncio.to_thread(gated.start)
        async with listening(gated.settings(username="listener", password="listener")) as listener:
            password.write_text("right")
            await eventually(lambda: any(heard.topic.endswith("events/lost") for heard in listener.events))
        arrived = [heard.sequence for heard in listener.events if heard.topic.endswith("accepted")]
        (lost,) = [heard.data for heard in listener.events if heard.topic.endswith("events/lost")]
        assert lost["reason"] == "outbox-full"
        assert lost["count"] == 10_000 - len(arrived)
        assert arrived == list(range(10_001 - len(arrived), 10_001))
        EventsLost.model_validate(lost)
