"""The publisher: keeps a connection to the broker, for good.

Concurrency: `run` is one task; it lives as long as the daemon and survives whatever the broker does. Order: events go
out by their sequence, several at a time unacknowledged. After a broken connection the unacknowledged ones go out again,
in order; so a subscriber may see an event twice, but never one before its predecessor was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import aiomqtt
import structlog

from routesync.backoff import Backoff
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.events.access import explain, read_password, tls_context
from routesync.events.connection import FAREWELL_S
from routesync.events.delivery import Delivery
from routesync.events.hub import EventHub
from routesync.events.measures import DeliveryMeasures
from routesync.events.outbox import Outbox
from routesync.events.retained import encode_status
from routesync.events.session import Session, last_will
from routesync.events.status import Status, offline
from routesync.events.table import Table

log = structlog.get_logger("routesync.events")

BROKER_BACKOFF: Final = Backoff(first_s=1, most_s=60)
"""At most seven connections in a minute: brokers ban a client that comes and goes (EMQX `flapping_detect`: 15)."""


class MqttPublisher:
    """Carries events and state to a broker.

    Args:
        settings: The broker.
        node: The node's name.
        hub: The events' source; losses are told through it.
        status_source: What the daemon is at this moment. Called once a second, so it should be cheap.
        outbox: Where the events wait, attached to the hub. By default they wait in memory, those of before among them.
        table: What the retained buckets show, attached to the hub. By default it begins with what the hub remembers.
        table_interval_s: The parts of the retained table are published at most this often.
        backoff: How long to wait between connections.
    """

    def __init__(
        self,
        settings: MqttSettings,
        node: str,
        hub: EventHub,
        status_source: Callable[[], Status],
        *,
        outbox: Outbox | None = None,
        table: Table | None = None,
        table_interval_s: float = 1,
        backoff: Backoff = BROKER_BACKOFF,
    ) -> None:
        self.state = "connecting"
        """`connected`, or in one line what is wrong."""
        self.measures = DeliveryMeasures()
        self._said: set[str] = set()  # the troubles that were logged since it was connected
        self.client_id = settings.client_id or f"routesync-{node}"
        self._settings = settings
        self._hub = hub
        self._outbox = outbox or _memory_outbox(hub)
        self._table = table or _folded(hub)
        self._status_source = status_source
        self._backoff = backoff
        self._table_interval_s = table_interval_s
        self._root = f"{settings.root}/{node}"
        self._delivery: Delivery | None = None
        self._stopping = asyncio.Event()
        self._stop_by = 0.0

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why events do not get through, one line each; empty when all is well."""
        found = [] if self.state == "connected" else [self.state]
        if self._delivery is not None and self._delivery.denied:
            topics = ", ".join(f"{topic} ({answer})" for topic, answer in self._delivery.denials.items())
            found.append(
                f"the broker denies publishing to {self._root}: {topics}; check its access rules and limits"
            )
        if self._outbox.trouble is not None:
            found.append(self._outbox.trouble)
        return tuple(found)

    @property
    def outbox(self) -> Outbox:
        """Where the events wait."""
        return self._outbox

    @property
    def denied(self) -> int:
        """How many topics the broker denies on this connection."""
        return len(self._delivery.denied) if self._delivery is not None else 0

    def refresh(self) -> None:
        """Publish the status now rather than within a second."""
        if self._delivery is not None:
            self._delivery.refresh()

    def stop(self, deadline_s: float = 5) -> None:
        """Make `run` end: it says `stopping`, sends what waits, says `offline`, all within the deadline.

        What does not get through in time stays in the outbox. Returns at once; await the task of `run`.
        """
        self._stop_by = time.monotonic() + deadline_s
        self._stopping.set()

    async def run(self) -> None:
        """Publish until `stop` is called. A cancellation is a stop with a short deadline."""
        try:
            await self._keep_connected()
        finally:
            self._hub.flush()  # with no broker they wait in the outbox

    async def _keep_connected(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._connection()
            except* (aiomqtt.MqttError, OSError, SettingError) as group:
                if time.monotonic() - began > self._backoff.most_s:
                    failures = 0
                failures += 1
                self.measures.failures += 1
                self._note_trouble(explain(_first(group), self._settings, self.client_id))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._backoff.delay_s(failures))

    def _note_trouble(self, trouble: str) -> None:
        if self.state in ("connected", "connecting"):
            self._said = {trouble}
            log.warning("broker_down", error=trouble, consequence="events wait in the outbox")
        elif trouble not in self._said:  # each trouble once, however they take turns
            self._said.add(trouble)
            log.warning("broker_still_down", error=trouble)
        self.state = trouble

    def _note_connected(self) -> None:
        waiting = self._outbox.backlog
        log.info("broker_up", host=self._settings.host, port=self._settings.port, waiting=waiting)
        self.state = "connected"

    async def _connection(self) -> None:
        session = Session(
            self._settings,
            client_id=self.client_id,
            password=read_password(self._settings),
            tls=tls_context(self._settings),
            will=last_will(self._settings, f"{self._root}/status", encode_status(self._offline(), self._hub)),
        )
        async with session:
            self.measures.connections += 1
            self._note_connected()
            self._delivery = Delivery(
                session,
                settings=self._settings,
                root=self._root,
                hub=self._hub,
                outbox=self._outbox,
                table=self._table,
                table_interval_s=self._table_interval_s,
                status_source=self._status_source,
                measures=self.measures,
            )
            try:
                await self._deliver(self._delivery)
            finally:
                delivery, self._delivery = self._delivery, None
                # Said on every orderly way out, a cancelled task among them; a broken connection leaves it to the will.
                with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        delivery.post_status(self._offline())
                        await delivery.quiet()

    async def _deliver(self, delivery: Delivery) -> None:
        cancelled = False
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(delivery.run())
            try:
                await self._stopping.wait()
            except asyncio.CancelledError:
                if work.done():  # it was the task group, whose work has failed
                    raise
                cancelled = True
                self.stop(FAREWELL_S)
            self._hub.flush()
            delivery.say_stopping()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stop_by - time.monotonic()):
                    await delivery.drained()
            work.cancel()
        if cancelled:
            raise asyncio.CancelledError

    def _offline(self) -> Status:
        return offline(self._hub.identity.node, epoch=self._hub.identity.epoch)


def _memory_outbox(hub: EventHub) -> Outbox:
    outbox = Outbox.open(None, hub.identity.node, epoch=hub.identity.epoch)
    for record in hub.tail:
        outbox.put(record)
    hub.attach(outbox)
    return outbox


def _folded(hub: EventHub) -> Table:
    table = Table()
    for record in hub.tail:
        table.put(record)
    hub.attach(table)
    return table


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
