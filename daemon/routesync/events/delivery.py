"""What goes over one connection: birth, events in order, retained state, last word."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple, NoReturn

import structlog

from routesync.config.models import MqttSettings
from routesync.events.echoes import UNSEEN, Echoes
from routesync.events.hub import EventHub
from routesync.events.measures import DeliveryMeasures
from routesync.events.models import EventsLost
from routesync.events.outbox import Outbox
from routesync.events.retained import RetainedState
from routesync.events.session import Publication, Session
from routesync.events.status import Status
from routesync.events.store import Message
from routesync.events.table import Table

TICK_S: Final = 1.0
"""Retained state is published at most this often."""
DENIED_S: Final = 60.0
"""Retained state that the broker denied is sent again after this; an event's topic is not said to be denied for
longer than ten times this after the last such event."""
_BATCH: Final = 512
_TELLER: Final = EventsLost.topic()

log = structlog.get_logger("routesync.events")


class Denial(NamedTuple):
    """What the broker said, and when it did so last, in the loop's time."""

    answer: str
    at: float


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
        self.denied: dict[str, Denial] = {}
        """Topics below the root that the broker denies."""
        self.echoes = Echoes(
            session,
            root=root,
            timeout_s=settings.timeout_s,
            retry_s=DENIED_S,
            missing=self._note_missing,
            seen=self._note_taken,
        )
        self._session = session
        self._settings = settings
        self._root = root
        self._hub = hub
        self._outbox = outbox
        self._status_source = status_source
        self._measures = measures
        self._stopping = False
        self._refresh = asyncio.Event()
        self._retained = RetainedState(
            session,
            root=root,
            hub=hub,
            outbox=outbox,
            table=table,
            interval_s=table_interval_s,
            wills_over_s=settings.will_delay_s + 1.5 * settings.keepalive_s,
            echoes=self.echoes,
            acknowledged=self._note_answer,
        )
        self._unacknowledged: dict[int, None] = {}  # sequences, in order
        self._sent = outbox.acknowledged
        self._progress = asyncio.Event()

    async def run(self) -> NoReturn:
        """Deliver until the connection breaks.

        Raises:
            aiomqtt.MqttError: it has broken.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._session.broken())
                await self.echoes.prepare("status")
                self.post_status(self._status())
                tasks.create_task(self._send_events())
                tasks.create_task(self._send_states())
        finally:
            self.echoes.close()
        raise AssertionError("the tasks end by raising")

    def say_stopping(self) -> None:
        """Say that the daemon is about to end, now and with each status from here on."""
        self._stopping = True
        self.post_status(self._status())

    def _status(self) -> Status:
        status = self._status_source()
        return status.model_copy(update={"state": "stopping"}) if self._stopping else status

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
                await self.echoes.prepare(message.topic)
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
        self._note_answer(message.topic, denial)
        if denial is None:
            self._measures.published += 1
        elif message.topic != _TELLER:  # telling it could only be denied again
            self._outbox.lose("denied", time.time())
        self._unacknowledged.pop(message.sequence, None)
        self._outbox.acknowledge(next(iter(self._unacknowledged), self._sent + 1) - 1)
        self._progress.set()

    # ---- what the broker denies ----

    def _note_answer(self, topic: str, denial: str | None) -> None:
        if denial is not None:
            self._note_denial(topic, denial)
        elif self._session.is_v5:
            self._note_taken(topic)
        else:
            self.echoes.acknowledged(topic)

    def _note_missing(self, topic: str) -> None:
        self._note_denial(topic, UNSEEN)
        if topic.startswith("event/") and topic != _TELLER:
            self._outbox.lose("denied", time.time(), count=None)

    @property
    def denials(self) -> dict[str, str]:
        """What the broker denies, with its words; the buckets of a target's table are one."""
        return {_place(topic): denial.answer for topic, denial in sorted(self.denied.items())}

    def _note_denial(self, topic: str, answer: str) -> None:
        if _place(topic) not in self.denials:
            log.error("broker_denies_topic", topic=f"{self._root}/{_place(topic)}", answer=answer)
        self.denied[topic] = Denial(answer, asyncio.get_running_loop().time())

    def _note_taken(self, topic: str) -> None:
        if self.denied and self.denied.pop(topic, None) is not None and _place(topic) not in self.denials:
            log.info("broker_takes_topic", topic=f"{self._root}/{_place(topic)}")

    def _try_denied_again(self) -> None:
        now = asyncio.get_running_loop().time()
        for topic, denial in list(self.denied.items()):
            if topic.startswith("event/"):
                if now - denial.at > 10 * DENIED_S:
                    del self.denied[topic]
            elif now - denial.at > DENIED_S:
                self.denied[topic] = denial._replace(at=now)
                self._retained.send_again(_place(topic))

    # ---- retained state ----

    async def _send_states(self) -> NoReturn:
        while True:
            self._tell_losses()
            self._try_denied_again()
            await self._retained.publish(self._status)
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


def _place(topic: str) -> str:
    """The topic that a denial is noted by: the buckets of a target's table share one."""
    return f"{topic.rpartition('/')[0]}/#" if topic.startswith("table/") else topic
