"""What the adapter relies on in aiomqtt and paho: an update that changes it fails here."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import paho.mqtt.client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import routesync.events.mqtt_client as adapter
from routesync.config.models import MqttSettings
from routesync.events.mqtt_client import TOO_LARGE, MqttConnection, PackedProperties, Publication, Refusal
from support.broker import Broker, broker
from support.waiting import eventually

PROTOCOLS = pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
TOPIC = "routesync/v1/node-1/event/route/accepted"


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\ufeff", exclude_categories=["Cs", "Cn"]), max_size=300
)


@given(st.none() | st.integers(0, 2**32 - 1), st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_paho_reads_back_the_packed_properties(expiry_s: int | None, user: list[tuple[str, str]]) -> None:
    packed = PackedProperties(Publication(TOPIC, b"", expiry_s=expiry_s, user=tuple(user))).pack()
    read = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    _, length = read.unpack(packed)  # type: ignore[no-untyped-call]
    assert length == len(packed)
    expected = {
        "PayloadFormatIndicator": 1,
        "ContentType": "application/cloudevents+json; charset=utf-8",
        "UserProperty": user,
    }
    if expiry_s is not None:
        expected["MessageExpiryInterval"] = expiry_s
    assert vars(read) | expected == vars(read)


async def answer(connection: MqttConnection, publication: Publication) -> Refusal | None:
    answered: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
    connection.post(publication, answered.set_result)
    return await asyncio.wait_for(answered, 10)


def test_two_private_members_are_all_that_is_used_of_the_libraries() -> None:
    tree = ast.parse(Path(adapter.__file__).read_text())
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert private - own == {"_client", "_disconnected"}


async def test_aiomqtt_has_a_paho_client_whose_callbacks_can_be_read_and_replaced() -> None:
    client = aiomqtt.Client("192.0.2.1")
    paho_client = client._client
    assert isinstance(paho_client, paho.mqtt.client.Client)
    assert isinstance(client._disconnected, asyncio.Future)
    for callback in ("on_connect", "on_disconnect", "on_publish", "on_socket_open", "on_socket_close"):
        assert callable(getattr(paho_client, callback)), (
            "aiomqtt's own, which the adapter calls after its own"
        )
        setattr(paho_client, callback, None)
        assert getattr(paho_client, callback) is None
    assert paho_client.socket() is None


@PROTOCOLS
async def test_many_publishes_are_acknowledged_each_by_its_callback(mosquitto: Broker, protocol: str) -> None:
    answers: list[Refusal | None] = []
    async with MqttConnection(mosquitto.settings(protocol=protocol), client_id="c") as connection:
        for number in range(500):
            await connection.room()
            connection.post(Publication(TOPIC, str(number).encode()), answers.append)
        await connection.quiet()
    assert answers == [None] * 500


async def test_the_reason_code_of_an_acknowledgement_comes_through() -> None:
    with broker(users={"u": "p"}, acl="user u\ntopic read routesync/#\n") as guarded:
        settings = guarded.settings(username="u", password="p")
        async with MqttConnection(settings, client_id="c") as connection:
            assert await answer(connection, Publication(TOPIC, b"x")) == Refusal(0x87, "Not authorized")


async def test_the_properties_of_the_connection_acknowledgement_come_through() -> None:
    with broker(extra="max_inflight_messages 3\nmax_packet_size 1000") as small:
        async with MqttConnection(small.settings(), client_id="c") as connection:
            assert (connection._window, connection._largest_packet) == (3, 1000)
            assert await answer(connection, Publication(TOPIC, b"x" * 700)) is None
            denial = await answer(connection, Publication(TOPIC, b"x" * 1000))
            assert denial == Refusal(TOO_LARGE, "it is larger than the 1000 bytes that the broker takes")


async def test_publish_without_a_connection_is_an_error(mosquitto: Broker) -> None:
    connection = MqttConnection(mosquitto.settings(), client_id="c")
    with pytest.raises(aiomqtt.MqttError):
        connection.post(Publication(TOPIC, b"x"), lambda _: None)


@asynccontextmanager
async def complaints() -> AsyncIterator[list[str]]:
    """What asyncio and the libraries complain of; of errors that nobody looked at, too."""
    found: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(str(context["message"])))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield found
        gc.collect()
        await asyncio.sleep(0)
    finally:
        logging.getLogger().removeHandler(handler)
        loop.set_exception_handler(None)


async def test_a_broken_connection_is_noticed_and_leaves_neither_socket_nor_complaint(
    mosquitto: Broker,
) -> None:
    async def break_one() -> None:
        connection = MqttConnection(mosquitto.settings(), client_id="c")
        async with connection:
            sock = connection._paho.socket()
            assert sock is not None
            await asyncio.to_thread(mosquitto.kill)
            await eventually(lambda: connection._paho.socket() is None)
        assert sock.fileno() == -1

    async with complaints() as found:
        await break_one()
    assert found == []


async def test_a_broken_connection_ends_the_wait_for_it(mosquitto: Broker) -> None:
    async with MqttConnection(mosquitto.settings(), client_id="c") as connection:
        waiting = asyncio.ensure_future(anext(connection.messages))
        await asyncio.to_thread(mosquitto.kill)
        with pytest.raises(aiomqtt.MqttError):
            await asyncio.wait_for(waiting, 10)


@asynccontextmanager
async def server(says: bytes) -> AsyncIterator[tuple[MqttSettings, list[asyncio.Event]]]:
    """A server that says this to whatever comes; and an event for each connection that has ended."""
    ended: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = asyncio.Event()
        ended.append(over)
        await reader.read(1)
        writer.write(says)
        while await reader.read(4096):
            pass
        writer.close()
        over.set()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with made:
        port = made.sockets[0].getsockname()[1]
        yield MqttSettings(host="127.0.0.1", port=port, timeout_s=0.3), ended


@pytest.mark.parametrize(
    "says", [b"", b"\x20\x03\x00\x87\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["nothing", "no", "http"]
)
async def test_a_connection_that_fails_is_closed(says: bytes) -> None:
    async def fail(settings: MqttSettings) -> None:
        connection = MqttConnection(settings, client_id="c")
        with pytest.raises(aiomqtt.MqttError):
            await connection.__aenter__()
        assert connection._paho.socket() is None

    async with complaints() as found, server(says) as (settings, ended):
        await fail(settings)
        await asyncio.wait_for(ended[0].wait(), 10)
    assert found == []


CONNECTED = b"\x20\x03\x00\x00\x00"
"""CONNACK of MQTT 5 without properties (3.2)."""
HANGS_UP = b"\xe0\x01\x8b"
"""DISCONNECT of MQTT 5: the server shuts down (3.14)."""


async def test_an_end_that_comes_with_the_acknowledgement_of_the_connection_is_noticed() -> None:
    async def enter(settings: MqttSettings) -> None:
        with pytest.raises(aiomqtt.MqttCodeError, match="Server shutting down"):
            await MqttConnection(settings, client_id="c").__aenter__()

    async with complaints() as found, server(CONNECTED + HANGS_UP) as (settings, ended):
        await enter(settings)
        await asyncio.wait_for(ended[0].wait(), 10)
    assert found == []


@pytest.mark.parametrize("first", [b"", CONNECTED], ids=["before", "after"])
async def test_a_message_that_is_none_leaves_no_complaint(first: bytes) -> None:
    async def enter(settings: MqttSettings) -> None:
        with pytest.raises(aiomqtt.MqttError):
            async with MqttConnection(settings, client_id="c") as connection:
                await anext(aiter(connection.messages))

    async with complaints() as found, server(first + b"\x30\x01\x00") as (settings, _):
        await enter(settings)
    assert found == []


async def test_a_broker_that_takes_nothing_at_all_delays_the_end_a_little_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "FAREWELL_S", 0.2)
    monkeypatch.setattr(adapter, "WINDOW", 2**15)

    async def take_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(CONNECTED)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await leave.wait()
        writer.close()

    leave = asyncio.Event()
    made = await asyncio.start_server(take_nothing, "127.0.0.1", 0)
    async with made, asyncio.timeout(10):
        settings = MqttSettings(host="127.0.0.1", port=made.sockets[0].getsockname()[1], timeout_s=1)
        async with MqttConnection(settings, client_id="c") as connection:
            for _ in range(200):  # far more than what the buffers of a socket hold
                connection.post(Publication(TOPIC, bytes(2**16)), lambda _: None)
        leave.set()


async def test_a_connection_that_is_cancelled_while_it_is_made_is_closed() -> None:
    async def cancel(settings: MqttSettings, ended: list[asyncio.Event]) -> None:
        connection = MqttConnection(settings.model_copy(update={"timeout_s": 60}), client_id="c")
        entering = asyncio.create_task(connection.__aenter__())
        await eventually(lambda: bool(ended))
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await asyncio.wait_for(ended[0].wait(), 10)
        assert connection._paho.socket() is None

    async with complaints() as found, server(b"") as (settings, ended):
        await cancel(settings, ended)
    assert found == []


async def test_a_broker_that_takes_no_farewell_delays_nobody(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "FAREWELL_S", 0.2)

    async def leave() -> None:
        connection = MqttConnection(mosquitto.settings(), client_id="c")
        async with connection:
            mosquitto.freeze()
        mosquitto.thaw()
        assert connection._paho.socket() is None

    async with asyncio.timeout(5), complaints() as found:
        await leave()
    assert found == []


async def test_a_socket_that_closes_with_something_to_send_is_not_waited_for(mosquitto: Broker) -> None:
    """Its descriptor may be that of another connection by then."""
    unhandled: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
    async with MqttConnection(mosquitto.settings(), client_id="node-1") as connection:
        connection.post(Publication(TOPIC, b"{}"), lambda _refusal: None)
        connection._paho._sock_close()
        await asyncio.sleep(0)  # what was scheduled before runs
        await asyncio.sleep(0)
    assert not unhandled


async def test_a_cancellation_that_comes_with_an_answer_is_not_lost(mosquitto: Broker) -> None:
    """Before Python 3.12 `wait_for`, by which aiomqtt waits, returns the answer and forgets the cancellation."""
    async with MqttConnection(mosquitto.settings(), client_id="node-1") as connection:
        task = asyncio.create_task(connection.subscribe("routesync/v1/#"))
        subscribed = connection._paho.on_subscribe

        def cancelled_by_the_answer(*answer: object) -> None:
            subscribed(*answer)  # type: ignore[misc, arg-type]
            task.cancel()

        connection._paho.on_subscribe = cancelled_by_the_answer
        with pytest.raises(asyncio.CancelledError):
            await task
