"""What the mirror counts of itself: how changes get through, and how requests end."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from routesync.measure import Histogram
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.reporting import STAGES
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Family, Prefix
from support.mirror_lab import Lab, candidate
from support.waiting import eventually

A = Prefix.parse("10.1.0.0/16")
HERE = "192.168.10.1"


def reached(reconciler: Reconciler) -> dict[str, int]:
    convergence = reconciler.view().measures.convergence
    return {stage: convergence[stage].count for stage in STAGES}


async def test_a_change_is_timed_from_the_kernel_to_each_stage(lab: Lab) -> None:
    async with lab.mirroring(witness=True) as reconciler:
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")
        read_at = time.monotonic() - 2  # as if it had waited
        reconciler.set_route(A, candidate(str(A), HERE), read_at)
        await eventually(
            lambda: reached(reconciler) == {"accepted": 1, "confirmed": 1, "withdrawn": 0},
            what="confirmation",
        )
        elapsed = time.monotonic() - read_at
        convergence = reconciler.view().measures.convergence
        assert 2 < convergence["accepted"].sum_s <= elapsed
        assert convergence["accepted"].sum_s < convergence["confirmed"].sum_s <= elapsed

        reconciler.set_route(A, None, time.monotonic())
        await eventually(lambda: reached(reconciler)["withdrawn"] == 1, what="withdrawal")


async def test_what_is_no_change_of_the_kernel_is_not_timed(lab: Lab) -> None:
    """The first table, and what is put back because the target had lost it."""
    async with lab.mirroring(witness=True) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE})
        await eventually(lambda: bool(lab.events.of("route/confirmed")), what="confirmation")
        await lab.behind_its_back(f"route del {A}")
        await eventually(lambda: len(lab.events.of("route/accepted")) == 2, what="its being put back")
        assert reached(reconciler) == dict.fromkeys(STAGES, 0)
        fates = reconciler.view().measures.fates
        assert (fates["accepted"], fates["lost"]) == (2, 1)


async def test_requests_are_counted_by_how_they_ended(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")
        await lab.behind_its_back(f"route add {A} via 192.168.10.9 proto static")
        reconciler.set_route(A, candidate(str(A), HERE))
        reconciler.set_route(Prefix.parse("10.2.0.0/16"), candidate("10.2.0.0/16", "10.99.0.1"))
        await eventually(
            lambda: (
                reconciler.view().phases[Phase.CONFLICTING] == reconciler.view().phases[Phase.REFUSED] == 1
            ),
            what="both answers",
        )
        view = reconciler.view()
        assert view.requests["POST", "exists"] >= 1
        assert view.requests["POST", "unreachable"] >= 1
        for asked in ("POST", "GET"):
            counted = sum(count for (method, _), count in view.requests.items() if method == asked)
            assert view.durations[asked].count == counted
        assert (view.measures.fates["conflicting"], view.measures.fates["refused"]) == (1, 1)
        assert view.occupied == {Family.INET: 0, Family.INET6: 0}


def test_a_histogram_counts_what_is_not_above_its_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1, 1]
    assert histogram.count == 4
    assert histogram.sum_s == 12.0


@pytest.mark.parametrize("lab", [("--fill-delay", "3")], indirect=True)
async def test_a_target_that_restarts_is_said_to_be_down_once_and_up_once(lab: Lab) -> None:
    """It is gone, then answers with an empty table, then fills: several troubles, one outage."""
    async with lab.mirroring(timeout_s=1) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({"10.1.0.0/16": HERE}, within_s=20)
        await eventually(lambda: reconciler.view().state is TargetState.SYNCED, within_s=20, what="the sync")
        lab.events.seen.clear()
        with capture_logs() as logs:
            lab.standin.stop()
            reconciler.verify()
            await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE, what="its absence")
            await asyncio.to_thread(lab.standin.start)
            await eventually(lambda: reconciler.view().state is TargetState.STARTING, what="its empty table")
            await eventually(
                lambda: reconciler.view().state is TargetState.SYNCED, within_s=30, what="its return"
            )
    said = [line["event"] for line in logs if str(line["event"]).startswith("target_")]
    outage = [event for event in said if event != "target_synced"]
    assert outage == ["target_down", "target_not_mirrored", "target_up"]
    reported = [f"{event.group}/{event.name}" for event in lab.events.seen if event.group == "target"]
    assert reported == ["target/down", "target/up"]
