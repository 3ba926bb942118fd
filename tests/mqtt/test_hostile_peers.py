"""What another node says of the loxilb that it shares with us becomes a part of topics: it has to be a name."""

from __future__ import annotations

import asyncio

import pytest

from routesync.cli.takeover import RefusedError, _Here, _left
from routesync.events import delivery, peers
from routesync.events.cloudevents import StreamIdentity, encode_state
from routesync.events.mqtt_client import MqttConnection, Publication
from routesync.events.node_status import Instance, Status
from routesync.events.reader import subscribing
from support.broker import Broker
from support.events import NODE, TARGET, publishing
from support.waiting import eventually

INSTANCE = "5a0f3c9d1b2e4f60"
OTHER = "node-2"


async def publish(mosquitto: Broker, target: str) -> None:
    """A peer that is offline, and has this target."""
    identity = StreamIdentity(OTHER, "e")
    said: dict[str, Instance | Status] = {
        f"instance/{INSTANCE}": Instance(target=target, instance=INSTANCE),
        "status": Status(state="offline", node=OTHER),
    }
    async with MqttConnection(mosquitto.settings(), client_id="hostile") as connection:
        for topic, data in said.items():
            payload = encode_state(data.type_name, identity, data, at=1e9, subject=topic, serial="1")
            connection.post(
                Publication(f"routesync/v1/{OTHER}/{topic}", payload, retain=True), lambda _: None
            )
        await connection.quiet()


@pytest.mark.parametrize("target", ["x" * 66_000, "a\0b"])
async def test_a_peer_whose_target_is_no_name_breaks_no_connection(
    mosquitto: Broker, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "GRACE_S", 0)
    monkeypatch.setattr(delivery, "TICK_S", 0.05)
    await publish(mosquitto, target)
    async with publishing(mosquitto.settings()) as node:
        node.publisher._peers.set_instance(TARGET.name, INSTANCE)
        await eventually(lambda: node.asked > 40, what="some ticks")
        assert (node.publisher.state, node.publisher.measures.failures) == ("connected", 0)


@pytest.mark.parametrize("target", ["#", "a/#/b", "x" * 66_000])
async def test_a_node_whose_target_is_no_name_is_not_taken_over(mosquitto: Broker, target: str) -> None:
    await publish(mosquitto, target)
    async with subscribing(mosquitto.settings(), "test") as subscriber, asyncio.timeout(20):
        with pytest.raises(RefusedError, match="node-2 does not mirror into the loxilb"):
            await _left(subscriber, _Here(NODE, "e", "lb-1", INSTANCE), OTHER)
