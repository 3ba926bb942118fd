"""The subscribers' side: read what nodes publish, once or for good, and trust none of it.

Anyone who may write to the broker may send anything. So here is the one place where messages are read: their size is
bounded, their times can be shown, their numbers are finite, their text has no control characters outside of JSON's own
escapes. What does not pass is no message of ours, and is passed over.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from math import isfinite
from typing import Annotated, Any, Final, NamedTuple

import aiomqtt
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from routesync.backoff import Backoff
from routesync.characters import json_line
from routesync.config.models import MqttSettings
from routesync.events.models import TYPE_PREFIX
from routesync.events.mqtt_client import (
    BROKER_ERRORS,
    LARGEST_PACKET,
    WINDOW,
    MqttConnection,
    Remedies,
    SubscriptionDeniedError,
    explain,
)
from routesync.route import Prefix

SILENCE_S: Final = 5.0
"""The retained status of each node comes at once: what stays silent for so long has none, or denies it."""
QUIET_S: Final = 1.0
"""What is retained follows the subscription without a pause as long as this."""
_POLL_S: Final = 0.05
_ANSWER_S: Final = 2.0
"""A broker that neither sends nor answers for so long has dropped the answer, and perhaps messages with it."""
_LEAST_QUEUE: Final = 100
"""Messages that each broker's queue has room for."""
_MOST_TRIES: Final = 3
"""A session is resumed so often in vain."""
_SESSION_S: Final = 10
"""How long the broker keeps the session of a reader that resumes it, or has gone."""
MOST_NODES: Final = 20_000
"""Nodes that are remembered, at most."""
READER_BACKOFF: Final = Backoff(first_s=0.5, most_s=10)
_DEFAULT_QUEUES: Final = (range(1000, 1100), range(2048, 2100))
"""What brokers deliver to one subscription by default: their queue of 1,000 or 2,048, and what is in flight."""


def _showable(time: datetime) -> datetime:
    if not 1970 <= time.year < 9999:
        raise ValueError("no time of a message")
    return time.astimezone(UTC)


class ReceivedMessage(BaseModel):
    """A message as read: the attributes that are ours, and its data."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    source: str
    type: str
    time: Annotated[AwareDatetime, AfterValidator(_showable)]
    subject: str | None = None
    sequence: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    epoch: str
    late: bool = False
    data: dict[str, JsonValue]
    text: str = Field(default="", exclude=True)
    """The whole message as it came, in one line."""
    place: str = Field(default="", exclude=True)
    """Its topic below `<root>/<node>/`; "" where it did not come from a broker."""
    retained: bool = Field(default=False, exclude=True)
    expiry_s: int | None = Field(default=None, exclude=True)
    """What is left of its expiry: by the broker's clock, it was published `expiry` minus this ago."""

    @property
    def node(self) -> str:
        """The node that sent it."""
        return self.source.removeprefix("/routesync/")

    @property
    def kind(self) -> str:
        """The type without what all have in common, e.g. `route.withdrawn`."""
        return self.type.removeprefix(f"{TYPE_PREFIX}.").rpartition(".v")[0]


class Cleared(NamedTuple):
    """A retained topic was cleared: the node has another name now, or lost a target."""

    node: str
    place: str


def read_text(payload: bytes) -> ReceivedMessage | None:
    """Read a message, wherever it is from; None: it is none of ours."""
    if len(payload) > LARGEST_PACKET:
        return None
    try:
        message = ReceivedMessage.model_validate_json(payload)
        text = payload.decode()
        json.loads(text, parse_float=_finite, parse_constant=_finite)
    except ValueError:
        return None
    return message.model_copy(update={"text": json_line(text)})


def _finite(text: str) -> float:
    """Read a number that is no integer; JSON has neither infinity nor NaN, though parsers take and programs write them.

    Raises:
        ValueError: it is one of these, or beyond all floats.
    """
    if not isfinite(number := float(text)):
        raise ValueError(text)
    return number


def read(received: aiomqtt.Message, root: str) -> ReceivedMessage | Cleared | None:
    """Read what came from a broker. The topic says whose it is: access rules are about topics."""
    node, _, place = received.topic.value.removeprefix(f"{root}/").partition("/")
    if not received.payload:
        return Cleared(node, place)
    message = read_text(received.payload)
    if message is None or message.node != node:
        return None
    expiry_s = getattr(received.properties, "MessageExpiryInterval", None)
    return message.model_copy(update={"place": place, "retained": received.retain, "expiry_s": expiry_s})


class Subscriber:
    """A connection that only reads. Get one from `subscribing`.

    Attributes:
        passed_over: retained topics below the root whose message is none of ours; the first of them.
    """

    def __init__(
        self,
        connection: MqttConnection,
        root: str,
        resume: Callable[[], Awaitable[MqttConnection]] | None = None,
    ) -> None:
        self.connection = connection
        self.passed_over: set[str] = set()
        self._root = root
        self._resume = resume  # the session, over another connection; None: there is none, as by MQTT 3.1.1
        self._came = 0  # retained messages over this connection
        self._came_at = 0.0  # the last of them, in the loop's time

    async def subscribe(self, *places: str) -> None:
        """Subscribe to `<node>/<place>` below the root.

        Raises:
            SubscriptionDeniedError: the broker denies some.
            aiomqtt.MqttError: the connection has broken.
        """
        await self.connection.subscribe(*(f"{self._root}/{place}" for place in places))

    async def messages(
        self, *places: str, complete: Callable[[], None]
    ) -> AsyncIterator[ReceivedMessage | Cleared]:
        """Subscribe, and yield what comes, until the connection breaks.

        For a slow reader a mosquitto drops what exceeds its queue and the socket's buffer, its answers among it. So
        when more came than fits a queue, or no answer, the session is resumed: then the broker sends again what was not
        acknowledged (MQTT 5, 4.4). It may drop some of that as well, so this is repeated until less comes.

        Args:
            places: What to subscribe to.
            complete: Called when the broker has sent all that is retained, as far as can be known.

        Raises:
            SubscriptionDeniedError: the broker denies some.
            aiomqtt.MqttError: the connection has broken.
            TimeoutError: the broker does not answer.
        """
        unsent, fruitless = [*places], 0
        upcoming: asyncio.Future[aiomqtt.Message]

        async def arriving(
            until: asyncio.Task[bool] | None = None,
        ) -> AsyncIterator[ReceivedMessage | Cleared]:
            """What comes; if this is to end, until then and until nothing waits."""
            nonlocal upcoming
            while True:
                if until is not None:
                    either: set[asyncio.Future[Any]] = {upcoming, until}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not upcoming.done():
                        return
                received = await upcoming
                if received.retain:
                    self._came, self._came_at = self._came + 1, asyncio.get_running_loop().time()
                upcoming = asyncio.ensure_future(anext(stream))
                if (message := read(received, self._root)) is not None:
                    yield message
                elif received.retain and len(self.passed_over) < MOST_NODES:
                    self.passed_over.add(received.topic.value.removeprefix(f"{self._root}/"))

        while True:
            self._came, self._came_at = 0, asyncio.get_running_loop().time()
            stream = aiter(self.connection.messages)
            # no timeout around each message: one that is cancelled may be lost
            upcoming = asyncio.ensure_future(anext(stream))
            answered = asyncio.create_task(self._is_answered(unsent))
            try:
                async for message in arriving(until=answered):
                    yield message
                if answered.result() and (self._came < _LEAST_QUEUE or self._resume is None):
                    complete()
                    async for message in arriving():
                        yield message
                fruitless = 0 if self._came else fruitless + 1
                if self._resume is None or fruitless == _MOST_TRIES:
                    raise TimeoutError
                self.connection = await self._resume()
                if not self.connection.is_resumed:
                    unsent, self._resume = [*places], None
                with suppress(aiomqtt.MqttError):  # what the former connection has brought
                    async for message in arriving():
                        yield message
            finally:
                upcoming.cancel()
                answered.cancel()
                await asyncio.gather(upcoming, answered, return_exceptions=True)

    async def _is_answered(self, unsent: list[str]) -> bool:
        """Subscribe; return whether the broker has answered, to a later request too, and all before that is taken."""

        async def ask() -> None:
            while unsent:
                await self.subscribe(unsent.pop(0))
            # from a topic that is not subscribed to: nobody needs a right for that
            await self.connection.unsubscribe(f"{self._root}/-")
            await self.connection.caught_up()

        asking = asyncio.create_task(ask())
        try:
            while not asking.done():
                if self._silent_s > _ANSWER_S:
                    return False
                await asyncio.wait({asking}, timeout=_POLL_S)
            asking.result()
        except SubscriptionDeniedError:
            raise
        except aiomqtt.MqttError:  # it did not come in time
            return False
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return True

    @property
    def _silent_s(self) -> float:
        """For how long nothing that is retained has come."""
        return 0.0 if self.connection.queued else asyncio.get_running_loop().time() - self._came_at

    async def retained(self, *places: str, quiet_s: float = QUIET_S) -> list[ReceivedMessage]:
        """Subscribe, and take all that is retained, and what comes meanwhile.

        Nothing marks the end of it. So it has come when the broker has answered, and nothing of it came for a while: a
        broker, or a machine, that is busy is silent, too.

        Raises:
            As `messages`.
        """
        found: dict[tuple[str, str], ReceivedMessage] = {}
        is_complete = asyncio.Event()

        async def take() -> None:
            async for message in self.messages(*places, complete=is_complete.set):
                if isinstance(message, ReceivedMessage):
                    found[message.node, message.place] = message

        taking = asyncio.create_task(take())
        try:
            looks = 0
            while looks < 2:  # the first look may come after a stall, before what came is taken
                await asyncio.wait({taking}, timeout=max(quiet_s - self._silent_s, _POLL_S))
                if taking.done():
                    await taking  # the connection has broken
                looks = looks + 1 if is_complete.is_set() and self._silent_s >= quiet_s else 0
            return [*found.values()]
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


@asynccontextmanager
async def subscribing(settings: MqttSettings, purpose: str) -> AsyncIterator[Subscriber]:
    """Connect for the length of a `with` block. `purpose` is a part of the client's name at the broker.

    Of several hosts the first that can be used is taken, in random order.

    Raises:
        aiomqtt.MqttError, OSError, SettingError: there is no connection; see `mqtt_client.explain`.
    """
    client_id = f"routesync-{purpose}-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:

        async def open_(broker: MqttSettings, *, resumes: bool) -> MqttConnection:
            await stack.aclose()
            connection = MqttConnection(broker, client_id=client_id, session_s=_SESSION_S, resumes=resumes)
            return await stack.enter_async_context(connection)

        *others, last = random.sample(settings.brokers, k=len(settings.brokers))
        for broker in others:
            with suppress(*BROKER_ERRORS):
                connection = await open_(broker, resumes=False)
                break
        else:
            broker = last
            connection = await open_(broker, resumes=False)
        resume = partial(open_, broker, resumes=True) if connection.is_v5 else None
        yield Subscriber(connection, settings.root, resume)


def is_suspicious(messages: int) -> bool:
    """Whether so many retained messages may be all that the broker's queue had room for, and not all that there are."""
    return any(messages in numbers for numbers in _DEFAULT_QUEUES)


def describe_suspicion(messages: int, settings: MqttSettings) -> str:
    """Say what it may mean that so many came."""
    remedy = "set mqtt.protocol to 5.0, or " if settings.protocol != "5.0" else ""
    return (
        f"{messages} retained messages came, which is what a broker's queue holds by default: there may be more; "
        f"{remedy}raise the broker's limit (mosquitto: max_queued_messages)"
    )


class Selection(NamedTuple):
    """Which messages are wanted; what is empty or None wants all."""

    nodes: Sequence[str] = ()
    kinds: Sequence[str] = ()  # globs, e.g. `route.*`
    within: Prefix | None = None  # a prefix that the message's lies in
    with_status: bool = False  # every status, whatever is selected else

    def places(self) -> list[str]:
        """What to subscribe to, below the root: status and events."""
        return [f"{node}/{part}" for node in self.nodes or ("+",) for part in ("status", "event/#")]

    def wants(self, message: ReceivedMessage) -> bool:
        """Whether the message is wanted."""
        if self.with_status and message.kind == "status":
            return True
        if self.kinds and not any(fnmatchcase(message.kind, kind) for kind in self.kinds):
            return False
        if self.within is None:
            return True
        prefix = message.data.get("prefix")
        try:
            return isinstance(prefix, str) and self.within.covers(Prefix.parse(prefix))
        except ValueError:
            return False


Trouble = Callable[[str | None], None]


async def follow(
    settings: MqttSettings,
    selection: Selection,
    trouble: Trouble,
    remedies: Remedies = Remedies(),  # noqa: B008 - immutable
) -> AsyncIterator[ReceivedMessage | Cleared]:
    """The wanted messages of the nodes, for good: first the retained status of each, then what comes.

    An event that comes again (by its sequence) is passed over.

    Args:
        settings: The broker.
        selection: What is wanted.
        trouble: Called with words when the connection is lost or cannot be had, when nothing comes, or when less may
            have come than there is; with None when that has ended.
        remedies: What to tell people to check.
    """
    failures = 0
    news = _News()

    def note_connected() -> None:
        nonlocal failures
        failures = 0
        trouble(None)

    while True:
        try:
            async with subscribing(settings, "watch") as subscriber:
                async for message in _watched(subscriber, settings, selection, trouble, note_connected):
                    if isinstance(message, Cleared) or (news.take(message) and selection.wants(message)):
                        yield message
        except BROKER_ERRORS as error:
            failures += 1
            trouble(explain(error, settings, "routesync-watch", remedies))
            await asyncio.sleep(READER_BACKOFF.delay_s(failures))


async def _watched(
    subscriber: Subscriber,
    settings: MqttSettings,
    selection: Selection,
    trouble: Trouble,
    note_connected: Callable[[], None],
) -> AsyncIterator[ReceivedMessage | Cleared]:
    """What comes; none at all, or suspiciously many retained ones in the first seconds, is a trouble."""
    heard = retained = 0
    silent = False
    timer: asyncio.TimerHandle | None = None

    def complete() -> None:
        nonlocal timer
        note_connected()
        timer = asyncio.get_running_loop().call_later(SILENCE_S, look)

    def look() -> None:
        nonlocal silent
        if not heard:
            silent = True
            trouble(_silence(settings, selection))
        elif is_suspicious(retained):
            trouble(describe_suspicion(retained, settings))

    try:
        async for message in subscriber.messages(*selection.places(), complete=complete):
            heard += 1
            if isinstance(message, ReceivedMessage):
                retained += message.retained
            if silent:
                silent = False
                trouble(None)
            yield message
    finally:
        if timer is not None:
            timer.cancel()


def _silence(settings: MqttSettings, selection: Selection) -> str:
    """What it may mean that nothing comes: the retained status of any node would have."""
    topics = " or ".join(f"{settings.root}/{place}" for place in selection.places()[::2])
    return (
        f"connected to broker {settings.place}, but nothing comes: no node publishes {topics}, "
        f"or {settings.user} may not read it"
    )


class _Seen(NamedTuple):
    """Which numbers of an epoch have come: all below `end`, but for the gaps."""

    epoch: str
    end: int = 0
    gaps: tuple[range, ...] = ()  # in order


class _News:
    """Knows which events of each node have come.

    Not only up to where: what a broker refused for the moment comes after as many later events as are in flight at a
    time, and these leave no more gaps than are remembered.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Seen] = {}

    def take(self, message: ReceivedMessage) -> bool:
        """Whether it is new. One that the node held for long may be in a gap that was forgotten, and counts as new."""
        if message.sequence is None:
            return True
        seen = self._nodes.pop(message.node, None)
        if seen is None or seen.epoch != message.epoch:
            seen = _Seen(message.epoch)
        gaps = [*seen.gaps, range(seen.end, max(seen.end, message.sequence + 1))]
        at = next((at for at, gap in enumerate(gaps) if message.sequence in gap), None)
        if at is not None:
            below, above = range(gaps[at].start, message.sequence), range(message.sequence + 1, gaps[at].stop)
            gaps[at : at + 1] = [below, above]
        gaps = [gap for gap in gaps if gap][-WINDOW:]
        self._nodes[message.node] = _Seen(message.epoch, max(seen.end, message.sequence + 1), tuple(gaps))
        if len(self._nodes) > MOST_NODES:
            del self._nodes[next(iter(self._nodes))]  # the one that was silent for longest
        return at is not None or message.late
