"""A broker of MQTT 5 that answers each publish as a test wants: with a reason code, or by closing the connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from routesync.config.models import MqttSettings

CLOSE: Final = -1
"""Close the connection instead of an answer."""
SILENCE: Final = -2
"""Give no answer."""
_CONNACK: Final = b"\x20\x03\x00\x00\x00"


class Got(NamedTuple):
    """A publish as it came."""

    topic: str  # below the node's
    payload: bytes

    @property
    def envelope(self) -> dict[str, Any]:
        envelope = json.loads(self.payload)
        assert isinstance(envelope, dict)
        return envelope

    @property
    def data(self) -> dict[str, Any]:
        data = self.envelope["data"]
        assert isinstance(data, dict)
        return data

    @property
    def sequence(self) -> int:
        return int(str(self.envelope["sequence"]))


class RefusingBroker:
    """Takes what `answer` gives 0 for. The retained messages are in `taken`, too."""

    def __init__(self, answer: Callable[[Got], int]) -> None:
        self.answer = answer
        self.taken: list[Got] = []
        self.refused: list[Got] = []
        self.connections = 0
        self.port = 0

    @property
    def events(self) -> list[Got]:
        return [got for got in self.taken if got.topic.startswith("event/")]

    @property
    def sequences(self) -> list[int]:
        return [got.sequence for got in self.events]

    def settings(self, **more: object) -> MqttSettings:
        return MqttSettings.model_validate({"host": "127.0.0.1", "port": self.port, "timeout_s": 3, **more})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                await self._packet(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _packet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (head,) = await reader.readexactly(1)
        body = await reader.readexactly(await _length(reader))
        match head >> 4:
            case 1:
                self.connections += 1
                writer.write(_CONNACK)
            case 3:
                at = 2 + int.from_bytes(body[:2], "big")
                properties, at_properties = _varint(body, at + 2)
                topic = body[2:at].decode().split("/", 3)[3]
                got = Got(topic, body[at_properties + properties :])
                code = self.answer(got)
                (self.refused if code else self.taken).append(got)
                if code == CLOSE:
                    raise ConnectionResetError
                if code != SILENCE:
                    writer.write(b"\x40\x04" + body[at : at + 2] + bytes([code, 0]))
            case 8:
                writer.write(b"\x90\x04" + body[:2] + b"\x00\x01")
            case 10:
                writer.write(b"\xb0\x04" + body[:2] + b"\x00\x00")
            case 12:
                writer.write(b"\xd0\x00")
        await writer.drain()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


async def _length(reader: asyncio.StreamReader) -> int:
    data = b""
    while not data or data[-1] >= 128:
        data += await reader.readexactly(1)
    return _varint(data, 0)[0]


@asynccontextmanager
async def refusing_broker(answer: Callable[[Got], int]) -> AsyncIterator[RefusingBroker]:
    """Run one for the length of a `with` block."""
    made = RefusingBroker(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
