"""What subscribers hear of a target is what is there, also where a change is cut short.

Every other test of this folder asserts that at its end, too (`reports_are_true`).
"""

from __future__ import annotations

import pytest

from routesync.events.models import RouteWithdrawn
from routesync.mirror.limits import Limits
from routesync.mirror.status import TargetState
from routesync.route import Prefix
from standin.faults import Fault
from support.mirror_lab import Lab, candidate, reported_table
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
HERE6, THERE6 = "fd00:10::1", "fd00:10::2"
PREFIX, PREFIX6 = Prefix.parse("10.1.0.0/16"), Prefix.parse("fd01::/48")
DENIED = Fault("answer", method="POST", status=401, body='{"message":"who are you?"}')


async def test_a_replacement_that_is_cut_short_is_reported_as_a_withdrawal(lab: Lab) -> None:
    """Of IPv6: for IPv4 the POST before the DELETE is denied already, and the old route stays."""
    async with lab.mirroring(limits=Limits(probe_interval_s=3600)) as reconciler:
        reconciler.set_route(PREFIX6, candidate(str(PREFIX6), HERE6))
        await lab.holds({str(PREFIX6): HERE6})
        await lab.quiet()
        lab.standin.inject(DENIED)
        reconciler.set_route(PREFIX6, candidate(str(PREFIX6), THERE6))
        await lab.holds({})
        await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE)
        withdrawn = lab.events.of("route/withdrawn")
        assert [
            (event.prefix, event.gateway, event.reason)
            for event in withdrawn
            if isinstance(event, RouteWithdrawn)
        ] == [(str(PREFIX6), HERE6, "replacement-failed")]
        reconciler.set_route(PREFIX6, None)
        lab.standin.inject()
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED)
        assert lab.events.of("route/withdrawn") == withdrawn


async def test_a_route_that_was_lost_before_its_replacement_is_not_reported_as_there_when_it_is_unwanted(
    lab: Lab,
) -> None:
    async with lab.mirroring(limits=Limits(probe_interval_s=3600)) as reconciler:
        reconciler.set_route(PREFIX, candidate(str(PREFIX), HERE))
        await lab.holds({str(PREFIX): HERE})
        await lab.quiet()
        lab.standin.inject(DENIED)
        await lab.behind_its_back(f"route del {PREFIX}")
        reconciler.set_route(PREFIX, candidate(str(PREFIX), THERE))
        await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE)
        reconciler.set_route(PREFIX, None)
        lab.standin.inject()
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED)


@pytest.mark.parametrize("witness", [True, False], ids=["witness", "inventories"])
async def test_what_is_there_from_before_is_reported_even_if_it_is_to_go(lab: Lab, witness: bool) -> None:  # noqa: FBT001
    async with lab.mirroring() as reconciler:
        reconciler.set_route(PREFIX, candidate(str(PREFIX), HERE))
        await lab.holds({str(PREFIX): HERE})
        await lab.quiet()
    lab.events.seen.clear()
    async with lab.mirroring(
        witness=witness
    ) as reconciler:  # the kernel does not have it: it is held for a minute
        await eventually(lambda: reconciler.view().state is not TargetState.CONNECTING)
        await eventually(lambda: bool(lab.events.of("route/confirmed")))
        assert reported_table(lab.events.seen) == {PREFIX: HERE}
        reconciler.set_route(PREFIX, candidate(str(PREFIX), HERE))
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED)
        assert reported_table(lab.events.seen) == {PREFIX: HERE}
        reconciler.set_route(PREFIX, None)
        await lab.holds({})
        await eventually(lambda: reported_table(lab.events.seen) == {})
