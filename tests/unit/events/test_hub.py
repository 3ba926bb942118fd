"""The hub: numbers, memory, followers, floods."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from docgen.contract import example_event
from routesync.events.cloudevents import Record
from routesync.events.hub import DROPPED_PER_SECOND, INELIGIBLE_PER_SECOND, WINDOW_S, EventHub
from routesync.events.models import (
    EVENTS,
    Event,
    KernelOverrun,
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteDropped,
    RouteEvent,
    RouteIneligible,
    RouteRefused,
    RouteSummary,
    RouteWithdrawn,
    SyncLost,
    TargetPrefixEvent,
)
from support.events import accepted
from support.waiting import eventually


def dropped(rule: str) -> RouteDropped:
    return RouteDropped(
        prefix="192.0.2.1/32", family="ipv4", protocol="dhcp", metric=0, table="main", rule=rule
    )


def ineligible(number: int, reason: str) -> RouteIneligible:
    route = accepted(number)
    return RouteIneligible(
        target=route.target, prefix=route.prefix, family="ipv4", reason=reason, detail="", rule="default"
    )


def test_events_are_numbered_from_where_counting_stopped() -> None:
    hub = EventHub("node-1", epoch="e", sequence=41)
    hub.emit(accepted(1))
    hub.emit(accepted(2))
    assert [record.sequence for record in hub.tail] == [42, 43]
    assert hub.sequence == 43


def test_only_the_last_events_are_remembered() -> None:
    hub = EventHub("node-1", tail=3)
    for number in range(5):
        hub.emit(accepted(number))
    assert [record.sequence for record in hub.tail] == [3, 4, 5]


async def test_a_follower_gets_what_comes_while_it_follows() -> None:
    hub = EventHub("node-1")
    hub.emit(accepted(1))
    with hub.follow() as follower:
        waiting = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        hub.emit(accepted(2))
        assert (await waiting).sequence == 2
    hub.emit(accepted(3))
    with hub.follow() as follower:
        hub.emit(accepted(4))
        assert (await anext(follower)).sequence == 4


async def test_a_follower_that_lags_misses_events_and_knows_how_many() -> None:
    hub = EventHub("node-1")
    with hub.follow(limit=2) as follower:
        for number in range(5):
            hub.emit(accepted(number))
        assert follower.missed == 3
        assert [(await anext(follower)).sequence, (await anext(follower)).sequence] == [1, 2]


async def test_a_flood_of_drops_is_summed_up_by_rule() -> None:
    hub = EventHub("node-1")
    for _ in range(100):
        hub.emit(dropped("dhcp-host-routes"))
    for _ in range(50):
        hub.emit(dropped("linkdown"))
    hub.emit(accepted(1))
    assert hub.sequence == 11  # ten drops one by one, and what is no drop at all
    await eventually(lambda: hub.sequence == 12)
    summary = hub.tail[-1].event
    assert isinstance(summary, RouteSummary)
    assert summary.dropped == {"dhcp-host-routes": 90, "linkdown": 50}
    hub.emit(dropped("linkdown"))
    assert hub.sequence == 13  # the flood is over


async def test_a_flood_of_ineligible_routes_is_summed_up_by_reason_and_holds_up_nothing_else() -> None:
    hub = EventHub("node-1", tail=200)
    for number in range(1000):
        hub.emit(ineligible(number, "no-gateway" if number % 4 else "link-local"))
        hub.emit(accepted(number)) if number < 50 else None
    hub.emit(dropped("dhcp-host-routes"))
    assert hub.sequence == INELIGIBLE_PER_SECOND + 50 + 1
    await eventually(lambda: isinstance(hub.tail[-1].event, RouteSummary))
    summary = hub.tail[-1].event
    assert isinstance(summary, RouteSummary)
    one_by_one = [record.event for record in hub.tail if isinstance(record.event, RouteIneligible)]
    left = {
        reason: total - sum(event.reason == reason for event in one_by_one)
        for reason, total in (("link-local", 250), ("no-gateway", 750))
    }
    assert (summary.ineligible, summary.dropped) == (left, {})


@pytest.mark.parametrize(
    "kind", [RouteAccepted, RouteConfirmed, RouteWithdrawn, RouteRefused, RouteConflicting, SyncLost]
)
async def test_what_changes_a_copy_of_the_table_is_not_summed_up_while_the_sinks_take_it(
    kind: type[Event],
) -> None:
    hub = EventHub("node-1", tail=2000)
    for _ in range(1000):
        hub.emit(example_event(kind))
    assert hub.sequence == 1000
    assert {type(record.event) for record in hub.tail} == {kind}


PER_ROUTE = [kind for kind in EVENTS if issubclass(kind, (TargetPrefixEvent, RouteEvent))]


def test_every_event_that_names_a_prefix_is_under_flood_control() -> None:
    assert {kind for kind in EVENTS if "prefix" in kind.model_fields} == {*PER_ROUTE}


class Full:
    """A sink that asks for less when it has more than a thousand records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, /) -> bool:
        self.records.append(record)
        return len(self.records) > 1000


async def test_events_about_routes_are_summed_up_while_a_sink_can_hardly_take_more() -> None:
    async with asyncio.TaskGroup() as tasks:  # a summary takes a second to come
        for kind in PER_ROUTE:
            tasks.create_task(are_summed_up(kind), name=kind.__name__)


async def are_summed_up(kind: type[Event]) -> None:
    hub, full, fold = EventHub("node-1"), Full(), Full()
    hub.attach(full)
    hub.attach_fold(fold)
    for number in range(1001):
        hub.emit(accepted(number))
    for _ in range(5000):
        hub.emit(example_event(kind))
    hub.emit(KernelOverrun(total=1))
    assert len(fold.records) == 1001 + 5000 + 1, "the table is folded from all of them"
    await eventually(lambda: isinstance(full.records[-1].event, RouteSummary))
    *_, overrun, last = full.records
    assert overrun.event == KernelOverrun(total=1)
    summary = last.event
    assert isinstance(summary, RouteSummary)
    one_by_one = sum(type(record.event) is kind for record in full.records[1001:])
    counts = (*summary.dropped.values(), *summary.ineligible.values(), *summary.others.values())
    assert one_by_one + sum(counts) == 5000, kind
    assert one_by_one <= INELIGIBLE_PER_SECOND, kind
    assert [record.sequence for record in full.records] == list(range(1, len(full.records) + 1)), "no gap"


def test_it_goes_on_in_an_epoch_that_is_kept_elsewhere() -> None:
    hub = EventHub("node-1")
    hub.emit(accepted(1))
    hub.continue_in("kept", 41)
    assert (hub.identity.node, hub.identity.epoch, hub.tail) == ("node-1", "kept", ())
    hub.emit(accepted(2))
    assert hub.sequence == 42
    hub.continue_in("kept", 7)
    hub.emit(accepted(3))
    assert [record.sequence for record in hub.tail] == [42, 43], "a number is never given twice"


async def test_under_a_lasting_flood_there_is_one_summary_a_second_at_most() -> None:
    hub = EventHub("node-1")
    loop = asyncio.get_running_loop()
    seen: list[float] = []

    class Summaries:
        def put(self, record: Record, /) -> None:
            if isinstance(record.event, RouteSummary):
                seen.append(loop.time())

    hub.attach(Summaries())
    dropping = 0
    while len(seen) < 2:
        hub.emit(dropped("dhcp-host-routes"))
        dropping += 1
        await asyncio.sleep(0)
    assert all(later - earlier > WINDOW_S - 0.001 for earlier, later in pairwise(seen))
    hub.flush()
    one_by_one = sum(isinstance(record.event, RouteDropped) for record in hub.tail)
    summed_up = sum(
        sum(record.event.dropped.values()) for record in hub.tail if isinstance(record.event, RouteSummary)
    )
    assert one_by_one + summed_up == dropping
    assert one_by_one <= (len(seen) + 1) * DROPPED_PER_SECOND


async def test_a_flood_that_the_end_cuts_short_is_summed_up_all_the_same() -> None:
    hub = EventHub("node-1")
    for _ in range(30):
        hub.emit(dropped("linkdown"))
    hub.flush()
    assert isinstance(hub.tail[-1].event, RouteSummary)
    assert hub.tail[-1].event.dropped == {"linkdown": 20}
    sequence = hub.sequence
    hub.flush()
    assert hub.sequence == sequence
