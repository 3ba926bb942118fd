"""What events cost: throughput end to end, beside a bare aiomqtt loop; latency; a backlog; CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from routesync.events.cloudevents import Record, StreamIdentity, encode
from routesync.events.models import Event
from support.bench import median, percentile, record
from support.broker import Broker, broker
from support.events import UNHURRIED, Node, accepted, listening, publishing
from support.waiting import eventually

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

EVENTS = 30_000
BACKLOG = 100_000
ROUNDS = 3
WINDOW = 64
TOPIC = "routesync/v1/node-1/event/route/accepted"
ALL = "routesync/+/+/event/#"


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    with broker(extra="max_queued_messages 0") as made:
        yield made


def events(count: int) -> list[Event]:
    return [accepted(number) for number in range(count)]


@asynccontextmanager
async def collecting(mosquitto: Broker) -> AsyncIterator[asyncio.Task[list[bytes]]]:
    """A subscriber in another process, which has subscribed when the block begins."""
    before = mosquitto.subscriptions(ALL)
    task = asyncio.create_task(asyncio.to_thread(mosquitto.collect, ALL, EVENTS, within_s=120))
    await eventually(lambda: mosquitto.subscriptions(ALL) > before)
    yield task
    assert len(await task) == EVENTS


async def delivered(node: Node, sequence: int) -> None:
    await eventually(lambda: node.outbox.acknowledged >= sequence, within_s=120)


async def through_the_outbox(mosquitto: Broker, path: Path) -> tuple[float, float]:
    """Events a second and CPU seconds an event, from `emit` to the broker's acknowledgement."""
    made = events(EVENTS)
    async with publishing(mosquitto.settings(), outbox_path=path) as node:
        await node.connected()
        async with collecting(mosquitto) as collected:
            began, cpu = time.perf_counter(), time.process_time()
            for number, event in enumerate(made):
                node.hub.emit(event)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await delivered(node, EVENTS)
            used = time.process_time() - cpu
            await collected
            return EVENTS / (time.perf_counter() - began), used / EVENTS


async def bare(mosquitto: Broker) -> tuple[float, float]:
    """As many events by nothing but aiomqtt, as many in flight: made before, and encoded as they are sent."""
    identity = StreamIdentity("node-1", "0123456789ab")
    made = events(EVENTS)
    async with aiomqtt.Client(
        mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        client.pending_calls_threshold = WINDOW
        left = enumerate(made)

        async def publish() -> None:
            for number, event in left:
                await client.publish(TOPIC, encode(Record(number, 0.0, event), identity), qos=1)

        async with collecting(mosquitto) as collected:
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(publish() for _ in range(WINDOW)))
            used = time.process_time() - cpu
            await collected
            return EVENTS / (time.perf_counter() - began), used / EVENTS


async def test_throughput_beside_bare_aiomqtt(mosquitto: Broker, tmp_path: Path) -> None:
    ours, theirs = [], []
    for number in range(ROUNDS):
        ours.append(await through_the_outbox(mosquitto, tmp_path / f"outbox-{number}"))
        theirs.append(await bare(mosquitto))
    rate, bare_rate = median(rate for rate, _ in ours), median(rate for rate, _ in theirs)
    cpu, bare_cpu = median(cpu for _, cpu in ours) * 1e6, median(cpu for _, cpu in theirs) * 1e6
    record(
        "events end to end at QoS 1, through the outbox", rate, "1/s", peer="bare aiomqtt, 64 in flight",
        peer_value=bare_rate, ratio=rate / bare_rate, target="ratio >= 0.95", ok=rate >= 0.95 * bare_rate,
    )  # fmt: skip
    record("CPU of an event", cpu, "µs", peer="bare aiomqtt", peer_value=bare_cpu, ratio=bare_cpu / cpu)


async def test_latency_beside_bare_aiomqtt(mosquitto: Broker, tmp_path: Path) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    async with (
        listening(mosquitto.settings(), ALL) as listener,
        publishing(mosquitto.settings(), outbox_path=tmp_path / "outbox") as node,
        aiomqtt.Client(mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
    ):
        await node.connected()
        payload = encode(Record(1, 0.0, accepted(1)), node.hub.identity)
        for _ in range(500):
            before = len(listener.heard)
            began = time.perf_counter()
            node.emit()
            while len(listener.heard) == before:  # noqa: ASYNC110 - the loop's own pace is what is measured
                await asyncio.sleep(0)
            ours.append(time.perf_counter() - began)
            before = len(listener.heard)
            began = time.perf_counter()
            await client.publish(TOPIC, payload, qos=1)
            while len(listener.heard) == before:  # noqa: ASYNC110
                await asyncio.sleep(0)
            theirs.append(time.perf_counter() - began)
    p50, bare50 = median(ours) * 1e3, median(theirs) * 1e3
    record("emit to subscriber, p50", p50, "ms", peer="bare aiomqtt", peer_value=bare50, ratio=bare50 / p50)
    record("emit to subscriber, p99", percentile(ours, 0.99) * 1e3, "ms")
    record("what the outbox adds, p50", p50 - bare50, "ms")


async def test_draining_a_backlog(mosquitto: Broker, tmp_path: Path) -> None:
    mosquitto.kill()
    path = tmp_path / "outbox"
    async with publishing(mosquitto.settings(), outbox_path=path, backoff=UNHURRIED) as node:
        for _ in range(BACKLOG // 1000):
            node.emit(1000)
            await node.outbox.flush()
        size = path.stat().st_size
        await asyncio.to_thread(mosquitto.start)
        await node.connected()
        began = time.perf_counter()
        await delivered(node, BACKLOG)
        took = time.perf_counter() - began
    record(f"draining a backlog of {BACKLOG:,} events", took, "s")
    record("rate of that", BACKLOG / took, "1/s")
    record("room of that on disk", size / 2**20, "MiB")


async def test_the_cost_of_emit(tmp_path: Path) -> None:
    made = events(EVENTS)
    with broker() as mosquitto:
        mosquitto.kill()  # so that only emitting and writing take time
        async with publishing(
            mosquitto.settings(), outbox_path=tmp_path / "outbox", backoff=UNHURRIED
        ) as node:
            inside = 0.0
            cpu = time.process_time()
            for number, event in enumerate(made):
                began = time.thread_time()
                node.hub.emit(event)
                inside += time.thread_time() - began
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await node.outbox.flush()
            cpu = time.process_time() - cpu
    record("emit, on the loop", inside / EVENTS * 1e6, "µs")
    record("emit, with encoding and disk", cpu / EVENTS * 1e6, "µs")
