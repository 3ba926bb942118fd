"""What the kernel really does, row by row, and that the source follows it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_NEWROUTE

from routesync.kernel import Drift, Links, ResyncDone
from routesync.kernel.netlink import (
    GROUPS,
    HEADER,
    open_route_socket,
    subscribe,
)
from routesync.names import TYPES
from routesync.route import HopFlag, Route, Verdict, format_address, parse_address
from support.following import MAIN, Follower, following
from support.netns import Namespace
from support.waiting import eventually

FAR = "10.9.0.0/24"
FAR6 = "2001:db8:9::/64"
OWN = parse_address("192.0.2.1")


def gateways(follower: Follower, prefix: str) -> list[list[str]]:
    """For each candidate of a prefix, in order, the gateways of its hops."""
    return [
        [format_address(hop.gateway) for hop in route.hops if hop.gateway]
        for route in follower.routes(prefix)
    ]


async def follows(follower: Follower, prefix: str, wanted: list[list[str]]) -> None:
    await eventually(lambda: gateways(follower, prefix) == wanted, what=f"{prefix} via {wanted}")


class Ears:
    """A plain subscriber beside the source: what RTNL says of routes."""

    def __init__(self, node: Namespace) -> None:
        self._sock = open_route_socket(node.name)
        subscribe(self._sock)
        self._sock.setblocking(False)

    def heard(self, family: int = socket.AF_INET) -> list[int]:
        """The types of the route messages since the last call."""
        kinds: list[int] = []
        while True:
            try:
                data = self._sock.recv(65536)
            except BlockingIOError:
                return kinds
            kind = HEADER.unpack_from(data)[1]
            if (
                kind in (RTM_NEWROUTE, RTM_DELROUTE)
                and data[HEADER.size] == family
                and data[HEADER.size + 4] == MAIN
            ):
                kinds.append(kind)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def ears(node: Namespace) -> Iterator[Ears]:
    made = Ears(node)
    yield made
    made.close()


async def test_a_link_that_goes_down_takes_its_ipv4_routes_without_a_word(
    node: Namespace, ears: Ears
) -> None:
    node.ip(f"route add {FAR} via 192.0.2.2")
    node.ip("route add 10.9.1.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.3")
    async with following(node) as follower:
        await follows(follower, FAR, [["192.0.2.2"]])
        node.ip("link set e0 down")
        await follows(follower, FAR, [])
        await follows(follower, "10.9.1.0/24", [])
        assert follower.routes("192.0.2.0/24") == []
        assert RTM_DELROUTE not in ears.heard()


async def test_an_ipv4_multipath_route_keeps_the_hop_that_is_left(node: Namespace) -> None:
    node.ip(f"route add {FAR} nexthop via 192.0.2.2 nexthop via 198.51.100.2")
    async with following(node) as follower:
        node.ip("link set e0 down")

        def dead() -> bool:
            route = follower.routes(FAR)[0]
            return [bool(hop.flags & HopFlag.DEAD) for hop in route.hops] == [True, False]

        await eventually(dead)
        assert len(follower.routes(FAR)[0].live_hops) == 1


async def test_ipv6_routes_of_a_link_that_goes_down_may_go_without_a_word(
    node: Namespace, ears: Ears
) -> None:
    node.sysctl("net.ipv6.route.skip_notify_on_dev_down", "1")
    node.ip(f"-6 route add {FAR6} via 2001:db8:e0::2")
    async with following(node) as follower:
        assert follower.source.stats.sysctls.skip_notify_on_dev_down is True
        node.ip("link set e0 down")
        await follows(follower, FAR6, [])
        assert RTM_DELROUTE not in ears.heard(socket.AF_INET6)


async def test_a_hop_of_an_ipv6_multipath_route_that_loses_its_link_is_reported_dead(node: Namespace) -> None:
    node.ip(f"-6 route add {FAR6} nexthop via 2001:db8:e0::2 nexthop via 2001:db8:e1::2")
    async with following(node) as follower:
        await follows(follower, FAR6, [["2001:db8:e0::2", "2001:db8:e1::2"]])
        node.ip("link set p0 down")

        def down() -> bool:
            return [hop.usable for hop in follower.routes(FAR6)[0].hops] == [False, True]

        await eventually(down)


async def test_a_link_that_comes_up_again_makes_its_hops_usable_in_silence(node: Namespace) -> None:
    node.ip("link set p0 down")
    node.ip(f"route add {FAR} via 192.0.2.2")
    async with following(node) as follower:
        assert not follower.routes(FAR)[0].hops[0].usable
        node.ip("link set p0 up")
        await eventually(lambda: follower.routes(FAR)[0].hops[0].usable)


async def test_a_nexthop_object_that_goes_takes_its_ipv4_routes_without_a_word(
    node: Namespace, ears: Ears
) -> None:
    node.ip("nexthop add id 7 via 192.0.2.2 dev e0")
    node.ip(f"route add {FAR} nhid 7")
    async with following(node) as follower:
        await follows(follower, FAR, [["192.0.2.2"]])
        ears.heard()
        node.ip("nexthop del id 7")
        await follows(follower, FAR, [])
        assert ears.heard() == []


@pytest.mark.parametrize("compat", ["0", "1"])
async def test_a_nexthop_object_that_is_replaced_moves_its_routes(node: Namespace, compat: str) -> None:
    node.sysctl("net.ipv4.nexthop_compat_mode", compat)
    node.batch(
        [
            "nexthop add id 7 via 192.0.2.2 dev e0",
            "nexthop add id 8 via 198.51.100.2 dev e1",
            "nexthop add id 9 group 7,3/8",
            f"route add {FAR} nhid 7",
            "route add 10.9.1.0/24 nhid 9",
        ]
    )
    async with following(node) as follower:
        assert follower.source.stats.sysctls.nexthop_compat_mode is (compat == "1")
        await follows(follower, FAR, [["192.0.2.2"]])
        await follows(follower, "10.9.1.0/24", [["192.0.2.2", "198.51.100.2"]])
        assert [hop.weight for hop in follower.routes("10.9.1.0/24")[0].hops] == [3, 1]
        node.ip("nexthop replace id 7 via 192.0.2.3 dev e0")
        await follows(follower, FAR, [["192.0.2.3"]])
        await follows(follower, "10.9.1.0/24", [["192.0.2.3", "198.51.100.2"]])
        node.ip("route add 10.9.2.0/24 nhid 9")
        await follows(follower, "10.9.2.0/24", [["192.0.2.3", "198.51.100.2"]])
        node.ip("nexthop del id 8")
        await follows(follower, "10.9.2.0/24", [["192.0.2.3"]])


async def test_a_dropped_route_announced_again_for_its_nexthop_object_takes_no_others_place(
    node: Namespace, ears: Ears
) -> None:
    def even_gateways(route: Route, links: Links) -> Verdict:
        del links
        odd = any(hop.gateway is not None and hop.gateway[-1] & 1 for hop in route.hops)
        return Verdict(keep=not odd, rule="even")

    node.batch(["nexthop add id 7 via 192.0.2.3 dev e0", f"route add {FAR} nhid 7"])
    async with following(node, evaluate=even_gateways) as follower:
        node.ip(f"route prepend {FAR} via 192.0.2.2")
        await follows(follower, FAR, [["192.0.2.2"]])
        ears.heard()
        node.ip("nexthop replace id 7 via 192.0.2.3 dev e0")  # nothing changed, and yet the kernel says so
        assert ears.heard() == [RTM_NEWROUTE]
        node.ip("route add 10.9.5.0/24 via 192.0.2.2")
        await follows(follower, "10.9.5.0/24", [["192.0.2.2"]])
        assert gateways(follower, FAR) == [["192.0.2.2"]]
        node.ip(f"route replace {FAR} via 192.0.2.4")
        await follows(follower, FAR, [["192.0.2.4"]])


async def test_an_address_that_goes_takes_the_routes_that_have_it_as_source(node: Namespace) -> None:
    node.ip("addr add 192.0.2.77/32 dev e0")
    node.ip(f"route add {FAR} via 192.0.2.2 src 192.0.2.77")
    async with following(node) as follower:
        await follows(follower, FAR, [["192.0.2.2"]])
        node.ip("addr del 192.0.2.77/32 dev e0")
        await follows(follower, FAR, [])


async def test_an_address_that_is_there_twice_goes_once(node: Namespace) -> None:
    async with following(node) as follower:

        def networks() -> list[str]:
            return sorted(str(it.network) for it in follower.source.addresses if it.address == OWN)

        for verb, expected in (("add", ["192.0.2.0/24", "192.0.2.0/25"]), ("del", ["192.0.2.0/24"])):
            node.ip(f"addr {verb} 192.0.2.1/25 dev e0")
            await follower.source.catch_up()
            assert networks() == expected


async def test_an_interface_that_is_removed_takes_its_routes(node: Namespace) -> None:
    node.ip(f"route add {FAR} via 192.0.2.2")
    async with following(node) as follower:
        node.ip("link del e0")
        await follows(follower, FAR, [])
        assert "e0" not in {link.name for link in follower.source.links.values()}


async def test_events_that_were_lost_are_made_up_for_on_the_same_descriptor(node: Namespace) -> None:
    sock = open_route_socket(node.name)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with following(node, sock=sock, receive_buffer=2048) as follower:
        node.batch(
            [f"route add 10.9.{i}.0/24 via 192.0.2.2" for i in range(200)]
        )  # the loop is blocked meanwhile
        await eventually(lambda: len(follower.routes()) >= 200)
        assert follower.source.stats.overruns >= 1
        assert follower.source.stats.lost > 0
        node.ip("route del 10.9.7.0/24")
        await follows(follower, "10.9.7.0/24", [])
        assert follower.source.stats.resyncs["overrun"] >= 1
    assert sock.fileno() >= 0
    sock.close()


@pytest.mark.parametrize("joined", [True, False], ids=["subscribed", "not subscribed"])
async def test_what_waits_in_a_socket_that_is_handed_over_is_older_than_the_first_dump(
    node: Namespace, *, joined: bool
) -> None:
    sock = open_route_socket(node.name)
    if joined:
        subscribe(sock)
    # applied on top of the first dump, these would leave routes that are gone, or others' order
    node.batch(
        [
            f"route add {FAR} via 192.0.2.2",
            f"route append {FAR} via 192.0.2.3",
            f"route del {FAR} via 192.0.2.2",
            "route add 10.9.1.0/24 via 192.0.2.2",
            f"route replace {FAR} via 198.51.100.2",
            "route del 10.9.1.0/24",
        ]
    )
    async with following(node, sock=sock) as follower:
        assert gateways(follower, FAR) == [["198.51.100.2"]]
        assert follower.routes("10.9.1.0/24") == []
        node.ip("route add 10.9.1.0/24 via 192.0.2.3")
        await follows(follower, "10.9.1.0/24", [["192.0.2.3"]])
    sock.close()


async def test_sibling_routes_are_in_the_kernels_order(node: Namespace) -> None:
    async with following(node) as follower:
        node.ip(f"route add {FAR} via 192.0.2.2")
        node.ip(f"route append {FAR} via 192.0.2.3")
        node.ip(f"route prepend {FAR} via 198.51.100.2")
        await follows(follower, FAR, [["198.51.100.2"], ["192.0.2.2"], ["192.0.2.3"]])
        node.ip(f"route replace {FAR} via 198.51.100.3")  # takes the place of the first
        await follows(follower, FAR, [["198.51.100.3"], ["192.0.2.2"], ["192.0.2.3"]])
        node.ip(f"route del {FAR} via 192.0.2.2")
        await follows(follower, FAR, [["198.51.100.3"], ["192.0.2.3"]])
        assert not follower.source.stats.resyncs.keys() - {"start", "link", "address"}, "an event was enough"


async def test_a_replacement_is_one_announcement_and_no_withdrawal(node: Namespace, ears: Ears) -> None:
    node.ip(f"route add {FAR} via 192.0.2.2")
    async with following(node) as follower:
        ears.heard()
        node.ip(f"route replace {FAR} via 192.0.2.3")
        await follows(follower, FAR, [["192.0.2.3"]])
        assert ears.heard() == [RTM_NEWROUTE]


async def test_candidates_are_ordered_by_metric_and_the_runner_up_is_there_when_the_first_goes(
    node: Namespace,
) -> None:
    async with following(node) as follower:
        node.ip(f"route add {FAR} via 192.0.2.3 metric 200")
        node.ip(f"route add {FAR} via 192.0.2.2 metric 100")
        await follows(follower, FAR, [["192.0.2.2"], ["192.0.2.3"]])
        node.ip(f"route del {FAR} metric 100")
        await follows(follower, FAR, [["192.0.2.3"]])


async def test_a_route_that_changes_into_one_that_the_rules_drop_is_gone(node: Namespace) -> None:
    async with following(node, evaluate=drop_dhcp) as follower:
        node.ip(f"route add {FAR} via 192.0.2.2 proto static")
        await follows(follower, FAR, [["192.0.2.2"]])
        node.ip(f"route replace {FAR} via 192.0.2.2 proto dhcp")
        await follows(follower, FAR, [])
        node.ip(f"route append {FAR} via 192.0.2.3 proto static")
        await follows(follower, FAR, [["192.0.2.3"]])
        node.ip(
            f"route replace {FAR} via 192.0.2.4 proto static"
        )  # in place of the dropped one, which is first
        await follows(follower, FAR, [["192.0.2.4"], ["192.0.2.3"]])


def drop_dhcp(route: Route, links: Links) -> Verdict:
    del links
    return Verdict(keep=route.protocol != 16, rule="no-dhcp")


async def test_a_hop_appended_to_an_ipv6_route_and_taken_off_again_changes_just_that_hop(
    node: Namespace,
) -> None:
    async with following(node) as follower:
        node.ip(f"-6 route add {FAR6} via 2001:db8:e0::2")
        node.ip(f"-6 route append {FAR6} via 2001:db8:e1::2")
        await follows(follower, FAR6, [["2001:db8:e0::2", "2001:db8:e1::2"]])
        node.ip(f"-6 route del {FAR6} via 2001:db8:e0::2")
        await follows(follower, FAR6, [["2001:db8:e1::2"]])
        assert follower.routes(FAR6)[0].metric == 1024


def bgp_header(*header: int) -> Verdict | None:
    return drop_bgp if header[4] == 186 else None


drop_bgp = Verdict(keep=False, rule="no-bgp")


def no_bgp(route: Route, _links: Links) -> Verdict:
    return drop_bgp if route.protocol == 186 else Verdict(keep=True, rule="default")


@pytest.mark.parametrize("when", ["before the start", "while it runs"])
async def test_a_route_that_a_dropped_multipath_set_hid_from_dumps_is_there_when_the_set_goes(
    node: Namespace, when: str
) -> None:
    node.ip("nexthop add id 4 via 2001:db8:e1::3 dev e1")
    kept_and_dropped = (
        f"route add {FAR6} via 2001:db8:e1::3 proto bgp",
        f"route append {FAR6} nhid 4 proto static",
    )
    if when == "before the start":
        node.batch(list(kept_and_dropped))
    async with following(node, evaluate=no_bgp, evaluate_header=bgp_header) as follower:
        if when == "while it runs":
            node.batch(list(kept_and_dropped))
        await follows(follower, FAR6, [["2001:db8:e1::3"]])
        node.ip(
            f"route append {FAR6} via 2001:db8:e1::2 proto bgp"
        )  # now a set, reported as one: the other is hidden
        assert "nhid" not in node.ip(f"-6 route show {FAR6}")
        await follows(follower, FAR6, [])
        node.ip(f"-6 route del {FAR6} proto bgp")
        assert "nhid" in node.ip(f"-6 route show {FAR6}")
        await follows(follower, FAR6, [["2001:db8:e1::3"]])


async def test_multipath_sets_are_equal_in_any_order(node: Namespace) -> None:
    async with following(node) as follower:
        node.ip(f"route add {FAR} nexthop via 198.51.100.2 weight 2 nexthop via 192.0.2.2")
        node.ip("route add 10.9.1.0/24 nexthop via 192.0.2.2 nexthop via 198.51.100.2 weight 2")
        await eventually(lambda: len(follower.routes("10.9.1.0/24")) == 1)
        assert follower.routes(FAR)[0].hops == follower.routes("10.9.1.0/24")[0].hops


async def test_several_device_routes_share_an_ipv6_key(node: Namespace) -> None:
    async with following(node) as follower:
        devices = {route.hops[0].ifindex for route in follower.routes("fe80::/64")}
        assert len(devices) == 4


async def test_an_ipv6_route_that_was_replaced_by_the_equal_of_its_sibling_leaves_two(
    node: Namespace,
) -> None:
    async with following(node) as follower:
        for device in ("e0", "e1"):
            node.ip(f"-6 route append {FAR6} dev {device} proto bgp")
        await eventually(lambda: len(follower.routes(FAR6)) == 2, what="both")
        node.ip(f"-6 route replace {FAR6} dev e1 proto bgp")  # in place of that of e0
        await eventually(lambda: len(follower.routes(FAR6)) == 1, what="two equal ones, shown as one")
        node.ip(f"-6 route del {FAR6} dev e1 proto bgp")
        node.ip("-6 route add 2001:db8:77::/64 dev e1")
        await eventually(
            lambda: bool(follower.routes("2001:db8:77::/64")), what="all events before were read"
        )
        await eventually(lambda: len(follower.routes(FAR6)) == 1, what="the other of the two")
        node.ip(f"-6 route del {FAR6} dev e1 proto bgp")
        await eventually(lambda: not follower.routes(FAR6), what="none")


async def test_an_ipv4_route_can_have_an_ipv6_gateway(node: Namespace) -> None:
    async with following(node) as follower:
        node.ip(f"route add {FAR} via inet6 2001:db8:e0::2 dev e0")
        await follows(follower, FAR, [["2001:db8:e0::2"]])


async def test_no_route_that_forwards_nothing_has_a_hop(node: Namespace) -> None:
    """IPv6 ones come with `dev lo`, and so do those by a nexthop object: rules on hops would match them."""
    node.ip("nexthop add id 4 blackhole")
    node.ip("-6 nexthop add id 6 blackhole")
    expected: dict[str, list[tuple[int, object]]] = {}
    async with following(node) as follower:
        for kind, route in enumerate(
            ("blackhole {}", "unreachable {}", "prohibit {}", "throw {}"), TYPES["blackhole"]
        ):
            for prefix in (f"10.9.{kind}.0/24", f"2001:db8:{kind}::/48"):
                node.ip(f"route add {route.format(prefix)}")
                expected[prefix] = [(kind, ())]
        for prefix, number in (("10.9.4.0/24", 4), ("2001:db8:4::/48", 6)):
            node.ip(f"route add {prefix} nhid {number}")
            expected[prefix] = [(TYPES["blackhole"], ())]
        await follower.source.catch_up()
        announced = {at: [(it.type, it.hops) for it in follower.routes(at)] for at in expected}
    async with following(node) as follower:
        dumped = {at: [(it.type, it.hops) for it in follower.routes(at)] for at in expected}
    assert "blackhole 2001:db8:6::/48 dev lo" in node.ip("-6 route show"), "else this shows nothing"
    assert announced == dumped == expected


async def test_tables_beyond_255_are_distinguished_and_others_are_not_read(node: Namespace) -> None:
    node.ip(f"route add {FAR} via 192.0.2.3 table 1000")
    async with following(node, tables=(1000, MAIN)) as follower:
        node.ip(f"route add {FAR} via 192.0.2.2")
        node.ip(f"route add {FAR} via 192.0.2.9 table 1001")
        node.ip("route add 10.9.1.0/24 via 192.0.2.9 table 77")
        await follows(follower, FAR, [["192.0.2.3"], ["192.0.2.2"]])
        node.ip("route add 10.9.2.0/24 via 192.0.2.2")
        await follows(follower, "10.9.2.0/24", [["192.0.2.2"]])
        assert follower.routes("10.9.1.0/24") == []


async def test_a_route_with_a_tos_comes_after_those_without(node: Namespace) -> None:
    async with following(node) as follower:
        node.ip(f"route add {FAR} via 192.0.2.2 tos 0x10")
        node.ip(f"route add {FAR} via 192.0.2.3 metric 500")
        await follows(follower, FAR, [["192.0.2.3"], ["192.0.2.2"]])


async def test_rules_that_match_names_are_asked_again_when_a_link_is_renamed(node: Namespace) -> None:
    def only_uplink(route: Route, links: Links) -> Verdict:
        return Verdict(keep=any(links[hop.ifindex].name == "uplink" for hop in route.hops), rule="uplink")

    async with following(node, evaluate=only_uplink) as follower:
        node.ip(f"route add {FAR} via 192.0.2.2")
        assert follower.routes() == []
        node.ip("link set e0 name uplink")
        await follows(follower, FAR, [["192.0.2.2"]])
        node.ip("link set uplink name e0")
        await follows(follower, FAR, [])


async def test_what_no_event_reported_is_found_by_the_audit_and_reported_as_drift(node: Namespace) -> None:
    node.batch([f"route add {FAR} via 192.0.2.2", "route add 10.9.1.0/24 via 192.0.2.2"])
    with open_route_socket(node.name) as sock:
        async with following(node, sock=sock, resync_interval_s=0.2) as follower:
            for group in GROUPS:  # nothing is announced to us any more, and nothing says so
                sock.setsockopt(270, 2, group)  # SOL_NETLINK, NETLINK_DROP_MEMBERSHIP
            node.ip(f"route del {FAR}")
            node.ip("route replace 10.9.1.0/24 via 192.0.2.3")

            def drifted() -> set[str]:
                found = (report for report in follower.reports if isinstance(report, Drift))
                return {str(prefix) for report in found for prefix in report.prefixes}

            await eventually(lambda: drifted() == {FAR, "10.9.1.0/24"})
            assert follower.source.stats.drift == 2
            assert gateways(follower, "10.9.1.0/24") == [["192.0.2.3"]]
            assert follower.routes(FAR) == []


async def test_events_before_and_during_a_dump_do_not_add_up_with_it(node: Namespace) -> None:
    node.ip(f"route add {FAR} via 192.0.2.2")
    async with following(node) as follower:
        for _ in range(20):
            follower.source.request_resync("start")
            await asyncio.sleep(0)
            node.batch(
                [
                    f"route append {FAR} via 192.0.2.3",
                    f"route del {FAR} via 192.0.2.2",
                    f"route replace {FAR} via 198.51.100.2",
                ]
            )
            await follows(follower, FAR, [["198.51.100.2"]])
            node.batch([f"route replace {FAR} via 192.0.2.2"])
            await follows(follower, FAR, [["192.0.2.2"]])


async def test_routes_that_nobody_touched_never_go_while_others_churn(node: Namespace) -> None:
    stable = [f"2001:db8:a:{i:x}::/64" for i in range(1500)]
    node.batch([f"route add {prefix} via 2001:db8:e0::2" for prefix in stable])
    async with following(node) as follower:
        seen_gone: set[str] = set()

        async def consume() -> None:
            while True:
                for prefix, candidates in await follower.source.changes():
                    if not candidates and str(prefix) in wanted:
                        seen_gone.add(str(prefix))

        wanted = set(stable)
        consumer = asyncio.create_task(consume())
        lines = [
            f"route {verb} 2001:db8:a:{i:x}:1::/80 via 2001:db8:e0::3"
            for i in range(600)
            for verb in ("add", "del")
        ]
        command = ("ip", "-n", node.name, "-batch", "-")
        while sum(isinstance(report, ResyncDone) for report in follower.reports) < 10:
            churn = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
            churning = asyncio.create_task(churn.communicate(("\n".join(lines * 5) + "\n").encode()))
            while not churning.done():
                follower.source.request_resync("start")
                await asyncio.sleep(0.01)
        consumer.cancel()
        assert not seen_gone


async def test_an_ipv6_route_that_has_expired_is_gone_before_the_kernel_says_so(
    node: Namespace, ears: Ears
) -> None:
    node.sysctl("net.ipv6.route.gc_interval", "600")
    async with following(node) as follower:
        node.ip(f"-6 route add {FAR6} via 2001:db8:e0::2 expires 2")
        await follows(follower, FAR6, [["2001:db8:e0::2"]])
        ears.heard(socket.AF_INET6)
        await follows(follower, FAR6, [])
        assert "expires" in node.ip(f"-6 route show {FAR6}"), "it is still listed"
        assert RTM_DELROUTE not in ears.heard(socket.AF_INET6)
        assert follower.source.stats.drift == 0


async def test_a_lifetime_that_is_renewed_in_silence_does_not_end_with_the_old_one(
    node: Namespace, ears: Ears
) -> None:
    async with following(node) as follower:
        node.ip(f"-6 route add {FAR6} via 2001:db8:e0::2 expires 2")
        await follows(follower, FAR6, [["2001:db8:e0::2"]])
        ears.heard(socket.AF_INET6)
        node.ip(f"-6 route append {FAR6} via 2001:db8:e0::2 expires 600", check=False)  # EEXIST, and yet
        assert ears.heard(socket.AF_INET6) == []
        await eventually(lambda: "expired" in follower.source.stats.resyncs, what="the dump at its end")
        assert gateways(follower, FAR6) == [["2001:db8:e0::2"]]


async def test_ipv6_routes_for_some_sources_are_routes_of_their_own(node: Namespace) -> None:
    node.ip("-6 route add default from 2001:db8:1::/64 via 2001:db8:e0::2 metric 1")
    async with following(node) as follower:
        node.ip("-6 route add default via 2001:db8:e0::3")
        await follows(follower, "::/0", [["2001:db8:e0::3"], ["2001:db8:e0::2"]])
        assert [route.source and str(route.source) for route in follower.routes("::/0")] == [
            None,
            "2001:db8:1::/64",
        ]
        node.ip("-6 route del default via 2001:db8:e0::3")
        await follows(follower, "::/0", [["2001:db8:e0::2"]])
        node.ip("-6 route del default from 2001:db8:1::/64")
        await follows(follower, "::/0", [])


async def test_throw_in_an_earlier_table_sends_the_kernel_to_the_next(node: Namespace) -> None:
    node.batch(["rule add priority 100 lookup 1000", f"route add throw {FAR} table 1000"])
    async with following(node, tables=(1000, MAIN)) as follower:
        node.ip(f"route add {FAR} via 192.0.2.2")
        await follows(follower, FAR, [["192.0.2.2"], []])
        assert "via 192.0.2.2" in node.ip("route get 10.9.0.1")
