"""What an operator should know about: each condition raises an alarm, names what it is about, and clears it again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic

import pytest

from routesync.events.models import AlarmKind
from routesync.mirror.alarms import current_alarms
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Limits
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.names import TYPES
from routesync.route import Candidate, Prefix, Rewrite, parse_address
from support.mirror_lab import Lab, LabReconciler, candidate
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
A, B = Prefix.parse("10.1.0.0/16"), Prefix.parse("fd01::/48")
QUICK = Limits(probe_interval_s=0.2, inventory_interval_s=2)


def numbered(count: int) -> list[Prefix]:
    return [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, count + 1)]


def blackhole(prefix: Prefix) -> Candidate:
    kept = candidate(str(prefix), HERE)
    return kept._replace(route=kept.route._replace(type=TYPES["blackhole"], hops=()))


async def mirrored(lab: Lab, reconciler: LabReconciler, prefixes: Iterable[Prefix]) -> None:
    found = {str(prefix): "fd00:10::1" if prefix.family.bits == 128 else HERE for prefix in prefixes}
    for prefix, gateway in found.items():
        reconciler.set_route(Prefix.parse(prefix), candidate(prefix, gateway))
    await lab.holds(found)
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")


async def raised(reconciler: Reconciler, kind: AlarmKind, *, within_s: float = 30) -> str:
    await eventually(lambda: kind in reconciler.view().alarms, within_s=within_s, what=kind)
    return reconciler.view().alarms[kind].detail


async def cleared(reconciler: Reconciler, kind: AlarmKind, *, within_s: float = 30) -> None:
    await eventually(
        lambda: kind not in reconciler.view().alarms, within_s=within_s, what=f"the end of {kind}"
    )


async def test_rules_that_keep_only_what_cannot_be_mirrored_are_an_alarm_with_the_remedy(lab: Lab) -> None:
    async with lab.mirroring(limits=QUICK) as reconciler:
        reconciler.set_route(A, blackhole(A))
        detail = await raised(reconciler, "nothing-mirrored")
        assert "1 route, and none can be mirrored; not-unicast: 1" in detail
        await mirrored(lab, reconciler, [A])
        await cleared(reconciler, "nothing-mirrored")


async def test_a_more_specific_route_that_it_does_not_get_is_shown_as_a_hole(lab: Lab) -> None:
    inside, outside = Prefix.parse("10.1.66.0/24"), Prefix.parse("10.99.0.0/24")
    async with lab.mirroring(limits=QUICK) as reconciler:
        await mirrored(lab, reconciler, [A])
        for prefix in (inside, outside):
            reconciler.set_route(prefix, blackhole(prefix))
        await eventually(lambda: reconciler.view().holes == ((inside,), 1), what="the hole")
        reconciler.set_route(inside, None)
        await eventually(lambda: reconciler.view().holes == ((), 0), what="its end")


@pytest.mark.parametrize("prefix", [A, B])
async def test_a_foreign_route_that_came_and_went_is_named_and_a_repair_by_hand_heals_it(
    lab: Lab, prefix: Prefix
) -> None:
    """Its kernel has ours, its table lost it: without a witness nothing proves that a DELETE would take ours."""
    family = "-6 " if prefix is B else ""
    other = "fd00:10::9" if prefix is B else THERE
    metric = 2000 if prefix is B else 100
    async with lab.mirroring(limits=QUICK) as reconciler:
        await mirrored(lab, reconciler, [prefix])
        await lab.behind_its_back(f"{family}route add {prefix} via {other} metric {metric} proto bird")
        await lab.behind_its_back(f"{family}route del {prefix} via {other} metric {metric}")
        assert not await lab.shows(prefix)
        detail = await raised(reconciler, "not-forwarded")
        assert str(prefix) in detail
        assert "routesync repair" in detail
        view = reconciler.view()
        assert (view.phases[Phase.NOT_FORWARDED], view.complete) == (1, False)
        assert reconciler.repair([prefix]) == 1
        await cleared(reconciler, "not-forwarded")
        await lab.quiet()
        assert await lab.shows(prefix)


@pytest.mark.parametrize("prefix", [A, B])
async def test_with_a_witness_it_is_healed_at_once(lab: Lab, prefix: Prefix) -> None:
    family = "-6 " if prefix is B else ""
    other = "fd00:10::9" if prefix is B else THERE
    metric = 2000 if prefix is B else 100
    async with lab.mirroring(limits=QUICK, witness=True) as reconciler:
        await mirrored(lab, reconciler, [prefix])
        await lab.behind_its_back(f"{family}route add {prefix} via {other} metric {metric} proto bird")
        deletes = lab.standin.state().deletes
        lab.space.ip(f"{family}route del {prefix} via {other} metric {metric}")
        await eventually(lambda: lab.standin.state().deletes > deletes, within_s=5, what="the DELETE")
        await lab.quiet()
        assert await lab.shows(prefix)
        await eventually(lambda: reconciler.view().complete, what="completeness")


async def test_a_writer_that_deletes_ours_again_and_again_is_contention(lab: Lab) -> None:
    """The daemon says so, slows down, and does not overload loxilb; when that ends, all is made good."""
    prefixes = numbered(20)
    async with lab.mirroring(limits=QUICK) as reconciler:
        await mirrored(lab, reconciler, prefixes)
        flushing = asyncio.create_task(flush(lab))
        try:
            detail = await raised(reconciler, "contended", within_s=60)
            assert "find what removes static routes" in detail
            assert not reconciler.view().complete
            before = lab.standin.state().posts
            await asyncio.sleep(5)  # a rate is measured over a time
            assert lab.standin.state().posts - before <= 50
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        assert lab.standin.alive


async def flush(lab: Lab) -> None:
    while True:
        await asyncio.to_thread(lab.space.ip, "route flush proto static")
        await asyncio.sleep(0.2)


async def test_synced_means_that_nothing_waits_at_any_moment_of_a_batch(lab: Lab) -> None:
    prefixes = [Prefix.parse(f"10.{number // 200}.{number % 200}.0/24") for number in range(600)]
    async with lab.mirroring(limits=Limits(probe_interval_s=3600)) as reconciler:
        await mirrored(lab, reconciler, [A])
        await eventually(lambda: bool(lab.events.of("sync/completed")), what="the end of the first batch")
        before = len(lab.events.seen)
        for prefix in prefixes:
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        while reconciler.state.waiting:
            view = reconciler.view()
            assert (view.state, view.complete) == (TargetState.SYNCING, False)
            assert view.waiting > 0
            assert view.remaining_s is not None
            await asyncio.sleep(0.05)
        view = reconciler.view()
        assert (view.state, view.complete) == (TargetState.SYNCED, True)
        assert sum(view.phases.values()) == 601
        await eventually(lambda: len(lab.events.of("sync/completed")) == 2, what="the end of the second")
    assert [f"{event.group}/{event.name}" for event in lab.events.seen[before:] if event.group == "sync"] == [
        "sync/started",
        "sync/completed",
    ]


async def test_a_refused_route_is_synced_and_not_complete(lab: Lab) -> None:
    async with lab.mirroring(limits=QUICK) as reconciler:
        await mirrored(lab, reconciler, [A])
        reconciler.set_route(B, candidate(str(B), "fd77::1"))
        await eventually(lambda: reconciler.view().phases[Phase.REFUSED] == 1, what="the refusal")
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")
        assert not reconciler.view().complete


async def test_a_vpn_that_covers_the_internet_by_pieces_is_named(lab: Lab) -> None:
    """The short pieces are refused, the others are mirrored: half of it would go another way at loxilb."""
    async with lab.mirroring(limits=QUICK) as reconciler:
        reconciler.set_route(Prefix.parse("64.0.0.0/2"), candidate("64.0.0.0/2", HERE))
        await mirrored(lab, reconciler, numbered(2))
        detail = await raised(reconciler, "nearly-default")
        assert "64.0.0.0/2 are refused" in detail
        assert "2 routes over the same hop" in detail
        reconciler.set_route(Prefix.parse("64.0.0.0/2"), None)
        await cleared(reconciler, "nearly-default")


async def test_a_target_that_has_not_answered_yet_leaves_open_what_self_means(lab: Lab) -> None:
    to_self = TargetRules(rewrite=Rewrite(to_self=True))
    lab.ledger.note("lb", A, Row(parse_address(HERE)))
    lab.standin.stop()
    async with lab.mirroring(limits=QUICK, rules=to_self) as reconciler:
        for prefix in (A, B):
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE, what="the failure")
        await eventually(lambda: len(reconciler.routes) == 2, what="both routes")
        phases = {prefix: view.phase for prefix, view in reconciler.routes.items()}
        assert phases == {A: Phase.PENDING, B: Phase.INELIGIBLE}
        assert reconciler.view().reasons == {"target-unknown": 1}
        assert current_alarms("lb", reconciler.state, None, 0, monotonic(), beside={}) == {}
        assert lab.events.of("route/ineligible") == []
        lab.standin.launch()
        await eventually(lambda: reconciler.view().reasons == {"no-self-address": 2}, what="the answer")
