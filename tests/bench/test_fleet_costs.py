"""What one node costs a broker: the figures that docs/scaling.md multiplies."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiomqtt
import pytest

from docgen.contract import example_status
from routesync.events.cloudevents import Record, StreamIdentity, encode, encode_state
from routesync.events.mqtt_client import Publication
from routesync.events.node_status import MAX_DEPTH, Status, TableBucket
from routesync.events.retained import PublishedTables
from support.bench import record
from support.broker import Broker, broker
from support.events import accepted

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

ROUTES = 5000
NODES = 100
PUBLISHES = 20_000
TICKS_A_SECOND = 100
IDENTITY = StreamIdentity("node-0001", "0123456789ab")


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    with broker(extra="max_queued_messages 0") as made:
        yield made


def bucket_payloads() -> list[bytes]:
    table = PublishedTables()
    for number in range(ROUTES):
        table.put(Record(number + 1, 0.0, accepted(number)))
    (target,) = table
    target.settle_depth(MAX_DEPTH)
    return [
        encode_state(
            TableBucket.type_name,
            IDENTITY,
            target.bucket(number, ROUTES),
            at=0.0,
            subject=f"table/lb-1/{number}",
            serial=str(ROUTES),
        )
        for number in range(2**target.depth)
    ]


def event_payload() -> bytes:
    return encode(Record(1, 0.0, accepted(1)), IDENTITY)


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


async def publish_all(client: aiomqtt.Client, publications: list[Publication], *, window: int = 64) -> None:
    left = iter(publications)

    async def publish() -> None:
        for one in left:
            await client.publish(one.topic, one.payload, qos=1, retain=one.retain)

    client.pending_calls_threshold = window
    await asyncio.gather(*(publish() for _ in range(window)))


def connect(mosquitto: Broker) -> aiomqtt.Client:
    return aiomqtt.Client(mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5, timeout=60)


async def test_retained_state(mosquitto: Broker) -> None:
    buckets = bucket_payloads()
    size = sum(map(len, buckets))
    before = resident_bytes(mosquitto.pid)
    async with connect(mosquitto) as client:
        for node in range(NODES):
            root = f"routesync/v1/node-{node:04}/table/lb-1"
            await publish_all(
                client,
                [Publication(f"{root}/{n}", payload, retain=True) for n, payload in enumerate(buckets)],
            )
    grown = (resident_bytes(mosquitto.pid) - before) / NODES
    status = len(encode_state("status", IDENTITY, example_status(), at=0.0, subject="status", serial="1"))
    record(f"retained table of {ROUTES:,} routes, payload", size / 1e3, "kB")
    record("a route in it", size / ROUTES, "B")
    record("a bucket of it", size / len(buckets) / 1e3, "kB")
    record("memory of mosquitto for it", grown / 1e3, "kB")
    record("a status of one target", status, "B")


@pytest.mark.parametrize("subscribers", [0, 1, 5])
async def test_events(mosquitto: Broker, subscribers: int) -> None:
    async def swallow() -> None:
        async with connect(mosquitto) as client:
            await client.subscribe("routesync/#", qos=1)
            ready.append(client)
            async for _ in client.messages:
                pass

    ready: list[aiomqtt.Client] = []
    tasks = [asyncio.create_task(swallow()) for _ in range(subscribers)]
    while len(ready) < subscribers:  # noqa: ASYNC110 - a moment
        await asyncio.sleep(0.01)
    payload = event_payload()
    topic = "routesync/v1/node-0001/event/route/accepted"
    async with connect(mosquitto) as client:
        before = cpu_seconds(mosquitto.pid)
        await publish_all(client, [Publication(topic, payload)] * PUBLISHES)
        used = cpu_seconds(mosquitto.pid) - before
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    record(f"mosquitto's CPU for an event, {subscribers} subscribers", used / PUBLISHES * 1e6, "µs")
    if not subscribers:
        record("an event", len(payload), "B")


async def test_fleet_command() -> None:
    """5,000 nodes with 1,000 routes each at a mosquitto with its default limits: complete within 10 seconds."""
    nodes = 5000
    with broker() as default:
        data = example_status().model_dump(mode="json")
        data["targets"][0] |= {"desired": 1000, "phases": {"confirmed": 1000}}
        publications = []
        for number in range(nodes):
            name = f"node-{number:04}"
            identity = StreamIdentity(name, "5f0c2e9ab1d4")
            status = Status.model_validate(data | {"node": name})
            payload = encode_state(Status.type_name, identity, status, at=1e9, subject="status", serial="1")
            publications.append(Publication(f"routesync/v1/{name}/status", payload, retain=True))
        async with connect(default) as client:
            await publish_all(client, publications)
        command = [
            sys.executable,
            "-m",
            "routesync",
            "fleet",
            "--broker",
            f"{default.address}:{default.port}",
        ]
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        took_s = time.monotonic() - began
    assert process.returncode == 0
    assert said.startswith(b"5000 nodes: 5000 online; 5000000 of 5000000 routes mirrored")
    record(f"`routesync fleet` of {nodes:,} nodes", took_s, "s")
    assert took_s < 10
