"""One MQTT connection: aiomqtt's, with what it hides.

aiomqtt 2.5 awaits each publish by an Event and a timer of its own, and drops the reason code of the acknowledgement
(MQTT 5, 3.4.2.1), so that a publish which the broker's access rules deny looks like one that was taken. Here the
acknowledgement itself is handed on, with its code; that is also what makes many publishes in flight cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Self

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, ConnectFlags
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from routesync.events.cloudevents import CONTENT_TYPE
from routesync.events.properties import (
    PAYLOAD_IS_TEXT,
    PackedProperties,
    content_type,
    expiry,
    user_properties,
)
from routesync.settings import MqttSettings

WINDOW: Final = 64
"""Publishes in flight, where the broker does not ask for fewer (Receive Maximum)."""
FAREWELL_S: Final = 2.0
"""What an orderly end of the connection may take, and what saying `offline` may."""
FAILURES: Final = 0x80
"""Reason codes from this one on say that the publish was not taken (MQTT 5, 2.4)."""


_SILENT: Final = logging.getLogger("routesync.events.session")
"""For aiomqtt and paho: what goes wrong is raised as well, and said once by whoever catches it."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


_COMMON: Final = PAYLOAD_IS_TEXT + content_type(CONTENT_TYPE)


class Publication(NamedTuple):
    """What is published."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


class Session(aiomqtt.Client):
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
        self._echo = asyncio.Event()
        self._tls_socket: ssl.SSLSocket | None = None
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username,
            password=password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if self.is_v5 else aiomqtt.ProtocolVersion.V311,
            will=will,
            clean_session=None if self.is_v5 else True,
            # A delayed will is sent at once when its session ends, and a clean start would end it (MQTT 5, 3.1.3.2.2).
            clean_start=False if self.is_v5 else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_connect_properties(settings) if self.is_v5 else None,
            tls_context=self._adapted(tls, settings.tls.server_name if settings.tls else None),
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            max_inflight_messages=0,  # the window is ours
            logger=_SILENT,
        )

    def _adapted(self, context: ssl.SSLContext | None, server_name: str | None) -> ssl.SSLContext | None:
        """Make up for two things in paho: it checks for no other name than the host, and leaks a failed handshake."""
        if context is None:
            return None
        wrap = context.wrap_socket

        def wrap_socket(
            sock: socket.socket, server_hostname: str, *, do_handshake_on_connect: bool
        ) -> ssl.SSLSocket:
            self._tls_socket = wrap(
                sock,
                server_hostname=server_name or server_hostname,
                do_handshake_on_connect=do_handshake_on_connect,
            )
            return self._tls_socket

        context.wrap_socket = wrap_socket  # type: ignore[method-assign, assignment]
        return context

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._abandon()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.timeout = min(self.timeout, FAREWELL_S)
        with contextlib.suppress(aiomqtt.MqttError):  # of a broker that does not even take a farewell
            await super().__aexit__(exc_type, exc, tb)
        self._abandon()
        if self._disconnected.done():
            self._disconnected.exception()  # looked at, so that asyncio does not complain that nobody did

    def _abandon(self) -> None:
        """Close what aiomqtt leaves open when a connection is refused, does not answer, or is given up."""
        self._client._sock_close()  # noqa: SLF001 - paho's only way to close at once
        if self._tls_socket is not None:
            self._tls_socket.close()

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

    async def listen(self, topic: str) -> bool:
        """Subscribe to a topic of our own, to see whether what we publish comes back; False if we may not."""
        (answer,) = await self.subscribe(topic, qos=1)
        return (answer if isinstance(answer, int) else answer.value) < FAILURES

    async def echo(self) -> None:
        """Wait until something that we published comes back."""
        await self._echo.wait()

    async def broken(self) -> NoReturn:
        """Wait for the end of the connection.

        Raises:
            aiomqtt.MqttError: it has come.
        """
        async for message in self.messages:
            if not message.retain:
                self._echo.set()
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
