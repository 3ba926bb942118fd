"""By MQTT 3.1.1: what a broker acknowledges and discards is found by reading it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import aiomqtt
import pytest

from routesync.config.models import MqttSettings
from routesync.events import sender
from routesync.events.mqtt_client import MqttConnection, Publication, Refusal
from routesync.events.outbox import Outbox
from routesync.events.sender import LARGE, Quarantine, Sender
from support.waiting import eventually

ROOT = "routesync/v1/node-1"


class Discarding:
    """A connection by MQTT 3.1.1 to a broker that acknowledges everything and discards what is too large."""

    is_v5 = False
    is_quiet = True

    def __init__(self) -> None:
        self.most = LARGE
        self._subscribed: set[str] = set()
        self._delivered: asyncio.Queue[aiomqtt.Message] = asyncio.Queue()

    async def room(self) -> None:
        await asyncio.sleep(0)

    async def subscribe(self, topic: str) -> None:
        await self.room()
        self._subscribed.add(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self.room()
        self._subscribed.remove(topic)

    def post(self, publication: Publication, answered: Callable[[Refusal | None], None]) -> None:
        answered(None)
        if publication.topic in self._subscribed and len(publication.payload) <= self.most:
            made = aiomqtt.Message(publication.topic, publication.payload, 1, False, 1, None)
            self._delivered.put_nowait(made)

    @property
    async def messages(self) -> AsyncIterator[aiomqtt.Message]:
        while True:
            yield await self._delivered.get()


async def test_a_message_that_was_discarded_is_read_back_again_until_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "DENIED_S", 0.02)
    connection = Discarding()
    settings = MqttSettings(host="broker.example", protocol="3.1.1", timeout_s=0.02)
    outbox = Outbox.open(None, "node-1")
    made = Sender(cast("MqttConnection", connection), settings, ROOT, outbox=outbox, quarantine=Quarantine())
    listening = asyncio.create_task(made.listen())
    large = "table/lb-1/2a"

    async def send(topic: str, size: int) -> None:
        await made.send(topic, Publication(f"{ROOT}/{topic}", b"x" * size, retain=True))

    await send("table/lb-1/00", 100)
    await send(large, 2 * LARGE)
    await eventually(lambda: {*made.denied} == {large})
    connection.most = 2 * LARGE

    async def is_taken() -> bool:
        await send(large, 2 * LARGE)
        return not made.denied

    await eventually(is_taken)
    assert made.take_due() == ["table/lb-1/#"], "others may have been discarded, too"
    listening.cancel()
    await outbox.close()
