from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from routesync.service.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's end of the line, and what it would put into NOTIFY_SOCKET."""
    if request.param == "path":
        address = variable = str(tmp_path / "notify")
    else:
        name = f"routesync-test-{secrets.token_hex(8)}"
        address, variable = f"\0{name}", f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(address)
        ear.settimeout(5)
        yield ear, variable


def test_ready_and_status_arrive_in_one_datagram(manager: tuple[socket.socket, str]) -> None:
    ear, variable = manager
    Notifier.from_environment({"NOTIFY_SOCKET": variable}).ready("8 routes, 5 mirrored")
    assert ear.recv(4096) == b"READY=1\nSTATUS=8 routes, 5 mirrored"


def test_a_status_stays_one_line(manager: tuple[socket.socket, str]) -> None:
    ear, variable = manager
    Notifier(variable).status("broken:\nREADY=1")
    assert ear.recv(4096) == b"STATUS=broken: READY=1"


def test_reloading_carries_the_monotonic_time(manager: tuple[socket.socket, str]) -> None:
    ear, variable = manager
    before_us = time.monotonic_ns() // 1000
    Notifier(variable).reloading()
    first, second = ear.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    key, stamp = second.split("=")
    assert key == "MONOTONIC_USEC"
    assert before_us <= int(stamp) <= time.monotonic_ns() // 1000


def test_stopping(manager: tuple[socket.socket, str]) -> None:
    ear, variable = manager
    Notifier(variable).stopping("bye")
    assert ear.recv(4096) == b"STOPPING=1\nSTATUS=bye"


@pytest.mark.parametrize("address", [None, "", "@", "vsock:2:1234", "/nonexistent/notify"])
def test_nobody_listening_is_no_error(address: str | None) -> None:
    notifier = Notifier(address)
    notifier.ready("there")
    notifier.watchdog()


def test_without_a_free_descriptor_nothing_is_sent_and_that_is_no_error(
    manager: tuple[socket.socket, str],
) -> None:
    ear, variable = manager
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        Notifier(variable).watchdog()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    Notifier(variable).ready()
    assert ear.recv(4096) == b"READY=1"


def test_a_full_socket_does_not_block(manager: tuple[socket.socket, str]) -> None:
    _, variable = manager
    notifier = Notifier(variable)
    for _ in range(10_000):  # net.unix.max_dgram_qlen is far below
        notifier.watchdog()


@pytest.mark.parametrize(
    ("environment", "expected_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(environment: dict[str, str], expected_s: float | None) -> None:
    assert Notifier.from_environment(environment).watchdog_interval_s == expected_s


async def test_the_watchdog_is_fed_while_the_event_loop_runs(manager: tuple[socket.socket, str]) -> None:
    ear, variable = manager
    feeding = asyncio.create_task(Notifier(variable, watchdog_interval_s=0.001).feed_watchdog())
    ear.setblocking(False)
    async with asyncio.timeout(30):
        heard = [await asyncio.get_running_loop().sock_recv(ear, 4096) for _ in range(3)]
    feeding.cancel()
    assert heard == [b"WATCHDOG=1"] * 3


async def test_without_a_watchdog_the_feeder_waits_for_its_end() -> None:
    feeding = asyncio.create_task(Notifier(None).feed_watchdog())
    done, _ = await asyncio.wait([feeding], timeout=0.02)
    assert not done
    feeding.cancel()
