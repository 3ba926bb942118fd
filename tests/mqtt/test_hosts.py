"""Several brokers: a node goes on with another one where one fails, and says which."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from routesync.config.models import MqttSettings
from routesync.events.mqtt_client import explain
from routesync.events.reader import subscribing
from support.broker import Broker, broker
from support.events import accepted, listening, publishing
from support.waiting import eventually


@pytest.fixture
def two() -> Iterator[tuple[Broker, Broker]]:
    with broker() as first, broker(address="127.0.0.2", port=first.port) as second:
        yield first, second


def settings_of(*brokers: Broker) -> MqttSettings:
    hosts = [it.address for it in brokers]
    return MqttSettings.model_validate({"hosts": hosts, "port": brokers[0].port, "timeout_s": 3})


async def test_a_node_goes_on_with_another_broker_within_seconds(two: tuple[Broker, Broker]) -> None:
    async with publishing(settings_of(*two)) as node:
        for _ in range(2):  # there and back
            await node.connected()
            here = next(it for it in two if it.address == node.publisher._broker.host)
            there = next(it for it in two if it is not here)
            async with listening(there.settings()) as listener:
                began = time.monotonic()
                await asyncio.to_thread(here.kill)
                node.hub.emit(accepted(node.hub.sequence + 1))
                await eventually(lambda: node.hub.sequence in listener.sequences)
                await eventually(lambda: "online" in listener.states)
                assert time.monotonic() - began < 5
            await asyncio.to_thread(here.start)


async def test_a_broker_that_cannot_be_used_delays_nothing(two: tuple[Broker, Broker]) -> None:
    two[0].kill()
    for _ in range(8):  # with a random one first
        async with subscribing(settings_of(*two), "test") as subscriber:
            await subscriber.subscribe("#")
        async with publishing(settings_of(*two)) as node:
            await eventually(lambda: node.publisher.state == "connected", within_s=3)


async def test_nodes_begin_with_different_brokers(two: tuple[Broker, Broker]) -> None:
    begun = set()
    for _ in range(20):
        async with publishing(settings_of(*two)) as node:
            await node.connected()
            begun.add(node.publisher._broker.host)
        if len(begun) == 2:
            break
    assert len(begun) == 2


REFUSED = b"\x20\x10\x00\x9c\x0d\x1c\x00\x0ab2:1883 b3"
"""CONNACK of MQTT 5: use another server, with a Server Reference (3.2.2.3.16)."""
MOVED = b"\x20\x03\x00\x00\x00" + b"\xe0\x0c\x9d\x0a\x1c\x00\x07b2:1883"
"""CONNACK, and DISCONNECT: the server has moved (3.14.2.2.5)."""


@pytest.mark.parametrize(("says", "named"), [(REFUSED, "b2:1883 b3"), (MOVED, "b2:1883")])
async def test_the_server_that_a_broker_names_instead_is_shown(says: bytes, named: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(says)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        settings = MqttSettings(host="127.0.0.1", port=server.sockets[0].getsockname()[1], timeout_s=3)
        async with publishing(settings) as node:
            await eventually(lambda: named in node.publisher.state)
            assert "mqtt.hosts" in node.publisher.state


def test_all_hosts_are_named_when_none_can_be_used() -> None:
    said = explain(OSError("refused"), MqttSettings.model_validate({"hosts": ["b1", "b2"]}), "c")
    assert said.startswith("broker b1:1883 or b2:1883: refused")
