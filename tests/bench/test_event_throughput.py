"""What events cost: throughput end to end, beside a bare aiomqtt loop; latency; a backlog; CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest

from routesync.events.cloudevents import Identity, Record, encode
from routesync.events.models import Event
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


async def delivered(node: Node, sequence: int) -> None:
    await eventually(lambda: node.outbox.acknowledged >= sequence, within_s=120)


async def through_the_outbox(mosquitto: Broker, path: Path) -> tuple[float, float]:
    """Events a second and CPU seconds an event, from `emit` to the broker's acknowledgement."""
    async with publishing(mosquitto.settings(), outbox_path=path) as node:
        await node.connected()
        made = events(EVENTS)
        collecting = asyncio.create_task(asyncio.to_thread(mosquitto.collect, ALL, EVENTS, within_s=120))
        await asyncio.sleep(0.5)  # the subscriber is another process; what it misses shows below
        began, cpu = time.perf_counter(), time.process_time()
        for number, event in enumerate(made):
            node.hub.emit(event)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await delivered(node, EVENTS)
        took, used = time.perf_counter() - began, time.process_time() - cpu
        assert len(await collecting) == EVENTS
        return EVENTS / took, used / EVENTS


async def bare(mosquitto: Broker) -> tuple[float, float]:
    """The same messages by nothing but aiomqtt, as many in flight."""
    payload = encode(Record(1, 0.0, accepted(1)), Identity("node-1", "0123456789ab"))
    async with aiomqtt.Client(
        mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        client.pending_calls_threshold = WINDOW
        collecting = asyncio.create_task(asyncio.to_thread(mosquitto.collect, ALL, EVENTS, within_s=120))
        await asyncio.sleep(0.5)
        left = iter(range(EVENTS))

        async def publish() -> None:
            for _ in left:
                await client.publish(TOPIC, payload, qos=1)

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(publish() for _ in range(WINDOW)))
        took, used = time.perf_counter() - began, time.process_time() - cpu
        assert len(await collecting) == EVENTS
        return EVENTS / took, used / EVENTS


async def test_throughput_beside_bare_aiomqtt(mosquitto: Broker, tmp_path: Path) -> None:
    ours, theirs = [], []
    for number in range(ROUNDS):
        ours.append(await through_the_outbox(mosquitto, tmp_path / f"outbox-{number}"))
        theirs.append(await bare(mosquitto))
    rate, cpu = sorted(ours)[ROUNDS // 2]
    bare_rate, bare_cpu = sorted(theirs)[ROUNDS // 2]
    print(
        f"\nevents end to end at QoS 1: {rate:,.0f}/s, {cpu * 1e6:.0f} us of CPU each; "
        f"bare aiomqtt {bare_rate:,.0f}/s, {bare_cpu * 1e6:.0f} us; ratio {rate / bare_rate:.2f}"
    )
    assert rate > 5000


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
    ours.sort()
    theirs.sort()
    print(
        f"\nemit to subscriber: median {ours[250] * 1e3:.2f} ms, p99 {ours[495] * 1e3:.2f} ms; "
        f"bare aiomqtt {theirs[250] * 1e3:.2f} ms, p99 {theirs[495] * 1e3:.2f} ms; "
        f"the outbox adds {(ours[250] - theirs[250]) * 1e3:.2f} ms"
    )


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
    print(
        f"\nbacklog of {BACKLOG:,} events ({size / 2**20:.0f} MiB): drained in {took:.1f} s, {BACKLOG / took:,.0f}/s"
    )


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
    print(
        f"\nemit: {inside / EVENTS * 1e6:.1f} us on the loop; with encoding and disk {cpu / EVENTS * 1e6:.0f} us"
    )
