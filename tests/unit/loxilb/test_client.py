"""Calls to one loxilb: what becomes of each answer, and what is known of the connection."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.http import Answer, Http
from routesync.loxilb.schema import ROWS_A_SLICE
from routesync.route import Prefix, parse_address

PREFIX = Prefix.parse("10.0.0.0/8")
GATEWAY = parse_address("192.0.2.1")
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"result":   "Success"}'

CALLS: dict[str, Callable[[LoxilbClient], Awaitable[object]]] = {
    "add": lambda client: client.add(PREFIX, GATEWAY),
    "delete": lambda client: client.delete(PREFIX),
    "inventory": lambda client: client.inventory(),
    "ports": lambda client: client.ports(),
    "version": lambda client: client.version(),
}
DEEP = 200_000
NESTED = [
    b"[" * DEEP,
    b'{"result":' * DEEP,
    b'{"result":' + b"[" * DEEP + b"]" * DEEP + b"}",
    *(
        b'{"%b":[{"%b":%b}]}' % (name, field, b"[" * depth + b"]" * depth)
        for depth in (500, 900, 5_000, DEEP)
        for name, field in (
            (b"routeAttr", b"destinationIPNet"),
            (b"routeAttr", b"gateway"),
            (b"routeAttr", b"protocol"),
            (b"portAttr", b"portName"),
            (b"portAttr", b"portHardwareInformation"),
        )
    ),
    *(
        b'{"%b":%b}' % (name, b"[" * depth + b"]" * depth)
        for depth in (500, 900, 5_000)
        for name in (b"result", b"message", b"version", b"routeAttr", b"portAttr")
    ),
]


class Canned(LoxilbClient):
    """A client whose server always gives one answer."""

    def __init__(self, status: int, body: bytes, token: str | None = None) -> None:
        super().__init__("http://lb", token=lambda: token)
        self._answer = Answer(status, body)

    async def _send(self, *_: object, **_options: object) -> Answer:
        return self._answer


def outcome(status: int, body: bytes, call: str, token: str | None = None) -> object:
    return asyncio.run(_run(Canned(status, body, token), call))


async def _run(client: LoxilbClient, call: str) -> object:
    return await CALLS[call](client)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [200, 500])
def test_deeply_nested_json_is_read_or_is_an_error_of_the_tree(status: int, call: str) -> None:
    for body in NESTED:
        with suppress(errors.LoxilbError):
            outcome(status, body, call)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("text", [b"[" * DEEP, b'{"routeAttr":' * DEEP])
def test_what_is_nested_too_deeply_says_so_and_the_outcome_is_unknown(text: bytes, call: str) -> None:
    with pytest.raises(errors.OutcomeUnknown) as caught:
        outcome(200, text, call)
    assert len(str(caught.value)) < 300
    if call not in ("add", "delete") and not (call == "inventory" and text.startswith(b"[")):
        assert "nested too deeply" in str(caught.value)


_names = st.sampled_from(
    [
        "result",
        "message",
        "version",
        "routeAttr",
        "portAttr",
        "destinationIPNet",
        "gateway",
        "flags",
        "protocol",
    ]
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_documents = st.recursive(
    _scalars | st.sampled_from(["Success", "fail", "10.0.0.0/8", "192.0.2.1", "::/0", "Ind"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=5),
    max_leaves=25,
)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    document = json.dumps(draw(_documents), indent=draw(st.sampled_from([None, 1])))
    cut = draw(st.integers(0, len(document)))
    return document[:cut].encode() + draw(st.just(document[cut:].encode()) | st.binary(max_size=20))


@given(st.integers(100, 599), st.binary(max_size=200) | _bodies())
def test_any_answer_to_any_call_is_a_value_or_an_error_of_the_tree(status: int, body: bytes) -> None:
    for call in CALLS:
        try:
            outcome(status, body, call)
        except errors.LoxilbError as error:
            text = str(error)
            assert text.isprintable(), "one line, and nothing that a terminal acts on"
            assert len(text) < 400


@pytest.mark.parametrize(
    ("token", "remedy"),
    [
        (None, "no token was sent: set token_file"),
        ("wrong", "does not accept the token that was sent: correct"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "words"), [(500, "invalid token"), (401, "unauthenticated")])
def test_a_denial_says_whether_a_token_was_sent(
    call: str, token: str | None, remedy: str, status: int, words: str
) -> None:
    body = json.dumps({"code": status, "message": words}).encode()
    with pytest.raises(errors.AccessDenied, match=remedy) as caught:
        outcome(status, body, call, token)
    assert words in str(caught.value)


async def test_while_a_large_table_is_read_others_have_their_turn() -> None:
    rows = [
        {"destinationIPNet": f"10.{n >> 8}.{n & 255}.0/24", "gateway": "192.0.2.1"} for n in range(20_000)
    ]
    client = Canned(200, json.dumps({"routeAttr": rows}).encode())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    inventory = await client.inventory()
    other.cancel()
    assert len(inventory.rows) == 20_000
    assert turns >= 20_000 // ROWS_A_SLICE


async def _answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
            writer.write(OK)
    writer.close()


@pytest.mark.parametrize(("host", "url_host"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_the_ends_of_a_connection_are_known_while_it_is_open(host: str, url_host: str) -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await _answer_ok(reader, writer)

    async with await asyncio.start_server(answer, host, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with LoxilbClient(f"http://{url_host}:{port}") as client:
            assert ends(client) is None
            await client.add(PREFIX, GATEWAY)
            await client.add(PREFIX, GATEWAY)
            assert ends(client) == (parse_address(host), parse_address(host))
            assert connections == 1
            await client._http.close()
            assert ends(client) is None
            await asyncio.gather(client.add(PREFIX, GATEWAY), client.add(PREFIX, GATEWAY))
            assert connections == 3


def ends(client: LoxilbClient) -> object:
    return client.ends


async def test_a_unix_socket_has_no_ends(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with (
        await asyncio.start_unix_server(_answer_ok, str(path)),
        LoxilbClient("http://lb", unix_socket=path) as client,
    ):
        await client.add(PREFIX, GATEWAY)
        assert client.ends is None


def test_a_zone_is_for_connecting_only() -> None:
    http = Http(
        "https://[fe80::1%25lo]:8091",
        tls=ssl.create_default_context(),
        connect_timeout_s=1,
        request_timeout_s=1,
    )
    assert b"Host: [fe80::1]:8091\r\n" in http.head("GET", "/")
    assert http._server_name == "fe80::1"
    assert http._url.place == "fe80::1%lo"


async def test_https_on_the_plain_port_is_recognised() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = LoxilbClient(f"https://127.0.0.1:{port}")
        with pytest.raises(errors.NotSent, match=r"is it plain HTTP\? loxilb serves https on port 8091$"):
            await client.version()


async def test_a_zone_that_is_no_interface_is_named() -> None:
    client = LoxilbClient("http://[fe80::1%25nowhere]:11111")
    with pytest.raises(
        errors.NotSent, match=r"\[fe80::1%25nowhere\]:11111: there is no interface nowhere here"
    ):
        await client.version()
