"""Brokers that no client wishes for, inside a namespace: `python -m support.bad_brokers KIND PORT`.

silent: takes connections and says nothing. mute: says that it is connected, then takes everything and answers nothing.
flapping: says that it is connected, and hangs up with the first message.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.netns import Namespace
from support.waiting import eventually_sync

CONNECTED = b"\x20\x03\x00\x00\x00"
"""CONNACK of MQTT 5 without properties (3.2)."""


async def serve_badly(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    try:
        await reader.read(1)
        print("connected", flush=True)
        if kind != "silent":
            await reader.read(65536)
            writer.write(CONNECTED)
        if kind == "flapping":
            await reader.read(1)
            return
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _main(kind: str, port: int) -> None:
    server = await asyncio.start_server(lambda r, w: serve_badly(kind, r, w), "127.0.0.1", port)
    print("listening", flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    async with server:
        await server.wait_closed()


class BadBroker:
    """One that runs."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def connections(self) -> int:
        """How often a client has connected."""
        return self._log.read_text().count("connected")


@contextmanager
def bad_broker(space: Namespace, kind: str, directory: Path, *, port: int = 1884) -> Iterator[BadBroker]:
    """Run one in the namespace for the length of a `with` block."""
    log = directory / f"{kind}-broker"
    tests = Path(__file__).parents[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", space.name, sys.executable, "-m", "support.bad_brokers", kind, str(port)],
            stdout=output,
            cwd=tests,
        )
    try:
        eventually_sync(lambda: "listening" in log.read_text(), what=f"a {kind} broker")
        yield BadBroker(log)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
