"""The event stream over a real socket, with more events than the hub remembers or a reader takes."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from routesync.control.events import LOST, QUEUE, stream_events
from routesync.control.models import EventsQuery
from routesync.events.hub import EventHub
from routesync.events.models import RouteAccepted
from routesync.events.node_status import Status

LOST_TYPE = f"io.routesync.{LOST}.v1"


def accepted(number: int) -> RouteAccepted:
    prefix = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32"
    return RouteAccepted(target="lb", prefix=prefix, family="ipv4", gateway="192.0.2.1", rule="rule")


class Stream:
    """A hub, and a server that streams its events."""

    def __init__(self, path: Path) -> None:
        self.hub = EventHub("n")
        self.path = path

    async def serve(self, request: web.Request) -> web.StreamResponse:
        query = EventsQuery(type=("route.*",), after=request.query.get("after"))
        return await stream_events(request, query, self.hub, lambda: Status(state="online", node="n"))

    async def reader(self, query: str = "", *, buffer: int = 0) -> Reader:
        sock = socket.socket(socket.AF_UNIX)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect(str(self.path))
        streams = await asyncio.open_unix_connection(sock=sock, limit=2**20)
        streams[1].write(f"GET /{query} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        while (await streams[0].readline()).strip():
            pass
        return Reader(*streams)


class Reader:
    """One reader of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self._reader.readline(), 30))
        return message

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    with tempfile.TemporaryDirectory() as directory:
        made = Stream(Path(directory) / "s")
        app = web.Application()
        app.router.add_get("/", made.serve)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.UnixSite(runner, str(made.path)).start()
        yield made
        await runner.cleanup()


async def test_what_the_hub_no_longer_remembers_is_counted_as_lost(stream: Stream) -> None:
    for number in range(1201):
        stream.hub.emit(accepted(number))
    reader = await stream.reader(f"?after={stream.hub.identity.epoch}-1")
    lost, first = await reader.next(), await reader.next()
    assert (lost["type"], lost["data"]["count"]) == (LOST_TYPE, 200)
    assert int(first["sequence"]) == 202
    await reader.close()


async def test_of_an_earlier_run_it_is_unknown_how_many_are_lost(stream: Stream) -> None:
    # it was killed: nobody knows which number was the last
    stream.hub.continue_in(stream.hub.identity.epoch, 2**20)
    stream.hub.emit(accepted(1))
    reader = await stream.reader(f"?after={stream.hub.identity.epoch}-7")
    lost, first = await reader.next(), await reader.next()
    assert (lost["type"], lost["data"]["count"]) == (LOST_TYPE, None)
    assert int(first["sequence"]) == 2**20 + 1
    await reader.close()
    again = await stream.reader(f"?after={stream.hub.identity.epoch}-{2**20}")
    assert int((await again.next())["sequence"]) == 2**20 + 1, "an orderly stop loses none"
    await again.close()


async def test_a_reader_that_sleeps_learns_what_it_lost_and_holds_up_no_other(stream: Stream) -> None:
    sleeper = await stream.reader(buffer=1)
    total = 4 * QUEUE
    for number in range(total):
        stream.hub.emit(accepted(number))
        if number % 500 == 0:
            await asyncio.sleep(0)
    awake = await stream.reader()
    stream.hub.emit(accepted(total))
    assert int((await awake.next())["sequence"]) == total + 1
    await awake.close()

    seen: list[int] = []
    lost = 0
    while not seen or seen[-1] < total + 2:
        message = await sleeper.next()
        if message["type"] != LOST_TYPE:
            seen.append(int(message["sequence"]))
            continue
        if not lost:
            stream.hub.emit(accepted(total + 1))
        lost += message["data"]["count"]
        following = await sleeper.next()
        assert int(following["sequence"]) - seen[-1] - 1 == message["data"]["count"], (
            "counted where it is missing"
        )
        seen.append(int(following["sequence"]))
    assert lost > 0
    assert len(seen) + lost == total + 2
    assert seen == sorted(seen)
    await sleeper.close()
