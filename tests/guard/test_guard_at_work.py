"""The guard on a real kernel: what it removes, how fast, and what it does when it was wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from routesync.config.models import GuardSettings
from routesync.events.models import AlarmCleared, AlarmRaised, Event, GuardFailed, GuardReturned
from routesync.guard.guard import Guard
from routesync.kernel import KernelSource, Links, Rules
from routesync.mirror.limits import TokenBucket
from routesync.names import PROTOCOLS
from routesync.route import Route, Verdict
from support.netns import Namespace, namespace
from support.waiting import eventually


def evaluate(route: Route, links: Links) -> Verdict:
    del links
    dhcp_host = route.protocol == PROTOCOLS["dhcp"] and route.prefix.is_host
    if dhcp_host and all(hop.gateway is None for hop in route.hops):
        return Verdict(keep=False, rule="dhcp-host-routes", guard=True)
    return Verdict(keep=True, rule="default")


class Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.seen.append(event)

    def of(self, name: str) -> list[Event]:
        return [event for event in self.seen if event.name == name]


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespace("guard") as made:
        made.batch(
            [
                "link add ens3 type veth peer name other",
                "link set other up",
                "link set ens3 up",
                "addr add 192.168.10.10/24 dev ens3",
            ]
        )
        yield made


def host(number: int, *, metric: int = 100) -> str:
    return f"192.168.10.{number} dev ens3 proto dhcp scope link src 192.168.10.10 metric {metric}"


def hosts_left(node: Namespace) -> int:
    return node.ip("route show").count("proto dhcp scope link")


GUARDED = Verdict(keep=False, rule="link-gateways", guard=True)


def evaluate_link_gateway(_route: Route, _links: Links) -> Verdict:
    return GUARDED


@asynccontextmanager
async def guarding(
    node: Namespace,
    events: Events,
    *,
    bucket: TokenBucket | None = None,
    dry_run: bool = False,
    contended_within_s: float = 60,
) -> AsyncIterator[Guard]:
    def evaluate_by_gateways(route: Route, links: Links) -> Verdict:
        return GUARDED if source.link_gateway(route) else evaluate(route, links)

    now = asyncio.get_running_loop().time()
    guard = Guard(
        GuardSettings(dry_run=dry_run, settle_s=0.05, contended_within_s=contended_within_s),
        tables=(254,),
        netns=node.name,
        evaluate=evaluate_by_gateways,
        sink=events,
    )
    guard.bucket = bucket or TokenBucket(1000, 100, now)
    source = KernelSource(
        tables=(254,),
        rules=Rules(evaluate, evaluate_link_gateway=evaluate_link_gateway),
        receive_buffer=1 << 20,
        resync_interval_s=600,
        netns=node.name,
        report=guard.on_report,
    )
    tasks = [asyncio.create_task(source.run()), asyncio.create_task(guard.run())]
    try:
        yield guard
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_all_that_are_redundant_go_and_all_others_stay(node: Namespace) -> None:
    node.batch([f"route add {host(number)}" for number in range(100, 130)])
    node.ip(f"route add {host(100, metric=1024)}")  # a second one to the same neighbour
    node.ip("route add 203.0.113.1 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100")
    node.ip("route add 192.168.10.200 dev ens3 proto static scope link metric 100")
    events = Events()
    async with guarding(node, events) as guard:
        await eventually(lambda: hosts_left(node) == 1, what="only the needed one")
        await eventually(lambda: guard.status().present == 1, what="its view")
        assert len(events.of("removed")) == 31
        assert len(events.of("skipped")) == 1
        assert events.of("failed") == []
    table = node.ip("route show")
    assert "203.0.113.1 dev ens3" in table
    assert "192.168.10.200 dev ens3" in table
    assert "192.168.10.0/24 dev ens3 proto kernel" in table


async def test_none_goes_without_a_token(node: Namespace) -> None:
    node.batch([f"route add {host(number)}" for number in range(100, 105)])
    bucket = TokenBucket(1e-6, 1, asyncio.get_running_loop().time())
    events = Events()
    async with guarding(node, events, bucket=bucket) as guard:
        await eventually(lambda: guard.status().redundant == 5, what="verdicts")
        assert hosts_left(node) == 5
        bucket.give_back(asyncio.get_running_loop().time())  # one token
        node.ip(f"route add {host(105)}")
        await eventually(lambda: len(events.of("removed")) == 1, what="one removal")
        await eventually(lambda: guard.status().redundant == 5, what="verdicts on the others")
        assert hosts_left(node) == 5
        assert len(events.of("removed")) == 1


async def test_what_policy_rules_need_is_put_back_and_left_alone(node: Namespace) -> None:
    node.ip(f"route add {host(1)}")
    node.ip("route add default via 192.168.10.254 dev ens3 table 100")
    node.ip("rule add pref 100 lookup main suppress_prefixlength 24")
    node.ip("rule add pref 101 lookup 100")
    before = node.ip("route show")
    events = Events()
    async with guarding(node, events) as guard:
        await eventually(lambda: bool(events.of("failed")), what="the failure")
        (failed,) = events.of("failed")
        assert isinstance(failed, GuardFailed)
        assert failed.reason == "put-back"
        assert node.ip("route show") == before
        node.ip(f"route replace {host(1)} mtu 1400")  # something is announced: no reason to try again
        node.ip(f"route add {host(2)}")
        await eventually(lambda: len(events.of("failed")) == 2, what="the other one's failure")
        assert guard.status().failed == 2
        assert {event.subject for event in events.of("failed")} == {"192.168.10.1/32", "192.168.10.2/32"}
        assert events.of("removed") == []
        assert events.of("returned") == [], "what we put back ourselves is no return"


async def test_a_dry_run_says_each_once_and_touches_nothing(node: Namespace) -> None:
    node.batch([f"route add {host(number)}" for number in range(100, 110)])
    before = node.ip("route show")
    events = Events()
    async with guarding(node, events, dry_run=True) as guard:
        await eventually(lambda: guard.status().redundant == 10, what="verdicts")
        node.ip(f"route replace {host(100)} mtu 1400")
        node.ip(f"route add {host(110)}")
        await eventually(lambda: len(events.of("would-remove")) == 11, what="the new one")
        assert len({event.subject for event in events.of("would-remove")}) == 11
        assert hosts_left(node) == 11
        assert guard.status().removed == 0
    assert before.splitlines()[-1] in node.ip("route show")


async def test_when_the_network_goes_its_host_route_is_needed_and_when_it_comes_redundant(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routesync.guard.guard.RECHECK_S", 0.1)
    monkeypatch.setattr("routesync.guard.guard.RECHECK_SHARE", 0)
    node.ip("addr add 192.168.10.10/32 dev ens3")
    node.ip("addr del 192.168.10.10/24 dev ens3")
    node.ip("route add 192.168.10.1 dev ens3 proto dhcp scope link metric 100")
    events = Events()
    async with guarding(node, events):
        await eventually(lambda: bool(events.of("skipped")), what="that it is needed")
        node.ip("addr add 192.168.10.11/24 dev ens3")  # no route of DHCP is announced by this
        await eventually(lambda: hosts_left(node) == 0, what="removal")


async def test_a_host_route_by_protocol_boot_goes_where_it_leads_to_a_gateway_and_is_redundant(
    node: Namespace,
) -> None:
    node.batch(
        [
            "addr add 203.0.113.50/32 dev ens3",
            "route add 203.0.113.1 dev ens3 scope link",  # a lease with a mask of /32
            "route add 10.1.0.0/16 via 203.0.113.1 dev ens3",
            "route add 192.168.10.1 dev ens3 scope link",
            "route add 192.168.10.2 dev ens3 scope link",  # to no gateway
            "route add default via 192.168.10.1 dev ens3",
        ]
    )
    events = Events()
    async with guarding(node, events):
        await eventually(lambda: len(events.of("removed")) == 1, what="the removal")
        await eventually(lambda: len(events.of("skipped")) == 1, what="the one that is needed")
        assert events.of("failed") == []
    table = node.ip("route show")
    assert "192.168.10.1 dev ens3 scope link" not in table
    assert "192.168.10.2 dev ens3" in table
    assert "203.0.113.1 dev ens3" in table


async def test_a_route_that_reappears_at_once_is_left_with_an_alarm_until_it_is_gone(node: Namespace) -> None:
    events = Events()
    async with guarding(node, events, contended_within_s=1.5) as guard:
        node.ip(f"route add {host(1)}")
        await eventually(lambda: len(events.of("removed")) == 1, what="the removal")
        node.ip(f"route add {host(1)}")
        await eventually(lambda: bool(events.of("returned")), what="the return")
        (returned,) = events.of("returned")
        assert isinstance(returned, GuardReturned)
        assert returned.contended
        assert returned.stays_s == 3600
        await eventually(lambda: guard.alarm is not None, what="the alarm")
        (raised,) = events.of("raised")
        assert isinstance(raised, AlarmRaised)
        assert (raised.kind, raised.target, raised.prefixes) == ("contended", None, ("192.168.10.1/32",))
        assert "192.168.10.1/32" in str(guard.troubles)
        node.ip(f"route replace {host(1)} mtu 1400")
        node.ip(f"route add {host(2)}")
        await eventually(lambda: len(events.of("removed")) == 2, what="the removal of another one")
        assert hosts_left(node) == 1, "the contended one is left"
        assert guard.status().contended == 1

        node.ip("route del 192.168.10.1")
        await eventually(lambda: guard.alarm is None, within_s=30, what="the end of the alarm")
        (cleared,) = events.of("cleared")
        assert isinstance(cleared, AlarmCleared)
        assert guard.status().contended == 0
