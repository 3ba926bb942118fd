"""The table that the retained buckets show: the routes that each target has from us, folded from the events.

The rules of the fold are part of the contract, since subscribers apply them too: `accepted` and `confirmed` put a
route; `withdrawn`, `refused`, `conflicting` and `sync/lost` take it away.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import ClassVar, Final, Literal, NamedTuple

from pydantic import Field

from routesync.events.cloudevents import Record
from routesync.events.models import (
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteRefused,
    RouteWithdrawn,
    SyncCompleted,
    SyncLost,
)
from routesync.events.status import StatusPart, TableManifest

BUCKETS: Final = 64
"""Retained topics a target. 20,000 routes make buckets of about 30 kB, and a default mosquitto delivers them all."""


RowState = Literal["accepted", "confirmed"]


class TableRow(StatusPart):
    """One route that a target has from us."""

    prefix: str = Field(description="Destination in CIDR form.", examples=["10.244.1.0/24"])
    gateway: str = Field(description="Next hop as told to the target.", examples=["192.168.10.10"])
    state: RowState = Field(description="`confirmed`: its own table shows the route.", examples=["confirmed"])


class TableBucket(StatusPart):
    """A part of a target's table: the routes whose prefix hashes into this bucket; retained."""

    type_name: ClassVar[str] = "io.routesync.table.v1"

    target: str = Field(examples=["lb-1"])
    bucket: int = Field(ge=0, description="CRC-32 of the prefix as text, modulo `buckets`.", examples=[5])
    buckets: int = Field(ge=1, examples=[BUCKETS])
    sequence: int = Field(
        ge=0, description="All events up to this one are in it, no later one.", examples=[1234]
    )
    routes: tuple[TableRow, ...]


def bucket_of(prefix: str, buckets: int) -> int:
    """The bucket that a prefix belongs to: the CRC-32 (ISO 3309, as in zlib) of its text, modulo the number."""
    return zlib.crc32(prefix.encode()) % buckets


def row_hash(row: TableRow) -> int:
    """What a route adds to the digest: the first 8 bytes of SHA-256 over `<prefix> <gateway> <state>`, big-endian."""
    return _hash(row.prefix, Held(row.gateway, row.state))


class Held(NamedTuple):
    """What a target has for a prefix."""

    gateway: str
    state: RowState


def _hash(prefix: str, held: Held) -> int:
    return int.from_bytes(sha256(f"{prefix} {held.gateway} {held.state}".encode()).digest()[:8], "big")


class TargetTable:
    """The routes of one target, in buckets, with count and digest kept up to date.

    There may be tens of thousands, nearly all with one of a few gateways: so these share one value.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.complete = False
        """Whether a comparison with the target was completed since the start."""
        self.dirty: set[int] = set(range(BUCKETS))
        """Buckets that changed since they were published; at first all, empty ones too."""
        self.routes = 0
        self._buckets: tuple[dict[str, Held], ...] = tuple({} for _ in range(BUCKETS))
        self._values: dict[Held, Held] = {}
        self._digest = 0
        self._sequence = 0

    def change(self, prefix: str, held: Held | None, sequence: int) -> None:
        """Put a route, or take it away."""
        number = bucket_of(prefix, BUCKETS)
        bucket = self._buckets[number]
        before = bucket.get(prefix)
        if held == before:
            return
        if before is not None:
            self._digest ^= _hash(prefix, before)
            self.routes -= 1
        if held is None:
            del bucket[prefix]
            if not self.routes:
                self._values.clear()
        else:
            bucket[prefix] = self._values.setdefault(held, held)
            self._digest ^= _hash(prefix, held)
            self.routes += 1
        self.dirty.add(number)
        self._sequence = sequence

    def bucket(self, number: int, sequence: int) -> TableBucket:
        """A bucket as it is at this sequence, which is the last that was given."""
        return TableBucket(
            target=self.target,
            bucket=number,
            buckets=BUCKETS,
            sequence=sequence,
            routes=tuple(
                TableRow(prefix=prefix, gateway=held.gateway, state=held.state)
                for prefix, held in self._buckets[number].items()
            ),
        )

    @property
    def manifest(self) -> TableManifest:
        """What a complete copy looks like."""
        return TableManifest(
            target=self.target,
            buckets=BUCKETS,
            routes=self.routes,
            digest=f"{self._digest:016x}",
            sequence=self._sequence,
        )


class Table:
    """An outlet that folds events into the tables of all targets."""

    def __init__(self) -> None:
        self._targets: dict[str, TargetTable] = {}

    def __iter__(self) -> Iterator[TargetTable]:
        return iter(self._targets.values())

    def forget(self, target: str) -> None:
        """Keep no table of this target any more; what was published of it is cleared."""
        self._targets.pop(target, None)

    def put(self, record: Record, /) -> None:
        """Apply an event."""
        event = record.event
        if isinstance(event, RouteAccepted | RouteConfirmed):
            state: RowState = "accepted" if isinstance(event, RouteAccepted) else "confirmed"
            self._of(event.target).change(event.prefix, Held(event.gateway or "", state), record.sequence)
        elif isinstance(event, RouteWithdrawn | RouteRefused | RouteConflicting | SyncLost):
            self._of(event.target).change(event.prefix, None, record.sequence)
        elif isinstance(event, SyncCompleted):
            self._of(event.target).complete = True

    def _of(self, target: str) -> TargetTable:
        table = self._targets.get(target)
        if table is None:
            table = self._targets[target] = TargetTable(target)
        return table
