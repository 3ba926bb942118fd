"""That what is mirrored is really there: probe, verification, stale entries, limits, capacity."""

from __future__ import annotations

import asyncio

from routesync.mirror.limits import Limits
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Prefix
from support.mirror_lab import Lab, LabReconciler, candidate
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
QUICK = Limits(probe_interval_s=0.3)


def prefixes(count: int) -> list[Prefix]:
    return [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, count + 1)]


def want(reconciler: LabReconciler, wanted: list[Prefix], gateway: str = HERE) -> None:
    for prefix in wanted:
        reconciler.set_route(prefix, candidate(str(prefix), gateway))


def expected(wanted: list[Prefix], gateway: str = HERE) -> dict[str, str]:
    return {str(prefix): gateway for prefix in wanted}


async def synced(reconciler: LabReconciler) -> None:
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")


async def test_routes_that_its_kernel_lost_in_silence_are_all_made_again(lab: Lab) -> None:
    wanted = prefixes(40)
    async with lab.mirroring(limits=QUICK) as reconciler:
        want(reconciler, wanted)
        await lab.holds(expected(wanted))
        await synced(reconciler)
        lab.space.ip("link set ens3 down")  # its kernel says nothing of the routes that go with it
        lab.space.ip("link set ens3 up")
        assert lab.static_routes() == {}
        await lab.holds(expected(wanted), within_s=20)
    assert lab.events.of("sync/lost")


async def test_a_probe_costs_its_table_nothing(lab: Lab) -> None:
    async with lab.mirroring(limits=QUICK) as reconciler:
        want(reconciler, prefixes(3))
        await lab.holds(expected(prefixes(3)))
        await synced(reconciler)
        before = lab.standin.state()
        await eventually(lambda: lab.standin.state().posts >= before.posts + 5, what="canaries")
        after = lab.standin.state()
        assert after.route_reads == before.route_reads
    assert len(lab.events.of("route/accepted")) == 3


async def test_a_route_that_turned_stale_is_laid_when_it_is_withdrawn(lab: Lab) -> None:
    (prefix,) = prefixes(1)
    async with lab.mirroring(limits=Limits(probe_interval_s=3600)) as reconciler:
        want(reconciler, [prefix])
        await lab.holds(expected([prefix]))
        await synced(reconciler)
        lab.space.ip("link set ens3 down")
        lab.space.ip("link set ens3 up")
        await lab.quiet()
        assert lab.static_routes() == {}
        assert await lab.shows(prefix), "a stale entry"
        reconciler.set_route(prefix, None)
        await eventually(lambda: bool(lab.events.of("route/withdrawn")), what="the withdrawal")
        await lab.quiet()
        assert not await lab.shows(prefix)
    assert lab.static_routes() == {}


async def test_a_mass_withdrawal_waits_for_a_second_dump(lab: Lab) -> None:
    wanted = prefixes(30)
    async with lab.mirroring(limits=Limits(withdraw_minimum=10)) as reconciler:
        want(reconciler, wanted)
        await lab.holds(expected(wanted))
        await synced(reconciler)
        for prefix in wanted[:20]:
            reconciler.set_route(prefix, None)
        await eventually(lambda: reconciler.view().held == 20, what="the brake")
        assert lab.resyncs == 1, "a second dump was ordered"
        want(reconciler, wanted[:2])  # it shows that two of them are there
        reconciler.on_resync(began=0)  # the very dump that may have gone wrong
        assert reconciler.view().held == 18, "the others are held still"
        reconciler.on_resync(asyncio.get_running_loop().time())
        await lab.holds(expected(wanted[:2] + wanted[20:]))
        assert reconciler.view().held == 0


async def test_a_mass_withdrawal_can_be_released_by_hand(lab: Lab) -> None:
    wanted = prefixes(30)
    async with lab.mirroring(limits=Limits(withdraw_minimum=10)) as reconciler:
        want(reconciler, wanted)
        await lab.holds(expected(wanted))
        for prefix in wanted:
            reconciler.set_route(prefix, None)
        await eventually(lambda: reconciler.view().held == 30, what="the brake")
        assert len(lab.static_routes()) == 30
        assert reconciler.release() == 30
        await lab.holds({})


async def test_a_small_withdrawal_never_waits(lab: Lab) -> None:
    wanted = prefixes(5)
    async with lab.mirroring(limits=Limits(withdraw_minimum=10)) as reconciler:
        want(reconciler, wanted)
        await lab.holds(expected(wanted))
        for prefix in wanted:
            reconciler.set_route(prefix, None)
        await lab.holds({})


async def test_beyond_its_capacity_the_incumbents_stay_and_the_next_moves_up(lab: Lab) -> None:
    wanted = prefixes(4)
    async with lab.mirroring(limits=Limits(max_inet=2)) as reconciler:
        want(reconciler, wanted)
        await eventually(lambda: reconciler.view().phases[Phase.OVER_CAPACITY] == 2, what="the limit")
        await eventually(lambda: len(lab.static_routes()) == 2, what="the first two")
        first = lab.static_routes()
        gone = Prefix.parse(min(first))
        reconciler.set_route(gone, None)
        await eventually(
            lambda: len(lab.static_routes()) == 2 and str(gone) not in lab.static_routes(), what="the next"
        )
        assert set(first) - {str(gone)} <= set(lab.static_routes())


async def test_a_withdraw_delay_rides_out_a_flap(lab: Lab) -> None:
    (prefix,) = prefixes(1)
    async with lab.mirroring(limits=Limits(withdraw_delay_s=30)) as reconciler:
        want(reconciler, [prefix])
        await lab.holds(expected([prefix]))
        await synced(reconciler)
        deletes = lab.standin.state().deletes
        reconciler.set_route(prefix, None)
        want(reconciler, [prefix])
        await synced(reconciler)
        assert lab.standin.state().deletes == deletes
        assert lab.static_routes() == expected([prefix])


async def test_half_a_replacement_is_said_and_finished_first(lab: Lab) -> None:
    (prefix,) = prefixes(1)
    async with lab.mirroring() as reconciler:
        want(reconciler, [prefix])
        await lab.holds(expected([prefix]))
        await synced(reconciler)
        reconciler.set_route(prefix, candidate(str(prefix), "10.77.0.1"))  # off-link there
        await lab.holds({})
        await eventually(lambda: bool(lab.events.of("route/refused")), what="the refusal")
        assert reconciler.state.routes[prefix].gap_since is not None
        await lab.behind_its_back("addr add 10.77.0.2/24 dev ens3")
        await lab.holds(expected([prefix], "10.77.0.1"), within_s=20)
        assert reconciler.state.routes[prefix].gap_since is None
