"""A gate between the nodes and their broker: `python -m chaos.gate HOST:PORT UPSTREAM LOG`.

It passes MQTT 5 on as it is, and can refuse publishes as brokers do: by a reason code, or by closing the connection. It
can cut all connections, and take none.
What it does is set by lines on its standard input, a JSON object of `Refusal` each. For each event that the broker has
acknowledged it writes a line to the log, so that it is known exactly which events a node has handed over.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from support.netns import Namespace
from support.waiting import eventually_sync

QUOTA: Final = 0x97
DENIED: Final = 0x87
UNSPECIFIED: Final = 0x80
CLOSE: Final = -1
"""Closes the connection instead of an answer."""
AWAY: Final = -2
"""Closes all connections at once, and each that comes."""


@dataclass(frozen=True)
class Refusal:
    """What is refused, and how. Without a share nothing is."""

    code: int = 0
    share: float = 0.0  # of the publishes that match
    topic: str = ""  # part of the topic


class Gate:
    """A gate that runs."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def refuse(self, refusal: Refusal) -> None:
        """Refuse this from now on, in place of what was refused before."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(refusal)) + "\n")
        self.process.stdin.flush()

    def acknowledged(self) -> list[dict[str, Any]]:
        """The events that the broker has acknowledged, in that order, as they were published."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@contextmanager
def gate(space: Namespace | None, listen: str, upstream: int, directory: Path) -> Iterator[Gate]:
    """Run one for the length of a `with` block.

    Args:
        space: where it runs, None for the host's; the broker listens there, too.
        listen: ADDRESS:PORT.
        upstream: the broker's port at the same address.
        directory: for its log.
    """
    log = directory / "gate"
    command = [sys.executable, "-m", "chaos.gate", listen, str(upstream), str(log)]
    process = subprocess.Popen(
        command if space is None else ["ip", "netns", "exec", space.name, *command],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
    )
    try:
        eventually_sync(lambda: log.exists() and "listening" in log.read_text(), what="the gate")
        yield Gate(process, log)
        assert process.poll() is None, "the gate has ended"
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


# -- the process ------------------------------------------------------------------------------------------------------


class _Connection:
    """One client's connection and its own to the broker."""

    def __init__(self, server: _Server, writer: asyncio.StreamWriter, upstream: asyncio.StreamWriter) -> None:
        self._server = server
        self._client = writer
        self._upstream = upstream
        self._events: dict[bytes, bytes] = {}  # packet identifier to payload

    async def from_client(self, reader: asyncio.StreamReader) -> None:
        while True:
            head, length, body = await _packet(reader)
            if head >> 4 == 3 and head & 6 == 2 and not self._passes(body):
                continue
            self._upstream.write(head.to_bytes(1, "big") + length + body)
            await self._upstream.drain()

    def _passes(self, body: bytes) -> bool:
        """Whether this publish of QoS 1 is passed on; if not, it is answered here."""
        at = 2 + int.from_bytes(body[:2], "big")
        topic, number = body[2:at].decode(), body[at : at + 2]
        refusal = self._server.refusal
        if refusal.topic in topic and self._server.chance.random() < refusal.share:
            if refusal.code == CLOSE:
                raise ConnectionResetError
            self._client.write(b"\x40\x04" + number + bytes([refusal.code, 0]))
            return False
        if "/event/" in topic:
            properties, start = _varint(body, at + 2)
            self._events[number] = body[start + properties :]
        return True

    async def from_broker(self, reader: asyncio.StreamReader) -> None:
        while True:
            head, length, body = await _packet(reader)
            if head >> 4 == 4 and (payload := self._events.pop(body[:2], None)) is not None:
                code = body[2] if len(body) > 2 else 0
                if code < 0x80:
                    self._server.note(payload)
            self._client.write(head.to_bytes(1, "big") + length + body)
            await self._client.drain()


class _Server:
    def __init__(self, log: Path) -> None:
        self.refusal = Refusal()
        self.chance = random.Random(1)
        self._clients: set[asyncio.StreamWriter] = set()
        self._log = log.open("ab", buffering=0)

    def note(self, payload: bytes) -> None:
        self._log.write(payload + b"\n")

    async def run(self, address: str, port: int, upstream: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._clients.add(writer)
            with suppress(OSError, asyncio.IncompleteReadError, ExceptionGroup):
                if self.refusal.code != AWAY:
                    await self._serve(reader, writer, address, upstream)
            self._clients.discard(writer)
            writer.close()

        loop = asyncio.get_running_loop()
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        async with await asyncio.start_server(serve, address, port):
            self.note(b"listening")
            while line := await orders.readline():
                self.refusal = Refusal(**json.loads(line))
                if self.refusal.code == AWAY:
                    for client in self._clients:
                        client.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, upstream: int
    ) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(address, upstream)
        connection = _Connection(self, writer, broker_writer)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.from_client(reader))
                tasks.create_task(connection.from_broker(broker_reader))
        finally:
            broker_writer.close()


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """One MQTT packet: its first byte, the bytes of its length, and the rest."""
    (head,) = await reader.readexactly(1)
    length = await reader.readexactly(1)
    while length[-1] >= 128:
        length += await reader.readexactly(1)
    return head, length, await reader.readexactly(_varint(length, 0)[0])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer (MQTT 5, 1.5.5), and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _main() -> None:
    listen, upstream, log = sys.argv[1:]
    address, _, port = listen.rpartition(":")
    asyncio.run(_Server(Path(log)).run(address, int(port), int(upstream)))


if __name__ == "__main__":
    _main()
