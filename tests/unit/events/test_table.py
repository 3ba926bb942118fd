"""The table that is folded from the events."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.config.models import MqttSettings
from routesync.events.cloudevents import Record
from routesync.events.hub import EventHub
from routesync.events.models import (
    Event,
    KernelGone,
    KernelKept,
    RouteConfirmed,
    RouteConflicting,
    RouteRefused,
    RouteWithdrawn,
    SyncLost,
)
from routesync.events.mqtt_client import MqttConnection
from routesync.events.node_status import MAX_DEPTH, MIN_DEPTH, KernelTableRow, Manifest, TableRow
from routesync.events.outbox import Outbox
from routesync.events.retained import (
    PublishedTable,
    PublishedTables,
    RetainedState,
    _Entry,
    bucket_of,
    row_hash,
)
from routesync.events.sender import Quarantine, Sender
from support.events import accepted

PREFIX = "10.244.1.0/24"
IDLE: Final = SimpleNamespace(is_v5=True)


def table_of(events: list[Event]) -> PublishedTable:
    table = PublishedTables()
    for sequence, event in enumerate(events, 1):
        table.put(Record(sequence, 0.0, event))
    (target,) = table
    return target


def manifest_of(table: PublishedTable, sequence: int = 0) -> Manifest:
    """The manifest after all buckets were published."""
    table.sequence = sequence
    for number in range(2**table.depth):
        table.note_published(table.bucket(number, sequence), is_taken=True)
    assert table.manifest is not None
    return table.manifest


def missing(table: PublishedTable) -> bool:
    return table.manifest is None


def confirmed(number: int, gateway: str = "192.0.2.1") -> RouteConfirmed:
    route = accepted(number)
    return RouteConfirmed(target=route.target, prefix=route.prefix, family="ipv4", gateway=gateway)


def endings(number: int) -> list[Event]:
    """All events that take a route away."""
    target, prefix = accepted(number).target, accepted(number).prefix
    return [
        RouteWithdrawn(target=target, prefix=prefix, family="ipv4", gateway="192.0.2.1", reason="no-route"),
        RouteRefused(
            target=target,
            prefix=prefix,
            family="ipv4",
            gateway="192.0.2.1",
            status=500,
            message="network is unreachable",
            retry_in_s=1,
        ),
        RouteConflicting(target=target, prefix=prefix, family="ipv4", gateway="192.0.2.1", detail=""),
        SyncLost(target=target, prefix=prefix, detail=""),
    ]


def test_the_hashes_are_what_other_programs_work_out() -> None:
    # printf '10.244.1.0/24' | gzip -c | tail -c8 | od -An -tu4
    assert bucket_of(PREFIX, 6) == 716120245 // 2**26
    # printf '10.244.1.0/24 192.168.10.10 confirmed' | sha256sum | cut -c1-16
    row = TableRow(prefix=PREFIX, gateway="192.168.10.10", state="confirmed")
    assert f"{row_hash(row):016x}" == "0376f3d276c94a93"


def test_the_table_of_the_kernel_is_folded_from_events_of_its_own() -> None:
    tables = PublishedTables()
    kept = KernelKept(
        prefix=PREFIX,
        family="ipv4",
        gateway="192.168.10.10",
        protocol="bird",
        metric=20,
        interface="ens3",
        table="main",
        rule="bgp",
    )
    tables.put(Record(1, 0.0, kept))
    assert [*tables] == [], "nobody wants it"
    table = tables.kernel = PublishedTable(None)
    tables.put(Record(2, 0.0, kept))
    tables.put(Record(3, 0.0, accepted(1)))
    before = manifest_of(table)
    # printf '10.244.1.0/24 192.168.10.10 bird 20 ens3 main' | sha256sum | cut -c1-16
    assert (before.routes, before.digest) == (1, "4c3044708b40541b")
    bucket = table.bucket(bucket_of(PREFIX, MIN_DEPTH), 3)
    fields = {
        "gateway": "192.168.10.10",
        "protocol": "bird",
        "metric": 20,
        "interface": "ens3",
        "table": "main",
    }
    assert bucket.routes == (KernelTableRow(prefix=PREFIX, **fields),)
    tables.put(Record(4, 0.0, KernelGone(prefix=PREFIX, family="ipv4")))
    assert manifest_of(table).routes == 0
    assert [it.target for it in tables] == ["lb-1", None]


def test_a_route_changes_and_goes() -> None:
    for ending in endings(1):
        table = table_of([accepted(1), confirmed(1), ending])
        manifest = manifest_of(table)
        assert (manifest.routes, manifest.digest, manifest.routes_digest) == (0, "0" * 16, "0" * 16)


def test_a_repeated_event_changes_nothing() -> None:
    table = table_of([confirmed(1)])
    table.take_dirty()
    table.change(confirmed(1).prefix, _Entry("192.0.2.1", "confirmed"))
    assert table.take_dirty() == []


def test_the_manifest_is_that_of_what_was_published() -> None:
    table = table_of([accepted(number) for number in range(100)])
    for number in range(2**MIN_DEPTH - 1):
        table.note_published(table.bucket(number, 7), is_taken=True)
    assert missing(table), "one bucket is missing"
    before = manifest_of(table, 100)
    assert (before.routes, before.sequence, before.sequences) == (100, 100, (100,) * 64)
    changed = confirmed(5)
    table.change(changed.prefix, _Entry("192.0.2.1", "confirmed"))
    assert table.manifest == before, "it is not published yet"
    (number,) = {bucket_of(changed.prefix, MIN_DEPTH)}
    table.note_published(table.bucket(number, 101), is_taken=True)
    after = table.manifest
    assert after is not None
    assert after.sequences[number] == 101
    assert after.digests[number] != before.digests[number]
    assert after.digest != before.digest
    assert after.routes_digest == before.routes_digest, "only a state has changed"
    table.depth = 7
    table.note_published(table.bucket(0, 102).model_copy(update={"depth": 6}), is_taken=True)
    assert missing(table), "no bucket of this depth was published"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=200), st.integers())
def test_the_manifest_is_that_of_the_rows_whatever_led_there(
    changes: list[tuple[int, int]], seed: int
) -> None:
    events: list[Event] = [accepted(0)]
    for number, kind in changes:
        events.append([accepted(number), confirmed(number), *endings(number)][kind])
    manifest = manifest_of(table_of(events))
    rows = [row for bucket in range(2**MIN_DEPTH) for row in table_of(events).bucket(bucket, 0).routes]
    random.Random(seed).shuffle(rows)
    digest = 0
    for row in rows:
        digest ^= row_hash(row)
    assert (manifest.routes, manifest.digest) == (len(rows), f"{digest:016x}")


async def test_the_table_has_what_a_flood_left_out_of_the_stream() -> None:
    class Full:
        def put(self, record: Record, /) -> bool:
            return record.sequence >= 10

    hub, tables = EventHub("node-1"), PublishedTables()
    hub.attach_fold(tables)
    hub.attach(Full())
    for number in range(100):
        hub.emit(accepted(number))
    (table,) = tables
    assert (hub.sequence, table.routes) == (10, 100)


def names(table: PublishedTable) -> dict[str, set[str]]:
    """Bucket to its prefixes."""
    buckets = [table.bucket(number, 0) for number in range(2**table.depth)]
    return {bucket.bucket: {row.prefix for row in bucket.routes} for bucket in buckets}


@pytest.mark.parametrize("depth", range(MIN_DEPTH, MAX_DEPTH + 1))
def test_a_bucket_has_the_prefixes_whose_hash_begins_with_its_name(depth: int) -> None:
    table = table_of([accepted(number) for number in range(5000)])
    table.depth = depth
    found = names(table)
    assert sum(map(len, found.values())) == 5000
    for name, prefixes in found.items():
        assert {bucket_of(prefix, depth) for prefix in prefixes} == {int(name, 16)}


def test_there_are_as_many_buckets_as_the_routes_need_and_few_changes_of_their_number() -> None:
    table = PublishedTable("lb-1")
    depths: list[int] = []

    def settle(most: int = MAX_DEPTH) -> None:
        table.settle_depth(most)
        if not depths or depths[-1] != table.depth:
            depths.append(table.depth)

    for table.routes in range(0, 10_000, 7):
        settle()
    assert depths == [6, 7, 8, 9]
    for table.routes in (*range(10_000, 4000, -7), *range(4000, 6000, 7)):
        settle()
    assert depths == [6, 7, 8, 9], "it does not go back and forth"
    for table.routes in range(10_000, -1, -7):
        settle()
    assert depths == [6, 7, 8, 9, 7, 6]
    table.routes = 100_000
    settle(8)
    assert table.depth == 8
    assert table.take_dirty() == list(range(2**8))


async def test_a_late_refusal_of_a_bucket_of_another_depth_makes_up_no_bucket() -> None:
    hub, tables, outbox = EventHub("node-1"), PublishedTables(), Outbox.open(None, "node-1")
    settings = MqttSettings(host="broker.example")
    sender = Sender(
        cast("MqttConnection", IDLE), settings, "r/node-1", outbox=outbox, quarantine=Quarantine()
    )
    state = RetainedState(sender, hub, outbox, tables, interval_s=1, copies={})
    table = PublishedTable("lb-1")
    table.routes = 1500
    table.settle_depth(MAX_DEPTH)
    bucket = table.bucket(100, 1)
    table.routes = 100
    table.settle_depth(MAX_DEPTH)
    assert (bucket.depth, table.depth) == (7, 6)
    table.take_dirty()
    state._bucket_answered(table, bucket, "wait")
    assert table.take_dirty() == []
    await outbox.close()


def test_only_what_changed_is_dirty() -> None:
    table = PublishedTable("lb-1")
    table.take_dirty()
    table.change(PREFIX, _Entry("192.0.2.1", "accepted"))
    assert table.take_dirty() == [bucket_of(PREFIX, MIN_DEPTH)]
    assert table.take_dirty() == []
    table.mark_dirty(63)
    assert table.take_dirty() == [63]


def test_buckets_stay_small_as_long_as_there_can_be_more_of_them() -> None:
    table = table_of([accepted(number) for number in range(8192)])
    table.settle_depth(MAX_DEPTH)
    sizes = [len(table.bucket(number, 0).model_dump_json()) for number in range(2**table.depth)]
    assert max(sizes) < 3500


def test_buckets_are_of_about_the_same_size() -> None:
    table = table_of([accepted(number) for number in range(20_000)])
    sizes = [len(prefixes) for prefixes in names(table).values()]
    assert sum(sizes) == 20_000
    assert max(sizes) < 2 * 20_000 / 2**MIN_DEPTH
