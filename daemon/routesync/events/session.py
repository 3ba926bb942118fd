"""The publisher's connection: it hands on each acknowledgement.

aiomqtt 2.5 awaits each publish by an Event and a timer of its own, and drops the reason code of the acknowledgement
(MQTT 5, 3.4.2.1), so that a publish which the broker's access rules deny looks like one that was taken. Here the
acknowledgement itself is handed on, with its code; that is also what makes many publishes in flight cheap.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, ConnectFlags
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from routesync.config.models import MqttSettings
from routesync.events.cloudevents import CONTENT_TYPE
from routesync.events.connection import Connection
from routesync.events.properties import (
    PAYLOAD_IS_TEXT,
    PackedProperties,
    content_type,
    expiry,
    user_properties,
)

WINDOW: Final = 64
"""Publishes in flight, where the broker does not ask for fewer (Receive Maximum)."""
FAILURES: Final = 0x80
"""Reason codes from this one on say that the publish was not taken (MQTT 5, 2.4)."""

_COMMON: Final = PAYLOAD_IS_TEXT + content_type(CONTENT_TYPE)


class Publication(NamedTuple):
    """What is published."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


class Session(Connection):
    """A connection that hands on each acknowledgement.

    Args:
        settings: The broker.
        client_id: Stable and unique at the broker.
        password: As it is now; the file may have changed since the last connection.
        tls: None for plain TCP.
        will: The last will; None for a connection whose end nobody is to hear of.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        password: str | None,
        tls: ssl.SSLContext | None,
        will: aiomqtt.Will | None,
    ) -> None:
        self.is_v5 = settings.protocol == "5.0"
        self._window = WINDOW
        self._in_flight: dict[int, Callable[[str | None], None]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._maximum: int | None = None  # bytes of a packet
        self._listeners: dict[str, Callable[[], None]] = {}  # by topic
        super().__init__(
            settings,
            client_id=client_id,
            password=password,
            tls=tls,
            will=will,
            clean_session=None if self.is_v5 else True,
            # A delayed will is sent at once when its session ends, and a clean start would end it (MQTT 5, 3.1.3.2.2).
            clean_start=False if self.is_v5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_connect_properties(settings) if self.is_v5 else None,
            max_inflight_messages=0,  # the window is ours
        )

    def post(self, publication: Publication, acknowledged: Callable[[str | None], None]) -> None:
        """Publish at QoS 1 without waiting.

        `acknowledged` is called when the broker has answered: with None when it took the message, with its words when
        it denied it. It is not called when the connection breaks before.

        Raises:
            aiomqtt.MqttError: there is no connection.
        """
        properties = _properties(publication) if self.is_v5 else None
        if self._maximum is not None and _packet_size(publication, properties) > self._maximum:
            # sent all the same, it would end the connection, time and again (MQTT 5, 3.1.2.11.4)
            acknowledged(f"it is larger than the {self._maximum} bytes that the broker takes")
            return
        info = self._client.publish(publication.topic, publication.payload, 1, publication.retain, properties)
        if info.rc != 0:
            raise aiomqtt.MqttCodeError(info.rc, "cannot publish")
        self._in_flight[info.mid] = acknowledged
        self._quiet.clear()
        if len(self._in_flight) >= self._window:
            self._room.clear()

    async def room(self) -> None:
        """Wait until the window has room for one more."""
        await self._room.wait()

    async def quiet(self) -> None:
        """Wait until everything is acknowledged."""
        await self._quiet.wait()

    async def listen(self, topic: str, came: Callable[[], None]) -> bool:
        """Subscribe to a topic of our own; False if we may not. `came` is called when something comes, but retained.

        Raises:
            aiomqtt.MqttError: the connection has broken.
        """
        self._listeners[topic] = came
        (answer,) = await self.subscribe(topic, qos=1)
        return (answer if isinstance(answer, int) else answer.value) < FAILURES

    async def broken(self) -> NoReturn:
        """Wait for the end of the connection.

        Raises:
            aiomqtt.MqttError: it has come.
        """
        async for message in self.messages:
            if not message.retain and (came := self._listeners.get(message.topic.value)) is not None:
                came()
        raise AssertionError("the iterator ends by raising")

    def _on_connect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        window = getattr(properties, "ReceiveMaximum", None)
        if isinstance(window, int):
            self._window = min(WINDOW, window)
        maximum = getattr(properties, "MaximumPacketSize", None)
        if isinstance(maximum, int):
            self._maximum = maximum
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: PahoClient, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        super()._on_publish(client, userdata, mid, reason_code, properties)
        acknowledged = self._in_flight.pop(mid, None)
        if acknowledged is None:
            return
        self._room.set()
        if not self._in_flight:
            self._quiet.set()
        acknowledged(None if reason_code.value < FAILURES else str(reason_code))


def _packet_size(publication: Publication, properties: PackedProperties | None) -> int:
    """The size of the packet, or up to 3 bytes more: fixed header, topic, packet identifier, properties, payload."""
    packed = b"" if properties is None else properties.packed
    return 5 + 2 + len(publication.topic.encode()) + 2 + len(packed) + len(publication.payload)


def _connect_properties(settings: MqttSettings) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
    properties.SessionExpiryInterval = settings.will_delay_s
    return properties


def last_will(settings: MqttSettings, topic: str, payload: bytes) -> aiomqtt.Will:
    """The retained message that the broker publishes for us when we are gone for longer than the will's delay."""
    properties = None
    if settings.protocol == "5.0":
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]  # paho's own gap
        properties.WillDelayInterval = settings.will_delay_s
        properties.ContentType = CONTENT_TYPE
        properties.PayloadFormatIndicator = 1
    return aiomqtt.Will(topic, payload, qos=1, retain=True, properties=properties)


def _properties(publication: Publication) -> PackedProperties:
    packed = _COMMON + user_properties(publication.user)
    return PackedProperties(packed if publication.expiry_s is None else packed + expiry(publication.expiry_s))
