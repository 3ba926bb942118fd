"""The publisher: keeps a connection to the broker, over which `delivery` carries events and retained state.

Concurrency: `MqttPublisher.run` is one task; it lives as long as the daemon and survives whatever the broker does.
Order: events go out by their sequence, several at a time unacknowledged. After a broken connection the unacknowledged
ones go out again, in order; so a subscriber may see an event twice. What the broker refused for the moment goes out
again before anything else, so up to 64 later events may arrive before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import aiomqtt
import structlog

from routesync.backoff import Backoff, SpreadBackoff
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.events.delivery import (
    TICK_S,
    Delivery,
    DeliveryMeasures,
    NameTakenError,
    OwnTopics,
    PeersConnection,
)
from routesync.events.hub import EventHub
from routesync.events.mqtt_client import (
    FAREWELL_S,
    MqttConnection,
    explain,
    has_answered,
)
from routesync.events.namesakes import Namesakes, run_of
from routesync.events.node_status import AlarmStatus, HeldTopic, Status, offline
from routesync.events.outbox import Outbox
from routesync.events.peers import Peers
from routesync.events.retained import PublishedTables, RetainedState, encode_status
from routesync.events.sender import Quarantine, Sender

log = structlog.get_logger("routesync.events")

MOST_BACKOFF_S: Final = 60.0
"""Brokers ban a client that comes and goes (EMQX `flapping_detect`: 15 connections in a minute). With this, and each
wait at least half of its bound, they see no more than seven."""


class MqttPublisher:
    """Carries events and state to a broker.

    Args:
        settings: The broker.
        node: The node's name.
        hub: The events' source; what is lost is reported through it.
        status_source: What the daemon is at this moment. Called once a second, so it should be cheap.
        outbox: Where the events wait, attached to the hub. By default they wait in memory, the earlier ones among them.
        tables: What the retained buckets show, attached to the hub. By default it begins with what the hub remembers.
        peers: Knows other nodes with the same loxilbs; fed from the same connection.
        namesakes: Knows another daemon with this node's name; the same.
        table_interval_s: The parts of the retained table are published at most this often.
        backoff: How long to wait between connections, after failures in a row with a broker that answers; by default by
            `mqtt.reconnect_spread_s`.
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
        peers: Peers | None = None,
        namesakes: Namesakes | None = None,
        table_interval_s: float = 1,
        backoff: Backoff | SpreadBackoff | None = None,
    ) -> None:
        self.state = "connecting"
        """`connected`, or in one line what is wrong."""
        self.measures = DeliveryMeasures()
        self._logged: set[str] = set()  # the troubles since it was connected
        self.client_id = settings.client_id or f"routesync-{node}"
        self._settings = settings
        self._broker = settings  # with the one host that is tried now, or connected
        self._hub = hub
        self._outbox = outbox or _memory_outbox(hub)
        self._tables = tables or _folded(hub)
        self._peers = peers or Peers(node)
        self._namesakes = namesakes or Namesakes(node, hub)
        self._status_source = status_source
        self._backoff = backoff or SpreadBackoff(
            settings.reconnect_spread_s, max(MOST_BACKOFF_S, settings.reconnect_spread_s)
        )
        self._table_interval_s = table_interval_s
        self._root = f"{settings.root}/{node}"
        self._delivery: Delivery | None = None
        self._sender: Sender | None = None  # of the connection that broke last, or is open
        self._quarantine = Quarantine()
        self._stopping = asyncio.Event()
        self._stop_by = 0.0

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why events do not get through, one line each; empty when all is well."""
        found = [] if self.state == "connected" else [self.state]
        if self._delivery is not None:
            found += self._delivery.troubles
        if self.alarm is not None and self.alarm.detail != self.state:
            found.append(self.alarm.detail)
        if self._outbox.trouble is not None:
            found.append(self._outbox.trouble)
        return tuple(found)

    @property
    def held(self) -> tuple[HeldTopic, ...]:
        """The topics that the broker denies, and whose events wait in the outbox."""
        return tuple(
            HeldTopic(
                topic=topic,
                count=events.number,
                first=events.first,
                last=events.last,
                dropped=self._outbox.held_dropped[topic],
            )
            for topic, events in sorted(self._outbox.held.items())
        )

    @property
    def alarm(self) -> AlarmStatus | None:
        """Raised while another daemon has this node's name."""
        return self._namesakes.alarm

    @property
    def outbox(self) -> Outbox:
        """Where the events wait."""
        return self._outbox

    @property
    def denied(self) -> int:
        """How many topics the broker denies on this connection."""
        return len(self._delivery.sender.denied) if self._delivery is not None else 0

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
        brokers = deque(random.sample(self._settings.brokers, k=len(self._settings.brokers)))
        failures = 0  # in a row, with brokers that answered
        unusable = 0  # brokers in a row that could not be connected to
        while not self._stopping.is_set():
            began, connections = time.monotonic(), self.measures.connections
            self._broker = brokers[0]
            error: BaseException | None = None
            try:
                if self._must_stand_by():
                    await self._stand_by()
                else:
                    await self._connection()
            except* (aiomqtt.MqttError, OSError, SettingError) as group:
                error = _first(group)
            if error is None:
                continue
            if isinstance(error, NameTakenError):
                self._note_trouble(str(error))
                continue
            self.measures.failures += 1
            self._note_break()
            self._note_trouble(explain(error, self._broker, self.client_id))
            was_connected = self.measures.connections > connections
            if time.monotonic() - began > self._backoff.most_s:
                failures = 0
            failures = failures + 1 if was_connected or has_answered(error) else 0
            unusable = 0 if was_connected else unusable + 1
            brokers.rotate(-1)
            if unusable % len(brokers) == 0:  # else the next one may be tried at once
                # no `wait_for`: before Python 3.12 it loses a cancellation that comes when the event is set
                is_first_round = unusable <= len(brokers)
                delay_s = self._backoff.delay_s(failures or (1 if is_first_round else 0))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._stopping.wait()

    def _note_break(self) -> None:
        sender, self._sender = self._sender, None
        if sender is None:  # there was no connection
            return
        topic = self._quarantine.note_break(sender.unanswered, took_others=sender.has_taken)
        if topic is not None:
            log.error(
                "message_set_aside",
                topic=sender.whole(topic),
                size=sender.unanswered[topic],
                reason="the connection broke twice with it",
                remedy="check the broker's access rules and its limit on the size of a message",
            )

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
        log.info("broker_up", host=self._broker.host, port=self._broker.port, waiting=waiting)
        self.state = "connected"

    async def _connection(self) -> None:
        connection = MqttConnection(
            self._broker,
            client_id=self.client_id,
            will=(f"{self._root}/status", encode_status(self._offline(), self._hub)),
        )
        async with connection:
            self.measures.connections += 1
            self._note_connected()
            sender = Sender(
                connection,
                self._settings,
                self._root,
                outbox=self._outbox,
                quarantine=self._quarantine,
            )
            self._sender = sender
            own, retained = self._state_of(sender)
            self._delivery = Delivery(
                sender,
                retained,
                own,
                hub=self._hub,
                outbox=self._outbox,
                status_source=self._status_source,
                peers=PeersConnection(self._peers, sender, self._settings.root),
                namesakes=self._namesakes,
                measures=self.measures,
            )
            try:
                await self._deliver(self._delivery)
            finally:
                delivery, self._delivery = self._delivery, None
                # on every orderly way out, a cancelled task among them; a broken connection leaves it to the will, and
                # a daemon that stands by says nothing about the other one
                if not delivery.is_displaced:
                    with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                        async with asyncio.timeout(FAREWELL_S):
                            await delivery.publish_offline(self._offline())

    def _state_of(self, sender: Sender) -> tuple[OwnTopics, RetainedState]:
        own = OwnTopics(sender, self._hub, self._namesakes, self._status_source)
        retained = RetainedState(
            sender,
            self._hub,
            self._outbox,
            self._tables,
            interval_s=self._table_interval_s,
            copies=own.manifests,
        )
        return own, retained

    def _must_stand_by(self) -> bool:
        own = run_of(self._status_source(), self._hub.identity.epoch)
        return self._namesakes.look(own, time.monotonic())

    async def _stand_by(self) -> None:
        """While another daemon has the better right to this node's name, publish nothing that stays.

        The client id is another one, so that neither takes the session from the other. Both learn of each other by the
        status, which this one publishes in passing.
        """
        client_id = f"{self.client_id}-{self._hub.identity.epoch}"
        async with MqttConnection(self._broker, client_id=client_id) as connection:
            self.measures.connections += 1
            if self.alarm is not None:
                self._note_trouble(self.alarm.detail)  # and no longer that of the broker
            sender = Sender(
                connection, self._broker, self._root, outbox=self._outbox, quarantine=Quarantine()
            )
            own, retained = self._state_of(sender)
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(sender.listen())
                await own.read()
                while own.must_stand_by and not self._stopping.is_set():
                    retained.post_in_passing(self._status_source())
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TICK_S):
                            await self._stopping.wait()
                listening.cancel()

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
            delivery.publish_stopping()
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
    hub.attach_fold(tables)
    return tables


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
