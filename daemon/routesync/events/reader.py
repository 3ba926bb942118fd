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
from routesync.events.models import TYPE_PREFIX
from routesync.events.mqtt_client import MqttConnection, Remedies, explain
from routesync.route import Prefix

SILENCE_S: Final = 5.0
"""The retained status of each node comes at once: what stays silent for so long has none, or denies it."""
READER_BACKOFF: Final = Backoff(first_s=0.5, most_s=10)


class ReceivedMessage(BaseModel):
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

    def wants(self, message: ReceivedMessage) -> bool:
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
) -> AsyncIterator[ReceivedMessage]:
    """The wanted messages of the nodes, for good: first the retained status of each, then what comes.

    What is no message of ours is passed over; so is what comes again (by its `id`) right after a reconnection.

    Args:
        settings: The broker.
        selection: What is wanted.
        trouble: Called with a message when the connection is lost or cannot be made, or nothing comes; with None when
            it is made, or something comes after all.
        remedies: Where the settings are from.
    """
    client_id = f"routesync-watch-{secrets.token_hex(4)}"
    failures = 0
    last: dict[str, tuple[str, int]] = {}  # node to epoch and sequence
    while True:
        try:
            async with MqttConnection(settings, client_id=client_id) as connection:
                await connection.subscribe(*selection.topics(settings.root))
                failures = 0
                trouble(None)
                async for message in _messages(connection, trouble, _silence(settings, selection)):
                    if _is_news(message, last) and selection.wants(message):
                        yield message
        except (aiomqtt.MqttError, OSError, SettingError) as error:
            failures += 1
            trouble(explain(error, settings, client_id, remedies))
            await asyncio.sleep(READER_BACKOFF.delay_s(failures))


async def _messages(
    connection: MqttConnection, trouble: Callable[[str | None], None], silence: str
) -> AsyncIterator[ReceivedMessage]:
    """The messages of ours; while for long there is not a single one, that is trouble."""
    timer = asyncio.get_running_loop().call_later(SILENCE_S, trouble, silence)
    deadline = timer.when()
    heard = False
    try:
        async for received in connection.messages:
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


def _read(payload: object) -> ReceivedMessage | None:
    if not isinstance(payload, bytes):
        return None
    try:
        message = ReceivedMessage.model_validate_json(payload)
    except ValidationError:
        return None
    return message.model_copy(update={"text": " ".join(payload.decode().splitlines())})


def _is_news(message: ReceivedMessage, last: dict[str, tuple[str, int]]) -> bool:
    if message.sequence is None:
        return True
    epoch, sequence = last.get(message.node, ("", -1))
    if epoch == message.epoch and message.sequence <= sequence:
        return False
    last[message.node] = (message.epoch, message.sequence)
    return True
