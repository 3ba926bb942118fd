"""Outages: of the broker, of the daemon, of both; nothing is lost within the bounds, and nobody waits."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from routesync.events.models import EventsLost
from routesync.events.store import Bounds
from support.broker import Broker
from support.events import UNHURRIED, accepted, listening, publishing
from support.waiting import eventually

BACKLOG = 100_000


async def test_a_backlog_of_100_000_events_is_delivered_in_order_and_whole(
    mosquitto: Broker, tmp_path: Path
) -> None:
    mosquitto.kill()
    async with publishing(
        mosquitto.settings(), outbox_path=tmp_path / "outbox.sqlite", backoff=UNHURRIED
    ) as node:
        for _ in range(BACKLOG // 1000):
            node.emit(1000)
            await node.outbox.flush()  # as it would be over an outage of minutes
        assert node.outbox.untold == ()
        await asyncio.to_thread(mosquitto.start)
        payloads = await asyncio.to_thread(mosquitto.collect, "routesync/+/+/event/#", BACKLOG, within_s=60)
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
from routesync.settings import MqttSettings
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
        unique = {heard.envelope["id"]: heard.sequence for heard in listener.events}
        before = [number for number in unique.values() if number <= 3000]
        assert before == list(range(1, 3001))  # first arrivals in order, all of them, known by their id
        told = [heard.data for heard in listener.events if heard.topic.endswith("events/lost")]
        assert [(loss["reason"], loss["count"]) for loss in told] == [("killed", None)]


async def test_a_frozen_broker_delays_no_emitter(mosquitto: Broker, tmp_path: Path) -> None:
    async with publishing(
        mosquitto.settings(timeout_s=1), outbox_path=tmp_path / "outbox.sqlite", bounds=Bounds(events=50_000)
    ) as node:
        await node.connected()
        mosquitto.freeze()
        try:
            took = []
            for number in range(20_000):
                event = accepted(number)
                began = time.perf_counter()
                node.hub.emit(event)
                took.append(time.perf_counter() - began)
                if number % 200 == 0:
                    await asyncio.sleep(0)
            assert (
                sorted(took)[-200] < 0.001
            )  # the 99th percentile, in seconds; the rest is the machine's own pauses
        finally:
            mosquitto.thaw()
        await eventually(lambda: node.outbox.acknowledged == 20_000, within_s=30)


async def test_what_was_dropped_during_an_outage_is_told_with_its_count(
    mosquitto: Broker, tmp_path: Path
) -> None:
    mosquitto.kill()
    bounds = Bounds(events=2000)
    async with publishing(
        mosquitto.settings(), outbox_path=tmp_path / "outbox.sqlite", bounds=bounds, backoff=UNHURRIED
    ) as node:
        node.emit(10_000)
        await node.outbox.flush()
        await asyncio.to_thread(mosquitto.start)
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: any(heard.topic.endswith("events/lost") for heard in listener.events))
        arrived = [heard.sequence for heard in listener.events if heard.topic.endswith("accepted")]
        (lost,) = [heard.data for heard in listener.events if heard.topic.endswith("events/lost")]
        assert lost["reason"] == "outbox-full"
        assert lost["count"] == 10_000 - len(arrived)
        assert arrived == list(range(10_001 - len(arrived), 10_001))
        EventsLost.model_validate(lost)
