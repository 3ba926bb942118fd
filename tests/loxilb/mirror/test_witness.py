"""With a witness in loxilb's kernel: what is lost, foreign or gone is known at once, without reading loxilb's table."""

from __future__ import annotations

import asyncio

from routesync.mirror.limits import Limits
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.mirror.witness import Witness
from routesync.route import Prefix
from support.mirror_lab import Lab, LabReconciler, candidate
from support.netns import namespace
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
A, B = Prefix.parse("10.1.0.0/16"), Prefix.parse("fd01::/48")
NO_CHECKS = Limits(probe_interval_s=3600)


async def mirrored(lab: Lab, reconciler: LabReconciler) -> None:
    reconciler.set_route(A, candidate(str(A), HERE))
    reconciler.set_route(B, candidate(str(B), "fd00:10::1"))
    await lab.holds({str(A): HERE, str(B): "fd00:10::1"})
    await eventually(lambda: reconciler.view().phases[Phase.CONFIRMED] == 2, what="confirmation")
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")


async def test_accepted_becomes_confirmed_and_withdrawn_without_reading_its_table(lab: Lab) -> None:
    async with lab.mirroring(limits=NO_CHECKS, witness=True) as reconciler:
        await mirrored(lab, reconciler)
        reads = lab.standin.state().route_reads
        reconciler.set_route(A, None)
        reconciler.set_route(B, candidate(str(B), "fd00:10::2"))
        await lab.holds({str(B): "fd00:10::2"})
        assert lab.standin.state().route_reads == reads


async def test_what_its_kernel_loses_is_made_again_at_once(lab: Lab) -> None:
    async with lab.mirroring(limits=NO_CHECKS, witness=True) as reconciler:
        await mirrored(lab, reconciler)
        lab.space.ip(f"-6 route del {B}")
        lab.space.ip(f"route del {A}")
        await lab.holds({str(A): HERE, str(B): "fd00:10::1"})
        lab.space.ip(
            "link set ens3 down"
        )  # in silence; with it goes its IPv6 address, and so the gateway of B
        lab.space.ip("link set ens3 up")
        await lab.holds({str(A): HERE})


async def test_another_writers_replacement_is_known_at_once_and_never_deleted(lab: Lab) -> None:
    async with lab.mirroring(limits=NO_CHECKS, witness=True) as reconciler:
        await mirrored(lab, reconciler)
        lab.space.ip(f"route replace {A} via {THERE} proto bird")
        await eventually(lambda: bool(lab.events.of("route/conflicting")), what="the conflict")
        assert A not in lab.ledger.owned("lb")
        reconciler.set_route(A, None)
        await eventually(lambda: A not in reconciler.routes, what="giving it up")
        assert lab.gateway(A) == THERE


async def test_a_replacement_with_the_same_gateway_is_another_writers_too(lab: Lab) -> None:
    async with lab.mirroring(limits=Limits(inventory_interval_s=2), witness=True) as reconciler:
        await mirrored(lab, reconciler)
        lab.space.ip(f"route replace {A} via {HERE} proto bird")
        lab.space.ip(f"-6 route replace {B} via fd00:10::1 proto bird")
        await eventually(lambda: not lab.ledger.owned("lb"), what="giving them up")
        await eventually(lambda: reconciler.view().phases[Phase.PRESENT] == 2, what="what does as it should")
        reconciler.set_route(A, None)
        reconciler.set_route(B, None)
        await eventually(lambda: not reconciler.routes, what="forgetting them")
        assert "bird" in lab.space.ip(f"route show {A}")
        assert "bird" in lab.space.ip(f"-6 route show {B}")


async def test_another_writers_lower_metric_on_ipv6_is_never_deleted(lab: Lab) -> None:
    """DELETE would take theirs, which comes first."""
    async with lab.mirroring(limits=NO_CHECKS, witness=True) as reconciler:
        await mirrored(lab, reconciler)
        lab.space.ip(f"-6 route add {B} via fd00:10::2 metric 20 proto bird")
        await eventually(lambda: bool(lab.events.of("route/conflicting")), what="the conflict")
        reconciler.set_route(B, None)
        await eventually(lambda: reconciler.routes[B].phase is Phase.LEFT_BEHIND, what="leaving it")
        assert "metric 20" in lab.space.ip(f"-6 route show {B}")
        lab.space.ip(f"-6 route del {B} metric 20")
        await eventually(
            lambda: B not in reconciler.routes, what="the withdrawal, now that ours can be proved"
        )
        assert not lab.space.ip(f"-6 route show {B}")


async def test_when_a_conflict_ends_our_route_is_made_at_once(lab: Lab) -> None:
    await lab.behind_its_back(f"route add {A} via {THERE} proto bird")
    async with lab.mirroring(limits=NO_CHECKS, witness=True) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await eventually(lambda: bool(lab.events.of("route/conflicting")), what="the conflict")
        lab.space.ip(f"route del {A}")
        await lab.holds({str(A): HERE})


async def test_when_its_namespace_is_replaced_the_old_one_proves_nothing() -> None:
    seen: set[Prefix] = set()

    def remember(prefix: Prefix, *, foreign_removed: bool) -> None:
        assert not foreign_removed
        seen.add(prefix)

    with namespace("witnessed") as space:
        space.ip(f"route add blackhole {A} proto static")
        witness = Witness("lb", space.name)
        running = asyncio.create_task(witness.run(remember))
        await eventually(lambda: witness.ready and witness.first(A) is not None, what="the witness")
        space.make_again()
        await eventually(lambda: not witness.ready, what="doubt")
        seen.clear()
        await eventually(lambda: witness.ready, what="the witness in the new namespace")
        assert witness.first(A) is None
        assert A in seen
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
