"""What one node costs a broker: the figures that docs/scaling.md multiplies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiomqtt
import pytest

from demo.topology import MIRRORED_TABLE
from docgen.contract import example_status
from routesync.events.cloudevents import Record, StreamIdentity, encode, encode_state
from routesync.events.mqtt_client import Publication
from routesync.events.node_status import MAX_DEPTH, Status, TableBucket
from routesync.events.retained import PublishedTables
from support.bench import record
from support.broker import Broker, broker
from support.events import accepted
from support.fleet import FleetNode, publish
from support.waiting import eventually_sync
from support.world import world

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "routesync"]
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


def simulated(nodes: int) -> Iterator[Publication]:
    """What nodes with 1,000 routes each retain: one is made, the others are that with another name."""
    model = FleetNode("node-0000", {f"10.{n >> 8}.{n & 255}.0/24": "192.168.10.1" for n in range(1000)})
    made = (model.status(), *model.table())
    for number in range(nodes):
        name = f"node-{number:04}"
        for one in made:
            yield one._replace(
                topic=one.topic.replace(model.name, name),
                payload=one.payload.replace(model.name.encode(), name.encode()),
            )


def test_commands_over_a_fleet() -> None:
    """5,000 nodes with 1,000 routes each at a mosquitto with its default limits: complete within 10 seconds."""
    nodes = 5000
    with broker() as default:
        before = resident_bytes(default.pid)
        began = time.monotonic()
        publish(default.settings(timeout_s=60), simulated(nodes))
        record(f"publishing what {nodes:,} nodes with 1,000 routes retain", time.monotonic() - began, "s")
        record("memory of mosquitto for it", (resident_bytes(default.pid) - before) / 1e6, "MB")
        for arguments, answer in (
            ((), b"5,000 nodes: 5000 online; 5000000 of 5000000 routes mirrored"),
            (("who-has", "10.0.7.0/24"), b"5,000 tables have a route to 10.0.7.0/24, 0 not"),
            (("diff",), b"edge: 5,000 nodes, all have the same"),
        ):
            command = [*COMMAND, "fleet", "--broker", f"{default.address}:{default.port}", *arguments]
            began = time.monotonic()
            done = subprocess.run(command, capture_output=True, check=False)
            took_s = time.monotonic() - began
            assert answer in done.stdout, (done.stdout[:200], done.stderr[:400])
            assert not done.stderr
            name = f"`{' '.join(['fleet', *arguments])}`, {nodes:,} nodes"
            if arguments:  # these read a thousand routes of each node
                record(name, took_s, "s")
            else:
                record(name, took_s, "s", target="<= 10", ok=took_s <= 10)


def test_what_an_idle_node_publishes(tmp_path: Path) -> None:
    """A daemon with a target, everything mirrored and confirmed; it probes the target and reads its table meanwhile."""
    heard, idle_s, heartbeat_s = tmp_path / "heard", 20, 5
    with world(tmp_path) as scene:
        text = scene.config.read_text().replace("[mqtt]\n", f"[mqtt]\nheartbeat_s = {heartbeat_s}\n")
        scene.config.write_text(f"{text}\n[target_defaults]\ninventory_interval_s = 10\n")
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        eventually_sync(
            lambda: not {"pending", "accepted"} & scene.status()["targets"][0]["phases"].keys(), within_s=30
        )
        with scene.listening("#", heard, "-R"):
            time.sleep(idle_s)
    messages = [json.loads(line) for line in heard.read_bytes().splitlines() if line]
    others = [message["type"] for message in messages if message["type"] != Status.type_name]
    beats = idle_s / heartbeat_s / 0.8 + 1  # each beat comes up to a fifth earlier
    ok = not others and len(messages) <= beats
    record(
        f"messages of an idle node in {idle_s} s, heartbeat {heartbeat_s} s", len(messages), "",
        peer="of them no heartbeat", peer_value=len(others), target=f"<= {beats:.0f}", ok=ok,
    )  # fmt: skip
