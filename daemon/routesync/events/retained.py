"""The retained state of a node: its tables, folded from the events, and what publishes them over one connection.

The rules of the fold are part of the contract, since subscribers apply them too (docs/events.md): `accepted` and
`confirmed` put a route; `withdrawn`, `refused`, `conflicting` and `sync/lost` take it away. `kernel/kept` and
`kernel/gone` do so in the table of what the rules keep.

On each connection, what the broker lacks is published: it may have lost its memory, or have the table of a former run.
Its own copy of the manifest tells which buckets it has.

What earlier connections, of earlier runs too, left behind under a name that is no longer used (a renamed node, target
or root) is cleared: the outbox remembers every retained topic that was ever published and not cleared since.
"""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from functools import partial, reduce
from hashlib import sha256
from math import inf
from operator import xor
from typing import Any, Final, NamedTuple

import structlog

from routesync.events.cloudevents import Record, encode_state
from routesync.events.hub import EventHub
from routesync.events.models import (
    KernelGone,
    KernelKept,
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteRefused,
    RouteWithdrawn,
    SyncCompleted,
    SyncLost,
)
from routesync.events.mqtt_client import Publication
from routesync.events.node_status import (
    MAX_DEPTH,
    MIN_DEPTH,
    Instance,
    KernelTableBucket,
    KernelTableManifest,
    KernelTableRow,
    RowState,
    Status,
    TableBucket,
    TableManifest,
    TableRow,
)
from routesync.events.outbox import Outbox
from routesync.events.sender import Answer, Sender

log = structlog.get_logger("routesync.events")

RetainedPart = TableBucket | TableManifest | KernelTableBucket | KernelTableManifest | Instance

ROUTES_A_BUCKET: Final = 16
"""At most, on average, as long as there can be more buckets: makes messages of 1 to 3 kB, which any broker takes."""


STATUS_EXPIRY_S: Final = 7 * 86400
"""Far longer than a heartbeat, so that dead nodes do not vanish, but are known by the age of their status."""
_JITTER: Final = 0.2
_PACE_S: Final = 1 / 250
"""Between buckets that are published again after a connect: a fleet does so at the same time."""


def bucket_of(prefix: str, depth: int) -> int:
    """The bucket that a prefix belongs to: the leading bits of the CRC-32 (ISO 3309, as in zlib) of its text."""
    return zlib.crc32(prefix.encode()) >> (32 - depth)


def bucket_name(number: int, depth: int) -> str:
    """The bucket's name in its topic."""
    return f"{number:0{(depth + 3) // 4}x}"


def row_hash(row: TableRow | KernelTableRow) -> int:
    """What a route adds to the digest: the first 8 bytes of SHA-256 over its fields and spaces, big-endian."""
    return _hash(row.text)


def bucket_digest(bucket: TableBucket) -> str:
    """What the manifest says of this bucket."""
    return f"{reduce(xor, map(row_hash, bucket.routes), 0):016x}"


def route_hash(row: TableRow | KernelTableRow) -> int:
    """What a route adds to the digest of the routes, whatever their state: the same over `<prefix> <gateway>`."""
    return _hash(f"{row.prefix} {row.gateway}")


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


class _Entry(NamedTuple):
    """What a target has for a prefix."""

    gateway: str
    state: RowState


class KernelEntry(NamedTuple):
    """The kernel's best route to a prefix, by the rules, as in `KernelTableRow`."""

    gateway: str
    protocol: str
    metric: int
    interface: str
    table: str


class _Line(NamedTuple):
    """A bucket as it was published last."""

    sequence: int
    routes: int
    digest: int
    routes_digest: int


def _line(bucket: TableBucket | KernelTableBucket) -> _Line:
    digest = routes_digest = 0
    for row in bucket.routes:
        digest ^= row_hash(row)
        routes_digest ^= route_hash(row)
    return _Line(bucket.sequence, len(bucket.routes), digest, routes_digest)


class PublishedTable:
    """The routes of one target, in buckets, and what was published of them; without a target, the kernel's.

    There may be tens of thousands, nearly all with one of a few gateways: so these share one value. Routes are kept in
    the finest buckets there may be; a coarser one consists of neighbours, since a bucket's name are leading bits.
    """

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.place = "kernel-table" if target is None else f"table/{target}"
        """Topic above its buckets and its manifest."""
        self.complete = False
        """Whether it was compared with the target, or the kernel, since the start."""
        self.depth = MIN_DEPTH
        """Bits of a bucket's name now."""
        self.routes = 0
        self._dirty: set[int] = set(range(2**MAX_DEPTH))
        self._buckets: tuple[dict[str, _Entry | KernelEntry], ...] = tuple({} for _ in range(2**MAX_DEPTH))
        self._values: dict[_Entry | KernelEntry, _Entry | KernelEntry] = {}
        self.sequence = 0
        """All events up to this one are in what was published."""
        self._lines: dict[int, _Line] = {}  # bucket number to what was published of it
        self._serial = 0
        # buckets that the broker's manifest may not show as they are; infinity: the broker did not take it
        self._unvouched: dict[str, float] = {}
        self.was_announced = False
        """Whether it was published whole, or found to be, since the start."""

    def change(self, prefix: str, entry: _Entry | KernelEntry | None) -> None:
        """Put a route, or take it away."""
        number = bucket_of(prefix, MAX_DEPTH)
        bucket = self._buckets[number]
        before = bucket.get(prefix)
        if entry == before:
            return
        if before is not None:
            self.routes -= 1
        if entry is None:
            del bucket[prefix]
            if not self.routes:
                self._values.clear()
        else:
            bucket[prefix] = self._values.setdefault(entry, entry)
            self.routes += 1
        self._dirty.add(number)

    def settle_depth(self, most: int) -> None:
        """Choose the number of buckets for the routes that there are; of two that fit, the present one stays."""
        fits = self.depth <= most and self.routes <= ROUTES_A_BUCKET << self.depth
        if fits and (self.depth == MIN_DEPTH or self.routes > ROUTES_A_BUCKET << (self.depth - 2)):
            return
        full = -(-self.routes // ROUTES_A_BUCKET)
        depth = max(MIN_DEPTH, min(most, (full - 1).bit_length()))
        if depth != self.depth:
            self.depth = depth
            self._lines.clear()
            # no manifest will name the refused ones of the other depth
            self._unvouched = {name: serial for name, serial in self._unvouched.items() if serial < inf}
            self.mark_dirty()

    def mark_dirty(self, number: int | None = None) -> None:
        """This bucket, or each for None, is to be published (again)."""
        width = 1 << (MAX_DEPTH - self.depth)
        cells = range(2**MAX_DEPTH) if number is None else range(number * width, (number + 1) * width)
        self._dirty.update(cells)

    def take_dirty(self) -> list[int]:
        """The buckets that changed since they were published; at first all, empty ones too."""
        dirty, self._dirty = self._dirty, set()
        return sorted({cell >> (MAX_DEPTH - self.depth) for cell in dirty})

    def bucket(self, number: int, sequence: int) -> TableBucket | KernelTableBucket:
        """A bucket as it is at this sequence, which is the last that was given."""
        width = 1 << (MAX_DEPTH - self.depth)
        which: dict[str, Any] = {
            "bucket": bucket_name(number, self.depth),
            "depth": self.depth,
            "sequence": sequence,
        }
        rows = [
            {"prefix": prefix, **entry._asdict()}
            for cell in self._buckets[number * width : (number + 1) * width]
            for prefix, entry in cell.items()
        ]
        if self.target is None:
            return KernelTableBucket(**which, routes=tuple(KernelTableRow(**row) for row in rows))
        return TableBucket(target=self.target, **which, routes=tuple(TableRow(**row) for row in rows))

    def note_published(self, bucket: TableBucket | KernelTableBucket, *, is_taken: bool) -> None:
        """The broker has this bucket, or does not take it: what the manifest says of it."""
        if not is_taken:
            self._unvouched[bucket.bucket] = inf
        if bucket.depth == self.depth:
            self._lines[int(bucket.bucket, 16)] = _line(bucket)

    def note_sent(self, bucket: TableBucket | KernelTableBucket) -> None:
        """The broker may have this bucket, which its manifest does not show yet."""
        self._serial += 1
        self._unvouched[bucket.bucket] = self._serial

    @property
    def mark(self) -> int:
        """Names the buckets that were sent by now."""
        return self._serial

    def note_vouched(self, mark: int) -> None:
        """The broker has the manifest of the buckets that were sent up to this mark."""
        self._unvouched = {name: serial for name, serial in self._unvouched.items() if serial > mark}

    @property
    def is_vouched(self) -> bool:
        """Whether the broker's manifest shows the buckets as the broker has them."""
        return self.was_announced and not self._unvouched

    def is_published(
        self, bucket: TableBucket | KernelTableBucket, copy: TableManifest | KernelTableManifest
    ) -> bool:
        """Whether the broker has this bucket, by its own copy of the manifest, which then says its sequence."""
        number, line = int(bucket.bucket, 16), _line(bucket)
        if bucket.bucket in self._unvouched or copy.digests[number] != f"{line.digest:016x}":
            return False
        self._lines[number] = line._replace(sequence=copy.sequences[number])
        return True

    @property
    def manifest(self) -> TableManifest | KernelTableManifest | None:
        """What a complete copy of all that was published looks like; None: a bucket was not published yet."""
        if len(self._lines) < 2**self.depth:
            return None
        lines = [self._lines[number] for number in range(2**self.depth)]
        fields: dict[str, Any] = {
            "depth": self.depth,
            "routes": sum(line.routes for line in lines),
            "digest": f"{reduce(xor, (line.digest for line in lines)):016x}",
            "routes_digest": f"{reduce(xor, (line.routes_digest for line in lines)):016x}",
            "sequence": self.sequence,
            "sequences": tuple(line.sequence for line in lines),
            "digests": tuple(f"{line.digest:016x}" for line in lines),
        }
        if self.target is None:
            return KernelTableManifest(**fields)
        return TableManifest(target=self.target, **fields)


class PublishedTables:
    """A sink that folds events into the tables of all targets, and that of the kernel's routes."""

    def __init__(self) -> None:
        self.wanted = True
        """Whether they are published (`events.table`)."""
        self.kernel: PublishedTable | None = None
        """What the rules keep; None: it is not published."""
        self._targets: dict[str, PublishedTable] = {}

    def __iter__(self) -> Iterator[PublishedTable]:
        yield from self._targets.values()
        if self.kernel is not None:
            yield self.kernel

    def forget(self, target: str) -> None:
        """Keep no table of this target any more; what was published of it is cleared."""
        self._targets.pop(target, None)

    def put(self, record: Record, /) -> None:
        """Apply an event."""
        event = record.event
        if isinstance(event, RouteAccepted | RouteConfirmed):
            state: RowState = "accepted" if isinstance(event, RouteAccepted) else "confirmed"
            self._of(event.target).change(event.prefix, _Entry(event.gateway or "", state))
        elif isinstance(event, RouteWithdrawn | RouteRefused | RouteConflicting | SyncLost):
            self._of(event.target).change(event.prefix, None)
        elif isinstance(event, SyncCompleted):
            self._of(event.target).complete = True
        elif self.kernel is not None and isinstance(event, KernelKept):
            self.kernel.change(event.prefix, kernel_entry(event))
        elif self.kernel is not None and isinstance(event, KernelGone):
            self.kernel.change(event.prefix, None)

    def _of(self, target: str) -> PublishedTable:
        table = self._targets.get(target)
        if table is None:
            table = self._targets[target] = PublishedTable(target)
        return table


def kernel_entry(event: KernelKept) -> KernelEntry:
    """What the table has of this route."""
    return KernelEntry(event.gateway or "", event.protocol, event.metric, event.interface or "", event.table)


class RetainedState:
    """Publishes what is to be retained; belongs to one connection.

    Args:
        sender: Sends over the connection.
        hub: Knows identity and sequence.
        outbox: Remembers the retained topics over restarts.
        tables: The routes.
        interval_s: Buckets are published at most this often.
        copies: Place of a table to the manifest that the broker had when the connection was made.
    """

    def __init__(
        self,
        sender: Sender,
        hub: EventHub,
        outbox: Outbox,
        tables: PublishedTables,
        *,
        interval_s: float,
        copies: dict[str, TableManifest | KernelTableManifest],
    ) -> None:
        self._sender = sender
        self._hub = hub
        self._outbox = outbox
        self._tables = tables
        self._copies = copies
        self._status: Status | None = None
        self._beat_at = 0.0  # the next heartbeat, in monotonic time
        self._announced: set[str] = set()  # places of tables
        self.due = asyncio.Event()
        """There is something to publish before the next tick."""
        self._unanswered: Counter[str] = Counter()  # place of a table to buckets on their way
        # place of a table to what this connection has published
        self._manifests: dict[str, TableManifest | KernelTableManifest] = {}
        self._instances: dict[str, str] = {}  # target to instance, published by this connection
        self._remembered: tuple[frozenset[str], tuple[str, ...]] | None = None
        self._interval_s = interval_s
        self._next_at = 0.0
        # until then the last will of an earlier connection, under another name, may still come
        self._wills_over_at = (
            time.monotonic() + sender.settings.will_delay_s + 1.5 * sender.settings.keepalive_s
        )
        self._willed: set[str] = set()  # cleared, but a last will may still set them again

    async def publish(self, status_source: Callable[[], Status]) -> None:
        """Publish what differs from what this connection has published. The targets are those of the status.

        The status is built again when it is its turn: what is before it may take long.
        """
        status = status_source()
        targets = {target.name for target in status.targets}
        shown = self._shown(targets)
        self._announced &= {
            table.place for table in shown
        }  # what is cleared below, and comes back, is published whole
        tables = len(targets) + (self._tables.kernel is not None)
        for table in shown:
            table.settle_depth(max(MIN_DEPTH, MAX_DEPTH - (tables - 1).bit_length()))
        await self._clear_leftovers(status, targets)
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + self._interval_s
            await self._publish_buckets(targets)
        await self._publish_manifests(targets)
        await self._publish_instances(status)
        await self._send_status(status_source())

    def send_all_again(self) -> None:
        """Publish everything again, with the next call: another daemon may have overwritten it."""
        self._status = None
        self._instances.clear()
        self._announced.clear()
        self._manifests.clear()

    def send_again(self, topic: str) -> bool:
        """Publish this topic again, or all of a table (`table/<target>/#`), with the next call: it was denied before.

        Returns:
            Whether it is still published.
        """
        if topic == "status":
            self._status = None
            return True
        place, _, name = topic.rpartition("/")
        if place == "instance":
            others = {target: it for target, it in self._instances.items() if it != name}
            is_published, self._instances = len(others) < len(self._instances), others
            return is_published
        table = next((table for table in self._tables if table.place == place), None)
        if table is None or place not in self._announced:
            return False
        if name == "#":
            self._announced.discard(place)
        if name in ("#", "manifest"):
            self._manifests.pop(place, None)
            return True
        number = int(name, 16)
        if number >= 2**table.depth or name != bucket_name(number, table.depth):
            return False
        table.mark_dirty(number)
        return True

    def _shown(self, targets: Collection[str]) -> list[PublishedTable]:
        return [
            table
            for table in self._tables
            if self._tables.wanted and table.complete and (table.target is None or table.target in targets)
        ]

    async def _publish_buckets(self, targets: Collection[str]) -> None:
        for table in self._shown(targets):
            is_first = table.place not in self._announced
            if is_first:
                table.mark_dirty()
                self._announced.add(table.place)
            numbers = table.take_dirty()
            if (copy := self._take_copy(table)) is not None:
                numbers = await self._lacking(table, numbers, copy)
            table.was_announced = True
            if numbers:
                table.sequence = self._hub.sequence
            self._unanswered[table.place] += len(numbers)
            for number in numbers:
                bucket = table.bucket(number, self._hub.sequence)
                topic = f"{table.place}/{bucket.bucket}"
                publication = self._state(topic, bucket, str(bucket.sequence))
                table.note_sent(bucket)
                await self._sender.send(topic, publication, partial(self._bucket_answered, table, bucket))
                if is_first:
                    await asyncio.sleep(_PACE_S)

    def _take_copy(self, table: PublishedTable) -> TableManifest | KernelTableManifest | None:
        """The manifest that the broker had, once, where it shows what the broker has."""
        copy = self._copies.pop(table.place, None)
        if copy is None or copy.depth != table.depth or copy.sequence > self._hub.sequence:
            return None
        # the run before may have ended between buckets and their manifest
        return copy if table.was_announced or self._outbox.tables_were_whole else None

    async def _lacking(
        self, table: PublishedTable, numbers: list[int], copy: TableManifest | KernelTableManifest
    ) -> list[int]:
        """Those of the buckets that the broker does not have as they are."""
        self._manifests[table.place] = copy
        table.sequence = copy.sequence
        found: list[int] = []
        for number in numbers:
            if not table.is_published(table.bucket(number, self._hub.sequence), copy):
                found.append(number)
            await asyncio.sleep(0)  # many routes take many hashes
        return found

    def _bucket_answered(
        self, table: PublishedTable, bucket: TableBucket | KernelTableBucket, answer: Answer
    ) -> None:
        if answer == "wait":
            if bucket.depth == table.depth:  # else each one of the present depth is dirty, or on its way
                table.mark_dirty(int(bucket.bucket, 16))
        else:  # of one that the broker does not take, subscribers see by the manifest that they miss it
            table.note_published(bucket, is_taken=answer == "taken")
        self._unanswered[table.place] -= 1
        if not self._unanswered[table.place]:
            self.due.set()

    async def _publish_manifests(self, targets: Collection[str]) -> None:
        for table in self._shown(targets):
            manifest = table.manifest
            if manifest is None or self._unanswered[table.place]:
                continue
            if manifest == self._manifests.get(table.place):
                continue
            self._manifests[table.place] = manifest
            topic = f"{table.place}/manifest"
            publication = self._state(topic, manifest, f"{time.time():.6f}")
            answered = partial(self._manifest_answered, table, table.mark)
            await self._sender.send(topic, publication, answered)

    def _manifest_answered(self, table: PublishedTable, mark: int, answer: Answer) -> None:
        if answer == "taken":
            table.note_vouched(mark)
        elif answer == "wait":
            self._manifests.pop(table.place, None)

    async def finish(self, targets: Collection[str]) -> None:
        """Publish what tables have changed, so that what stays at the broker is whole; the daemon is about to end."""
        await self._publish_buckets(targets)
        await self._sender.connection.quiet()
        await self._publish_manifests(targets)
        await self._sender.connection.quiet()
        shown = self._shown(targets)
        expected = {*targets, None} if self._tables.kernel is not None else targets
        # what this run did not compare is as the run before left it
        is_rest_whole = self._outbox.tables_were_whole or {it.target for it in shown} >= {*expected}
        self._outbox.tables_are_whole = is_rest_whole and all(table.is_vouched for table in shown)

    async def _publish_instances(self, status: Status) -> None:
        for target in status.targets:
            if target.instance is None or self._instances.get(target.name) == target.instance:
                continue
            self._instances[target.name] = target.instance
            topic = f"instance/{target.instance}"
            note = Instance(target=target.name, instance=target.instance)
            answered = partial(self._instance_answered, target.name)
            await self._sender.send(topic, self._state(topic, note, target.name), answered)

    def _instance_answered(self, target: str, answer: Answer) -> None:
        if answer == "wait":
            self._instances.pop(target, None)

    def _state(self, topic: str, state: RetainedPart, serial: str) -> Publication:
        payload = encode_state(
            state.type_name, self._hub.identity, state, at=time.time(), subject=topic, serial=serial
        )
        user = [("type", state.type_name)]
        if not isinstance(state, KernelTableBucket | KernelTableManifest):
            user.append(("target", state.target))
        return Publication(f"{self._sender.root}/{topic}", payload, retain=True, user=tuple(user))

    def _status_answered(self, answer: Answer) -> None:
        if answer == "wait":
            self._status = None

    async def _send_status(self, status: Status) -> None:
        if (publication := self._new_status(status)) is not None:
            await self._sender.send("status", publication, self._status_answered)

    def post_in_passing(self, status: Status) -> None:
        """Show this status to those who listen now; the broker keeps that of the daemon that has our name."""
        if (publication := self._new_status(status)) is not None:
            self._sender.post("status", publication._replace(retain=False), self._status_answered)

    def post_status(self, status: Status) -> None:
        """Publish this status at once, unless it says nothing new."""
        if (publication := self._new_status(status)) is not None:
            self._sender.post("status", publication, self._status_answered)

    def _new_status(self, status: Status) -> Publication | None:
        news = status.without_ages().model_copy(update={"epoch": self._hub.identity.epoch})
        now = time.monotonic()
        if news == self._status and now < self._beat_at:
            return None
        self._status = news
        heartbeat_s = self._sender.settings.heartbeat_s
        self._beat_at = now + heartbeat_s * random.uniform(1 - _JITTER, 1)  # noqa: S311 - no secret
        expiry_s = None
        if status.state != "offline":  # that is the last word, and stays
            expiry_s = STATUS_EXPIRY_S
            status = status.model_copy(update={"heartbeat_s": heartbeat_s, "expiry_s": expiry_s})
        return Publication(
            f"{self._sender.root}/status",
            encode_status(status, self._hub),
            retain=True,
            expiry_s=expiry_s,
            user=(("type", Status.type_name),),
        )

    async def _clear_leftovers(self, status: Status, targets: Collection[str]) -> None:
        instances = [target.instance for target in status.targets]
        kept = {
            f"{self._sender.root}/status",
            *(f"{self._sender.root}/instance/{it}" for it in instances if it is not None),
        }
        shown = {f"{self._sender.root}/{table.place}/": table for table in self._shown(targets)}
        for path, table in shown.items():
            kept |= {f"{path}{bucket_name(n, table.depth)}" for n in range(2**table.depth)}
            kept.add(f"{path}manifest")
        # until a table was compared once, that of the run before stays
        unknown: tuple[str, ...] = ()
        if self._tables.wanted:
            places = [f"table/{target}" for target in targets]
            places += [self._tables.kernel.place] if self._tables.kernel is not None else []
            unknown = tuple(path for it in places if (path := f"{self._sender.root}/{it}/") not in shown)
        if None in instances:
            unknown += (f"{self._sender.root}/instance/",)
        state = frozenset(kept), unknown
        if state != self._remembered:
            before = await self._outbox.retained()
            await self._outbox.remember_retained(before | kept)
            if await self._clear({topic for topic in before - kept if not topic.startswith(unknown)}):
                self._remembered = state
        elif self._willed and time.monotonic() >= self._wills_over_at:
            await self._clear(self._willed)

    async def _clear(self, leftovers: set[str]) -> bool:
        """Clear these topics, and forget each that the broker has answered for; return whether these are all.

        Those that a connection broke with are forgotten first: this one may break with others.
        """
        aside = {topic for topic in leftovers if self._sender.quarantine.find(f"/{topic}", 0) is not None}
        answers: dict[str, Answer] = dict.fromkeys(leftovers, "wait")
        for topics in filter(None, (aside, leftovers - aside)):
            for topic in sorted(topics):
                answered = partial(answers.__setitem__, topic)
                await self._sender.send(f"/{topic}", Publication(topic, b"", retain=True), answered)
            await self._sender.connection.quiet()
            cleared = {topic for topic in topics if answers[topic] == "taken"}
            denied = sorted(topic for topic in topics if answers[topic] in ("denied", "lost"))
            if denied:
                log.warning(
                    "retained_state_stays",
                    topics=len(denied),
                    first=denied[0],
                    remedy="publish an empty retained message to each as a user who may",
                )
            self._willed -= cleared.union(denied)
            remembered = (await self._outbox.retained()).difference(cleared, denied)
            if time.monotonic() < self._wills_over_at:
                self._willed |= {topic for topic in cleared if topic.endswith("/status")}
            await self._outbox.remember_retained(remembered | self._willed)
        return "wait" not in answers.values()


def encode_status(status: Status, hub: EventHub) -> bytes:
    """Write a status as a CloudEvent."""
    at = time.time()
    stamped = status.model_copy(update={"epoch": hub.identity.epoch, "time": datetime.fromtimestamp(at, UTC)})
    return encode_state(Status.type_name, hub.identity, stamped, at=at, subject="status", serial=f"{at:.6f}")
