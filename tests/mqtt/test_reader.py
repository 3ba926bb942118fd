"""Following nodes: selection, duplicates, broken connections, strangers' messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiomqtt

from routesync.events.models import KernelOverrun
from routesync.events.reader import ReceivedMessage, Selection, follow
from routesync.route import Prefix
from support.broker import Broker
from support.events import NODE, publishing
from support.waiting import eventually


class Reading:
    def __init__(self) -> None:
        self.messages: list[ReceivedMessage] = []
        self.troubles: list[str | None] = []

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages]


@asynccontextmanager
async def reading(mosquitto: Broker, selection: Selection) -> AsyncIterator[Reading]:
    found = Reading()

    async def read() -> None:
        async for message in follow(mosquitto.settings(), selection, found.troubles.append):
            found.messages.append(message)

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
        await stranger.publish("routesync/v1/node-9/status", b"hello", qos=1)
        await stranger.publish("routesync/v1/node-9/status", b"", qos=1)
        async with publishing(mosquitto.settings()):
            await eventually(lambda: found.kinds == ["status"])
