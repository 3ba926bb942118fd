"""Routes looked up in the kernel, those that the rules drop among them, while it is followed."""

from __future__ import annotations

import asyncio

from routesync.kernel import Links
from routesync.kernel.decode import RouteDetails
from routesync.route import Prefix, Route, Verdict
from support.following import Follower, following
from support.netns import Namespace


def drop_all(route: Route, links: Links) -> Verdict:
    del route, links
    return Verdict(keep=False, rule="none")


async def looked_up(follower: Follower, covering: str | None = None) -> list[tuple[str, int]]:
    """Prefix and metric of what a look-up gives."""
    found: list[Route] = []

    def take(route: Route, _details: object) -> None:
        found.append(route)

    assert await follower.source.look_up(take, Prefix.parse(covering) if covering else None)
    return [(str(route.prefix), route.metric) for route in found]


async def test_every_route_that_covers_is_found_and_no_other(node: Namespace) -> None:
    for route in (
        "default via 192.0.2.2",
        "10.0.0.0/8 via 192.0.2.2",
        "10.9.0.0/16 via 192.0.2.2 metric 20",
        "10.9.0.0/16 via 192.0.2.3 metric 10",
        "10.9.1.0/24 via 192.0.2.2",
        "10.9.1.7/32 via 192.0.2.2",
        "10.8.0.0/16 via 192.0.2.2",
        "blackhole 10.9.1.0/25",
    ):
        node.ip(f"route add {route}")
    async with following(node, evaluate=drop_all) as follower:
        found = await looked_up(follower, "10.9.1.0/24")
        assert sorted(found) == [
            ("0.0.0.0/0", 0),
            ("10.0.0.0/8", 0),
            ("10.9.0.0/16", 10),
            ("10.9.0.0/16", 20),
            ("10.9.1.0/24", 0),
        ]
        assert [metric for prefix, metric in found if prefix == "10.9.0.0/16"] == [10, 20]
        assert ("10.9.1.7/32", 0) in await looked_up(follower, "10.9.1.7/32")
        assert ("10.9.1.0/25", 0) in await looked_up(follower, "10.9.1.7/32")
        assert not follower.routes()


async def test_ipv6_is_looked_up_as_well(node: Namespace) -> None:
    node.ip("-6 route add default via 2001:db8:e0::2")
    node.ip("-6 route add 2001:db8:9::/48 via 2001:db8:e0::2")
    node.ip("-6 route add 2001:db8:9:1::/64 via 2001:db8:e0::2")
    async with following(node, evaluate=drop_all) as follower:
        found = await looked_up(follower, "2001:db8:9:1::5/128")
        assert [prefix for prefix, _ in found] == ["2001:db8:9:1::/64", "2001:db8:9::/48", "::/0"]
        assert await looked_up(follower, "192.0.2.77/32") == [("192.0.2.0/24", 0)]


async def test_without_a_prefix_everything_is_found(node: Namespace) -> None:
    async with following(node, evaluate=drop_all) as follower:
        found = {prefix for prefix, _ in await looked_up(follower)}
        assert {"192.0.2.0/24", "198.51.100.0/24", "2001:db8:e0::/64", "2001:db8:e1::/64"} <= found


async def test_what_a_route_carries_besides_can_be_read(node: Namespace) -> None:
    node.ip("route add 10.9.1.0/24 via 192.0.2.2 mtu 1400")
    found: list[RouteDetails] = []
    async with following(node, evaluate=drop_all) as follower:
        assert await follower.source.look_up(
            lambda _route, details: found.append(details()), Prefix.parse("10.9.1.0/24")
        )
    assert [details.metrics for details in found] == [(("mtu", 1400),)]


async def test_look_ups_and_dumps_wait_for_each_other_also_when_one_is_cancelled(node: Namespace) -> None:
    node.batch([f"route add 10.{i >> 8}.{i & 255}.0/24 via 192.0.2.2" for i in range(20_000)])
    async with following(node) as follower:
        source = follower.source
        void = source.stats.void_dumps
        for _ in range(3):
            begun = asyncio.Event()
            given_up = asyncio.create_task(source.look_up(lambda _route, _details, begun=begun: begun.set()))  # type: ignore[misc]
            await begun.wait()
            given_up.cancel()
            source.request_resync("test")
            for found in await asyncio.gather(looked_up(follower), looked_up(follower)):
                assert len([prefix for prefix, _ in found if prefix.startswith("10.")]) == 20_000
        assert source.stats.void_dumps == void
        assert not source.stats.bad_messages
        assert len(follower.routes()) >= 20_000
