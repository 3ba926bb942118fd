"""The retained state of a node over one connection: table buckets, then the status with their manifest.

On each connection everything is published again, for a broker may have lost its memory. What earlier connections, of
earlier runs too, left behind under a name that is no longer used (a renamed node, target or root) is cleared: the
outbox remembers every retained topic that was ever published and not cleared since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from functools import partial

import structlog

from routesync.events.cloudevents import encode_state
from routesync.events.echoes import Echoes
from routesync.events.hub import EventHub
from routesync.events.outbox import Outbox
from routesync.events.session import Publication, Session
from routesync.events.status import Status
from routesync.events.table import BUCKETS, Table, TableBucket, TargetTable

log = structlog.get_logger("routesync.events")


class RetainedState:
    """Publishes what is to be retained; belongs to one connection.

    Args:
        session: The connection.
        root: `<root>/<node>`.
        hub: Knows identity and sequence.
        outbox: Remembers the retained topics over restarts.
        table: The routes.
        interval_s: Buckets are published at most this often.
        wills_over_s: From now on, when no last will of an earlier connection, under another name, can come any more.
        echoes: What comes back.
        acknowledged: Told of each topic (below the root) that is acknowledged, with the broker's words if it denies it.
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
        wills_over_s: float,
        echoes: Echoes,
        acknowledged: Callable[[str, str | None], None],
    ) -> None:
        self._session = session
        self._root = root
        self._hub = hub
        self._outbox = outbox
        self._table = table
        self._echoes = echoes
        self._acknowledged = acknowledged
        self._status: Status | None = None
        self._announced: set[str] = set()
        self._remembered: frozenset[str] | None = None
        self._interval_s = interval_s
        self._next_at = 0.0
        self._wills_over_at = time.monotonic() + wills_over_s
        self._willed: list[str] = []  # cleared, but a last will may still set them again

    async def publish(self, status_source: Callable[[], Status]) -> None:
        """Publish what differs from what this connection has published. The targets are those of the status.

        The status is taken anew when it is its turn: what is before it may take long.
        """
        targets = {target.name for target in status_source().targets}
        self._announced &= targets  # what is cleared below, and comes back, is published whole
        await self._clear_leftovers(targets)
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + self._interval_s
            await self._publish_buckets(targets)
        manifest = tuple(table.manifest for table in self._shown(targets))
        await self._echoes.prepare("status")
        self.post_status(status_source().model_copy(update={"table": manifest}))

    def send_again(self, place: str) -> None:
        """Publish again, with the next call, `status` or all of `table/<target>/#`: the broker denied it before."""
        if place == "status":
            self._status = None
        else:
            self._announced.discard(place.split("/")[1])

    def _shown(self, targets: Collection[str]) -> list[TargetTable]:
        return [table for table in self._table if table.complete and table.target in targets]

    async def _publish_buckets(self, targets: Collection[str]) -> None:
        for table in self._shown(targets):
            if table.target not in self._announced:
                table.dirty.update(range(BUCKETS))
                self._announced.add(table.target)
            dirty, table.dirty = sorted(table.dirty), set()
            for number in dirty:
                bucket = table.bucket(number, self._hub.sequence)
                topic = f"table/{bucket.target}/{bucket.bucket}"
                payload = self._encode(TableBucket.type_name, bucket, topic, str(bucket.sequence))
                await self._session.room()
                if number == 0:
                    await self._echoes.prepare(topic)
                self._post(topic, payload, ("type", TableBucket.type_name), ("target", bucket.target))

    def post_status(self, status: Status) -> None:
        """Publish this status, unless it says nothing new."""
        news = status.model_copy(update={"time": None, "epoch": self._hub.identity.epoch})
        if news == self._status:
            return
        self._status = news
        self._post("status", encode_status(status, self._hub), ("type", Status.type_name))

    async def _clear_leftovers(self, targets: Iterable[str]) -> None:
        expected = frozenset(f"{self._root}/{topic}" for topic in _topics(targets))
        if expected != self._remembered:
            before = await self._outbox.retained()
            leftovers = sorted(before - expected)
            await self._outbox.remember_retained(before | expected)
            if leftovers:
                await self._clear(leftovers)
                self._willed += [topic for topic in leftovers if topic.endswith("/status")]
                await self._outbox.remember_retained(expected | {*self._willed})
            self._remembered = expected
        elif self._willed and time.monotonic() >= self._wills_over_at:
            await self._clear(self._willed)
            self._willed = []
            await self._outbox.remember_retained(expected)

    async def _clear(self, topics: list[str]) -> None:
        denied: list[str] = []

        def note(topic: str, denial: str | None) -> None:
            if denial is not None:
                denied.append(topic)

        for topic in topics:
            await self._session.room()
            self._session.post(Publication(topic, b"", retain=True), partial(note, topic))
        await self._session.quiet()
        if denied:
            log.warning(
                "retained_state_stays",
                topics=len(denied),
                first=denied[0],
                remedy="publish an empty retained message to each as a user who may",
            )

    def _encode(self, kind: str, data: TableBucket, topic: str, serial: str) -> bytes:
        return encode_state(kind, self._hub.identity, data, at=time.time(), subject=topic, serial=serial)

    def _post(self, topic: str, payload: bytes, *user: tuple[str, str]) -> None:
        publication = Publication(f"{self._root}/{topic}", payload, retain=True, user=user)
        self._session.post(publication, partial(self._acknowledged, topic))


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
