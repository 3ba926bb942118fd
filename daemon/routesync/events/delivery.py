"""What is done over one connection: events and retained state go out, in order, and what comes is taken.

It ends with the connection: `MqttPublisher` makes the next one. What outlives it is in the outbox, in `Quarantine`,
`Peers` and `Namesakes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, NoReturn

import aiomqtt
import structlog
from pydantic import ValidationError

from routesync.events.hub import EventHub
from routesync.events.models import EventsLost
from routesync.events.mqtt_client import Publication, SubscriptionDeniedError
from routesync.events.namesakes import Namesakes, run_of
from routesync.events.node_status import KernelTableManifest, Status, TableManifest
from routesync.events.outbox import Outbox
from routesync.events.peers import Peers
from routesync.events.reader import Cleared, ReceivedMessage, read
from routesync.events.retained import RetainedState
from routesync.events.sender import DENIED_S, REPORTS, Answer, Sender
from routesync.events.store import StoredEvent

log = structlog.get_logger("routesync.events")

_READ_S: Final = 2.0
"""Own retained state comes at once; a broker that does not answer is found out otherwise."""
TICK_S: Final = 1.0
"""Retained state is published at most this often."""
_BATCH: Final = 512


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


class PeersConnection:
    """Subscribes to what other nodes with the same loxilbs publish, over the publisher's own connection."""

    def __init__(self, peers: Peers, sender: Sender, root: str) -> None:
        self._peers = peers
        self._connection = sender.connection
        self._root = root
        self._subscribed: set[str] = set()
        self._denied = False
        sender.listeners.append(self._take)

    async def subscribe(self) -> None:
        """Have the subscriptions that are needed now, and no others."""
        if self._denied:
            return
        wanted = self._peers.places(time.monotonic())
        for place in self._subscribed - wanted:
            await self._connection.unsubscribe(f"{self._root}/{place}")
        try:
            for place in wanted - self._subscribed:
                await self._connection.subscribe(f"{self._root}/{place}")
        except SubscriptionDeniedError as error:
            self._denied = True
            log.warning(
                "peers_unknown",
                topic=error.topics[0],
                reason="the broker denies reading what other nodes with the same loxilb publish",
                remedy="for the alarm peer-gone allow reading +/instance/#, +/status, +/table/+/manifest, +/takeover/#",
            )
        self._subscribed = wanted

    def _take(self, received: aiomqtt.Message) -> None:
        if (message := read(received, self._root)) is not None:
            self._peers.take(message, time.monotonic())


class NameTakenError(aiomqtt.MqttError):
    """Another daemon has the better right to this node's name."""


class OwnTopics:
    """Reads what the broker has under this node's own topics: manifests at first, and whatever comes to the status."""

    def __init__(
        self, sender: Sender, hub: EventHub, namesakes: Namesakes, status_source: Callable[[], Status]
    ) -> None:
        self.manifests: dict[str, TableManifest | KernelTableManifest] = {}
        """Place of a table to the manifest that the broker had, in our own epoch."""
        self.is_overwritten = False
        """Whether another client has published our status, or cleared it, since this was last set to False."""
        self._sender = sender
        self._epoch = hub.identity.epoch
        self._root = sender.root.rpartition("/")[0]
        self._namesakes = namesakes
        self._run = run_of(status_source(), self._epoch)
        self._is_ours = False  # the status that the broker had
        self._is_read = False
        sender.listeners.append(self._take)

    async def read(self) -> None:
        """Subscribe, and take what is retained."""
        connection, root = self._sender.connection, self._sender.root
        manifests = f"{root}/table/+/manifest", f"{root}/kernel-table/manifest"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_READ_S, self._sender.settings.timeout_s / 2)):
                try:
                    await connection.subscribe(*manifests, f"{root}/status")
                    self._sender.followed.add("status")
                except SubscriptionDeniedError as error:
                    self._namesakes.note_denied(error.topics[0])
                else:
                    # brokers send what is retained before they answer this
                    for topic in manifests:
                        await connection.unsubscribe(topic)
                    await connection.caught_up()
        self._is_read = True
        self.is_overwritten = False  # it is published next
        if not self._is_ours:
            self.manifests.clear()

    @property
    def must_stand_by(self) -> bool:
        """Whether another daemon has this node's name, and the better right to it."""
        return self._namesakes.look(self._run, time.monotonic())

    def _take(self, received: aiomqtt.Message) -> None:
        if not received.topic.value.startswith(f"{self._sender.root}/"):
            return
        message = read(received, self._root)
        if message is None:
            return
        table, _, kind = message.place.rpartition("/")
        if message.place == "status":
            self._take_status(message)
        elif kind == "manifest" and not self._is_read:
            self._take_manifest(message, table)

    def _take_status(self, message: ReceivedMessage | Cleared) -> None:
        is_foreign = self._namesakes.take(message, self._run, time.monotonic())
        # the last will of a connection before may come late
        if is_foreign or isinstance(message, Cleared) or message.data.get("state") == "offline":
            self.is_overwritten = True
        if not self._is_read:
            self._is_ours = isinstance(message, ReceivedMessage) and message.epoch == self._epoch

    def _take_manifest(self, message: ReceivedMessage | Cleared, table: str) -> None:
        if isinstance(message, Cleared) or message.epoch != self._epoch:
            return
        with contextlib.suppress(ValidationError):
            model = KernelTableManifest if table == "kernel-table" else TableManifest
            manifest = model.model_validate(message.data, extra="ignore")
            if len(manifest.digests) == len(manifest.sequences) == 2**manifest.depth:
                self.manifests[table] = manifest


class Delivery:
    """The work of one connection; it ends with it.

    Args:
        sender: Sends over the connection.
        retained: What is retained.
        own: What the broker has of it.
        hub: Takes the reports of what is lost.
        outbox: Where the events wait.
        status_source: What the daemon is at this moment.
        peers: Subscribes to other nodes.
        namesakes: Knows whether another daemon has this node's name.
        measures: Counts what the broker took.
    """

    def __init__(
        self,
        sender: Sender,
        retained: RetainedState,
        own: OwnTopics,
        *,
        hub: EventHub,
        outbox: Outbox,
        status_source: Callable[[], Status],
        peers: PeersConnection,
        namesakes: Namesakes,
        measures: DeliveryMeasures,
    ) -> None:
        self.sender = sender
        self.is_displaced = False
        """Whether the connection ends since another daemon has this node's name."""
        self._retained = retained
        self._own = own
        self._hub = hub
        self._outbox = outbox
        self._status_source = status_source
        self._peers = peers
        self._namesakes = namesakes
        self._measures = measures
        self._stopping = False
        self._refused: list[StoredEvent] = []  # for the moment
        self._has_refused = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()
        self._tried_at: dict[
            str, float
        ] = {}  # topic of held events to when it was last tried, in the loop's time
        self._unacknowledged: dict[int, None] = {}  # sequences, in order
        self._sent = outbox.acknowledged
        self._progress = asyncio.Event()

    async def run(self) -> NoReturn:
        """Deliver until the connection breaks.

        Raises:
            aiomqtt.MqttError: it has broken.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.sender.listen())
            await self._own.read()
            self._check_name()
            if (
                "status" not in self.sender.quarantine.suspects
            ):  # else others go first, to see whether it is to blame
                await self.sender.prepare("status", 0)
                self._retained.post_status(self._status())
            tasks.create_task(self._send_events())
            tasks.create_task(self._send_refused())
            tasks.create_task(self._send_states())
            tasks.create_task(self._send_held())
        raise AssertionError("the tasks end by raising")

    def _check_name(self) -> None:
        before = self._namesakes.alarm
        self.is_displaced = self._own.must_stand_by
        if self.is_displaced and self._namesakes.alarm is not None:
            raise NameTakenError(self._namesakes.alarm.detail)
        if self._namesakes.alarm != before:
            self._retained.send_all_again()
        elif self._own.is_overwritten:
            self._retained.send_again("status")
        self._own.is_overwritten = False

    def publish_stopping(self) -> None:
        """Publish that the daemon is about to end, now and with each status from here on."""
        self._stopping = True
        self._retained.post_status(self._status())

    async def publish_offline(self, status: Status) -> None:
        """Publish what tables have changed and the last status, and wait until everything is acknowledged."""
        self._retained.post_status(status.model_copy(update={"since": datetime.now(UTC)}))
        await self._retained.finish({target.name for target in self._status_source().targets})
        await self.sender.connection.quiet()

    def _status(self) -> Status:
        status = self._status_source()
        return status.model_copy(update={"state": "stopping"}) if self._stopping else status

    def refresh(self) -> None:
        """Send the state now rather than with the next tick."""
        self._retained.due.set()

    async def drained(self) -> None:
        """Wait until the broker has every event that was emitted up to now."""
        last = await self._outbox.flush()
        while self._outbox.acknowledged < last:
            self._progress.clear()
            await self._progress.wait()

    @property
    def troubles(self) -> list[str]:
        """What the broker refuses, one line each."""
        found: list[str] = []
        if self.sender.waits_for is not None:
            found.append(f"the broker takes no more for the moment ({self.sender.waits_for}): events wait")
        if (silent_s := self.sender.unanswered_s) is not None:
            found.append(
                f"the broker has acknowledged nothing for {silent_s:.0f} s: events wait; "
                "is it overloaded, or its disk full?"
            )
        if denials := self.sender.denials:
            held = self._outbox.held
            topics = ", ".join(
                f"{topic} ({answer}{f'; {held[topic].number} events are held' if topic in held else ''})"
                for topic, answer in denials.items()
            )
            found.append(
                f"the broker denies publishing to {self.sender.root}: {topics}; check its access rules and limits"
            )
        return found

    # ---- events ----

    async def _send_events(self) -> NoReturn:
        while True:
            for event in await self._outbox.read(self._sent, _BATCH):
                await self.sender.ready()
                await self._may_go_on.wait()
                self._unacknowledged[event.sequence] = None
                self._sent = event.sequence
                if event.is_held or event.topic in self._outbox.held:
                    self._event_answered(event, "denied")
                else:
                    await self._send(event, partial(self._event_answered, event))

    async def _send(self, event: StoredEvent, answered: Callable[[Answer], None]) -> None:
        named = (("type", event.type), ("target", event.target), ("prefix", event.prefix))
        payload = event.payload if not event.is_held else event.payload.removesuffix(b"}") + b',"late":true}'
        publication = Publication(
            f"{self.sender.root}/{event.topic}",
            payload,
            expiry_s=self.sender.settings.event_expiry_s,
            user=tuple((name, value) for name, value in named if value is not None),
        )
        await self.sender.send(event.topic, publication, answered)

    def _event_answered(self, event: StoredEvent, answer: Answer) -> None:
        match answer:
            case "taken":
                self._measures.published += 1
                self._outbox.take(event)
            case "wait":
                self._refused.append(event)
                self._may_go_on.clear()
                self._has_refused.set()
                return
            case "denied":
                self._outbox.hold(event)
            case "lost":
                self._outbox.deny(event)
        self._unacknowledged.pop(event.sequence, None)
        self._outbox.acknowledge(next(iter(self._unacknowledged), self._sent + 1) - 1)
        self._progress.set()

    async def _send_refused(self) -> NoReturn:
        """Send what was refused for the moment again, in order, before anything that follows."""
        while True:
            await self._has_refused.wait()
            await self.sender.connection.quiet()
            self._has_refused.clear()
            refused, self._refused = sorted(self._refused), []
            for event in refused:
                await self._send(event, partial(self._event_answered, event))
            await self.sender.connection.quiet()
            if not self._refused:
                self._may_go_on.set()

    async def _send_held(self) -> NoReturn:
        """Try each topic of held events now and then with the first of them; when it is taken, all others follow."""
        while True:
            now = asyncio.get_running_loop().time()
            for topic in list(self._outbox.held):
                if now - self._tried_at.get(topic, -DENIED_S) >= DENIED_S:
                    self._tried_at[topic] = now
                    await self._release(topic)
            await asyncio.sleep(min(TICK_S, DENIED_S))

    async def _release(self, topic: str) -> None:
        after, number = 0, 1  # one to try with
        self._outbox.releasing.add(topic)
        try:
            while events := await self._outbox.read_held(topic, after, number):
                answers: Counter[Answer] = Counter()
                for event in events:
                    await self._send(event, partial(self._held_answered, event, answers))
                    if answers["wait"] or answers["denied"]:  # what follows would overtake it
                        break
                await self.sender.connection.quiet()
                if answers["taken"] + answers["lost"] < len(events):
                    return
                after, number = events[-1].sequence, _BATCH
        finally:
            self._outbox.releasing.discard(topic)

    def _held_answered(self, event: StoredEvent, answers: Counter[Answer], answer: Answer) -> None:
        answers[answer] += 1
        if answer == "taken":
            self._measures.published += 1
            self._outbox.release(event)
        elif answer == "lost":
            self._outbox.drop_held(event)

    # ---- retained state and reports ----

    async def _send_states(self) -> NoReturn:
        while True:
            self._report_lost()
            self._check_name()
            for topic in self.sender.take_due():
                if not self._retained.send_again(topic):
                    self.sender.denied.pop(topic, None)
            self._retained.due.clear()
            await self._retained.publish(self._status)
            await self._peers.subscribe()
            # no `wait_for`: before Python 3.12 it loses a cancellation that comes when the event is set
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._retained.due.wait()

    def _report_lost(self) -> None:
        denial = self.sender.denied.get(REPORTS)
        if REPORTS in self._outbox.held or (
            denial is not None and asyncio.get_running_loop().time() - denial.at < DENIED_S
        ):
            return  # a report would only be held or lost as well
        for lost in self._outbox.unreported:
            since = datetime.fromtimestamp(lost.since, UTC)
            self._hub.emit(
                EventsLost(
                    count=lost.number,
                    first=lost.first,
                    last=lost.last,
                    since=since,
                    reason=lost.reason,
                    topics=lost.topics,
                )
            )
