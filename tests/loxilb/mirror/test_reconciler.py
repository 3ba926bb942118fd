"""The reconciler against the stand-in, on a real kernel: what is desired becomes actual, gently."""

from __future__ import annotations

import asyncio
from typing import cast

from routesync.events.models import RouteAccepted, RouteConflicting, RouteRefused, RouteWithdrawn
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.limits import Limits
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Prefix
from support.mirror_lab import Lab, candidate
from support.waiting import eventually

A, B = Prefix.parse("10.1.0.0/16"), Prefix.parse("10.2.0.0/16")
HERE, THERE = "192.168.10.1", "192.168.10.2"


async def alarms(reconciler: Reconciler) -> set[str]:
    await eventually(lambda: bool(reconciler.view().alarms), what="an alarm")
    return set(reconciler.view().alarms)


async def synced(reconciler: Reconciler) -> None:
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")


async def test_what_is_desired_becomes_actual_and_nothing_else_is_touched(lab: Lab) -> None:
    await lab.behind_its_back(f"route add 10.9.0.0/16 via {HERE} proto bird")
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        reconciler.set_route(Prefix.parse("fd01::/48"), candidate("fd01::/48", "fd00:10::1"))
        await lab.holds({"10.1.0.0/16": HERE, "fd01::/48": "fd00:10::1"})
        await synced(reconciler)
    assert "10.9.0.0/16" in lab.space.ip("route show proto bird")
    accepted = cast("list[RouteAccepted]", lab.events.of("route/accepted"))
    assert {(event.prefix, event.gateway, event.rule) for event in accepted} == {
        ("10.1.0.0/16", HERE, "rule"),
        ("fd01::/48", "fd00:10::1", "rule"),
    }


async def test_a_route_that_is_gone_is_withdrawn(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        reconciler.set_route(B, candidate(str(B), HERE))
        await lab.holds({"10.1.0.0/16": HERE, "10.2.0.0/16": HERE})
        reconciler.set_route(A, None)
        await lab.holds({"10.2.0.0/16": HERE})
        await eventually(lambda: bool(lab.events.of("route/withdrawn")), what="the event")
    (event,) = cast("list[RouteWithdrawn]", lab.events.of("route/withdrawn"))
    assert (event.prefix, event.gateway, event.reason) == ("10.1.0.0/16", HERE, "no-route")
    assert lab.ledger.owned("lb").keys() == {B}


async def test_a_changed_gateway_is_replaced(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE})
        reconciler.set_route(A, candidate(str(A), THERE))
        await lab.holds({"10.1.0.0/16": THERE})
        await synced(reconciler)
    last = cast("list[RouteAccepted]", lab.events.of("route/accepted"))[-1]
    assert (last.gateway, last.previous_gateway) == (THERE, HERE)
    assert last.gap_ms is not None
    assert last.gap_ms > 0


async def test_a_default_route_reaches_only_a_target_that_allows_it(lab: Lab) -> None:
    default = Prefix.parse("0.0.0.0/0")
    async with lab.mirroring() as reconciler:
        reconciler.set_route(default, candidate("0.0.0.0/0", HERE))
        await synced(reconciler)
        assert lab.static_routes() == {}
        assert reconciler.view().phases[Phase.INELIGIBLE] == 1
    async with lab.mirroring(rules=TargetRules(allow_default="yes")) as reconciler:
        reconciler.set_route(default, candidate("0.0.0.0/0", HERE))
        await lab.holds({"default": HERE})


async def test_what_lies_in_a_network_of_the_target_is_not_posted(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        inside = Prefix.parse("192.168.10.1/32")
        reconciler.set_route(inside, candidate("192.168.10.1/32", THERE))
        await synced(reconciler)
        assert lab.static_routes() == {}
        (entry,) = reconciler.routes.values()
        assert entry.phase is Phase.INELIGIBLE


async def test_a_route_of_another_writer_is_left_and_reported_once(lab: Lab) -> None:
    await lab.behind_its_back(f"route add {A} via {THERE} proto bird")
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await eventually(lambda: bool(lab.events.of("route/conflicting")), what="the conflict")
        reconciler.set_route(A, None)
        await synced(reconciler)
    assert f"via {THERE}" in lab.space.ip(f"route show {A}")
    (event,) = cast("list[RouteConflicting]", lab.events.of("route/conflicting"))
    assert event.prefix == "10.1.0.0/16"
    assert lab.ledger.owned("lb") == {}


async def test_another_writers_replacement_of_our_route_is_never_deleted(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE})
        await lab.behind_its_back(f"route replace {A} via {THERE} proto bird")
        reconciler.set_route(A, None)
        await eventually(lambda: reconciler.view().phases[Phase.LEFT_BEHIND] == 1, what="leaving it")
        await synced(reconciler)
        assert not reconciler.view().complete
        assert "left-behind" in await alarms(reconciler)
        assert lab.ledger.owned("lb").keys() == {A}
    assert f"via {THERE}" in lab.space.ip(f"route show {A}")


async def test_an_equal_route_that_is_not_ours_satisfies_us_and_stays(lab: Lab) -> None:
    await lab.behind_its_back(f"route add {A} via {HERE} proto static")
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await eventually(lambda: reconciler.view().phases[Phase.PRESENT] == 1, what="finding it there")
        reconciler.set_route(A, None)
        await synced(reconciler)
    assert lab.static_routes() == {"10.1.0.0/16": HERE}


async def test_a_refused_route_is_tried_again_and_taken_when_its_time_has_come(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), "10.77.0.1"))
        await eventually(lambda: bool(lab.events.of("route/refused")), what="the refusal")
        (event,) = cast("list[RouteRefused]", lab.events.of("route/refused"))
        assert event.message.startswith("network is unreachable")
        await lab.behind_its_back("addr add 10.77.0.2/24 dev ens3")
        await lab.holds({"10.1.0.0/16": "10.77.0.1"}, within_s=20)


async def test_what_the_ledger_has_is_owned_after_a_restart(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        for prefix in (A, B):
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await lab.holds({"10.1.0.0/16": HERE, "10.2.0.0/16": HERE})
        await synced(reconciler)
    async with lab.mirroring(limits=Limits(startup_hold_s=4)) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await synced_or_waiting(reconciler)
        assert lab.static_routes() == {"10.1.0.0/16": HERE, "10.2.0.0/16": HERE}, "the start-up hold"
        await lab.holds({"10.1.0.0/16": HERE})
    assert len(lab.events.of("route/accepted")) == 2, "what is there is not posted again"


async def synced_or_waiting(reconciler: Reconciler) -> None:
    good = {TargetState.SYNCED, TargetState.SYNCING}
    await eventually(lambda: reconciler.view().state in good, what="the sync")


async def test_a_target_that_is_away_is_mirrored_into_when_it_returns(lab: Lab) -> None:
    lab.standin.stop()
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await asyncio.wait_for(reconciler.contacted.wait(), 30)
        assert reconciler.view().state is TargetState.UNREACHABLE
        lab.standin.start()
        await lab.holds({"10.1.0.0/16": HERE}, within_s=20)
    assert len(lab.events.of("target/down")) == 1
    assert len(lab.events.of("target/up")) == 1


async def test_what_is_lost_while_it_is_away_is_made_again(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE})
        lab.standin.stop()
        lab.space.ip("route flush proto static")
        reconciler.set_route(B, candidate(str(B), HERE))
        await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE, what="noticing")
        lab.standin.start()
        await lab.holds({"10.1.0.0/16": HERE, "10.2.0.0/16": HERE}, within_s=20)


async def test_its_empty_table_after_a_start_is_not_believed(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE})
        await synced(reconciler)
    lab.standin.stop()
    slow = type(lab.standin)(
        lab.space.name, lab.standin.socket.parent, "--listen", "none", "--fragile", "strict", "--api-delay", "0",
        "--fill-delay", "2",
    )  # fmt: skip
    slow.launch()
    lab.standin = slow
    try:
        async with lab.mirroring() as reconciler:
            reconciler.set_route(A, candidate(str(A), HERE))
            await synced(reconciler)
            assert lab.ledger.owned("lb").keys() == {A}
            assert len(lab.events.of("route/accepted")) == 1
    finally:
        slow.stop()


async def test_its_pace_of_ingestion_is_never_outrun(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        wanted = [Prefix.parse(f"10.{number // 200}.{number % 200}.0/24") for number in range(600)]
        for prefix in wanted:
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await eventually(lambda: len(lab.static_routes()) == 600, within_s=20, what="600 routes")
        for prefix in wanted[:300]:
            reconciler.set_route(prefix, None)
        await eventually(lambda: len(lab.static_routes()) == 300, within_s=20, what="300 withdrawals")
        await synced(reconciler)
    assert lab.standin.state().peak_waiting <= 256


async def test_other_rules_and_limits_are_taken_up_and_touch_only_what_they_change(lab: Lab) -> None:
    default = Prefix.parse("0.0.0.0/0")
    narrow = Limits(max_inet=1)
    async with lab.mirroring(rules=TargetRules(), limits=narrow) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE})
        reconciler.set_route(B, candidate(str(B), HERE))
        reconciler.set_route(default, candidate("0.0.0.0/0", HERE))
        await eventually(lambda: reconciler.routes[B].phase is Phase.OVER_CAPACITY, what="the bound")
        reconciler.reconfigure(rules=TargetRules(allow_default="yes"), limits=narrow._replace(max_inet=3))
        await lab.holds({"10.1.0.0/16": HERE, "10.2.0.0/16": HERE, "default": HERE})
        reconciler.reconfigure(rules=TargetRules(), limits=narrow)
        await lab.holds({"10.1.0.0/16": HERE, "10.2.0.0/16": HERE})
    accepted = cast("list[RouteAccepted]", lab.events.of("route/accepted"))
    assert [event.prefix for event in accepted].count("10.1.0.0/16") == 1
