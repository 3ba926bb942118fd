"""Host routes to the gateway of their link on a real kernel, as DHCP clients make and remove them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from routesync.kernel import DropEnded, Dropped, Links
from routesync.route import Prefix, Route, Verdict, parse_address
from support.following import Follower, following
from support.netns import Namespace
from support.waiting import eventually

KEEP = Verdict(keep=True, rule="default")
TO_GATEWAY = Verdict(keep=False, rule="link-gateways", report=True)
ROUTER = "203.0.113.1"
FAR = "10.9.0.0/24"


def keep(_route: Route, _links: Links) -> Verdict:
    return KEEP


def to_gateway(_route: Route, _links: Links) -> Verdict:
    return TO_GATEWAY


@asynccontextmanager
async def watched(node: Namespace) -> AsyncIterator[tuple[Follower, set[str]]]:
    """Follow the node; and all prefixes that ever had a candidate."""
    async with following(node, evaluate=keep, evaluate_link_gateway=to_gateway) as follower:
        seen: set[str] = set()

        async def consume() -> None:
            while True:
                changed = await follower.source.changes()
                seen.update(str(prefix) for prefix, candidates in changed if candidates)

        consumer = asyncio.create_task(consume())
        yield follower, seen
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


def lease(node: Namespace) -> None:
    """A lease with a mask of /32, as dhclient configures it."""
    node.batch(
        [
            "addr add 203.0.113.50/32 dev e0",
            f"route add {ROUTER} dev e0 scope link",
            f"route add default via {ROUTER} dev e0",
        ]
    )


async def test_the_host_route_of_a_lease_never_becomes_a_candidate(node: Namespace) -> None:
    async with watched(node) as (follower, seen):
        lease(node)
        await eventually(lambda: "0.0.0.0/0" in seen, what="the default route")
        await eventually(lambda: any(isinstance(it, Dropped) for it in follower.reports), what="the drop")
        assert follower.source.gateways == {parse_address(ROUTER)}
        node.ip(f"route del default via {ROUTER} dev e0")  # first, as clients do
        follower.source.request_resync("test")
        await eventually(lambda: "test" in follower.source.stats.resyncs, what="a resync")
        assert not any(isinstance(it, DropEnded) for it in follower.reports)
        node.ip(f"route del {ROUTER} dev e0")
        await eventually(lambda: any(isinstance(it, DropEnded) for it in follower.reports), what="its end")
        assert f"{ROUTER}/32" not in seen


async def test_one_that_is_there_at_the_start_is_recognised(node: Namespace) -> None:
    lease(node)
    async with watched(node) as (follower, seen):
        await eventually(lambda: "0.0.0.0/0" in seen, what="the default route")
        assert f"{ROUTER}/32" not in seen
        assert [it.route.prefix for it in follower.reports if isinstance(it, Dropped)] == [
            Prefix.parse(f"{ROUTER}/32")
        ]


@pytest.mark.parametrize("compat", ["0", "1"])
async def test_the_gateway_of_a_nexthop_object_counts(node: Namespace, compat: str) -> None:
    node.sysctl("net.ipv4.nexthop_compat_mode", compat)
    async with watched(node) as (follower, seen):
        node.batch(
            [
                "route add 192.0.2.7 dev e0 proto static scope link",
                "nexthop add id 7 via 192.0.2.7 dev e0",
                f"route add {FAR} nhid 7",
            ]
        )
        await eventually(lambda: FAR in seen, what="the route by it")
        await eventually(lambda: follower.routes("192.0.2.7/32") == [], what="that it is recognised")


async def test_another_host_route_is_kept_two_seconds_later(node: Namespace) -> None:
    node.sysctl("net.ipv6.conf.e0.disable_ipv6", "1")  # whose routes may come in the middle of the first dump
    async with watched(node) as (follower, seen):
        began = asyncio.get_running_loop().time()
        node.ip("route add 192.0.2.7 dev e0")
        await eventually(lambda: "192.0.2.7/32" in seen, what="the host route")
        assert asyncio.get_running_loop().time() - began >= 2
        assert "doubt" not in follower.source.stats.resyncs, "without a dump for it"


async def test_ipv6_host_routes_are_recognised_too(node: Namespace) -> None:
    async with watched(node) as (follower, seen):
        node.batch(
            [
                "route add 2001:db8:9::1/128 dev e0 proto static",
                "route add 2001:db8:a::/48 via 2001:db8:9::1 dev e0",
            ]
        )
        await eventually(lambda: "2001:db8:a::/48" in seen, what="the route by it")
        await eventually(lambda: follower.routes("2001:db8:9::1/128") == [], what="that it is recognised")


def drop_all(_route: Route, _links: Links) -> Verdict:
    return TO_GATEWAY


def drop_header(*_header: int) -> Verdict | None:
    return Verdict(keep=False, rule="all")


@pytest.mark.parametrize(
    ("family", "router"), [("-4", "192.0.2.7"), ("-6", "2001:db8:e0::7")], ids=["ipv4", "ipv6"]
)
async def test_gateways_of_default_routes_count_though_their_header_drops_them(
    node: Namespace, family: str, router: str
) -> None:
    async with following(node, evaluate=drop_all, evaluate_header=drop_header) as follower:
        node.ip(f"{family} route add default via {router}")
        await eventually(lambda: follower.source.gateways == {parse_address(router)}, what="by an event")
        follower.source.request_resync("test")
        await eventually(lambda: "test" in follower.source.stats.resyncs, what="a resync")
        assert follower.source.gateways == {parse_address(router)}
    async with following(node, evaluate=drop_all, evaluate_header=drop_header) as follower:
        assert follower.source.gateways == {parse_address(router)}
