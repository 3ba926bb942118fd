"""The other side of the stream: follow what nodes publish, through broken connections."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

import aiomqtt
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from routesync.events.access import explain, read_password, tls_context
from routesync.events.backoff import Backoff
from routesync.events.models import TYPE_PREFIX
from routesync.route import Prefix
from routesync.settings import MqttSettings
from routesync.settings.notation import NotationError

READER_BACKOFF = Backoff(first_s=0.5, limit_s=10, steady_s=10)


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

    def topics(self, root: str) -> list[str]:
        """What to subscribe to: status and events."""
        return [f"{root}/{node}/{part}" for node in self.nodes or ("+",) for part in ("status", "event/#")]

    def wants(self, message: Message) -> bool:
        """Whether the message is wanted."""
        if self.kinds and not any(fnmatchcase(message.kind, kind) for kind in self.kinds):
            return False
        if self.within is None:
            return True
        prefix = message.data.get("prefix")
        return isinstance(prefix, str) and self.within.covers(Prefix.parse(prefix))


async def follow(
    settings: MqttSettings, selection: Selection, trouble: Callable[[str | None], None]
) -> AsyncIterator[Message]:
    """The wanted messages of the nodes, for good: first the retained status of each, then what comes.

    What is no message of ours is passed over; so is what comes again (by its `id`) right after a reconnection.

    Args:
        settings: The broker.
        selection: What is wanted.
        trouble: Called with words when the connection is lost or cannot be had, with None when it stands.
    """
    client_id = f"routesync-watch-{secrets.token_hex(4)}"
    failures = 0
    last: dict[str, tuple[str, int]] = {}  # node to epoch and sequence
    while True:
        try:
            async with aiomqtt.Client(
                settings.host,
                settings.port,
                username=settings.username,
                password=read_password(settings),
                identifier=client_id,
                protocol=aiomqtt.ProtocolVersion.V5
                if settings.protocol == "5.0"
                else aiomqtt.ProtocolVersion.V311,
                timeout=settings.timeout_s,
                keepalive=settings.keepalive_s,
                tls_context=tls_context(settings),
            ) as client:
                for topic in selection.topics(settings.root):
                    await client.subscribe(topic, qos=1)
                failures = 0
                trouble(None)
                async for received in client.messages:
                    message = _read(received.payload)
                    if message is None or not _is_news(message, last) or not selection.wants(message):
                        continue
                    yield message
        except (aiomqtt.MqttError, OSError, NotationError) as error:
            failures += 1
            trouble(explain(error, settings, client_id))
            await asyncio.sleep(READER_BACKOFF.delay_s(failures))


def _read(payload: object) -> Message | None:
    if not isinstance(payload, bytes):
        return None
    try:
        return Message.model_validate_json(payload)
    except ValidationError:
        return None


def _is_news(message: Message, last: dict[str, tuple[str, int]]) -> bool:
    if message.sequence is None:
        return True
    epoch, sequence = last.get(message.node, ("", -1))
    if epoch == message.epoch and message.sequence <= sequence:
        return False
    last[message.node] = (message.epoch, message.sequence)
    return True
