"""Everything around the routes: ports, version, unknown paths, connections, the pace of ingestion."""

from __future__ import annotations

import asyncio
import json
import time

from support.contract import Kernel, Target

POST_HEAD = "POST /netlox/v1/config/route HTTP/1.1\r\nHost: loxilb\r\nContent-Type: application/json\r\n"
GET_VERSION = "GET /netlox/v1/version HTTP/1.1\r\nHost: loxilb\r\n\r\n"


async def test_ports_carry_index_name_and_mac_and_loopback_is_missing(target: Target, kernel: Kernel) -> None:
    reply = await target.ask("GET", "/config/port/all")
    assert reply.status == 200
    real = {
        (
            port["portSoftwareInformation"]["osId"],
            port["portName"],
            port["portHardwareInformation"]["macAddress"],
        )
        for port in reply.body["portAttr"]
        if port["portSoftwareInformation"]["osId"] > 0
    }
    links = json.loads(kernel.ip("-j link show"))
    expected = {
        (link["ifindex"], link["ifname"], link["address"])
        for link in links
        if link["ifname"] == kernel.device
    }
    assert expected <= real
    assert "lo" not in {name for _, name, _ in real}


async def test_ports_have_pseudo_ports_without_an_index(target: Target) -> None:
    reply = await target.ask("GET", "/config/port/all")
    names = {
        port["portName"]: port["portSoftwareInformation"]["osId"]
        for port in reply.body["portAttr"]
        if port["portName"].startswith("vlan38")
    }
    assert names
    assert set(names.values()) == {-1}


async def test_version_is_known(target: Target) -> None:
    reply = await target.ask("GET", "/version")
    assert reply.status == 200
    assert set(reply.body) == {"buildInfo", "version"}


async def test_unknown_path_is_not_found(target: Target) -> None:
    reply = await target.ask("GET", "/config/nothing")
    assert reply == (404, {"code": 404, "message": "path /netlox/v1/config/nothing was not found"})


async def test_wrong_method_is_not_allowed(target: Target) -> None:
    assert (await target.ask("PUT", "/config/route")).status == 405


async def test_pipelined_requests_are_answered_in_order(target: Target) -> None:
    delete = (
        "DELETE /netlox/v1/config/route/destinationIPNet/198.19.255.0/24 HTTP/1.1\r\nHost: loxilb\r\n\r\n"
    )
    statuses: list[int] = []
    async with target.connection() as (reader, writer), asyncio.timeout(10):
        writer.write((GET_VERSION + delete + GET_VERSION).encode())
        while len(statuses) < 3:
            line = await reader.readline()
            assert line, "connection closed before three answers"
            if line.startswith(b"HTTP/1.1"):
                statuses.append(int(line.split()[1]))
    assert statuses == [200, 404, 200]


async def test_idle_connection_is_closed(impatient: Target) -> None:
    async with impatient.connection() as (reader, writer), asyncio.timeout(impatient.place.idle_s + 10):
        writer.write(GET_VERSION.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        answered = time.monotonic()
        await reader.read()
    assert time.monotonic() - answered >= impatient.place.idle_s * 0.9


async def test_half_sent_request_is_a_bad_request_after_a_while(impatient: Target) -> None:
    async with impatient.connection() as (reader, writer), asyncio.timeout(impatient.place.read_s + 10):
        started = time.monotonic()
        writer.write(f'{POST_HEAD}Content-Length: 100\r\n\r\n{{"destinationIPNet":'.encode())
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert time.monotonic() - started >= impatient.place.read_s * 0.9


async def test_conflicts_cost_no_ingestion(unhurried: Target) -> None:
    """With ingestion, 1,000 events before it would hold the new route back for more than 3.5 s."""
    assert (await unhurried.post("198.19.6.0/24", unhurried.gateway)).status == 200
    await asyncio.gather(*(unhurried.post("198.19.6.0/24", unhurried.gateway) for _ in range(1000)))
    started = time.monotonic()
    await unhurried.post("198.19.7.0/24", unhurried.gateway)
    await unhurried.shown("198.19.7.0/24")
    took = time.monotonic() - started
    for prefix in ("198.19.6.0/24", "198.19.7.0/24"):
        await unhurried.delete(prefix)
    assert took < 3


async def test_ingestion_is_not_faster_than_128_events_per_half_second(unhurried: Target) -> None:
    """A noisy machine makes it slower, never faster: the lower bound is safe."""
    prefixes = [f"198.19.{number // 256 + 8}.{number % 256}/32" for number in range(4 * 128)]
    started = time.monotonic()
    for prefix in prefixes:
        assert (await unhurried.post(prefix, unhurried.gateway)).status == 200
    await asyncio.sleep(1)  # reading meanwhile could kill the original
    await unhurried.shown(prefixes[-1])
    shown = time.monotonic()
    for prefix in prefixes:
        await unhurried.delete(prefix)
    assert shown - started >= 3 * 0.5
