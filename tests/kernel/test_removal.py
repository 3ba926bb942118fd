"""Taking a single route out of a real kernel: exactly it, and only if packets to it still go the same way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from routesync.kernel import (
    NotPermittedError,
    Removal,
    dump_tables,
    may_change_routes,
    removable,
    remove_route,
    would_match,
)
from routesync.route import Prefix, Route
from support.following import MAIN
from support.netns import Namespace

HOST = "192.0.2.9 dev e0 proto dhcp scope link src 192.0.2.1 metric 100"


def shown(node: Namespace, prefix: str, *, family: str = "-4") -> list[str]:
    return [line.strip() for line in node.ip(f"{family} route show exact {prefix}").splitlines()]


async def only(node: Namespace, prefix: str) -> Route:
    """The one route of this prefix that is by DHCP."""
    wanted = Prefix.parse(prefix)
    routes = (await dump_tables(tables=(MAIN,), netns=node.name)).routes
    (route,) = [route for route in routes if route.prefix == wanted and route.protocol == 16]
    return route


async def test_a_host_route_within_a_connected_network_is_taken_out(node: Namespace) -> None:
    node.ip(f"route add {HOST}")
    assert await remove_route(await only(node, "192.0.2.9/32"), node.name) is Removal.DONE
    assert shown(node, "192.0.2.9/32") == []


@pytest.mark.parametrize(
    "other",
    [
        "192.0.2.9 dev e0 proto dhcp scope link src 192.0.2.1 metric 99",
        "192.0.2.9 dev e0 proto dhcp scope link src 192.0.2.1 metric 1024",
        "192.0.2.9 dev e0 proto static scope link src 192.0.2.1 metric 99",
        "192.0.2.9 dev e1 proto dhcp scope link metric 101",
        "192.0.2.9 via 192.0.2.2 dev e0 proto dhcp metric 101",
        "blackhole 192.0.2.9 proto dhcp metric 101",
        "192.0.2.9 dev e0 proto dhcp scope host src 192.0.2.1 metric 101",
        "192.0.2.9 tos 0x10 dev e0 proto dhcp scope link metric 100",
    ],
)
async def test_a_route_beside_it_is_untouched(node: Namespace, other: str) -> None:
    node.ip(f"route add {HOST}")
    route = await only(node, "192.0.2.9/32")
    node.ip(f"route add {other}")
    beside = [line for line in shown(node, "192.0.2.9/32") if "metric 100" not in line or "tos" in line]
    assert len(beside) == 1
    others = [it for it in (await dump_tables(tables=(MAIN,), netns=node.name)).routes if it != route]
    assert not any(would_match(route, it) for it in others)
    await remove_route(route, node.name)
    left = shown(node, "192.0.2.9/32")
    assert [line for line in left if line in beside] == beside


@pytest.mark.parametrize(
    "other",
    [
        "192.0.2.9 dev e0 proto dhcp scope link metric 100",
        "192.0.2.9 dev e0 proto dhcp scope link src 192.0.2.1",
    ],
)
async def test_what_the_kernel_could_take_for_it_is_known(node: Namespace, other: str) -> None:
    """A metric or a source that a request leaves open matches any."""
    node.ip("route add 192.0.2.9 dev e0 proto dhcp scope link")
    route = await only(node, "192.0.2.9/32")
    node.ip(f"route append {other}")
    (twin,) = [
        it
        for it in (await dump_tables(tables=(MAIN,), netns=node.name)).routes
        if it.protocol == 16 and it != route
    ]
    assert would_match(route, twin)
    node.ip("route del 192.0.2.9 dev e0 proto dhcp scope link")
    assert await only(node, "192.0.2.9/32") == twin
    assert await remove_route(route, node.name) is Removal.DONE, "and so it is: the kernel took the other one"


async def test_one_that_is_gone_already_is_absent(node: Namespace) -> None:
    node.ip(f"route add {HOST}")
    route = await only(node, "192.0.2.9/32")
    node.ip(f"route del {HOST}")
    assert await remove_route(route, node.name) is Removal.ABSENT


async def test_it_is_put_back_as_it_was_when_packets_would_go_another_way(node: Namespace) -> None:
    node.ip("route add 198.51.100.9 dev e0 proto dhcp scope link metric 100 mtu lock 1400 initcwnd 20")
    before = shown(node, "198.51.100.9/32")
    assert await remove_route(await only(node, "198.51.100.9/32"), node.name) is Removal.PUT_BACK
    assert shown(node, "198.51.100.9/32") == before
    assert "mtu lock 1400" in before[0]


async def test_it_is_put_back_also_when_the_removal_is_cancelled_half_way(node: Namespace) -> None:
    node.ip("route add 198.51.100.9 dev e0 proto dhcp scope link metric 100")
    before = shown(node, "198.51.100.9/32")
    route = await only(node, "198.51.100.9/32")
    removed = 0
    for turns in range(1, 100):
        removal = asyncio.create_task(remove_route(route, node.name))
        for _ in range(turns):
            await asyncio.sleep(0)
        if done := removal.done():
            assert removal.result() is Removal.PUT_BACK
        removed += not shown(node, "198.51.100.9/32")
        removal.cancel()
        await asyncio.gather(removal, return_exceptions=True)
        assert shown(node, "198.51.100.9/32") == before
        if done:
            break
    assert removed, "it was cancelled between the removal and its return"


async def test_policy_rules_count_though_no_table_shows_them(node: Namespace) -> None:
    """As wg-quick sets them: the main table serves, but for its short prefixes."""
    node.ip(f"route add {HOST}")
    node.ip("route add default via 192.0.2.2 dev e0 table 100")
    node.ip("rule add pref 100 lookup main suppress_prefixlength 24")
    node.ip("rule add pref 101 lookup 100")
    before = shown(node, "192.0.2.9/32")
    assert await remove_route(await only(node, "192.0.2.9/32"), node.name) is Removal.PUT_BACK
    assert shown(node, "192.0.2.9/32") == before


async def test_an_ipv6_host_route_is_taken_out(node: Namespace) -> None:
    node.ip("route add 2001:db8:e0::9/128 dev e0 proto dhcp metric 1024")
    assert await remove_route(await only(node, "2001:db8:e0::9/128"), node.name) is Removal.DONE
    assert shown(node, "2001:db8:e0::9/128", family="-6") == []


async def test_an_ipv6_host_route_that_was_needed_is_put_back(node: Namespace) -> None:
    node.ip("route add 2001:db8:ffff::9/128 dev e0 proto dhcp metric 1024 pref high")
    before = shown(node, "2001:db8:ffff::9/128", family="-6")
    assert await remove_route(await only(node, "2001:db8:ffff::9/128"), node.name) is Removal.PUT_BACK
    assert shown(node, "2001:db8:ffff::9/128", family="-6") == before


async def test_what_cannot_be_described_is_not_removable(node: Namespace) -> None:
    node.ip("nexthop add id 7 dev e0")
    node.ip("route add 192.0.2.7 nhid 7 proto dhcp scope link")
    node.ip("route add 192.0.2.8 proto dhcp nexthop via 192.0.2.2 dev e0 nexthop via 192.0.2.3 dev e0")
    node.ip("route add 192.0.2.6 via 192.0.2.2 dev e0 proto dhcp")
    for number in (6, 7, 8):
        assert not removable(await only(node, f"192.0.2.{number}/32"))


async def test_a_dump_of_what_covers_an_address_has_all_of_it_and_nothing_else(node: Namespace) -> None:
    node.batch([f"route add 10.{number}.0.0/16 via 192.0.2.2" for number in range(50)])
    node.batch(["route add default via 192.0.2.2", f"route add {HOST}", "route add 2001:db8:9::/64 dev e0"])
    found = await dump_tables(
        tables=(MAIN,), netns=node.name, covering=[Prefix.parse("192.0.2.9"), Prefix.parse("10.7.1.1")]
    )
    assert sorted(str(route.prefix) for route in found.routes) == [
        "0.0.0.0/0",
        "10.7.0.0/16",
        "192.0.2.0/24",
        "192.0.2.9/32",
    ]
    everything = await dump_tables(tables=(MAIN,), netns=node.name)
    host = Prefix.parse("2001:db8:9::1")
    covering = await dump_tables(tables=(MAIN,), netns=node.name, covering=[host])
    assert covering.routes == tuple(route for route in everything.routes if route.prefix.covers(host))
    assert found.links == everything.links


UNPRIVILEGED = [
    "setpriv",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
]


async def test_without_the_capability_nothing_is_changed_and_it_is_said(node: Namespace) -> None:
    node.ip(f"route add {HOST}")
    assert await may_change_routes(node.name)
    program = """
import asyncio
from routesync.kernel import *

async def main():
    assert not await may_change_routes()
    (route,) = [it for it in (await dump_tables(tables=(254,))).routes if it.protocol == 16]
    try:
        await remove_route(route)
    except NotPermittedError as error:
        print(error)

asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        ["ip", "netns", "exec", node.name, *UNPRIVILEGED, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": "daemon"},
    )
    assert "CAP_NET_ADMIN" in done.stdout
    assert issubclass(NotPermittedError, Exception)
    assert len(shown(node, "192.0.2.9/32")) == 1
