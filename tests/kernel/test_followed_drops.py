"""Drops that a rule follows are reported: those present at the start, those that come, and how each ends."""

from __future__ import annotations

from routesync.kernel import DropEnded, Dropped, KernelReport, Links
from routesync.names import PROTOCOLS
from routesync.route import Route, Verdict
from support.following import following
from support.netns import Namespace
from support.waiting import eventually

HOST = "192.0.2.9 dev e0 proto dhcp scope link src 192.0.2.1 metric 100"
GUARD = Verdict(keep=False, rule="guarded", guard=True)
OTHER = Verdict(keep=False, rule="other")


def verdict(protocol: int) -> Verdict:
    return GUARD if protocol == PROTOCOLS["dhcp"] else OTHER


def evaluate(route: Route, links: Links) -> Verdict:
    del links
    return verdict(route.protocol)


def evaluate_header(  # noqa: PLR0917
    family: int, dst_len: int, tos: int, table: int, protocol: int, scope: int, kind: int, flags: int
) -> Verdict | None:
    del family, dst_len, tos, table, scope, kind, flags
    return verdict(protocol)


def said(reports: list[KernelReport]) -> list[str]:
    """What was reported of drops, in order."""
    words = {Dropped: "dropped", DropEnded: "ended"}
    return [words[type(report)] for report in reports if isinstance(report, Dropped | DropEnded)]


async def test_the_whole_route_is_reported_when_it_is_there_and_comes_and_goes(node: Namespace) -> None:
    node.ip(f"route add {HOST}")
    async with following(node, evaluate=evaluate, evaluate_header=evaluate_header) as follower:
        await eventually(lambda: said(follower.reports) == ["dropped"], what="the one that is present")
        (first,) = [report for report in follower.reports if isinstance(report, Dropped)]
        assert str(first.route.prefix) == "192.0.2.9/32"
        assert (first.route.metric, first.verdict) == (100, GUARD)
        node.ip("route del 192.0.2.9")
        await eventually(lambda: said(follower.reports) == ["dropped", "ended"], what="its end")
        node.ip(f"route add {HOST}")
        await eventually(lambda: said(follower.reports)[2:] == ["dropped"], what="its coming")
        node.ip("route add 192.0.2.8 dev e0 proto static scope link")
        follower.source.request_resync("test")
        await eventually(lambda: "test" in follower.source.stats.resyncs, what="another resync")
        assert said(follower.reports)[3:] == [], "neither others nor what was reported already"
        assert len(follower.routes()) == 0, "and none of them is held"


async def test_its_end_is_reported_also_when_the_kernel_says_nothing(node: Namespace) -> None:
    async with following(node, evaluate=evaluate, evaluate_header=evaluate_header) as follower:
        node.ip(f"route add {HOST}")
        await eventually(lambda: said(follower.reports) == ["dropped"], what="its coming")
        node.ip("link set e0 down")  # takes it along without RTM_DELROUTE
        await eventually(lambda: said(follower.reports) == ["dropped", "ended"], what="its end")
