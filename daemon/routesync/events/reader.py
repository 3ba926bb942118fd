"""The other side of the stream: follow what nodes publish, through broken connections."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import aiomqtt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from routesync.backoff import Backoff
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.events.access import Remedies, SubscriptionDeniedError, explain, read_password, tls_context
from routesync.events.connection import Connection
from routesync.events.models import TYPE_PREFIX
from routesync.events.session import FAILURES
from routesync.route import Prefix

SILENCE_S: Final = 5.0
"""The retained status of each node comes at once: what stays silent for so long has none, or denies it."""
READER_BACKOFF: Final = Backoff(first_s=0.5, most_s=10)


class Message(BaseModel):
    """A message as read: the attributes that are ours, and its data."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    source: str
    type: str
    time: datetime
    subject: str | None = None
    sequence: int | None = None
    epoch: str
    data: dict[str, JsonValue]
    text: str = Field(default="", exclude=True)
    """The whole message as it came, in one line."""

    @property
    def node(self) -> str:
        """The node that sent it."""
        return self.source.removeprefix("/routesync/")

    @property
    def kind(self) -> str:
        """The type without what all have in common, e.g. `route.withdrawn`."""
        return self.type.removeprefix(f"{TYPE_PREFIX}.").rpartition(".v")[0]


class Selection(NamedTuple):
    """Which messages are wanted; what is empty or None wants all."""

    nodes: Sequence[str] = ()
    kinds: Sequence[str] = ()  # globs, e.g. `route.*`
    within: Prefix | None = None  # a prefix that the message's lies in
    with_status: bool = False  # every status, whatever is selected else

    def topics(self, root: str) -> list[str]:
        """What to subscribe to: status and events."""
        return [f"{root}/{node}/{part}" for node in self.nodes or ("+",) for part in ("status", "event/#")]

    def wants(self, message: Message) -> bool:
        """Whether the message is wanted."""
        if self.with_status and message.kind == "status":
            return True
        if self.kinds and not any(fnmatchcase(message.kind, kind) for kind in self.kinds):
            return False
        if self.within is None:
            return True
        prefix = message.data.get("prefix")
        return isinstance(prefix, str) and self.within.covers(Prefix.parse(prefix))


async def follow(
    settings: MqttSettings,
    selection: Selection,
    trouble: Callable[[str | None], None],
    remedies: Remedies = Remedies(),  # noqa: B008 - immutable
) -> AsyncIterator[Message]:
    """The wanted messages of the nodes, for good: first the retained status of each, then what comes.

    What is no message of ours is passed over; so is what comes again (by its `id`) right after a reconnection.

    Args:
        settings: The broker.
        selection: What is wanted.
        trouble: Called with words when the connection is lost or cannot be had, or nothing comes; with None when it
            stands, or something comes after all.
        remedies: What to tell people to check.
    """
    client_id = f"routesync-watch-{secrets.token_hex(4)}"
    failures = 0
    last: dict[str, tuple[str, int]] = {}  # node to epoch and sequence
    while True:
        try:
            async with Connection(
                settings,
                client_id=client_id,
                password=read_password(settings),
                tls=tls_context(settings),
            ) as client:
                await _subscribe(client, selection.topics(settings.root))
                failures = 0
                trouble(None)
                async for message in _messages(client, trouble, _silence(settings, selection)):
                    if _is_news(message, last) and selection.wants(message):
                        yield message
        except (aiomqtt.MqttError, OSError, SettingError) as error:
            failures += 1
            trouble(explain(error, settings, client_id, remedies))
            await asyncio.sleep(READER_BACKOFF.delay_s(failures))


async def _subscribe(client: Connection, topics: list[str]) -> None:
    answers: dict[str, int] = {}
    for topic in topics:
        (answer,) = await client.subscribe(topic, qos=1)
        answers[topic] = answer if isinstance(answer, int) else answer.value
    if denied := [topic for topic, answer in answers.items() if answer >= FAILURES]:
        raise SubscriptionDeniedError(denied)


async def _messages(
    client: Connection, trouble: Callable[[str | None], None], silence: str
) -> AsyncIterator[Message]:
    """The messages of ours; while for long there is not a single one, that is trouble."""
    timer = asyncio.get_running_loop().call_later(SILENCE_S, trouble, silence)
    deadline = timer.when()
    heard = False
    try:
        async for received in client.messages:
            message = _read(received.payload)
            if message is None:
                continue
            if not heard:
                heard = True
                timer.cancel()
                if asyncio.get_running_loop().time() >= deadline:
                    trouble(None)
            yield message
    finally:
        timer.cancel()


def _silence(settings: MqttSettings, selection: Selection) -> str:
    """What it may mean that nothing comes: the retained status of any node would have."""
    user = f"user {settings.username!r}" if settings.username else "a client without a user name"
    return (
        f"connected to broker {settings.host}:{settings.port}, but nothing comes: no node publishes "
        f"{' or '.join(selection.topics(settings.root)[::2])}, or {user} may not read it"
    )


def _read(payload: object) -> Message | None:
    if not isinstance(payload, bytes):
        return None
    try:
        message = Message.model_validate_json(payload)
    except ValidationError:
        return None
    return message.model_copy(update={"text": " ".join(payload.decode().splitlines())})


def _is_news(message: Message, last: dict[str, tuple[str, int]]) -> bool:
    if message.sequence is None:
        return True
    epoch, sequence = last.get(message.node, ("", -1))
    if epoch == message.epoch and message.sequence <= sequence:
        return False
    last[message.node] = (message.epoch, message.sequence)
    return True
