"""The retained state of a node over one connection: table buckets, then the status with their manifest.

On each connection everything is published again, for a broker may have lost its memory. What earlier connections, of
earlier runs too, left behind under a name that is no longer used (a renamed node, target or root) is cleared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

from routesync.events.cloudevents import encode_state
from routesync.events.hub import EventHub
from routesync.events.outbox import Outbox
from routesync.events.session import Publication, Session
from routesync.events.status import Status
from routesync.events.table import BUCKETS, Table, TableBucket


class RetainedState:
    """Publishes what is to be retained; belongs to one connection.

    Args:
        session: The connection.
        root: `<root>/<node>`.
        hub: Knows identity and sequence.
        outbox: Remembers the retained topics over restarts.
        table: The routes.
        interval_s: Buckets are published at most this often.
        denied: Told of topics (below the root) that the broker denies, with its words.
    """

    def __init__(
        self,
        session: Session,
        *,
        root: str,
        hub: EventHub,
        outbox: Outbox,
        table: Table,
        interval_s: float,
        denied: Callable[[str, str], None],
    ) -> None:
        self._session = session
        self._root = root
        self._hub = hub
        self._outbox = outbox
        self._table = table
        self._denied = denied
        self._status: Status | None = None
        self._announced: set[str] = set()
        self._remembered: frozenset[str] | None = None
        self._interval_s = interval_s
        self._next_at = 0.0

    async def publish(self, status: Status) -> None:
        """Publish what differs from what this connection has published."""
        await self._clear_leftovers(status)
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + self._interval_s
            await self._publish_buckets()
        manifest = tuple(table.manifest for table in self._table if table.complete)
        self.post_status(status.model_copy(update={"table": manifest}))

    async def _publish_buckets(self) -> None:
        for table in self._table:
            if not table.complete:
                continue
            if table.target not in self._announced:
                table.dirty.update(range(BUCKETS))
                self._announced.add(table.target)
            dirty, table.dirty = sorted(table.dirty), set()
            for number in dirty:
                bucket = table.bucket(number, self._hub.sequence)
                topic = f"table/{bucket.target}/{bucket.bucket}"
                payload = self._encode(TableBucket.type_name, bucket, topic, str(bucket.sequence))
                await self._session.room()
                self._post(topic, payload)

    def post_status(self, status: Status) -> None:
        """Publish this status, unless it says nothing new."""
        news = status.model_copy(update={"time": None, "epoch": self._hub.identity.epoch})
        if news == self._status:
            return
        self._status = news
        self._post("status", encode_status(status, self._hub))

    async def _clear_leftovers(self, status: Status) -> None:
        targets = {target.name for target in status.targets} | {table.target for table in self._table}
        expected = frozenset(f"{self._root}/{topic}" for topic in _topics(targets))
        if expected == self._remembered:
            return
        before = await self._outbox.retained()
        leftovers = sorted(before - expected)
        await self._outbox.remember_retained(before | expected)
        for topic in leftovers:
            await self._session.room()
            self._session.post(Publication(topic, b"", retain=True), _unheeded)
        if leftovers:
            await self._session.quiet()
            await self._outbox.remember_retained(expected)
        self._remembered = expected

    def _encode(self, kind: str, data: TableBucket, topic: str, serial: str) -> bytes:
        return encode_state(kind, self._hub.identity, data, at=time.time(), subject=topic, serial=serial)

    def _post(self, topic: str, payload: bytes) -> None:
        publication = Publication(f"{self._root}/{topic}", payload, retain=True)
        self._session.post(publication, partial(self._acknowledged, topic))

    def _acknowledged(self, topic: str, denial: str | None) -> None:
        if denial is not None:
            self._denied(topic, denial)


def encode_status(status: Status, hub: EventHub) -> bytes:
    """Write a status as a CloudEvent."""
    at = time.time()
    stamped = status.model_copy(update={"epoch": hub.identity.epoch, "time": datetime.fromtimestamp(at, UTC)})
    return encode_state(Status.type_name, hub.identity, stamped, at=at, subject="status", serial=f"{at:.6f}")


def _topics(targets: Iterable[str]) -> Iterable[str]:
    yield "status"
    for target in targets:
        for bucket in range(BUCKETS):
            yield f"table/{target}/{bucket}"


def _unheeded(_denial: str | None) -> None:
    """A leftover that may not be cleared stays; whoever denies it has to clear it."""
