"""One MQTT connection: what aiomqtt and paho give, and what they leave out.

aiomqtt's own `publish` drops the reason code of an acknowledgement (MQTT 5, 3.4.2.1), so that a publish which the
broker denies looks like one that it took; and by an event and a timer for each publish it is 2.4 times slower. So this
adapter publishes with paho. It uses two private members of aiomqtt: `_client`, which is paho's client, and of that only
what is public (`publish`, `socket` and the callbacks); and `_disconnected`, without which asyncio complains.
`tests/mqtt/test_mqtt_client.py` fails when an update of either library changes what this relies on.

It also closes everything when a connection fails, and explains in one line what is wrong with a broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from routesync.config.credentials import load_files
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.events.cloudevents import CONTENT_TYPE
from routesync.files import read_file

_T = TypeVar("_T")

WINDOW: Final = 64
"""Publishes in flight, where the broker does not ask for fewer (Receive Maximum)."""
FAREWELL_S: Final = 2.0
"""What an orderly end of the connection may take, and the publication of `offline` before it."""
_CLOSE_S: Final = 1.0
_LONGEST_PASSWORD: Final = 2**16 - 1
"""Bytes (MQTT 5, 1.5.6)."""
_FAILURES: Final = 0x80
"""Reason codes from this one on mean that a request failed (MQTT 5, 2.4)."""

_SILENT: Final = logging.getLogger("routesync.events.mqtt_client")
"""For aiomqtt and paho: they raise what goes wrong as well, and the caller logs it once."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


BROKER_ERRORS: Final = (aiomqtt.MqttError, OSError, SettingError)
"""What goes wrong with a broker; `explain` says it in one line."""


class PasswordFileError(OSError):
    """The file that is to hold the password cannot be read."""


class SubscriptionDeniedError(aiomqtt.MqttError):
    """The broker denies a subscription."""

    def __init__(self, topics: list[str]) -> None:
        super().__init__("a subscription is denied")
        self.topics = topics


class Publication(NamedTuple):
    """What is published; `user` are its user properties."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


RECEIVE_MAXIMUM: Final = 65_535
"""Messages that the broker may send before we acknowledge. With less, it queues what is retained, and a queue is
bounded: a default mosquitto drops all but 1,020 of 5,000 messages."""
LARGEST_PACKET: Final = 2**20
"""Bytes: no message of a node is larger, and the broker sends none that is."""
_MOST_QUEUED: Final = 4096
"""Messages that wait for their reader; with more, nothing is read from the socket, and the broker has to wait."""


class Refusal(NamedTuple):
    """The broker's answer to a publish that it does not take: the reason code (MQTT 5, 3.4.2.1), and words."""

    code: int
    words: str


TOO_LARGE: Final = 0x95
"""Packet too large: no broker answers so to a publish; a message that exceeds its announced limit is not sent."""


class MqttConnection:
    """A connection to the broker of the settings; the password and the TLS files are read when it is made.

    Args:
        settings: The broker.
        client_id: Unique at the broker; stable for a daemon.
        will: The last will's topic and payload; None for a connection whose end is not to be announced.
        session_s: How long the broker keeps the session after the connection; MQTT 5 only.
        resumes: Continue the session that this client has at the broker.

    Raises:
        PasswordFileError: the password's file cannot be read.
        SettingError: a file of `mqtt.tls` cannot be read or used.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        will: tuple[str, bytes] | None = None,
        session_s: int = 0,
        resumes: bool = False,
    ) -> None:
        self.is_v5 = settings.protocol == "5.0"
        self.is_resumed = False
        """Whether the broker had a session of this client, and goes on with it."""
        if will is not None:
            session_s = settings.will_delay_s
        self._settings = settings
        self._window = WINDOW
        self._largest_packet: int | None = None  # bytes
        self._reference: str | None = None  # the broker's word which server to use instead (MQTT 5, 4.11)
        self._in_flight: dict[int, Callable[[Refusal | None], None]] = {}
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._entered = False
        self._ended: ReasonCode | None = None
        self._abandoned = False
        self._closed = asyncio.Event()
        self._paused = False
        self._arrived = 0  # messages on the subscriptions
        self._handled = 0
        self._loop = asyncio.get_running_loop()
        self._aiomqtt = aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.username,
            password=read_password(settings),
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if self.is_v5 else aiomqtt.ProtocolVersion.V311,
            tls_context=tls_context(settings),
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            logger=_SILENT,
            will=_last_will(settings, *will) if will is not None else None,
            clean_session=None if self.is_v5 else True,
            # A delayed will is sent at once when its session ends, and a clean start would end it (MQTT 5, 3.1.3.2.2).
            clean_start=False
            if self.is_v5 and (will is not None or resumes)
            else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_connect_properties(session_s) if self.is_v5 else None,
            max_inflight_messages=0,  # no limit of paho's: this adapter has its own window
        )
        self._paho: PahoClient = self._aiomqtt._client  # noqa: SLF001 - see above
        self._follow_paho()

    def _follow_paho(self) -> None:
        """Put callbacks before those of aiomqtt, which does nothing with acknowledgements that it did not ask for."""
        paho = self._paho
        connected, disconnected = paho.on_connect, paho.on_disconnect
        opened, closed = paho.on_socket_open, paho.on_socket_close
        received = paho.on_message

        def on_connect(
            client: PahoClient,
            userdata: Any,
            flags: ConnectFlags,
            code: ReasonCode,
            properties: Properties | None,
        ) -> None:
            self._note_properties(properties)
            self.is_resumed = flags.session_present
            connected(client, userdata, flags, code, properties)  # type: ignore[call-arg, misc, arg-type]  # of version 2

        def on_disconnect(
            client: PahoClient,
            userdata: Any,
            flags: DisconnectFlags,
            code: ReasonCode,
            properties: Properties | None,
        ) -> None:
            self._note_properties(properties)
            # aiomqtt loses an end that comes right behind the acknowledgement of the connection (it replaces the
            # future which has it), and fails when its `__aenter__` was cancelled. So it learns of no end before.
            if self._entered:
                disconnected(client, userdata, flags, code, properties)  # type: ignore[call-arg, misc, arg-type]
            else:
                self._ended = code

        def on_socket_open(client: PahoClient, userdata: Any, sock: Any) -> None:  # called by another thread
            if self._abandoned:
                sock.shutdown(socket.SHUT_RDWR)
            opened(client, userdata, sock)  # type: ignore[misc]

        def on_message(client: PahoClient, userdata: Any, message: MQTTMessage) -> None:
            received(client, userdata, message)  # type: ignore[misc]
            self._arrived += 1
            if not self._paused and len(self._aiomqtt.messages) >= _MOST_QUEUED:
                self._paused = True
                if (sock := paho.socket()) is not None:
                    self._loop.remove_reader(sock.fileno())

        def on_socket_close(client: PahoClient, userdata: Any, sock: Any) -> None:
            closed(client, userdata, sock)  # type: ignore[misc]
            self._loop.call_soon_threadsafe(self._closed.set)

        def on_socket_register_write(client: PahoClient, _userdata: Any, sock: Any) -> None:
            # aiomqtt adds the descriptor in the next turn of the loop, whatever became of the socket by then: its
            # number may be that of another connection.
            def write() -> None:
                try:
                    client.loop_write()
                except Exception as error:  # noqa: BLE001 - as in aiomqtt: the connection has broken
                    ended = self._aiomqtt._disconnected  # noqa: SLF001 - see above
                    if not ended.done():
                        ended.set_exception(error)

            def add() -> None:
                if sock.fileno() >= 0:
                    self._loop.add_writer(sock.fileno(), write)

            self._loop.call_soon_threadsafe(add)

        paho.on_connect = on_connect
        paho.on_disconnect = on_disconnect
        paho.on_message = on_message
        paho.on_publish = self._on_publish
        paho.on_socket_open = on_socket_open
        paho.on_socket_close = on_socket_close
        paho.on_socket_register_write = on_socket_register_write

    async def __aenter__(self) -> Self:
        try:
            await _cancellable(self._aiomqtt.__aenter__())
        except BaseException as error:
            self._add_reference(error)
            await self._abandon()
            raise
        self._entered = True
        if self._ended is not None:
            await self._abandon()
            ended = aiomqtt.MqttCodeError(self._ended, "Unexpected disconnection")
            self._add_reference(ended)
            raise ended
        return self

    def _add_reference(self, error: BaseException) -> None:
        if self._reference is not None:
            error.add_note(self._reference)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._aiomqtt.timeout = min(self._aiomqtt.timeout, FAREWELL_S)
        try:
            with contextlib.suppress(aiomqtt.MqttError):  # a broker that does not even answer a farewell
                await self._aiomqtt.__aexit__(exc_type, exc, tb)
        finally:
            await self._abandon()

    async def _abandon(self) -> None:
        """Close what aiomqtt leaves open when a connection is refused, does not answer, or is given up."""
        self._abandoned = True
        sock = self._paho.socket()
        if sock is not None:
            with contextlib.suppress(OSError):  # it is not connected any more
                sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # it is no websocket
            with contextlib.suppress(TimeoutError):  # the loop sees the end of it, and paho closes it
                async with asyncio.timeout(_CLOSE_S):
                    await self._closed.wait()
        # aiomqtt keeps the reason for the end in a future; asyncio logs an error that is never retrieved from one
        ended = self._aiomqtt._disconnected  # noqa: SLF001 - see above
        if ended.done() and not ended.cancelled():
            ended.exception()

    def post(self, publication: Publication, answered: Callable[[Refusal | None], None]) -> None:
        """Publish at QoS 1 without waiting.

        `answered` is called when the broker has answered: with None when it took the message, else with its refusal. It
        is not called when the connection breaks before.

        Raises:
            aiomqtt.MqttError: there is no connection.
        """
        properties = PackedProperties(publication) if self.is_v5 else None
        if self._largest_packet is not None and _packet_size(publication, properties) > self._largest_packet:
            # sent all the same, it would end the connection, time and again (MQTT 5, 3.1.2.11.4)
            answered(
                Refusal(
                    TOO_LARGE, f"it is larger than the {self._largest_packet} bytes that the broker takes"
                )
            )
            return
        info = self._paho.publish(publication.topic, publication.payload, 1, publication.retain, properties)
        if info.rc != 0:
            raise aiomqtt.MqttCodeError(info.rc, "cannot publish")
        self._in_flight[info.mid] = answered
        self._quiet.clear()
        if len(self._in_flight) >= self._window:
            self._has_room.clear()

    @property
    def is_quiet(self) -> bool:
        """Whether everything is acknowledged."""
        return not self._in_flight

    async def room(self) -> None:
        """Wait until the window has room for one more."""
        await self._has_room.wait()

    async def quiet(self) -> None:
        """Wait until everything is acknowledged."""
        await self._quiet.wait()

    async def subscribe(self, *topics: str) -> None:
        """Subscribe at QoS 1.

        Raises:
            SubscriptionDeniedError: the broker denies some.
            aiomqtt.MqttError: the connection has broken.
        """
        denied: list[str] = []
        for topic in topics:
            (answer,) = await _cancellable(self._aiomqtt.subscribe(topic, qos=1))
            if (answer if isinstance(answer, int) else answer.value) >= _FAILURES:
                denied.append(topic)
        if denied:
            raise SubscriptionDeniedError(denied)

    @property
    def messages(self) -> AsyncIterator[aiomqtt.Message]:
        """What comes on the subscriptions; the iterator raises `aiomqtt.MqttError` when the connection has broken."""
        return self._received()

    @property
    def queued(self) -> int:
        """How many messages have come and wait for the reader of `messages`."""
        return len(self._aiomqtt.messages)

    async def caught_up(self) -> None:
        """Wait until the reader of `messages` has dealt with all that has come by now."""
        arrived = self._arrived
        while self._handled < arrived:  # noqa: ASYNC110 - a few steps of the loop
            await asyncio.sleep(0)

    async def _received(self) -> AsyncIterator[aiomqtt.Message]:
        messages = aiter(self._aiomqtt.messages)
        while True:
            try:
                message = await anext(messages)
            except aiomqtt.MqttError as error:
                self._add_reference(error)
                raise
            yield message
            self._handled += 1
            if self._paused and not len(self._aiomqtt.messages):
                self._paused = False
                if (sock := self._paho.socket()) is not None:
                    self._loop.add_reader(sock.fileno(), self._read)
                    self._read()  # what TLS has decrypted already makes no socket readable

    def _read(self) -> None:
        """Read from the socket as aiomqtt does, whose own function for that was removed from the loop by a pause."""
        self._paho.loop_read()
        sock = self._paho.socket()
        while not self._paused and isinstance(sock, ssl.SSLSocket) and sock.pending():
            self._paho.loop_read()
            sock = self._paho.socket()

    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe.

        Raises:
            aiomqtt.MqttError: the connection has broken.
        """
        await _cancellable(self._aiomqtt.unsubscribe(topic))

    def _note_properties(self, properties: Properties | None) -> None:
        """Take what the broker says in CONNACK or DISCONNECT."""
        self._reference = getattr(properties, "ServerReference", self._reference)
        window = getattr(properties, "ReceiveMaximum", None)
        if isinstance(window, int):
            self._window = min(WINDOW, window)
        largest = getattr(properties, "MaximumPacketSize", None)
        if isinstance(largest, int):
            self._largest_packet = largest

    def _on_publish(
        self, _client: PahoClient, _userdata: Any, mid: int, code: ReasonCode, _properties: Properties
    ) -> None:
        answered = self._in_flight.pop(mid, None)
        if answered is None:
            return
        self._has_room.set()
        if not self._in_flight:
            self._quiet.set()
        answered(None if code.value < _FAILURES else Refusal(code.value, str(code)))


async def _cancellable(waiting: Awaitable[_T]) -> _T:
    """Await what aiomqtt waits for by `wait_for`, and lose no cancellation.

    Before Python 3.12 `wait_for` loses one that comes together with the answer: a task that is to end would go on.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    answer = await waiting
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


class PackedProperties(Properties):
    """Properties of a PUBLISH that are packed already, which is all that paho asks them for (MQTT 5, 3.3.2.3).

    Filling and packing paho's own properties costs as much as all the rest of a publish (`make bench`, events).
    """

    packed: bytes

    def __init__(self, publication: Publication) -> None:
        packed = _CONTENT_PROPERTIES
        if publication.expiry_s is not None:
            packed += b"\x02" + publication.expiry_s.to_bytes(4, "big")
        for name, value in publication.user:
            packed += b"\x26" + _packed_text(name) + _packed_text(value)
        length: bytes = VariableByteIntegers.encode(len(packed))  # type: ignore[no-untyped-call]  # paho's own gap
        # around paho's own setting of attributes, which is slow
        object.__setattr__(self, "packetType", PacketTypes.PUBLISH)
        object.__setattr__(self, "packed", length + packed)

    def pack(self) -> bytes:
        """The bytes, with their length in front."""
        return self.packed


def _packed_text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


_CONTENT_PROPERTIES: Final = b"\x01\x01" + b"\x03" + _packed_text(CONTENT_TYPE)
"""Payload format indicator (UTF-8) and content type, the same for every message."""


def _packet_size(publication: Publication, properties: PackedProperties | None) -> int:
    """The size of the packet, or up to 3 bytes more: fixed header, topic, packet identifier, properties, payload."""
    packed = b"" if properties is None else properties.packed
    return 5 + 2 + len(publication.topic.encode()) + 2 + len(packed) + len(publication.payload)


def _connect_properties(session_s: int) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    properties.MaximumPacketSize = LARGEST_PACKET
    if session_s:
        properties.SessionExpiryInterval = session_s
    return properties


def _last_will(settings: MqttSettings, topic: str, payload: bytes) -> aiomqtt.Will:
    """The retained message that the broker publishes for us when we are gone for longer than the will's delay."""
    properties = None
    if settings.protocol == "5.0":
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]  # paho's own gap
        properties.WillDelayInterval = settings.will_delay_s
        properties.ContentType = CONTENT_TYPE
        properties.PayloadFormatIndicator = 1
    return aiomqtt.Will(topic, payload, qos=1, retain=True, properties=properties)


# ---- password and TLS ----


def read_password(settings: MqttSettings) -> str | None:
    """The password as its file says at this moment (without the newline at its end), or as configured.

    Raises:
        PasswordFileError: the file cannot be read; the message names the setting.
    """
    if settings.password_file is None:
        return settings.password.get_secret_value() if settings.password else None
    try:
        password = read_file(Path(settings.password_file)).decode().rstrip("\r\n")
    except OSError as error:
        raise PasswordFileError(f"mqtt.password_file: {settings.password_file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise PasswordFileError(f"mqtt.password_file: {settings.password_file}: it is not UTF-8") from None
    if len(password.encode()) > _LONGEST_PASSWORD:
        raise PasswordFileError(
            f"mqtt.password_file: {settings.password_file}: it has more than {_LONGEST_PASSWORD} bytes"
        )
    return password


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho forgets it then."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base class
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _TlsContext(ssl.SSLContext):
    """Checks the certificate for `server_name` where that is set: paho only knows the host."""

    server_name: str | None = None
    sslsocket_class = _TlsSocket

    def wrap_socket(  # type: ignore[override]  # the parameters that paho gives
        self, sock: socket.socket, *, server_hostname: str, do_handshake_on_connect: bool
    ) -> ssl.SSLSocket:
        return super().wrap_socket(
            sock,
            server_hostname=self.server_name or server_hostname,
            do_handshake_on_connect=do_handshake_on_connect,
        )


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """The context for TLS, from the files as they are at this moment; None for plain TCP.

    Raises:
        SettingError: a file cannot be read or used.
    """
    if settings.tls is None:
        return None
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    load_files(context, settings.tls)
    context.server_name = settings.tls.server_name
    return context


# ---- what is wrong ----

# Reason codes of CONNACK and DISCONNECT (MQTT 5, 3.2.2.2 and 3.14.2.1). paho turns those of 3.1.1 into these.
_IDENTIFIER: Final = 0x85
_CREDENTIALS: Final = (0x86, 0x87)
_BANNED: Final = 0x8A
_TAKEN_OVER: Final = 0x8E
_REMEDIES: Final = {
    0x84: "it does not speak this version of MQTT: set mqtt.protocol to 5.0 or 3.1.1",
    0x88: "it is not available now; routesync tries again",
    0x89: "it is busy; routesync tries again",
    0x97: "a quota is exceeded; routesync tries again, and its administrator can raise it",
    0x9A: "it keeps no retained messages, which carry the status and the tables: allow them at the broker",
    0x9B: "it does not support QoS 1, by which events are acknowledged: allow it at the broker",
    0x9C: "it wants clients to use another server: correct mqtt.host or mqtt.hosts",
    0x9D: "it has moved: correct mqtt.host or mqtt.hosts",
    0x9F: "it limits the rate of connections; routesync tries again",
}
"""By reason code of CONNACK or DISCONNECT (MQTT 5, section 2.4)."""


class Remedies(NamedTuple):
    """Where to look for what is wrong, depending on where the settings are from."""

    address: str = "check mqtt.host and mqtt.port"
    user: str = "check mqtt.username and mqtt.password_file (or ROUTESYNC_MQTT_PASSWORD)"
    tls: str = "check mqtt.tls"


def has_answered(error: BaseException) -> bool:
    """Whether a connection failed by a broker's own word."""
    return isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode)


def explain(
    error: BaseException,
    settings: MqttSettings,
    client_id: str,
    remedies: Remedies = Remedies(),  # noqa: B008 - immutable
) -> str:
    """Say what is wrong with the broker, naming place and remedy."""
    if isinstance(error, PasswordFileError):
        return str(error)
    if isinstance(error, SettingError):
        return f"mqtt.tls.{error}"
    broker = f"broker {settings.place}"
    if isinstance(error, SubscriptionDeniedError):
        return f"{broker} denies reading {', '.join(error.topics)}; check its access rules"
    if isinstance(error, TimeoutError) or str(error) == "Operation timed out":  # as aiomqtt says it
        return f"{broker} does not answer within {settings.timeout_s:g} s; {remedies.address}"
    references = "".join(f" ({reference})" for reference in getattr(error, "__notes__", ()))
    ended = isinstance(error.__cause__, aiomqtt.MqttCodeError)
    if isinstance(error.__cause__, aiomqtt.MqttCodeError):
        error = error.__cause__  # why the connection ended
    code = error.rc if isinstance(error, aiomqtt.MqttCodeError) else None
    words = str(code) if isinstance(code, ReasonCode) else str(error) or type(error).__name__
    match code.value if isinstance(code, ReasonCode) else None:
        case value if value in _CREDENTIALS:
            return f"{broker} refuses {settings.user} ({words}); {remedies.user}"
        case value if value == _IDENTIFIER:
            return f"{broker} refuses the client id {client_id!r}; set mqtt.client_id"
        case value if value == _BANNED:
            return f"{broker} has banned the client id {client_id!r}; ask its administrator"
        case value if value == _TAKEN_OVER:
            return f"{broker}: another client connected as {client_id!r}; give each its own mqtt.client_id"
        case value if value in _REMEDIES:
            return f"{broker} refuses the connection ({words}); {_REMEDIES[value]}{references}"
    if ended:
        return f"{broker}: the connection ended ({words})"
    if "certificate" in words.lower() or "ssl" in words.lower():
        return f"{broker}: {words}; {remedies.tls}"
    return f"{broker}: {words}; {remedies.address}"
