"""A loxilb that lives in our own namespace although its ports say otherwise: what we post comes up in our kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from routesync.events.models import TargetRefused
from routesync.kernel import KernelSource
from routesync.mirror import contact, session, tripwire
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.status import TargetState
from routesync.names import PROTOCOLS
from routesync.route import Candidate, Prefix
from support.following import keep_all
from support.mirror_lab import Lab, candidate, laboratory
from support.netns import needs_root
from support.waiting import eventually

pytestmark = needs_root

HERE = "192.168.10.1"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with laboratory() as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "PATIENCE_S", 0.2)
    monkeypatch.setattr(session, "PATIENCE_S", 0.2)


@asynccontextmanager
async def overhearing(lab: Lab, working: Reconciler) -> AsyncIterator[None]:
    """Have the reconciler hear what is made in loxilb's namespace, as if that were ours."""
    source = KernelSource(
        tables=(254,),
        admit=keep_all,
        receive_buffer=1 << 20,
        audit_interval_s=600,
        netns=lab.space.name,
        made=working.overhear,
    )
    running = asyncio.create_task(source.run())
    await asyncio.wait_for(source.synced.wait(), 30)
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def wish(working: Reconciler, *wishes: Candidate) -> None:
    for wished in wishes:
        working.consider(wished.route.prefix, wished)


async def test_it_is_refused_undone_and_not_begun_again_while_its_ports_are_the_same(lab: Lab) -> None:
    async with lab.mirroring() as working, overhearing(lab, working):
        await working.contacted.wait()
        wish(working, *(candidate(f"10.1.{number}.0/24", HERE) for number in range(30)))
        await eventually(lambda: bool(lab.events.of("target/refused")), what="refusal")
        await lab.holds({})
        posts = lab.standin.state().posts
        assert posts < 30
        assert working.view().state is TargetState.SHARED_NAMESPACE
        looks = lab.standin.state().port_reads
        await eventually(lambda: lab.standin.state().port_reads > looks + 5, what="looks at its ports")
        assert lab.standin.state().posts == posts
        (refused,) = lab.events.of("target/refused")
        assert isinstance(refused, TargetRefused)
        assert refused.reason == "own-route-seen"
        assert dict(lab.ledger.owned("lb")) == {}

        # other ports: it was moved, perhaps elsewhere. It was not, and is refused again.
        lab.space.ip("link add later type veth peer name end")
        await eventually(lambda: len(lab.events.of("target/refused")) == 2, what="second refusal")
        await lab.holds({})


async def test_an_ipv6_route_is_left_and_named_for_delete_could_take_another(lab: Lab) -> None:
    async with lab.mirroring() as working, overhearing(lab, working):
        await working.contacted.wait()
        lab.space.ip("-6 route add fd00:99::/64 via fd00:10::1 proto bgp metric 20")
        wish(working, candidate("fd00:99::/64", "fd00:10::1"))
        await eventually(lambda: bool(lab.events.of("target/refused")), what="refusal")
        await eventually(lambda: working.view().state is TargetState.SHARED_NAMESPACE, what="state")
        assert lab.standin.state().deletes == 0
        assert "proto bgp metric 20" in lab.space.ip("-6 route show fd00:99::/64")
        assert Prefix.parse("fd00:99::/64") in dict(lab.ledger.owned("lb"))


async def test_a_wish_that_looks_as_a_posted_one_trips_nothing(lab: Lab) -> None:
    """A static route that its author takes away and makes again is announced just as ours would be."""
    wished = candidate("10.1.0.0/24", HERE)
    route = wished.route._replace(protocol=PROTOCOLS["static"])
    async with lab.mirroring() as working:
        await working.contacted.wait()
        wish(working, Candidate(route, wished.verdict))
        await lab.holds({"10.1.0.0/24": HERE})
        working.overhear(route)
        await lab.holds({"10.1.0.0/24": HERE})
        assert lab.events.of("target/refused") == []


async def test_what_others_make_trips_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tripwire, "LAG_S", 60)  # nothing here is forgiven for being late
    wished = candidate("10.1.0.0/24", HERE)
    async with lab.mirroring() as working:
        await working.contacted.wait()
        wish(working, wished)
        await lab.holds({"10.1.0.0/24": HERE})
        posted = wished.route._replace(protocol=PROTOCOLS["static"])
        for other in (
            posted._replace(metric=5),
            posted._replace(protocol=PROTOCOLS["bgp"]),
            posted._replace(table=100),
            posted._replace(tos=4),
            candidate("10.1.0.0/24", "192.168.10.7").route._replace(protocol=PROTOCOLS["static"]),
            candidate("10.2.0.0/24", HERE).route._replace(protocol=PROTOCOLS["static"]),
        ):
            working.overhear(other)
        wish(working, candidate("10.3.0.0/24", HERE))
        await lab.holds({"10.1.0.0/24": HERE, "10.3.0.0/24": HERE})
        assert lab.events.of("target/refused") == []
        working.overhear(posted)  # and this one would
        await eventually(lambda: bool(lab.events.of("target/refused")), what="refusal")
