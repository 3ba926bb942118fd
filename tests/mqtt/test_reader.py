"""Following nodes: selection, duplicates, broken connections, strangers' messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from routesync.events.models import KernelOverrun
from routesync.events.mqtt_client import MqttConnection
from routesync.events.reader import Cleared, ReceivedMessage, Selection, Subscriber, follow, subscribing
from routesync.route import Prefix
from support.broker import Broker, broker
from support.events import NODE, publishing
from support.slow_link import slow_link
from support.waiting import eventually


class Reading:
    def __init__(self) -> None:
        self.messages: list[ReceivedMessage] = []
        self.cleared: list[Cleared] = []
        self.troubles: list[str | None] = []

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages]


@asynccontextmanager
async def reading(mosquitto: Broker, selection: Selection) -> AsyncIterator[Reading]:
    found = Reading()

    async def read() -> None:
        async for message in follow(mosquitto.settings(), selection, found.troubles.append):
            if isinstance(message, ReceivedMessage):
                found.messages.append(message)
            else:
                found.cleared.append(message)

    task = asyncio.create_task(read())
    try:
        await eventually(lambda: bool(found.troubles))
        yield found
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_fleet_is_followed_status_first(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()), publishing(mosquitto.settings(), node="node-2") as second:
        await second.connected()
        async with reading(mosquitto, Selection()) as found:
            await eventually(lambda: {message.node for message in found.messages} == {NODE, "node-2"})
            assert set(found.kinds) == {"status"}
            second.emit(3)
            await eventually(lambda: found.kinds[2:] == ["route.accepted"] * 3)
            assert found.messages[-1].node == "node-2"
            assert found.messages[-1].sequence == 3


async def test_only_what_is_selected_comes(mosquitto: Broker) -> None:
    chosen = Selection(nodes=[NODE], kinds=["route.*"], within=Prefix.parse("10.0.0.2/31"))
    async with (
        reading(mosquitto, chosen) as found,
        publishing(mosquitto.settings()) as node,
        publishing(mosquitto.settings(), node="node-2") as other,
    ):
        other.emit(3)
        node.hub.emit(KernelOverrun(total=1))
        node.emit(4)  # of 10.0.0.2 to 10.0.0.5
        await eventually(lambda: node.outbox.acknowledged == 5 and other.outbox.acknowledged == 3)
        await eventually(
            lambda: [message.subject for message in found.messages] == ["10.0.0.2/32", "10.0.0.3/32"]
        )


async def test_a_lost_broker_is_said_and_found_again(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node, reading(mosquitto, Selection()) as found:
        assert found.troubles == [None]
        await asyncio.to_thread(mosquitto.restart)
        await eventually(lambda: len(found.troubles) >= 3 and found.troubles[-1] is None)
        await node.connected()
        node.emit(1)
        await eventually(lambda: found.kinds[-1:] == ["route.accepted"])


async def test_what_is_no_message_of_ours_is_passed_over(mosquitto: Broker) -> None:
    async with (
        reading(mosquitto, Selection()) as found,
        aiomqtt.Client(mosquitto.address, mosquitto.port) as stranger,
    ):
        for bad in (
            b"hello",
            b"\xff\xfe",
            b"[" * 100_000,
            status_message("node-9", time="0001-01-01T00:00:00Z"),
            status_message("node-9", time="9999-12-31T23:59:59-23:00"),
            status_message("node-9", time="2026-01-31T12:00:00"),
            status_message("node-8"),  # below the topic of another node
        ):
            await stranger.publish("routesync/v1/node-9/status", bad, qos=1)
        await stranger.publish("routesync/v1/node-9/status", b"", qos=1)
        async with publishing(mosquitto.settings()):
            await eventually(lambda: found.kinds == ["status"])
    assert found.cleared == [Cleared("node-9", "status")]
    assert found.messages[0].node == NODE


async def test_a_bad_prefix_is_in_no_selection_and_control_characters_are_escaped(
    mosquitto: Broker,
) -> None:
    selection = Selection(within=Prefix.parse("10.0.0.0/8"), with_status=True)
    async with (
        reading(mosquitto, selection) as found,
        aiomqtt.Client(mosquitto.address, mosquitto.port) as stranger,
    ):
        event = status_message("node-9", kind="route.accepted", data={"prefix": "10.0.0.0/99"})
        await stranger.publish("routesync/v1/node-9/event/route/accepted", event, qos=1)
        raw = json.dumps(
            json.loads(status_message("node-9", data={"state": "\x9b31m\u202e\u2028"})), indent=1
        )
        await stranger.publish("routesync/v1/node-9/status", raw.replace("\\u009b", "\x9b"), qos=1)
        await eventually(lambda: found.kinds == ["status"])
    assert found.messages[0].text.isascii()
    assert found.messages[0].text.isprintable()
    assert json.loads(found.messages[0].text)["data"] == {"state": "\x9b31m\u202e\u2028"}


class Hasty(Subscriber):
    """Does not wait for the answer to a subscription: as if what is retained came long after it."""

    async def subscribe(self, *places: str) -> None:
        self.subscribing = asyncio.create_task(super().subscribe(*places))


async def test_what_is_retained_has_come_only_when_a_busy_broker_answers_again(mosquitto: Broker) -> None:
    publish_many(mosquitto, 300)
    settings = mosquitto.settings()
    async with MqttConnection(settings, client_id="test") as connection:
        mosquitto.freeze()  # for longer than the pause by which the end is known
        try:
            reading = asyncio.create_task(Hasty(connection, settings.root).retained("+/status", quiet_s=0.05))
            done, _ = await asyncio.wait([reading], timeout=0.5)
            assert not done
        finally:
            mosquitto.thaw()
        assert len(await reading) == 300


async def test_what_a_default_broker_drops_for_a_slow_reader_comes_when_the_session_is_resumed() -> None:
    with broker() as default:
        publish_many(default, 3000, size=3000)
        async with slow_link(default) as link:
            settings = default.settings(port=link.port, timeout_s=10)
            async with subscribing(settings, "test") as subscriber:
                found = await subscriber.retained("+/status")
            assert len(found) == 3000
            assert link.connections > 1


async def test_a_broker_that_has_no_session_to_resume_is_subscribed_to_again(mosquitto: Broker) -> None:
    publish_many(mosquitto, 150)
    settings, is_complete = mosquitto.settings(), asyncio.Event()
    async with AsyncExitStack() as stack:

        async def connect() -> MqttConnection:
            await stack.aclose()
            return await stack.enter_async_context(MqttConnection(settings, client_id="test"))

        subscriber = Subscriber(await connect(), settings.root, connect)
        came = 0

        async def read() -> None:
            nonlocal came
            async for _ in subscriber.messages("+/status", complete=is_complete.set):
                came += 1

        reading = asyncio.create_task(read())
        try:
            await eventually(is_complete.is_set)
            publish_many(mosquitto, 1)
            await eventually(lambda: came == 2 * 150 + 1)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def test_a_fleet_whose_nodes_are_never_silent_is_read_to_the_end(mosquitto: Broker) -> None:
    publish_many(mosquitto, 10)

    async def beat() -> None:
        async with aiomqtt.Client(mosquitto.address, mosquitto.port) as node:
            while True:
                await node.publish("routesync/v1/node-7/status", status_message("node-7"), retain=True)
                await asyncio.sleep(0.02)

    beating = asyncio.create_task(beat())
    try:
        async with subscribing(mosquitto.settings(), "test") as subscriber:
            found = await asyncio.wait_for(subscriber.retained("+/status", quiet_s=0.5), 20)
        assert {message.node for message in found} == {f"node-{number:05}" for number in range(10)} | {
            "node-7"
        }
    finally:
        beating.cancel()


async def test_a_default_broker_delivers_a_whole_fleet_or_the_reader_warns() -> None:
    with broker() as default:
        publish_many(default, 1500)
        async with reading(default, Selection()) as found:
            await eventually(lambda: len({message.node for message in found.messages}) == 1500, within_s=30)
            assert found.troubles == [None]
        old = default.settings(protocol="3.1.1")
        troubles: list[str | None] = []
        nodes: set[str] = set()

        async def read() -> None:
            async for message in follow(old, Selection(), troubles.append):
                nodes.add(message.node)

        task = asyncio.create_task(read())
        await eventually(
            lambda: any("there may be more" in (trouble or "") for trouble in troubles), within_s=15
        )
        task.cancel()
        assert len(nodes) == 1020  # the warning is not about nothing


def status_message(
    node: str,
    *,
    kind: str = "status",
    time: str = "2026-01-31T12:00:00Z",
    data: Mapping[str, object] = MappingProxyType({"state": "online"}),
) -> bytes:
    message = {
        "id": "1",
        "source": f"/routesync/{node}",
        "type": f"io.routesync.{kind}.v1",
        "time": time,
        "epoch": "e",
        "data": dict(data),
    }
    return json.dumps(message, ensure_ascii=False).encode()


def publish_many(at: Broker, count: int, *, size: int = 0) -> None:
    """Publish the retained status of many nodes, at least so large, as one client."""
    data = {"state": "online", "reasons": ["x" * size]}
    client = PahoClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_queued_messages_set(0)
    client.connect(at.address, at.port)
    client.loop_start()
    published = [
        client.publish(f"routesync/v1/{node}/status", status_message(node, data=data), qos=1, retain=True)
        for node in (f"node-{number:05}" for number in range(count))
    ]
    published[-1].wait_for_publish(30)
    client.disconnect()
    client.loop_stop()
