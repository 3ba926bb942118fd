"""What goes over one connection: birth, events in order, retained state, last word."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, NoReturn

import structlog

from routesync.events.hub import EventHub
from routesync.events.measures import DeliveryMeasures
from routesync.events.models import EventsLost
from routesync.events.outbox import Outbox
from routesync.events.retained import RetainedState
from routesync.events.session import Publication, Session
from routesync.events.status import Status
from routesync.events.store import Message
from routesync.events.table import Table
from routesync.settings import MqttSettings

TICK_S: Final = 1.0
"""Retained state is published at most this often."""
_BATCH: Final = 512

log = structlog.get_logger("routesync.events")


class Delivery:
    """The work of one connection; it ends with it.

    Args:
        session: The connection, open.
        settings: The broker.
        root: `<root>/<node>`.
        hub: Tells the losses.
        outbox: Where the events wait.
        table: The routes.
        table_interval_s: Its buckets are published at most this often.
        status_source: What the daemon is at this moment.
        measures: Counts what the broker took.
    """

    def __init__(
        self,
        session: Session,
        *,
        settings: MqttSettings,
        root: str,
        hub: EventHub,
        outbox: Outbox,
        table: Table,
        table_interval_s: float,
        status_source: Callable[[], Status],
        measures: DeliveryMeasures,
    ) -> None:
        self.denied: dict[str, str] = {}
        """Topics below the root that the broker denies, with its words."""
        self.probed = False
        """Whether a publish by 3.1.1 was seen to come back."""
        self._session = session
        self._settings = settings
        self._root = root
        self._hub = hub
        self._outbox = outbox
        self._status_source = status_source
        self._measures = measures
        self._refresh = asyncio.Event()
        self._retained = RetainedState(
            session,
            root=root,
            hub=hub,
            outbox=outbox,
            table=table,
            interval_s=table_interval_s,
            denied=self._note_denial,
        )
        self._unacknowledged: dict[int, None] = {}  # sequences, in order
        self._sent = outbox.acknowledged
        self._progress = asyncio.Event()

    async def run(self) -> NoReturn:
        """Deliver until the connection breaks.

        Raises:
            aiomqtt.MqttError: it has broken.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._session.broken())
            if not self._session.is_v5 and await self._session.listen(f"{self._root}/status"):
                tasks.create_task(self._check_echo())
            self.post_status(self._status_source())
            tasks.create_task(self._send_events())
            tasks.create_task(self._send_states())
        raise AssertionError("the tasks end by raising")

    def refresh(self) -> None:
        """Send the state now rather than with the next tick."""
        self._refresh.set()

    async def drained(self) -> None:
        """Wait until the broker has every event that was emitted up to now."""
        last = await self._outbox.flush()
        while self._outbox.acknowledged < last:
            self._progress.clear()
            await self._progress.wait()

    async def quiet(self) -> None:
        """Wait until all that was sent is acknowledged."""
        await self._session.quiet()

    # ---- events ----

    async def _send_events(self) -> NoReturn:
        while True:
            for message in await self._outbox.read(self._sent, _BATCH):
                await self._session.room()
                self._post_event(message)

    def _post_event(self, message: Message) -> None:
        user = [("type", message.type)]
        if message.target is not None:
            user.append(("target", message.target))
        if message.prefix is not None:
            user.append(("prefix", message.prefix))
        publication = Publication(
            f"{self._root}/{message.topic}",
            message.payload,
            expiry_s=self._settings.event_expiry_s,
            user=tuple(user),
        )
        self._unacknowledged[message.sequence] = None
        self._sent = message.sequence
        self._session.post(publication, partial(self._event_acknowledged, message))

    def _event_acknowledged(self, message: Message, denial: str | None) -> None:
        if denial is not None:
            self._note_denial(message.topic, denial)
            if message.topic != "event/events/lost":  # telling it could only be denied again
                self._outbox.lose("denied", time.time())
        else:
            self._measures.published += 1
        self._unacknowledged.pop(message.sequence, None)
        self._outbox.acknowledge(next(iter(self._unacknowledged), self._sent + 1) - 1)
        self._progress.set()

    def _note_denial(self, topic: str, denial: str) -> None:
        if topic not in self.denied:
            self.denied[topic] = denial
            log.error("the broker denies a topic", topic=f"{self._root}/{topic}", answer=denial)

    async def _check_echo(self) -> None:
        """Find out by 3.1.1, whose acknowledgement says nothing, whether at least the birth was taken."""
        try:
            await asyncio.wait_for(self._session.echo(), self._settings.timeout_s)
        except TimeoutError:
            self._note_denial("status", "it does not come back")
        else:
            self.probed = True
            await self._session.unsubscribe(f"{self._root}/status")

    # ---- retained state ----

    async def _send_states(self) -> NoReturn:
        while True:
            self._tell_losses()
            await self._retained.publish(self._status_source())
            self._refresh.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), TICK_S)

    def post_status(self, status: Status) -> None:
        """Publish this status at once."""
        self._retained.post_status(status)

    def _tell_losses(self) -> None:
        losses = self._outbox.untold
        if not losses:
            return
        for loss in losses:
            since = datetime.fromtimestamp(loss.since, UTC)
            self._hub.emit(EventsLost(count=loss.lost, since=since, reason=loss.reason))
        self._outbox.told(losses)
