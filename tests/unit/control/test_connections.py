"""Connections to the control socket: idle ones make room for others and end by themselves; those at work stay."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from pydantic import BaseModel

from routesync.control import api, requests, server
from routesync.control.context import Context
from routesync.control.models import ProblemError, TargetRequest
from routesync.control.requests import read_body, stream_rows, with_problems
from routesync.control.server import CONNECTIONS, Listening, _Gate
from support.waiting import eventually

FEW = 8
"""Connections, where each costs the memory of its answer."""
LONG = 2**20
"""Bytes: neither the sockets nor the client's reader take an answer of that length."""
UNFINISHED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Caller:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def received(self) -> bytes:
        """What comes next; nothing: it was closed."""
        async with asyncio.timeout(10):
            return await self._reader.read(4096)

    async def answers(self) -> bool:
        self.send(ASK)
        try:
            return b" 200 " in await self.received()
        except ConnectionError:
            return False


class Place:
    """A listener that answers every GET, and reads the body of every POST."""

    def __init__(self, path: Path, listening: Listening) -> None:
        self.listening = listening
        self._path = path
        self._callers: list[Caller] = []

    async def caller(self, says: bytes = b"") -> Caller:
        made = Caller(*await asyncio.open_unix_connection(self._path))
        made.send(says)
        await asyncio.sleep(0)
        self._callers.append(made)
        return made

    async def silent_client(self) -> socket.socket:
        """A client that takes nothing at all."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self._path))
        await eventually(lambda: len(self.listening.server.connections) == 1, what="its connection")
        return client

    async def close(self) -> None:
        for caller in self._callers:
            await caller.close()

    async def crowd(self, count: int, says: bytes = b"") -> list[Caller]:
        made = [await self.caller(says) for _ in range(count)]
        expected = min(len(self._callers), CONNECTIONS)
        await eventually(lambda: len(self.listening.server.connections) >= expected, what="the crowd")
        return made


class Row(BaseModel):
    text: str


class Rows(BaseModel):
    rows: tuple[Row, ...] = ()


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    @web.middleware
    async def problems(request: web.Request, handler: requests.Handler) -> web.StreamResponse:
        return await with_problems(request, handler, "")

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            await read_body(request, TargetRequest)
        if "rows" in request.query:
            return await stream_rows(request, "rows", [Row(text="x" * 40_000)], Rows)
        if "long" not in request.query:
            return web.Response(text="here")
        assert request.transport is not None
        if request.query["long"] == "unlimited":  # aiohttp does not wait until the client has taken it
            request.transport.set_write_buffer_limits(2 * LONG)
        return web.Response(body=bytes(LONG))

    app = web.Application(middlewares=[problems])
    app.router.add_route("*", "/", respond)
    listening = await Listening.begin(app)
    path = tmp_path / "sock"
    made = await asyncio.get_running_loop().create_unix_server(partial(_Gate, listening), path)
    place = Place(path, listening)
    yield place
    await place.close()
    made.close()
    await listening.runner.cleanup()


async def test_an_idle_connection_makes_room_for_a_further_one(place: Place) -> None:
    longest, *others = await place.crowd(CONNECTIONS)
    assert await others[0].answers()
    assert await (await place.caller()).answers()
    assert await longest.received() == b""
    assert await others[0].answers(), "it was idle for a shorter time"


async def test_where_all_are_at_work_a_further_one_is_closed_at_once(place: Place) -> None:
    at_work = await place.crowd(CONNECTIONS, UNFINISHED)
    await eventually(lambda: not place.listening._idle, what="that all are at work")
    assert not await (await place.caller()).answers()
    at_work[0].send(b" " * 96)
    assert b"400" in await at_work[0].received(), "it was carried out"
    assert await (await place.caller()).answers()


async def test_readers_take_no_place_from_a_client_that_may_change_something(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = await place.crowd(1)
    first = next(iter(place.listening._idle))
    monkeypatch.setattr(server, "_is_trusted", lambda transport: transport is first)
    await place.crowd(CONNECTIONS + 20)
    assert await ours.answers()


@pytest.mark.parametrize("says", [b"", b"GET / HT", ASK], ids=["nothing", "half a head", "one request"])
async def test_a_connection_without_a_whole_request_for_too_long_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    caller = await place.caller(says)
    if says == ASK:
        assert b" 200 " in await caller.received()
    place.listening.close_idle()
    await asyncio.sleep(0.05)
    monkeypatch.setattr(server, "PATIENCE_S", 0.01)
    place.listening.close_idle()
    assert await caller.received() == b""


@pytest.mark.parametrize(
    "says",
    [
        b"GET /?long=waits HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?long=unlimited HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?long=unlimited HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
    ids=["aiohttp waits", "aiohttp is done", "aiohttp has closed it"],
)
@pytest.mark.parametrize("by", ["a further one", "time"])
async def test_a_connection_whose_client_takes_no_answer_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch, says: bytes, by: str
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", FEW)
    await place.crowd(FEW, says)

    def unsent() -> list[asyncio.Transport]:
        return [it for it in place.listening._idle if it.get_write_buffer_size()]

    await eventually(lambda: len(unsent()) == FEW, what="that all answers wait for their clients")
    await asyncio.sleep(0.05)
    assert len(place.listening.server.connections) == FEW
    if by == "time":
        monkeypatch.setattr(server, "PATIENCE_S", 0.01)
        place.listening.close_idle()
        await eventually(lambda: not place.listening.server.connections, what="that all are closed")
    else:
        for _ in range(2 * FEW):
            assert await (await place.caller()).answers()


async def test_rows_whose_end_is_not_taken_are_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE_S", 0.05)
    client = await place.silent_client()
    (connection,) = place.listening._idle
    connection.set_write_buffer_limits(0)
    connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    client.send(b"GET /?rows HTTP/1.1\r\nHost: x\r\n\r\n")
    await eventually(lambda: not place.listening.server.connections, what="the end", within_s=5)
    client.close()


async def test_a_body_that_does_not_come_is_not_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE_S", 0.05)
    caller = await place.caller(UNFINISHED)
    assert b"the body did not come whole" in await caller.received()


def test_readers_leave_long_calls_for_those_that_may_change_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = api.Api(cast("Context", None), cast("api.Lookups", None), over_tcp=False)
    request = make_mocked_request("GET", "/v1/plan")
    with ExitStack() as stack:
        for _ in range(api.LONG_CALLS):
            stack.enter_context(served._long_call(request))
        with pytest.raises(ProblemError, match="calls run at the moment"):
            stack.enter_context(served._long_call(request))
        monkeypatch.setattr(api, "may_change", lambda _peer, _own: True)
        for _ in range(api.RESERVED_CALLS):
            stack.enter_context(served._long_call(request))
        with pytest.raises(ProblemError, match="calls run at the moment"):
            stack.enter_context(served._long_call(request))
    assert served._long_calls == 0
