"""Holds, by hand and by brakes: what waits, what is said of it, and that afterwards only the difference is made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from routesync.events.models import SyncHeld, SyncReleased, TargetFull, TargetResumed
from routesync.mirror.state import Phase
from routesync.mirror.limits import Limits
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.hold import Hold
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.status import TargetState
from routesync.route import Prefix, Rewrite, parse_address
from support.mirror_lab import Lab, candidate
from support.netns import needs_root
from support.standin import StandinState
from support.waiting import eventually

pytestmark = needs_root

HERE, THERE = "192.168.10.1", "192.168.10.2"
A, B, C, D = (Prefix.parse(f"10.{number}.0.0/16") for number in (1, 2, 3, 4))
BUSY = Limits(probe_interval_s=0.1, inventory_interval_s=10)


def want(reconciler: Reconciler, *wanted: Prefix, gateway: str = HERE) -> None:
    for prefix in wanted:
        reconciler.set_route(prefix, candidate(str(prefix), gateway))


async def synced(reconciler: Reconciler) -> None:
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
        await asyncio.sleep(0.5)  # five canaries' time: nothing shall come, and nothing tells when to look
        assert requests(lab.standin.state()) == requests(before)
        view = reconciler.view()
        assert (view.paused, view.state) == (True, TargetState.PAUSED)
        assert "paused by hand since" in (view.error or "")
        assert reconciler.resume() is None
        await lab.holds({str(B): THERE, str(C): HERE, str(D): HERE})
        await synced(reconciler)
        assert not reconciler.view().paused
        after = lab.standin.state()
        assert after.deletes - before.deletes == 2, "A, and B for its new gateway"
    assert len(lab.events.of("target/paused")) == 1
    (event,) = cast("list[TargetResumed]", lab.events.of("target/resumed"))
    assert event.paused_s >= 0.5
    accepted = [event.subject for event in lab.events.of("route/accepted")]
    assert accepted.count(str(C)) == 1, "what had not changed was not made again"


async def test_a_hold_outlives_the_daemon_and_is_lifted_by_hand(lab: Lab, tmp_path: Path) -> None:
    async with lab.mirroring(hold=Hold(tmp_path, "lb")) as reconciler:
        want(reconciler, A)
        await lab.holds({str(A): HERE})
        reconciler.pause()
    before = lab.standin.state()
    async with lab.mirroring(hold=Hold(tmp_path, "lb")) as reconciler:
        await asyncio.wait_for(reconciler.contacted.wait(), 30)
        want(reconciler, B)
        assert reconciler.view().paused
        assert requests(lab.standin.state()) == requests(before)
        reconciler.resume()
        want(reconciler, A)
        await lab.holds({str(A): HERE, str(B): HERE})
    assert not Hold(tmp_path, "lb").since
    assert len(lab.events.of("target/paused")) == 2


async def test_a_replacement_under_way_is_finished_before_a_hold_is_at_rest(lab: Lab) -> None:
    """Tokens come slowly: between its halves there is time for a hold, and the prefix must not stay without a route."""
    async with lab.mirroring(limits=Limits(rate=2, burst=1)) as reconciler:
        want(reconciler, A)
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        want(reconciler, A, gateway=THERE)
        await eventually(lambda: reconciler.routes[A].gap_since is not None, what="the gap")
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
        for by in ("kernel", "second-reading", "hand"):
            for prefix in wanted:
                reconciler.set_route(prefix, None)
            await eventually(lambda: reconciler.view().held == 30, what="the brake")
            if by == "second-reading":
                reconciler.on_resync(asyncio.get_running_loop().time())
            elif by == "hand":
                assert reconciler.release() == 30
            else:
                want(reconciler, *wanted)
            if by != "kernel":
                await lab.holds({})
                want(reconciler, *wanted)
                await lab.holds({str(prefix): HERE for prefix in wanted})
            await synced(reconciler)
    held = cast("list[SyncHeld]", lab.events.of("sync/held"))
    assert [(event.cause, event.standing) for event in held] == [("mass", 30)] * 3
    assert all(10 <= event.routes <= 30 for event in held), "those in a request just then join them later"
    released = cast("list[SyncReleased]", lab.events.of("sync/released"))
    assert [event.by for event in released] == ["kernel", "second-reading", "hand"]


async def test_the_start_up_hold_is_an_event_when_it_begins_and_when_its_time_is_over(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        want(reconciler, A, B, C)
        await lab.holds({str(prefix): HERE for prefix in (A, B, C)})
    async with lab.mirroring(limits=Limits(startup_hold_s=3)) as reconciler:
        want(reconciler, A)
        reconciler.on_resync(asyncio.get_running_loop().time())
        assert reconciler.view().held_at_start == 2
        await lab.holds({str(A): HERE})
        await eventually(lambda: bool(lab.events.of("sync/released")), what="the word")
    (held,) = cast("list[SyncHeld]", lab.events.of("sync/held"))
    assert (held.cause, held.routes, held.standing) == ("start-up", 2, 3)
    (released,) = cast("list[SyncReleased]", lab.events.of("sync/released"))
    assert (released.cause, released.by, released.routes) == ("start-up", "time", 2)


async def test_a_target_that_is_full_is_an_event_and_so_is_room(lab: Lab) -> None:
    async with lab.mirroring(limits=Limits(max_inet=2)) as reconciler:
        want(reconciler, A, B, C)
        await eventually(lambda: bool(lab.events.of("target/full")), what="the word")
        (event,) = cast("list[TargetFull]", lab.events.of("target/full"))
        assert (event.family, event.limit, event.waiting) == ("ipv4", 2, 1)
        assert reconciler.view().over_capacity == 1
        reconciler.reconfigure(TargetRules(), Limits(max_inet=3))
        await lab.holds({str(prefix): HERE for prefix in (A, B, C)})
        await eventually(lambda: bool(lab.events.of("target/room")), what="the word")


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
        assert lab.standin.state().posts - before.posts <= 2, "the default, and perhaps a canary"
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
        assert since <= asyncio.get_running_loop().time()
        await eventually(lambda: reconciler.view().counters.probes > canaries + 2, what="canaries")
        assert (entry.phase, entry.since) == (Phase.ACCEPTED, since)
