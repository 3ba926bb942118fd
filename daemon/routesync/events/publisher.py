"""The publisher: keeps a connection to the broker, and carries events and retained state over it.

Concurrency: `MqttPublisher.run` is one task; it lives as long as the daemon and survives whatever the broker does.
Order: events go out by their sequence, several at a time unacknowledged. After a broken connection the unacknowledged
ones go out again, in order; so a subscriber may see an event twice, but never one before its predecessor was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple, NoReturn

import aiomqtt
import structlog

from routesync.backoff import Backoff
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.events.hub import EventHub
from routesync.events.models import EventsLost
from routesync.events.mqtt_client import (
    FAREWELL_S,
    MqttConnection,
    Publication,
    SubscriptionDeniedError,
    explain,
)
from routesync.events.node_status import Status, offline
from routesync.events.outbox import Outbox, StoredEvent
from routesync.events.retained import PublishedTables, RetainedState, encode_status

log = structlog.get_logger("routesync.events")

BROKER_BACKOFF: Final = Backoff(first_s=1, most_s=60)
"""At most seven connections in a minute: brokers ban a client that comes and goes (EMQX `flapping_detect`: 15)."""
TICK_S: Final = 1.0
"""Retained state is published at most this often."""
DENIED_S: Final = 60.0
"""Retained state that the broker denied is sent again after this; an event's topic is not named as denied for
longer than ten times this after the last such event."""
_BATCH: Final = 512
_REPORTS: Final = EventsLost.topic()
_UNSEEN: Final = "what is sent there does not come back: it may not be written or, by MQTT 3.1.1, not be read"


@dataclass(slots=True)
class DeliveryMeasures:
    """Plain counters since the start.

    Attributes:
        published: events that the broker took.
        connections: that were made.
        failures: connections that broke, or could not be made.
    """

    published: int = 0
    connections: int = 0
    failures: int = 0


class MqttPublisher:
    """Carries events and state to a broker.

    Args:
        settings: The broker.
        node: The node's name.
        hub: The events' source; what is lost is reported through it.
        status_source: What the daemon is at this moment. Called once a second, so it should be cheap.
        outbox: Where the events wait, attached to the hub. By default they wait in memory, the earlier ones among them.
        tables: What the retained buckets show, attached to the hub. By default it begins with what the hub remembers.
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
        tables: PublishedTables | None = None,
        table_interval_s: float = 1,
        backoff: Backoff = BROKER_BACKOFF,
    ) -> None:
        self.state = "connecting"
        """`connected`, or in one line what is wrong."""
        self.measures = DeliveryMeasures()
        self._logged: set[str] = set()  # the troubles since it was connected
        self.client_id = settings.client_id or f"routesync-{node}"
        self._settings = settings
        self._hub = hub
        self._outbox = outbox or _memory_outbox(hub)
        self._tables = tables or _folded(hub)
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
            self._logged = {trouble}
            log.warning("broker_down", error=trouble, consequence="events wait in the outbox")
        elif trouble not in self._logged:  # each trouble once, however they take turns
            self._logged.add(trouble)
            log.warning("broker_still_down", error=trouble)
        self.state = trouble

    def _note_connected(self) -> None:
        waiting = self._outbox.backlog
        log.info("broker_up", host=self._settings.host, port=self._settings.port, waiting=waiting)
        self.state = "connected"

    async def _connection(self) -> None:
        connection = MqttConnection(
            self._settings,
            client_id=self.client_id,
            will=(f"{self._root}/status", encode_status(self._offline(), self._hub)),
        )
        async with connection:
            self.measures.connections += 1
            self._note_connected()
            self._delivery = Delivery(
                connection,
                settings=self._settings,
                root=self._root,
                hub=self._hub,
                outbox=self._outbox,
                tables=self._tables,
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


def _folded(hub: EventHub) -> PublishedTables:
    tables = PublishedTables()
    for record in hub.tail:
        tables.put(record)
    hub.attach(tables)
    return tables


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class EchoCheck:
    """Whether the broker takes what is published, by what comes back: for MQTT 3.1.1, and nothing by MQTT 5.

    By 3.1.1 a publish that access rules deny is acknowledged like any other (3.3.5). So on each connection `status` and
    the first topic of each group of events and of each target's table are subscribed to before their first message is
    sent. A message that does not come back after its acknowledgement was denied, or may not be read: 3.1.1 cannot tell.

    Args:
        connection: The connection, which ends before this is closed.
        root: `<root>/<node>`.
        timeout_s: From the acknowledgement until the message should have come back.
        missing: Called with a topic (below the root) whose message did not come back. It is tried again later.
        seen: Called with one whose message did.
    """

    def __init__(
        self,
        connection: MqttConnection,
        *,
        root: str,
        timeout_s: float,
        missing: Callable[[str], None],
        seen: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._root = root
        self._timeout_s = timeout_s
        self._missing = missing
        self._seen = seen
        self._off = connection.is_v5
        self._due: dict[str, tuple[str, float]] = {}  # group to its topic and the time of its next check
        self._unacknowledged: dict[str, asyncio.Event] = {}  # by topic
        self._checks: set[asyncio.Task[None]] = set()

    async def before(self, topic: str) -> None:
        """Prepare the check before a message is sent, where one is due.

        Raises:
            aiomqtt.MqttError: the connection has broken.
        """
        if self._off:
            return
        group = "/".join(topic.split("/")[:2])
        checked, due = self._due.setdefault(group, (topic, 0.0))
        if topic != checked or asyncio.get_running_loop().time() < due:
            return
        self._due[group] = (topic, math.inf)
        came = asyncio.Event()
        try:
            await self._connection.echo(f"{self._root}/{topic}", came.set)
        except SubscriptionDeniedError:
            self._off = True
            log.warning(
                "broker_denials_unseen",
                topic=f"{self._root}/{topic}",
                reason="by MQTT 3.1.1 one has to read them, and it denies that",
                remedy="allow reading, or set mqtt.protocol to 5.0",
            )
            return
        acknowledged = self._unacknowledged[topic] = asyncio.Event()
        check = asyncio.create_task(self._check(group, topic, acknowledged, came))
        self._checks.add(check)
        check.add_done_callback(self._checks.discard)

    def acknowledge(self, topic: str) -> None:
        """A message of this topic was acknowledged: it should come back now."""
        if (acknowledged := self._unacknowledged.pop(topic, None)) is not None:
            acknowledged.set()

    async def _check(self, group: str, topic: str, acknowledged: asyncio.Event, came: asyncio.Event) -> None:
        await acknowledged.wait()
        try:
            async with asyncio.timeout(self._timeout_s):
                await came.wait()
        except TimeoutError:
            self._due[group] = (topic, asyncio.get_running_loop().time() + DENIED_S)
            self._missing(topic)
        else:
            self._seen(topic)
        with contextlib.suppress(aiomqtt.MqttError):  # the connection has broken, which others notice
            await self._connection.end_echo(f"{self._root}/{topic}")

    def close(self) -> None:
        """Check nothing any more."""
        for check in self._checks:
            check.cancel()


class Denial(NamedTuple):
    """What the broker said, and when it did so last, in the loop's time."""

    answer: str
    at: float


class Delivery:
    """The work of one connection; it ends with it.

    Args:
        connection: The connection, open.
        settings: The broker.
        root: `<root>/<node>`.
        hub: Reports what is lost.
        outbox: Where the events wait.
        tables: The routes.
        table_interval_s: Its buckets are published at most this often.
        status_source: What the daemon is at this moment.
        measures: Counts what the broker took.
    """

    def __init__(
        self,
        connection: MqttConnection,
        *,
        settings: MqttSettings,
        root: str,
        hub: EventHub,
        outbox: Outbox,
        tables: PublishedTables,
        table_interval_s: float,
        status_source: Callable[[], Status],
        measures: DeliveryMeasures,
    ) -> None:
        self.denied: dict[str, Denial] = {}
        """Topics below the root that the broker denies."""
        self._echoes = EchoCheck(
            connection,
            root=root,
            timeout_s=settings.timeout_s,
            missing=self._note_missing,
            seen=self._note_taken,
        )
        self._connection = connection
        self._settings = settings
        self._root = root
        self._hub = hub
        self._outbox = outbox
        self._status_source = status_source
        self._measures = measures
        self._stopping = False
        self._refresh = asyncio.Event()
        self._retained = RetainedState(
            connection,
            root=root,
            hub=hub,
            outbox=outbox,
            tables=tables,
            interval_s=table_interval_s,
            wills_over_s=settings.will_delay_s + 1.5 * settings.keepalive_s,
            before=self._echoes.before,
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
                tasks.create_task(self._connection.broken())
                await self._echoes.before("status")
                self.post_status(self._status())
                tasks.create_task(self._send_events())
                tasks.create_task(self._send_states())
        finally:
            self._echoes.close()
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
        await self._connection.quiet()

    # ---- events ----

    async def _send_events(self) -> NoReturn:
        while True:
            for event in await self._outbox.read(self._sent, _BATCH):
                await self._connection.room()
                await self._echoes.before(event.topic)
                self._post_event(event)

    def _post_event(self, event: StoredEvent) -> None:
        target = (("target", event.target),) if event.target is not None else ()
        publication = Publication(
            f"{self._root}/{event.topic}",
            event.payload,
            expiry_s=self._settings.event_expiry_s,
            user=(("type", event.type), *target),
            prefix=event.prefix,
        )
        self._unacknowledged[event.sequence] = None
        self._sent = event.sequence
        self._connection.post(publication, partial(self._event_acknowledged, event))

    def _event_acknowledged(self, event: StoredEvent, denial: str | None) -> None:
        self._note_answer(event.topic, denial)
        if denial is None:
            self._measures.published += 1
        else:
            self._outbox.deny(event.sequence)
        self._unacknowledged.pop(event.sequence, None)
        self._outbox.acknowledge(next(iter(self._unacknowledged), self._sent + 1) - 1)
        self._progress.set()

    # ---- what the broker denies ----

    def _note_answer(self, topic: str, denial: str | None) -> None:
        if denial is not None:
            self._note_denial(topic, denial)
        elif self._connection.is_v5:
            self._note_taken(topic)
        else:
            self._echoes.acknowledge(topic)

    def _note_missing(self, topic: str) -> None:
        self._note_denial(topic, _UNSEEN)
        if topic.startswith("event/") and topic != _REPORTS:  # a report of it could only be denied again
            self._outbox.lose_unknown("denied")

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
            self._report_lost()
            self._try_denied_again()
            await self._retained.publish(self._status)
            self._refresh.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), TICK_S)

    def post_status(self, status: Status) -> None:
        """Publish this status at once."""
        self._retained.post_status(status)

    def _report_lost(self) -> None:
        denial = self.denied.get(_REPORTS)
        if denial is not None and asyncio.get_running_loop().time() - denial.at < DENIED_S:
            return  # a report would only be lost as well
        for lost in self._outbox.unreported:
            since = datetime.fromtimestamp(lost.since, UTC)
            self._hub.emit(
                EventsLost(
                    count=lost.number, first=lost.first, last=lost.last, since=since, reason=lost.reason
                )
            )


def _place(topic: str) -> str:
    """The topic that a denial is noted by: the buckets of a target's table share one."""
    return f"{topic.rpartition('/')[0]}/#" if topic.startswith("table/") else topic
