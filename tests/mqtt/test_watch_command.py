"""`routesync watch` as people and pipes use it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from routesync.events.models import KernelOverrun
from support.broker import Broker
from support.events import NODE, Node, publishing
from support.waiting import eventually

COMMAND = [sys.executable, "-m", "routesync", "watch"]


@asynccontextmanager
async def watching(mosquitto: Broker, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--broker",
        f"{mosquitto.address}:{mosquitto.port}",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(15):
        return [(await process.stdout.readline()).decode() for _ in range(count)]


async def steady(node: Node, routes: int) -> None:
    await node.connected()
    node.emit(routes)


async def test_json_is_one_message_a_line_and_ctrl_c_ends_it(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node, watching(mosquitto, "--json") as process:
        (status,) = await lines(process, 1)
        assert json.loads(status)["type"] == "io.routesync.status.v1"
        await steady(node, 2)
        events = [json.loads(line) for line in await lines(process, 2)]
        assert [event["data"]["prefix"] for event in events] == ["10.0.0.1/32", "10.0.0.2/32"]
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_pipe_gets_plain_lines_of_what_is_selected(mosquitto: Broker) -> None:
    options = ("--type", "status", "--type", "route.*", "--node", NODE)
    async with publishing(mosquitto.settings()) as node, watching(mosquitto, *options) as process:
        (status,) = await lines(process, 1)
        assert f"{NODE} status online" in status
        node.hub.emit(KernelOverrun(total=1))
        await steady(node, 1)
        (line,) = await lines(process, 1)
        assert f"{NODE} route.accepted 10.0.0.2/32 target=lb-1" in line


async def test_an_unreachable_broker_is_said_once(mosquitto: Broker) -> None:
    mosquitto.kill()
    async with watching(mosquitto) as process:
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.readline(), 15)
        assert b"Connection refused; check mqtt.host" in said
        await asyncio.to_thread(mosquitto.start)
        async with publishing(mosquitto.settings()):
            (line,) = await lines(process, 1)
            assert f"{NODE} status online" in line


async def test_a_terminal_gets_a_live_view(mosquitto: Broker) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    screen = b""

    def shows(*words: bytes) -> bool:
        nonlocal screen
        try:
            screen += os.read(ours, 65536)
        except BlockingIOError:
            return False
        return all(word in screen for word in words)

    async with publishing(mosquitto.settings()) as node:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "--broker",
            f"{mosquitto.address}:{mosquitto.port}",
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        )
        os.close(theirs)
        try:
            await eventually(lambda: shows(b"node", b"state", NODE.encode(), b"online"), within_s=20)
            await steady(node, 1)
            await eventually(lambda: shows(b"route.accepted", b"10.0.0.1/32"), within_s=20)
        finally:
            process.kill()
            await process.wait()
            os.close(ours)
