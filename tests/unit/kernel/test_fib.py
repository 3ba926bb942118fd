"""The cache of the kernel's routes, by messages as the kernel writes them, without a kernel: events, dumps, time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import pytest
from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE

from routesync.kernel import DropEnded, Dropped, KernelReport, KernelStats, Link
from routesync.kernel.dump import Dump
from routesync.kernel.evaluate import HOLD_S, Evaluate, EvaluateHeader, Evaluator, Rules, needs_attributes
from routesync.kernel.fib import Fib
from routesync.kernel.links import LinkTables
from routesync.kernel.netlink import DumpRequest
from routesync.names import PROTOCOLS, TYPES
from routesync.route import Family, Prefix, Route, Verdict, parse_address
from support.route_messages import message, route_body
from support.routes import ip_route

MAIN, FIRST = 254, 52
ADD, APPEND, REPLACE = NLM_F_CREATE | NLM_F_EXCL, NLM_F_CREATE | NLM_F_APPEND, NLM_F_CREATE | NLM_F_REPLACE
KEEP, DROP = Verdict(keep=True, rule="default"), Verdict(keep=False, rule="dropped")
TO_GATEWAY = Verdict(keep=False, rule="link-gateways", report=True)
UP = 0x10041  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP

HOST = "192.0.2.1 dev ens3 scope link"
DEFAULT = "default via 192.0.2.1 dev ens3"
FAR, FAR6 = "10.9.0.0/24", "2001:db8:9::/64"


def no_bgp(route: Route, _links: object) -> Verdict:
    return DROP if route.protocol == PROTOCOLS["bgp"] else KEEP


def no_bgp_header(*header: int) -> Verdict | None:
    return DROP if header[4] == PROTOCOLS["bgp"] else None


def to_gateway(_route: Route, _links: object) -> Verdict:
    return TO_GATEWAY


class Cache:
    """A Fib, fed by hand. Its clock stops until it is set."""

    def __init__(
        self,
        *,
        evaluate: Evaluate = no_bgp,
        evaluate_header: EvaluateHeader = needs_attributes,
        evaluate_link_gateway: Evaluate | None = to_gateway,
        tables: tuple[int, ...] = (MAIN,),
    ) -> None:
        self.now = 1000.0
        self.requested: list[str] = []
        self.reports: list[KernelReport] = []
        self.created: list[Route] = []
        self.stats = KernelStats()
        self.links = LinkTables()
        self.links.links = {index: Link(index, name, UP, b"") for index, name in ((2, "ens3"), (3, "cni0"))}
        rules = Rules(evaluate, evaluate_header, evaluate_link_gateway)
        self.evaluator = Evaluator(tables, rules, self.links, lambda: self.now)
        self.fib = Fib(
            tables,
            self.evaluator,
            self.links,
            stats=self.stats,
            report=self.reports.append,
            request_dump=self.requested.append,
            on_route_created=self.created.append,
            now=lambda: self.now,
        )

    def announce(self, route: Route, flags: int = ADD, *, lifetime_s: float | None = None) -> None:
        body = route_body(route, lifetime_s=lifetime_s)
        self.fib.event(RTM_NEWROUTE, flags, body, 0, len(body))

    def withdraw(self, route: Route) -> None:
        body = route_body(route)
        self.fib.event(RTM_DELROUTE, 0, body, 0, len(body))

    async def dump(
        self, *routes: Route, meanwhile: Callable[[], None] | None = None, lifetimes: Sequence[float] = ()
    ) -> list[str]:
        """Compare with a dump of these routes, the first ones with lifetimes; return what had to be corrected."""
        self.requested.clear()
        dump = self.fib.begin_dump()
        listed = list(zip_longest(routes, lifetimes))
        for of in dict.fromkeys((route.table, route.prefix.family) for route in routes):
            table, family = of
            data = b"".join(
                message(route_body(route, lifetime_s=lifetime_s))
                for route, lifetime_s in listed
                if (route.table, route.prefix.family) == of
            )
            assert dump.feed(DumpRequest(RTM_GETROUTE, family, table), data, 0) == len(data)
        assert dump.bad == []
        if meanwhile is not None:
            meanwhile()
        return [str(prefix) for prefix in await self.fib.compare(dump)]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.fib.review_at <= self.now:
            self.fib.review()

    def candidates(self, prefix: str) -> list[Route]:
        wanted = Prefix.parse(prefix)
        return [
            it.attributes.at(at)
            for at, found in self.fib.replica.candidates()
            if at == wanted
            for it in found
        ]

    def ways(self, prefix: str) -> list[str]:
        """The candidates of a prefix, the best first: by the last part of their gateways."""
        return [
            "+".join(str(hop.gateway[-1]) if hop.gateway else "-" for hop in route.hops) or "none"
            for route in self.candidates(prefix)
        ]


def inet(line: str) -> Route:
    return ip_route(line)


def inet6(line: str) -> Route:
    return ip_route(line, Family.INET6)


def far(gateway: int, *, metric: int = 0, protocol: str = "static", table: int = MAIN) -> Route:
    line = f"{FAR} via 192.0.2.{gateway} dev ens3 proto {protocol} metric {metric}"
    return inet(line)._replace(table=table)


def far6(gateway: int, *, protocol: str = "static") -> Route:
    return inet6(f"{FAR6} via 2001:db8::{gateway} dev ens3 proto {protocol}")


def drops(reports: Iterable[KernelReport]) -> list[str]:
    words = {Dropped: "dropped", DropEnded: "ended"}
    return [words[type(report)] for report in reports if isinstance(report, Dropped | DropEnded)]


# -- events ------------------------------------------------------------------------------------------------------------


def test_candidates_are_in_the_order_of_metrics_and_the_runner_up_follows() -> None:
    cache = Cache()
    cache.announce(far(3, metric=200))
    cache.announce(far(2, metric=100))
    assert cache.ways(FAR) == ["2", "3"]
    cache.withdraw(far(2, metric=100))
    assert cache.ways(FAR) == ["3"]
    assert cache.requested == []


def test_a_replacement_is_one_announcement() -> None:
    cache = Cache()
    cache.announce(far(2))
    cache.announce(far(3), REPLACE)
    assert cache.ways(FAR) == ["3"]
    cache.announce(far(3, protocol="bgp"), REPLACE)
    assert cache.ways(FAR) == [], "changed into one that the rules drop"


def test_an_event_whose_effect_only_a_dump_can_show_orders_one() -> None:
    cache = Cache()
    cache.announce(far(2))
    cache.withdraw(far(7))
    assert cache.requested == ["doubt"]


async def test_tables_come_in_their_order_and_others_are_not_read() -> None:
    cache = Cache(tables=(FIRST, MAIN))
    cache.announce(far(2))
    cache.announce(far(3, metric=9, table=FIRST))
    cache.announce(far(4, table=77))
    assert cache.ways(FAR) == ["3", "2"]
    await cache.dump(far(2), far(3, metric=9, table=FIRST))
    assert cache.ways(FAR) == ["3", "2"]


@pytest.mark.parametrize("by", ["events", "a dump"])
async def test_a_throw_route_ends_the_search_in_its_own_table_only(by: str) -> None:
    cache = Cache(tables=(FIRST, MAIN))
    throw = far(0, table=FIRST, metric=10)._replace(type=TYPES["throw"], hops=())
    before, after, later = (
        far(2, table=FIRST, metric=5),
        far(3, table=FIRST, metric=20),
        far(4),
    )
    if by == "events":
        for route in (throw, before, after, later):
            cache.announce(route)
    else:
        await cache.dump(throw, before, after, later)
    assert cache.ways(FAR) == ["2", "4", "none", "3"]
    cache.withdraw(before)
    assert cache.ways(FAR) == ["4", "none", "3"]
    cache.withdraw(later)
    assert cache.ways(FAR) == ["none", "3"], "and where no later table has a route, it is what there is"


async def test_a_route_for_some_sources_has_a_key_of_its_own_behind_all_plain_ones() -> None:
    cache = Cache()
    source = Prefix.parse("2001:db8:aaaa::/48")
    specific = far6(2)._replace(source=source, metric=1)
    cache.announce(specific)
    assert [route.source for route in cache.candidates(FAR6)] == [source]
    cache.announce(far6(3))
    assert cache.ways(FAR6) == ["3", "2"]
    assert await cache.dump(specific, far6(3)) == []
    cache.withdraw(far6(3))
    assert cache.ways(FAR6) == ["2"]
    cache.withdraw(specific)
    assert cache.ways(FAR6) == []
    assert cache.requested == []


def test_hops_of_an_ipv6_route_for_some_sources_are_no_hops_of_the_plain_one() -> None:
    cache = Cache()
    specific = far6(2)._replace(source=Prefix.parse("2001:db8:aaaa::/48"))
    cache.announce(far6(3))
    cache.announce(specific)
    both = far6(3)._replace(hops=(*far6(3).hops, *far6(4).hops))
    cache.announce(both, APPEND)
    assert cache.ways(FAR6) == ["3+4", "2"]


# -- dumps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("route", "prefix"), [(far(2), FAR), (far6(2), FAR6)])
async def test_what_a_dump_lacks_without_a_reason_is_gone_only_when_the_next_lacks_it_too(
    route: Route, prefix: str
) -> None:
    cache = Cache()
    await cache.dump(route)
    assert await cache.dump() == []
    assert cache.requested == ["unconfirmed"]
    assert cache.ways(prefix) == ["2"]
    assert await cache.dump() == [prefix]
    assert cache.ways(prefix) == []


async def test_an_ipv6_route_that_dumps_under_churn_lack_stays_longer() -> None:
    cache = Cache()
    other = inet6("2001:db8:7::/64 via 2001:db8::7 dev ens3")
    await cache.dump(far6(2))
    for _ in range(4):
        await cache.dump(meanwhile=lambda: cache.announce(other, REPLACE))
        assert cache.ways(FAR6) == ["2"]


async def test_a_link_that_is_down_explains_what_a_dump_lacks() -> None:
    cache = Cache()
    await cache.dump(far(2))
    cache.links.links[2] = Link(2, "ens3", 0, b"")
    cache.fib.distrust()
    assert await cache.dump() == [FAR]
    assert cache.ways(FAR) == []


async def test_what_an_event_said_while_a_dump_ran_comes_before_the_dump() -> None:
    cache = Cache()
    await cache.dump(far(2))
    await cache.dump(far(2), meanwhile=lambda: cache.announce(far(3), REPLACE))
    assert cache.ways(FAR) == ["3"]
    assert "unsettled" not in cache.requested


async def test_after_a_loss_what_events_touched_while_the_dump_ran_is_read_again() -> None:
    cache = Cache()
    await cache.dump(far(2))
    cache.fib.distrust()
    await cache.dump(far(2), meanwhile=lambda: cache.announce(far(3), REPLACE))
    assert cache.requested == ["unsettled"]


async def test_a_route_that_a_dropped_sibling_precedes_keeps_its_place() -> None:
    cache = Cache()
    await cache.dump(far(9, protocol="bgp"), far(2))
    cache.announce(far(3), NLM_F_CREATE)
    assert cache.ways(FAR) == ["3", "2"]
    cache.announce(far(4), REPLACE)  # takes the first
    assert cache.ways(FAR) == ["4", "2"]
    assert cache.requested == ["doubt"], "it may be the dropped one, announced again"


@pytest.mark.parametrize("evaluate_header", [needs_attributes, no_bgp_header])
async def test_events_are_counted_of_the_tables_that_are_read_alone(evaluate_header: EvaluateHeader) -> None:
    cache = Cache(evaluate_header=evaluate_header, tables=(1000, MAIN))
    await cache.dump()
    for table in (1000, MAIN, 1001, FIRST):  # above 255 the header does not tell them apart
        for protocol in ("static", "bgp"):
            cache.announce(far(2, protocol=protocol, table=table))
            cache.withdraw(far(2, protocol=protocol, table=table))
    assert cache.stats.events == 8


# -- what is dropped by the header alone -------------------------------------------------------------------------------


async def test_what_the_header_drops_is_counted_and_not_held() -> None:
    cache = Cache(evaluate_header=no_bgp_header)
    await cache.dump(far(2, protocol="bgp"))
    cache.announce(far(2, protocol="bgp"))
    assert cache.ways(FAR) == []
    assert cache.stats.dropped == {"dropped": 1}
    assert cache.evaluator.gateways.addresses == set(), "nor decoded"


@pytest.mark.parametrize("by", ["an event", "a dump"])
@pytest.mark.parametrize("family", list(Family), ids=["ipv4", "ipv6"])
async def test_gateways_of_default_routes_count_although_the_header_drops_them(
    by: str, family: Family
) -> None:
    cache = Cache(evaluate_header=no_bgp_header)
    router = "192.0.2.1" if family is Family.INET else "2001:db8::1"
    default = ip_route(f"default via {router} dev ens3 proto bgp", family)
    if by == "an event":
        cache.announce(default)
    else:
        await cache.dump(default)
    assert cache.evaluator.gateways.addresses == {parse_address(router)}


async def test_gateways_of_routes_that_the_whole_rules_drop_count() -> None:
    cache = Cache()
    cache.announce(far(2, protocol="bgp"))
    assert cache.evaluator.gateways.addresses == {parse_address("192.0.2.2")}
    await cache.dump(far(3, protocol="bgp"))
    assert cache.evaluator.gateways.addresses == {parse_address("192.0.2.3")}, "the dump rebuilds them"


async def test_a_gateway_that_an_event_announced_while_the_dump_ran_stays_known() -> None:
    cache = Cache()
    await cache.dump(meanwhile=lambda: cache.announce(far(2)))
    assert cache.evaluator.gateways.addresses == {parse_address("192.0.2.2")}


@pytest.mark.parametrize("protocol", ["static", "bgp"], ids=["kept", "dropped by its header"])
@pytest.mark.parametrize("tables", [(MAIN,), (FIRST,)], ids=["main is read", "main is not read"])
def test_each_route_that_is_made_in_the_main_table_is_shown_before_the_rules(
    protocol: str, tables: tuple[int, ...]
) -> None:
    cache = Cache(evaluate_header=no_bgp_header, tables=tables)
    cache.announce(far(2, protocol=protocol))
    cache.announce(far(3, protocol=protocol), REPLACE)
    cache.withdraw(far(3, protocol=protocol))
    assert cache.created == [far(2, protocol=protocol)]
    cache.announce(far(2, table=77))
    assert len(cache.created) == 1, "of other tables only those that are read"


# -- link_gateway ------------------------------------------------------------------------------------------------------


def test_the_host_route_of_a_dhcp_client_is_never_kept_though_it_comes_before_the_default() -> None:
    cache = Cache()
    cache.announce(inet(HOST))
    assert cache.ways("192.0.2.1/32") == [], "held back"
    assert cache.fib.replica.kept == 0
    cache.announce(inet(DEFAULT))
    assert drops(cache.reports) == ["dropped"]
    cache.pass_time(HOLD_S)
    assert cache.ways("192.0.2.1/32") == []
    assert cache.ways("0.0.0.0/0") == ["1"]
    assert cache.stats.dropped == {"link-gateways": 1}
    cache.withdraw(inet(HOST))
    assert drops(cache.reports) == ["dropped", "ended"]


@pytest.mark.parametrize("protocol", ["boot", "dhcp"])
def test_a_host_route_to_no_gateway_is_kept_when_its_time_is_over(protocol: str) -> None:
    cache = Cache()
    cache.announce(inet(f"192.0.2.7 dev ens3 proto {protocol} scope link"))
    cache.pass_time(HOLD_S - 0.1)
    assert cache.ways("192.0.2.7/32") == []
    assert cache.fib.review_at == pytest.approx(cache.now + 0.1)
    cache.pass_time(0.1)
    assert cache.ways("192.0.2.7/32") == ["-"]
    assert [prefix for prefix, _ in cache.fib.replica.take()] == [Prefix.parse("192.0.2.7/32")]
    assert cache.fib.review_at == float("inf")
    assert cache.reports == []


def test_one_of_another_protocol_is_kept_at_once() -> None:
    cache = Cache()
    cache.announce(inet("192.0.2.7 dev ens3 proto static scope link"))
    assert cache.ways("192.0.2.7/32") == ["-"]
    cache.announce(inet("10.0.0.0/8 via 192.0.2.7 dev ens3"))
    assert cache.ways("192.0.2.7/32") == [], "until it shows what it is"
    assert drops(cache.reports) == ["dropped"]


def test_one_that_is_announced_again_is_not_held_back_again() -> None:
    cache = Cache()
    cache.announce(inet("192.0.2.7 dev ens3 scope link"))
    cache.pass_time(HOLD_S)
    cache.announce(inet("192.0.2.7 dev ens3 scope link"), REPLACE)
    assert cache.ways("192.0.2.7/32") == ["-"]


def test_one_that_comes_back_is_held_back_again() -> None:
    cache = Cache()
    route = inet("192.0.2.7 dev ens3 scope link")
    cache.announce(route)
    cache.pass_time(HOLD_S / 2)
    cache.withdraw(route)
    cache.announce(route)
    cache.pass_time(HOLD_S / 2)
    assert cache.ways("192.0.2.7/32") == []
    cache.pass_time(HOLD_S / 2)
    assert cache.ways("192.0.2.7/32") == ["-"]


async def test_one_that_a_later_dump_shows_first_is_held_back_too() -> None:
    cache = Cache()
    await cache.dump()
    await cache.dump(inet("192.0.2.7 dev ens3 scope link"))
    assert cache.ways("192.0.2.7/32") == []
    await cache.dump(inet("192.0.2.7 dev ens3 scope link"))
    assert cache.ways("192.0.2.7/32") == []
    cache.pass_time(HOLD_S)
    assert cache.ways("192.0.2.7/32") == ["-"]


async def test_the_first_dump_knows_all_gateways_before_it_evaluates_host_routes() -> None:
    cache = Cache()
    other = "192.0.2.7 dev ens3 scope link"
    await cache.dump(inet(HOST), inet(other), inet(DEFAULT))
    assert cache.ways("192.0.2.1/32") == []
    assert drops(cache.reports) == ["dropped"]
    assert cache.ways("192.0.2.7/32") == ["-"], "it may be as old as the node"


@pytest.mark.parametrize("by", ["event", "dump"])
async def test_once_recognised_it_stays_so_while_it_exists(by: str) -> None:
    cache = Cache()
    cache.announce(inet(DEFAULT))
    cache.announce(inet(HOST))
    cache.withdraw(inet(DEFAULT))
    for _ in range(3):
        if by == "dump":
            await cache.dump(inet(HOST))
        else:
            cache.announce(inet(HOST), REPLACE)
        assert cache.ways("192.0.2.1/32") == []
    assert "ended" not in drops(cache.reports)
    await cache.dump(inet(HOST))
    assert cache.evaluator.gateways.addresses == set()
    cache.withdraw(inet(HOST))
    cache.announce(inet(HOST))
    cache.pass_time(HOLD_S)
    assert cache.ways("192.0.2.1/32") == ["-"], "another one, and no gateway now"


async def test_the_withdrawal_of_a_recognised_one_is_seen_also_where_no_drop_is_reported() -> None:
    cache = Cache(evaluate_link_gateway=lambda _route, _links: DROP)
    await cache.dump(inet(DEFAULT), inet(HOST))
    cache.withdraw(inet(HOST))
    await cache.dump()
    await cache.dump()
    cache.announce(inet(HOST))
    cache.pass_time(HOLD_S)
    assert cache.ways("192.0.2.1/32") == ["-"]


def test_rules_that_keep_only_what_leads_to_a_gateway_see_it_when_the_gateway_comes() -> None:
    cache = Cache(
        evaluate=lambda route, _links: DROP if route.prefix.is_host else KEEP,
        evaluate_link_gateway=lambda _route, _links: KEEP,
    )
    cache.announce(inet(HOST))
    assert cache.ways("192.0.2.1/32") == []
    assert cache.fib.replica.kept == 0
    cache.announce(inet(DEFAULT))
    assert cache.ways("192.0.2.1/32") == ["-"]


def test_siblings_of_a_host_route_keep_their_places() -> None:
    cache = Cache()
    cache.announce(inet("192.0.2.1 via 198.51.100.9 dev cni0 proto static"))
    cache.announce(inet("192.0.2.1 dev ens3 proto static scope link"), APPEND)
    cache.announce(inet("192.0.2.1 via 198.51.100.8 dev cni0 proto static"), APPEND)
    assert cache.ways("192.0.2.1/32") == ["9", "-", "8"]
    cache.announce(inet(DEFAULT))
    assert cache.ways("192.0.2.1/32") == ["9", "8"]
    assert cache.requested == []


async def test_a_host_route_that_events_touched_while_the_dump_ran_is_evaluated_by_its_gateways() -> None:
    cache = Cache()
    await cache.dump()
    static = inet("192.0.2.1 dev ens3 proto static scope link")
    await cache.dump(inet(DEFAULT), static, meanwhile=lambda: cache.announce(static, REPLACE))
    assert cache.ways("192.0.2.1/32") == []


async def test_time_that_passes_while_a_dump_runs_is_made_up_for_after_it() -> None:
    cache = Cache()
    route = inet("192.0.2.7 dev ens3 scope link")
    await cache.dump()
    cache.announce(route)

    def meanwhile() -> None:
        cache.now += HOLD_S
        assert cache.fib.review_at == float("inf")
        cache.fib.review()
        assert cache.ways("192.0.2.7/32") == []

    assert await cache.dump(route, meanwhile=meanwhile) == []
    assert cache.fib.review_at <= cache.now
    cache.fib.review()
    assert cache.ways("192.0.2.7/32") == ["-"]


def test_without_rules_for_it_nothing_is_held_back() -> None:
    cache = Cache(evaluate_link_gateway=None)
    cache.announce(inet(HOST))
    cache.announce(inet(DEFAULT))
    assert cache.ways("192.0.2.1/32") == ["-"]


# -- lifetimes ---------------------------------------------------------------------------------------------------------


async def test_a_dump_is_due_when_a_lifetime_ends_and_what_has_expired_is_absent() -> None:
    cache = Cache()
    cache.announce(far6(2), lifetime_s=6)
    assert cache.ways(FAR6) == ["2"]
    assert cache.now + 6 < cache.fib.review_at < cache.now + 6.2
    cache.pass_time(6)
    assert cache.requested == []
    cache.pass_time(0.1)
    assert cache.requested == ["expired"]
    assert cache.fib.review_at == float("inf"), "it is ordered once"
    assert await cache.dump(far6(2), lifetimes=[-0.1]) == [FAR6]
    assert cache.ways(FAR6) == []
    assert cache.requested == []


async def test_a_dump_shows_lifetimes_too_and_the_next_that_ends_counts() -> None:
    cache = Cache()
    await cache.dump(far6(2), inet6("2001:db8:7::/64 via 2001:db8::7 dev ens3"), far(2), lifetimes=[60, 30])
    assert cache.fib.review_at == pytest.approx(cache.now + 30, abs=0.2)
    cache.announce(inet6("2001:db8:8::/64 via 2001:db8::7 dev ens3"), lifetime_s=10)
    assert cache.fib.review_at == pytest.approx(cache.now + 10, abs=0.2)


async def test_a_lifetime_that_was_renewed_without_an_event_is_seen_when_the_old_one_ends() -> None:
    cache = Cache()
    cache.announce(far6(2), lifetime_s=6)
    cache.pass_time(6.1)
    assert await cache.dump(far6(2), lifetimes=[1800.0]) == []
    assert cache.ways(FAR6) == ["2"]
    assert cache.fib.review_at == pytest.approx(cache.now + 1800, abs=0.2)


async def test_an_expired_route_that_is_renewed_before_it_is_collected_is_found_again() -> None:
    cache = Cache()
    await cache.dump(far6(2), lifetimes=[-1.0])
    waits = []
    for _ in range(8):
        waits.append(cache.fib.review_at - cache.now)
        cache.pass_time(waits[-1])
        assert cache.requested == ["expired"]
        await cache.dump(far6(2), lifetimes=[-1.0])
    assert waits == sorted(waits)
    assert waits[0] <= 10
    assert waits[-1] == waits[-2] < 600
    cache.pass_time(waits[-1])
    await cache.dump(far6(2), lifetimes=[1800.0])
    assert cache.ways(FAR6) == ["2"]
    await cache.dump()
    await cache.dump()
    assert cache.fib.review_at == float("inf"), "when it was collected there is nothing to look for"


def test_an_announcement_renews_an_expired_route_at_once() -> None:
    cache = Cache()
    cache.announce(far6(2), lifetime_s=-1)
    assert cache.ways(FAR6) == []
    cache.announce(far6(2), REPLACE, lifetime_s=60)
    assert cache.ways(FAR6) == ["2"]


async def test_a_multipath_route_does_not_expire_with_its_first_hop() -> None:
    cache = Cache()
    both = far6(2)._replace(hops=(*far6(2).hops, *far6(3).hops))
    await cache.dump(both, lifetimes=[-1.0])
    assert cache.ways(FAR6) == ["2+3"]
    assert cache.fib.review_at == float("inf")


async def test_a_route_seen_in_the_last_moment_of_its_lifetime_is_looked_at_again() -> None:
    cache = Cache()
    cache.announce(far6(2), lifetime_s=6)
    cache.now += 6
    await cache.dump(far6(2))  # less than a hundredth of a second is left: the kernel writes none
    assert cache.fib.review_at <= cache.now + 1
    cache.pass_time(1)
    assert cache.requested == ["expired"]
    await cache.dump(far6(2), lifetimes=[-1.0])
    assert cache.ways(FAR6) == []


async def test_lifetimes_of_routes_that_the_rules_drop_order_nothing() -> None:
    cache = Cache()
    cache.announce(far6(2, protocol="bgp"), lifetime_s=6)
    await cache.dump(far6(2, protocol="bgp"), lifetimes=[5.0])
    assert cache.fib.review_at == float("inf")


# -- marks -------------------------------------------------------------------------------------------------------------


def feed(dump: Dump, *routes: Route) -> None:
    data = b"".join(message(route_body(route)) for route in routes)
    assert dump.feed(DumpRequest(RTM_GETROUTE, Family.INET, MAIN), data, 0) == len(data)


async def test_a_dump_does_not_collect_what_is_held() -> None:
    cache = Cache()
    await cache.dump(far(2))
    dump = cache.fib.begin_dump()
    feed(dump, far(2))
    assert dump.slots == {}
    assert await cache.fib.compare(dump) == []
    assert cache.ways(FAR) == ["2"]


@pytest.mark.parametrize(("first", "second"), [(0, 9), (9, 0)])
async def test_a_dump_finds_another_route_beside_the_one_that_is_held(first: int, second: int) -> None:
    cache = Cache()
    await cache.dump(far(2))
    assert await cache.dump(far(2, metric=first), far(3, metric=second)) == [FAR]
    assert cache.ways(FAR) == (["2", "3"] if first < second else ["3", "2"])
    assert await cache.dump(far(2, metric=first), far(3, metric=second)) == []


async def test_a_dump_finds_a_dropped_route_behind_the_one_that_is_held() -> None:
    cache = Cache()
    cache.announce(far(2))
    await cache.dump(far(2), far(3, protocol="bgp"))
    cache.announce(far(4), REPLACE)
    assert cache.ways(FAR) == ["4"]
    assert cache.requested == ["doubt"], "what was replaced may be the dropped one"


@pytest.mark.parametrize("distrusted", [True, False])
async def test_a_route_that_goes_while_a_dump_runs_is_as_the_event_has_it(*, distrusted: bool) -> None:
    cache = Cache()
    await cache.dump(far(2))
    if distrusted:
        cache.fib.distrust()
    assert await cache.dump(far(2), meanwhile=lambda: cache.withdraw(far(2))) == []
    assert cache.ways(FAR) == []
    assert cache.requested == (["unsettled"] if distrusted else []), "after a loss it is read again"


async def test_what_the_next_dump_lacks_is_not_taken_for_shown_by_an_earlier_one() -> None:
    cache = Cache()
    await cache.dump(far(2))
    await cache.dump(far(2))
    assert await cache.dump() == []
    assert cache.requested == ["unconfirmed"]
    assert await cache.dump() == [FAR]
