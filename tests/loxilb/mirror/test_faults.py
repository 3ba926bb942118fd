"""Whatever goes wrong on the way: in the end the right routes are there, and no other writer's was touched."""

from __future__ import annotations

import asyncio
import random

import pytest

from routesync.mirror.limits import Limits
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Prefix
from standin.faults import Fault
from support.mirror_lab import Lab, candidate
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
FOREIGN = "10.200.0.0/16"

FAULTS = {
    "reset before it is done": Fault("reset", method="POST", times=3),
    "reset after it is done": Fault("reset", method="POST", times=3, carried_out=True),
    "half an answer after it is done": Fault("half", method="POST", times=3, carried_out=True),
    "an answer that is no JSON": Fault("answer", method="POST", times=3, status=200, body="<html>"),
    "a success that is none": Fault("answer", method="POST", times=3, status=200, body='{"result":"fail"}'),
    "500 without words": Fault("answer", method="POST", times=3, status=500, body="{}"),
    "500 although it is done": Fault(
        "answer", method="POST", times=3, carried_out=True, status=500, body="{}"
    ),
    "a slow answer": Fault("slow", times=5, delay_s=0.3),
    "no answer": Fault("hang", method="POST", times=1),
    "no answer although it is done": Fault("hang", method="POST", times=1, carried_out=True),
    "a lost answer to DELETE": Fault("reset", method="DELETE", times=2, carried_out=True),
    "a DELETE that fails": Fault("answer", method="DELETE", times=2, status=500, body="{}"),
    "a table that is no JSON": Fault("answer", method="GET", path="route/all", times=2, status=200, body="{"),
    "half a table": Fault("half", method="GET", path="route/all", times=2),
    "ports that make no sense": Fault(
        "answer", method="GET", path="port/all", times=2, status=200, body="[1]"
    ),
}


async def settled(reconciler: Reconciler) -> None:
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, within_s=40, what="the sync")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_after_a_fault_the_right_routes_are_there(lab: Lab, fault: Fault) -> None:
    await lab.behind_its_back(f"route add {FOREIGN} via {THERE} proto bird")
    first = [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, 9)]
    async with lab.mirroring(limits=Limits(probe_interval_s=0.5), timeout_s=1) as reconciler:
        for prefix in first[:4]:
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await lab.holds({str(prefix): HERE for prefix in first[:4]})
        await lab.quiet()
        lab.standin.inject(fault)
        for prefix in first[:2]:
            reconciler.set_route(prefix, None)
        reconciler.set_route(first[2], candidate(str(first[2]), THERE))
        for prefix in first[4:]:
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        wanted = {str(first[2]): THERE, **{str(prefix): HERE for prefix in first[3:]}}
        await lab.holds(wanted, within_s=40)
        await settled(reconciler)
        assert lab.static_routes() == wanted
        assert {str(prefix) for prefix in lab.ledger.owned("lb")} == set(wanted)
    assert f"via {THERE}" in lab.space.ip(f"route show {FOREIGN}")


@pytest.mark.parametrize("seed", range(3))
async def test_it_may_be_killed_and_restarted_under_churn(lab: Lab, seed: int) -> None:
    """The kernel beneath it outlives it, and its table starts empty."""
    chance = random.Random(seed)
    prefixes = [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, 40)]
    wanted: dict[str, str] = {}
    async with lab.mirroring(limits=Limits(probe_interval_s=0.5), timeout_s=1) as reconciler:
        for _ in range(3):
            for _ in range(60):
                prefix = chance.choice(prefixes)
                gateway = chance.choice((HERE, THERE, None))
                reconciler.set_route(prefix, candidate(str(prefix), gateway) if gateway else None)
                if gateway:
                    wanted[str(prefix)] = gateway
                else:
                    wanted.pop(str(prefix), None)
                await asyncio.sleep(chance.random() * 0.02)
            lab.standin.kill()
            await asyncio.sleep(chance.random() * 0.3)
            await asyncio.to_thread(lab.standin.start)
        await lab.holds(wanted, within_s=60)
        await settled(reconciler)
        assert lab.static_routes() == wanted


async def test_a_recreated_container_gets_all_routes_again(lab: Lab) -> None:
    wanted = [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, 30)]
    async with lab.mirroring(limits=Limits(probe_interval_s=0.5), timeout_s=1) as reconciler:
        for prefix in wanted:
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await lab.holds({str(prefix): HERE for prefix in wanted})
        await settled(reconciler)
        lab.standin.kill()
        lab.space.ip("route flush proto static")
        await asyncio.to_thread(lab.standin.start)
        await lab.holds({str(prefix): HERE for prefix in wanted}, within_s=40)


async def test_a_delete_whose_answer_is_lost_is_not_repeated_blindly(lab: Lab) -> None:
    """The second would take the route behind ours: a foreign one, with a higher metric."""
    (prefix,) = [Prefix.parse("10.1.0.0/16")]
    async with lab.mirroring(limits=Limits(probe_interval_s=0.2)) as reconciler:
        reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await lab.holds({str(prefix): HERE})
        await settled(reconciler)
        lab.standin.inject(Fault("reset", method="DELETE", times=1, carried_out=True))
        reconciler.set_route(prefix, None)
        await eventually(lambda: lab.standin.state().faults_done == 1, within_s=20, what="the request")
        await lab.behind_its_back(f"route add {prefix} via {THERE} metric 100 proto bird")
        await eventually(
            lambda: reconciler.routes[prefix].phase is Phase.LEFT_BEHIND, within_s=20, what="leaving it"
        )
        await lab.behind_its_back(f"route del {prefix}")
        await lab.behind_its_back(f"route add {prefix} via {THERE} metric 100 proto bird")
    assert "metric 100" in lab.space.ip(f"route show {prefix}")


async def test_an_equal_route_of_another_writer_is_not_claimed_for_a_lost_answer(lab: Lab) -> None:
    """Its table shows theirs, so nothing is posted, and nothing of it is ours after a crash."""
    (prefix,) = [Prefix.parse("10.1.0.0/16")]
    await lab.behind_its_back(f"route add {prefix} via {HERE} proto static mtu 1400")
    async with lab.mirroring(limits=Limits(probe_interval_s=0.2), timeout_s=1) as reconciler:
        await settled(reconciler)
        posts = lab.standin.state().posts
        reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await eventually(lambda: reconciler.view().phases[Phase.PRESENT] == 1, what="finding it there")
        assert lab.standin.state().posts == posts
    assert lab.ledger.owned("lb") == {}
    async with lab.mirroring(limits=Limits(probe_interval_s=0.2, startup_hold_s=0)) as reconciler:
        reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await eventually(lambda: reconciler.view().phases[Phase.PRESENT] == 1, what="finding it there")
        reconciler.set_route(prefix, None)
        await settled(reconciler)
    assert "mtu 1400" in lab.space.ip(f"route show {prefix}")
    assert lab.ledger.owned("lb") == {}


async def test_a_route_that_is_made_again_soon_after_its_withdrawal_is_ours_again(lab: Lab) -> None:
    """The table that was read last still shows it: that must not pass for an equal foreign route."""
    (prefix,) = [Prefix.parse("10.1.0.0/16")]
    async with lab.mirroring(timeout_s=1) as reconciler:
        reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await lab.holds({str(prefix): HERE})
        await settled(reconciler)
        reconciler.set_route(prefix, None)
        await eventually(lambda: prefix not in reconciler.routes, what="the withdrawal")
        lab.standin.inject(Fault("hang", method="POST", times=1, carried_out=True))
        reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await eventually(lambda: lab.standin.state().faults_done == 1, what="the request")
        assert prefix in lab.ledger.owned("lb")
        await eventually(lambda: reconciler.state.routes[prefix].certain, what="the proof")
