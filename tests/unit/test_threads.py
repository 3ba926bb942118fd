"""Calls that block for long: none waits for another, and nothing waits for one at the end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest

from routesync.threads import ThreadPerCall, in_thread


def test_the_outcome_of_a_call_comes_back() -> None:
    assert in_thread(lambda: 1 + 1).result(20) == 2
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 / 0).result(20)


def test_no_call_waits_for_those_that_block() -> None:
    blocked = threading.Event()

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPerCall())
        calls = [asyncio.create_task(asyncio.to_thread(blocked.wait, 20)) for _ in range(50)]
        await asyncio.sleep(0)
        answer = await asyncio.to_thread(lambda value: value, 42)
        for call in calls:
            call.cancel()
        return answer

    began = time.monotonic()
    assert asyncio.run(main()) == 42
    assert time.monotonic() - began < 10
    blocked.set()


def test_one_thread_looks_a_name_up_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, asked = threading.Event(), []

    def look_up(*wanted: object) -> list[object]:
        asked.append(wanted)
        answered.wait(20)
        return [wanted]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPerCall())
        for _ in range(20):  # each gives up, as an attempt to connect does
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.getaddrinfo("lb.example.net", 11111), 0.01)
        waiting = asyncio.ensure_future(loop.getaddrinfo("lb.example.net", 11111))
        await asyncio.sleep(0)
        assert len(asked) == 1
        answered.set()
        assert [str(it[0]) for it in await waiting] == ["lb.example.net"]
        await loop.getaddrinfo("lb.example.net", 11111)
        assert len(asked) == 2, "what is known now is asked for again"

    asyncio.run(main())


def test_a_process_ends_while_a_call_blocks() -> None:
    script = (
        "import asyncio, time\n"
        "from routesync.threads import ThreadPerCall\n"
        "async def main():\n"
        "    asyncio.get_running_loop().set_default_executor(ThreadPerCall())\n"
        "    asyncio.create_task(asyncio.to_thread(time.sleep, 60))\n"
        "    await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=20, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
