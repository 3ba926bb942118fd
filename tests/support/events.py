"""What tests of the event stream need: a node that publishes, and a listener at the broker."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import aiomqtt

from routesync.backoff import Backoff
from routesync.config.models import MqttSettings
from routesync.events.hub import EventHub
from routesync.events.models import RouteAccepted
from routesync.events.mqtt_client import MqttConnection
from routesync.events.node_status import Status, TargetStatus
from routesync.events.outbox import Outbox
from routesync.events.publisher import MqttPublisher
from routesync.events.store import Bounds
from support.waiting import eventually

NODE = "node-1"
TARGET = TargetStatus(name="lb-1", url="http://192.0.2.9:11111", state="synced")
QUICK = Backoff(first_s=0.05, most_s=0.1)
UNHURRIED = Backoff(first_s=1, most_s=1)
"""Leaves a listener the time to be there first, when the broker is back."""


class Heard(NamedTuple):
    """A message that a listener got."""

    topic: str
    retained: bool
    payload: bytes

    @property
    def envelope(self) -> dict[str, object]:
        envelope = json.loads(self.payload)
        assert isinstance(envelope, dict)
        return envelope

    @property
    def data(self) -> dict[str, object]:
        data = self.envelope["data"]
        assert isinstance(data, dict)
        return data

    @property
    def sequence(self) -> int:
        return int(str(self.envelope["sequence"]))


class Listener:
    """Collects what a broker delivers."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.events: list[Heard] = []
        self.sequences: list[int] = []  # of the events

    def take(self, heard: Heard) -> None:
        self.heard.append(heard)
        if "/event/" in heard.topic:
            self.events.append(heard)
            self.sequences.append(heard.sequence)

    @property
    def states(self) -> list[str]:
        """The states that `status` went through; what was retained is the first of them."""
        return [state for state in self.states_or_cleared if state]

    @property
    def states_or_cleared(self) -> list[str]:
        """The same, with "" where the topic was cleared."""
        return [
            str(heard.data["state"]) if heard.payload else ""
            for heard in self.heard
            if heard.topic.endswith("/status")
        ]


@asynccontextmanager
async def listening(settings: MqttSettings, topic: str = "routesync/#") -> AsyncIterator[Listener]:
    """Listen for the length of a `with` block."""
    listener = Listener()

    async def collect(connection: MqttConnection) -> None:
        async for message in connection.messages:
            assert isinstance(message.payload, bytes)
            listener.take(Heard(message.topic.value, message.retain, message.payload))

    client_id = f"listener-{secrets.token_hex(4)}"
    async with MqttConnection(settings, client_id=client_id) as connection:
        await connection.subscribe(topic)
        task = asyncio.create_task(collect(connection))
        try:
            yield listener
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await task


@dataclass
class Node:
    """A node that publishes; `status` may be replaced at any time."""

    hub: EventHub
    outbox: Outbox
    publisher: MqttPublisher
    task: asyncio.Task[None]
    status: Status
    asked: int = 0  # how often the publisher asked for the status

    def tell_status(self) -> Status:
        self.asked += 1
        return self.status.model_copy(update={"held": self.publisher.held})

    def emit(self, count: int = 1) -> None:
        """Emit events of routes that all differ."""
        for _ in range(count):
            self.hub.emit(accepted(self.hub.sequence + 1))

    def held(self, topic: str) -> int:
        """How many events of this topic are held."""
        return self.outbox.held[topic].number if topic in self.outbox.held else 0

    async def connected(self) -> None:
        await eventually(lambda: self.publisher.state == "connected", what="a connected publisher")


def accepted(number: int, *, target: str = "lb-1", gateway: str = "192.0.2.1") -> RouteAccepted:
    """The `number`th route of many, accepted."""
    prefix = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
    return RouteAccepted(target=target, prefix=prefix, family="ipv4", gateway=gateway, rule="default")


@asynccontextmanager
async def publishing(
    settings: MqttSettings,
    *,
    outbox_path: Path | None = None,
    bounds: Bounds = Bounds(),  # noqa: B008 - immutable
    node: str = NODE,
    backoff: Backoff | None = QUICK,
    started: datetime | None = None,
) -> AsyncIterator[Node]:
    """Run a publisher for the length of a `with` block; it is stopped in order unless it has ended before."""
    outbox = Outbox.open(outbox_path, node, bounds=bounds)
    hub = EventHub(node, epoch=outbox.identity.epoch, sequence=outbox.first_sequence)
    hub.attach(outbox)
    holder: list[Node] = []

    def status() -> Status:
        return holder[0].tell_status()

    publisher = MqttPublisher(settings, node, hub, status, outbox=outbox, backoff=backoff)
    first = Status(state="online", node=node, targets=(TARGET,), started=started)
    made = Node(hub, outbox, publisher, asyncio.create_task(publisher.run()), first)
    holder.append(made)
    try:
        yield made
    finally:
        publisher.stop()
        with suppress(asyncio.CancelledError):
            await made.task
        await outbox.close()
