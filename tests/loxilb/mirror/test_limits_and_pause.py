"""Holds, by hand and by brakes: what waits, what is said of it, and that afterwards only the difference is made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from routesync.events.models import AlarmCleared, AlarmRaised
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.limits import Limits
from routesync.mirror.pause import Pause
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Prefix, Rewrite, parse_address
from standin.faults import Fault
from support.mirror_lab import Lab, LabReconciler, candidate
from support.standin import StandinState
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
A, B, C, D = (Prefix.parse(f"10.{number}.0.0/16") for number in (1, 2, 3, 4))
BUSY = Limits(probe_interval_s=0.1, inventory_interval_s=10)


def want(reconciler: LabReconciler, *wanted: Prefix, gateway: str = HERE) -> None:
    for prefix in wanted:
        reconciler.set_route(prefix, candidate(str(prefix), gateway))


def alarms_raised(lab: Lab) -> list[AlarmRaised]:
    return cast("list[AlarmRaised]", lab.events.of("alarm/raised"))


def alarms_cleared(lab: Lab) -> list[AlarmCleared]:
    return cast("list[AlarmCleared]", lab.events.of("alarm/cleared"))


async def synced(reconciler: LabReconciler) -> None:
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")


def requests(state: StandinState) -> tuple[int, int, int, int]:
    return state.posts, state.deletes, state.route_reads, state.port_reads


async def test_a_paused_target_is_asked_nothing_and_gets_the_difference_when_it_is_resumed(lab: Lab) -> None:
    async with lab.mirroring(limits=BUSY) as reconciler:
        want(reconciler, A, B, C)
        await lab.holds({str(prefix): HERE for prefix in (A, B, C)})
        await synced(reconciler)
        assert reconciler.pause() is None
        await reconciler.at_rest()
        before = lab.standin.state()
        reconciler.set_route(A, None)
        want(reconciler, B, gateway=THERE)
        want(reconciler, D)
        await asyncio.sleep(0.5)  # five canaries' time: nothing shall come, and no event says when to look
        assert requests(lab.standin.state()) == requests(before)
        view = reconciler.view()
        assert (view.paused, view.state) == (True, TargetState.PAUSED)
        assert "paused since" in (view.error or "")
        assert reconciler.resume() is None
        await lab.holds({str(B): THERE, str(C): HERE, str(D): HERE})
        await synced(reconciler)
        assert not reconciler.view().paused
        after = lab.standin.state()
        assert after.deletes - before.deletes == 2, "A, and B for its new gateway"
    assert [event.kind for event in alarms_raised(lab)] == ["paused"]
    (event,) = alarms_cleared(lab)
    assert event.lasted_s >= 0.5
    accepted = [event.subject for event in lab.events.of("route/accepted")]
    assert accepted.count(str(C)) == 1, "what had not changed was not made again"


async def test_a_hold_outlives_the_daemon_and_is_lifted_by_hand(lab: Lab, tmp_path: Path) -> None:
    async with lab.mirroring(pause=Pause(tmp_path, "lb")) as reconciler:
        want(reconciler, A)
        await lab.holds({str(A): HERE})
        reconciler.pause()
    before = lab.standin.state()
    async with lab.mirroring(pause=Pause(tmp_path, "lb")) as reconciler:
        await asyncio.wait_for(reconciler.contacted.wait(), 30)
        want(reconciler, B)
        assert reconciler.view().paused
        assert requests(lab.standin.state()) == requests(before)
        reconciler.resume()
        want(reconciler, A)
        await lab.holds({str(A): HERE, str(B): HERE})
    assert not Pause(tmp_path, "lb").since
    assert [event.kind for event in alarms_raised(lab)] == ["paused", "paused"]


async def test_a_replacement_under_way_is_finished_before_a_hold_is_at_rest(lab: Lab) -> None:
    """Answers are slow: between its halves there is time for a pause, and the prefix must not stay without a route."""
    async with lab.mirroring(limits=Limits(probe_interval_s=3600)) as reconciler:
        want(reconciler, A)
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        lab.standin.inject(Fault("slow", method="POST", delay_s=0.5))
        want(reconciler, A, gateway=THERE)
        await eventually(lambda: reconciler.state.routes[A].gap_since is not None, what="the gap")
        reconciler.pause()
        await reconciler.at_rest()
        assert lab.static_routes() == {str(A): THERE}


async def test_a_target_that_is_gone_is_not_looked_for_while_it_is_paused(lab: Lab) -> None:
    lab.standin.stop()
    async with lab.mirroring() as reconciler:
        await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE, what="noticing")
        reconciler.pause()
        await asyncio.to_thread(lab.standin.start)
        before = lab.standin.state()
        await asyncio.sleep(1)  # longer than the first pauses between two attempts
        assert requests(lab.standin.state()) == requests(before)
        assert reconciler.view().state is TargetState.PAUSED
        want(reconciler, A)
        reconciler.resume()
        await lab.holds({str(A): HERE})


async def test_a_mass_withdrawal_is_an_event_when_it_is_held_and_when_it_is_released(lab: Lab) -> None:
    wanted = [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, 31)]
    async with lab.mirroring(limits=Limits(withdraw_minimum=10)) as reconciler:
        want(reconciler, *wanted)
        await lab.holds({str(prefix): HERE for prefix in wanted})
        await synced(reconciler)
        for by in ("kernel", "second-dump", "hand"):
            for prefix in wanted:
                reconciler.set_route(prefix, None)
            await eventually(lambda: reconciler.view().held == 30, what="the limit")
            await eventually(lambda: "withdrawals-held" in reconciler.view().alarms, what="the alarm")
            if by == "second-dump":
                reconciler.on_resync(asyncio.get_running_loop().time())
            elif by == "hand":
                assert reconciler.release() == 30
            else:
                want(reconciler, *wanted)
            if by == "kernel":
                await eventually(lambda: not reconciler.view().alarms, what="the end of the alarm")
            else:
                await lab.holds({})
                want(reconciler, *wanted)
                await lab.holds({str(prefix): HERE for prefix in wanted})
            await synced(reconciler)
    raised = [event for event in alarms_raised(lab) if event.kind == "withdrawals-held"]
    assert len(raised) == 3
    assert all(10 <= event.count <= 30 for event in raised), "those in a request just then join them later"
    cleared = [event.detail for event in alarms_cleared(lab) if event.kind == "withdrawals-held"]
    assert cleared == [
        None,
        "a second dump of the kernel confirms the withdrawals",
        "released by the operator",
    ]


async def test_the_start_up_hold_is_an_event_when_it_begins_and_when_its_time_is_over(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        want(reconciler, A, B, C)
        await lab.holds({str(prefix): HERE for prefix in (A, B, C)})
    async with lab.mirroring(limits=Limits(startup_hold_s=8)) as reconciler:
        want(reconciler, A)
        reconciler.on_resync(asyncio.get_running_loop().time())
        assert reconciler.view().held_at_start == 2
        await lab.holds({str(A): HERE})
        await eventually(lambda: bool(alarms_cleared(lab)), what="the end of the alarm")
    (raised,) = alarms_raised(lab)
    assert (raised.kind, raised.count) == ("startup-hold", 2)
    (cleared,) = alarms_cleared(lab)
    assert cleared.kind == "startup-hold"


async def test_a_target_that_is_full_is_an_event_and_so_is_space_again(lab: Lab) -> None:
    async with lab.mirroring(limits=Limits(max_inet=2)) as reconciler:
        want(reconciler, A, B, C)
        await eventually(lambda: bool(alarms_raised(lab)), what="the alarm")
        (event,) = alarms_raised(lab)
        assert (event.kind, event.count) == ("target-full", 1)
        assert "no room for 1 ipv4 route (max_routes_ipv4 = 2)" in event.detail
        assert reconciler.view().phases[Phase.OVER_CAPACITY] == 1
        reconciler.reconfigure(TargetRules(), Limits(max_inet=3))
        await lab.holds({str(prefix): HERE for prefix in (A, B, C)})
        await eventually(lambda: bool(alarms_cleared(lab)), what="the end of the alarm")


async def test_other_rules_change_only_what_they_change(lab: Lab) -> None:
    default = Prefix.parse("0.0.0.0/0")
    async with lab.mirroring() as reconciler:
        want(reconciler, A, default)
        reconciler.set_route(B, candidate(str(B), "192.168.10.20"))  # its own address
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        before = lab.standin.state()
        reconciler.reconfigure(TargetRules(allow_default="yes"), Limits())
        await lab.holds({str(A): HERE, "default": HERE})
        await synced(reconciler)
        assert lab.standin.state().posts - before.posts <= 2, "the default, and perhaps a probe"
        reconciler.reconfigure(TargetRules(rewrite=Rewrite(inet=parse_address(THERE))), Limits())
        await lab.holds({str(A): THERE, str(B): THERE})
        await synced(reconciler)
        assert reconciler.view().phases[Phase.INELIGIBLE] == 1


async def test_each_entry_knows_since_when_it_is_as_it_is(lab: Lab) -> None:
    async with lab.mirroring(limits=Limits(probe_interval_s=0.1)) as reconciler:
        want(reconciler, A)
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        entry = reconciler.routes[A]
        since, canaries = entry.since, reconciler.view().counters.probes
        assert since is not None
        assert since <= asyncio.get_running_loop().time()
        await eventually(lambda: reconciler.view().counters.probes > canaries + 2, what="canaries")
        assert (entry.phase, entry.since) == (Phase.ACCEPTED, since)
