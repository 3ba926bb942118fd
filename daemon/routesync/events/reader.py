"""The subscribers' side: read what nodes publish, once or for good, and trust none of it.

Anyone who may write to the broker may send anything. So here is the one place where messages are read: their size is
bounded, their times can be shown, their text has no control characters outside of JSON's own escapes. What does not
pass is no message of ours, and is passed over.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Final, NamedTuple

import aiomqtt
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from routesync.backoff import Backoff
from routesync.characters import json_line
from routesync.config.models import MqttSettings
from routesync.events.models import TYPE_PREFIX
from routesync.events.mqtt_client import (
    BROKER_ERRORS,
    LARGEST_PACKET,
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
_ANSWER_S: Final = 1.0
"""A broker that neither sends nor answers for so long has dropped the answer, and perhaps messages with it."""
_MOST_TRIES: Final = 10
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
    except ValidationError:
        return None
    return message.model_copy(update={"text": json_line(payload.decode(errors="replace"))})


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
    """A connection that only reads. Get one from `subscribing`."""

    def __init__(
        self,
        connection: MqttConnection,
        root: str,
        reopen: Callable[[], Awaitable[MqttConnection]] | None = None,
    ) -> None:
        self.connection = connection
        self._root = root
        self._reopen = reopen

    async def _resume(self) -> None:
        if self._reopen is not None:
            self.connection = await self._reopen()

    async def subscribe(self, *places: str) -> None:
        """Subscribe to `<node>/<place>` below the root.

        Raises:
            SubscriptionDeniedError: the broker denies some.
            aiomqtt.MqttError: the connection has broken.
        """
        await self.connection.subscribe(*(f"{self._root}/{place}" for place in places))

    async def unsubscribe(self, *places: str) -> None:
        """Take subscriptions back."""
        for place in places:
            await self.connection.unsubscribe(f"{self._root}/{place}")

    async def messages(self) -> AsyncIterator[ReceivedMessage | Cleared]:
        """What comes, until the connection breaks (`aiomqtt.MqttError`)."""
        async for received in self.connection.messages:
            if (message := read(received, self._root)) is not None:
                yield message

    async def retained(self, *places: str, quiet_s: float = QUIET_S) -> list[ReceivedMessage]:
        """Subscribe, and take all that comes.

        Nothing marks the end of what is retained. So it has come when nothing came for a while, and the broker has
        answered a request that was sent after the subscription: a broker, or a machine, that is busy is silent, too.
        A mosquitto whose reader is slow drops what exceeds the socket's buffer and 1,000 packets, and with it this
        answer. Then the session is resumed: the broker sends again what was not acknowledged (MQTT 5, 4.4).

        Raises:
            aiomqtt.MqttError: the connection has broken, or the broker does not answer.
        """
        loop = asyncio.get_running_loop()
        found: dict[tuple[str, str], ReceivedMessage] = {}
        heard_at = loop.time()

        async def take() -> None:
            nonlocal heard_at
            async for received in self.connection.messages:
                heard_at = loop.time()
                message = read(received, self._root)
                if isinstance(message, ReceivedMessage):
                    found[message.node, message.place] = message

        # no timeout around each message: one that is cancelled may be lost
        taking = asyncio.create_task(take())
        # while messages are taken: a full queue, or a drop, would be in the way of the answer
        request, looks, tries = self._send_request(*places), 0, 1
        try:
            while True:
                left_s = heard_at + quiet_s - loop.time()
                await asyncio.wait({taking}, timeout=max(left_s, _POLL_S))
                if taking.done():
                    taking.result()  # the connection has broken
                silent_s = 0.0 if self.connection.queued else loop.time() - heard_at
                error = request.exception() if request.done() else None
                if isinstance(error, SubscriptionDeniedError):
                    raise error
                is_answered = request.done() and error is None
                looks = looks + 1 if silent_s >= quiet_s and is_answered else 0
                if looks >= 2:  # the first look may come after a stall, before what came is taken
                    return [*found.values()]
                if silent_s >= quiet_s + _ANSWER_S and not is_answered:
                    if tries >= _MOST_TRIES:
                        await request
                    request.cancel()
                    taking.cancel()
                    await asyncio.gather(request, taking, return_exceptions=True)
                    await self._resume()
                    taking = asyncio.create_task(take())
                    request, heard_at, tries = self._send_request(), loop.time(), tries + 1
        finally:
            request.cancel()
            taking.cancel()
            await asyncio.gather(request, taking, return_exceptions=True)

    def _send_request(self, *places: str) -> asyncio.Task[None]:
        """Subscribe, and have the broker answer a later request: the end of a subscription that does not exist."""

        async def send() -> None:
            if places:
                await self.subscribe(*places)
            await self.connection.unsubscribe(f"{self._root}/-")  # nobody needs a right for that

        return asyncio.create_task(send())


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
        yield Subscriber(connection, settings.root, partial(open_, broker, resumes=True))


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

    An event that comes again (by its sequence) right after a reconnection is passed over.

    Args:
        settings: The broker.
        selection: What is wanted.
        trouble: Called with words when the connection is lost or cannot be had, when nothing comes, or when less may
            have come than there is; with None when that has ended.
        remedies: What to tell people to check.
    """
    failures = 0
    news = _News()
    while True:
        try:
            async with subscribing(settings, "watch") as subscriber:
                await subscriber.subscribe(*selection.places())
                failures = 0
                trouble(None)
                async for message in _watched(subscriber, settings, selection, trouble):
                    if isinstance(message, Cleared) or (news.take(message) and selection.wants(message)):
                        yield message
        except BROKER_ERRORS as error:
            failures += 1
            trouble(explain(error, settings, "routesync-watch", remedies))
            await asyncio.sleep(READER_BACKOFF.delay_s(failures))


async def _watched(
    subscriber: Subscriber, settings: MqttSettings, selection: Selection, trouble: Trouble
) -> AsyncIterator[ReceivedMessage | Cleared]:
    """What comes; none at all, or suspiciously many retained ones in the first seconds, is a trouble."""
    heard = retained = 0
    silent = False

    def look() -> None:
        nonlocal silent
        if not heard:
            silent = True
            trouble(_silence(settings, selection))
        elif is_suspicious(retained):
            trouble(describe_suspicion(retained, settings))

    timer = asyncio.get_running_loop().call_later(SILENCE_S, look)
    try:
        async for message in subscriber.messages():
            heard += 1
            if isinstance(message, ReceivedMessage):
                retained += message.retained
            if silent:
                silent = False
                trouble(None)
            yield message
    finally:
        timer.cancel()


def _silence(settings: MqttSettings, selection: Selection) -> str:
    """What it may mean that nothing comes: the retained status of any node would have."""
    user = f"user {settings.username!r}" if settings.username else "a client without a user name"
    topics = " or ".join(f"{settings.root}/{place}" for place in selection.places()[::2])
    return (
        f"connected to broker {settings.place}, but nothing comes: no node publishes {topics}, "
        f"or {user} may not read it"
    )


class _News:
    """Knows up to where the events of each node have come."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}  # node to epoch and sequence

    def take(self, message: ReceivedMessage) -> bool:
        """Whether it is new. One that the node held for long comes late, and is."""
        if message.sequence is None or message.late:
            return True
        epoch, sequence = self._last.pop(message.node, ("", -1))
        news = epoch != message.epoch or message.sequence > sequence
        self._last[message.node] = (message.epoch, message.sequence if news else sequence)
        if len(self._last) > MOST_NODES:
            del self._last[next(iter(self._last))]  # the one that was silent for longest
        return news
