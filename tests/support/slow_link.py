"""A link to a broker that is too slow: the broker drops what it has for a subscriber."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from support.broker import Broker
from support.waiting import eventually

_CHUNK = 4096


class SlowLink:
    """It lets a client connect, and brings nothing more until the broker has dropped something for that client.

    Attributes:
        address, port: Where it is.
        connections: How many were made.
    """

    def __init__(self, broker: Broker) -> None:
        self.address = "127.0.0.1"
        self.port = 0
        self.connections = 0
        self._broker = broker

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        broker_reader, broker_writer = await asyncio.open_connection(
            self._broker.address, self._broker.port, limit=_CHUNK
        )
        with suppress(OSError, ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_carry(reader, broker_writer))
                tasks.create_task(self._bring(broker_reader, writer))
        for each in (writer, broker_writer):
            each.close()

    async def _bring(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(_CHUNK))  # that it is connected
        await eventually(lambda: "are being dropped" in self._broker.log, what="a broker that drops")
        await _carry(reader, writer)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


@asynccontextmanager
async def slow_link(broker: Broker) -> AsyncIterator[SlowLink]:
    """Run one for the length of a `with` block."""
    made = SlowLink(broker)
    server = await asyncio.start_server(made.serve, made.address, 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
