"""Sends messages over one connection, and learns which topics the broker denies.

By MQTT 5 a denied publish is acknowledged with a reason code. By 3.1.1 it is acknowledged like any other (3.3.5), so
there the sender reads back a message of its own: after each connect it subscribes to `status` and to one topic of each
group of events and of each target's table, before it sends the first message there. A message that does not come back
after its acknowledgement was denied, or may not be read: 3.1.1 cannot tell which.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, NoReturn

import aiomqtt
import structlog

from routesync.config.models import MqttSettings
from routesync.events.models import EventsLost
from routesync.events.mqtt_client import MqttConnection, Publication, SubscriptionDeniedError
from routesync.events.outbox import Outbox

log = structlog.get_logger("routesync.events")

DENIED_S: Final = 60.0
"""Retained state that the broker denied is sent again after this; an event's topic is not named as denied for
longer than ten times this after the last such event."""
REPORTS: Final = EventsLost.topic()
_UNSEEN: Final = "what is sent there does not come back: it may not be written or, by MQTT 3.1.1, not be read"


class Denial(NamedTuple):
    """The broker's answer, and when it last came, in the loop's time."""

    answer: str
    at: float


class Sender:
    """Sends over one connection, and ends with it.

    Args:
        connection: The connection, open.
        settings: The broker.
        root: `<root>/<node>`; all topics here are below it.
        outbox: Is informed of events that were lost without an answer.
    """

    def __init__(self, connection: MqttConnection, settings: MqttSettings, root: str, outbox: Outbox) -> None:
        self.settings = settings
        self.root = root
        self.connection = connection
        self.denied: dict[str, Denial] = {}
        """Topics that the broker denies."""
        self._outbox = outbox
        self._reads_back = not connection.is_v5
        self._chosen: dict[str, str] = {}  # group of topics to the one of it that is checked
        self._checked: set[str] = set()  # topics that need no check now
        self._echoes: dict[str, asyncio.Event] = {}  # topic to whether its message came back
        self._unanswered: set[str] = set()  # those of them whose message is not acknowledged yet
        self._checks: set[asyncio.Task[None]] = set()

    async def listen(self) -> NoReturn:
        """Take what comes back, until the connection breaks.

        Raises:
            aiomqtt.MqttError: it has broken.
        """
        try:
            async for message in self.connection.messages:
                echo = self._echoes.get(message.topic.value.removeprefix(f"{self.root}/"))
                if echo is not None and not message.retain:
                    echo.set()
        finally:
            for check in self._checks:
                check.cancel()
        raise AssertionError("the iterator ends by raising")

    async def send(
        self, topic: str, publication: Publication, answered: Callable[[str | None], None] | None = None
    ) -> None:
        """Send as soon as the window has room; see `post`."""
        await self.connection.room()
        await self.prepare(topic)
        self.post(topic, publication, answered)

    async def prepare(self, topic: str) -> None:
        """Subscribe to the topic where its next message is to be read back.

        Raises:
            aiomqtt.MqttError: the connection has broken.
        """
        if not self._reads_back:
            return
        chosen = self._chosen.setdefault("/".join(topic.split("/")[:2]), topic)
        if topic != chosen or topic in self._checked:
            return
        self._checked.add(topic)
        try:
            await self.connection.subscribe(f"{self.root}/{topic}")
        except SubscriptionDeniedError:
            self._reads_back = False
            log.warning(
                "broker_denials_unseen",
                topic=f"{self.root}/{topic}",
                reason="by MQTT 3.1.1 they only show when messages are read back, and the broker denies that",
                remedy="allow reading, or set mqtt.protocol to 5.0",
            )
            return
        self._echoes[topic] = asyncio.Event()
        self._unanswered.add(topic)

    def post(
        self, topic: str, publication: Publication, answered: Callable[[str | None], None] | None = None
    ) -> None:
        """Send at once.

        Args:
            topic: The publication's, below the root.
            publication: What to send.
            answered: Called with the broker's answer: None, or its words when it denied the message.
        """
        self.connection.post(publication, partial(self._note_answer, topic, answered))

    def _note_answer(
        self, topic: str, answered: Callable[[str | None], None] | None, denial: str | None
    ) -> None:
        if denial is not None:
            self._note_denial(topic, denial)
        elif self.connection.is_v5:
            self._note_taken(topic)
        elif topic in self._unanswered:
            self._unanswered.remove(topic)
            check = asyncio.create_task(self._check_echo(topic))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        if answered is not None:
            answered(denial)

    async def _check_echo(self, topic: str) -> None:
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await self._echoes[topic].wait()
        except TimeoutError:
            self._note_denial(topic, _UNSEEN)
            if topic.startswith("event/") and topic != REPORTS:  # a report of it could only be denied again
                self._outbox.lose_unknown("denied")
        else:
            self._note_taken(topic)
        del self._echoes[topic]
        with contextlib.suppress(aiomqtt.MqttError):  # the connection has broken, which others notice
            await self.connection.unsubscribe(f"{self.root}/{topic}")
        if topic in self.denied:
            await asyncio.sleep(DENIED_S)
            self._checked.discard(topic)

    # ---- what the broker denies ----

    @property
    def denials(self) -> dict[str, str]:
        """What the broker denies, with its words; the buckets of a target's table are one."""
        return {_place(topic): denial.answer for topic, denial in sorted(self.denied.items())}

    def _note_denial(self, topic: str, answer: str) -> None:
        if _place(topic) not in self.denials:
            log.error("broker_denies_topic", topic=f"{self.root}/{_place(topic)}", answer=answer)
        self.denied[topic] = Denial(answer, asyncio.get_running_loop().time())

    def _note_taken(self, topic: str) -> None:
        if self.denied and self.denied.pop(topic, None) is not None and _place(topic) not in self.denials:
            log.info("broker_takes_topic", topic=f"{self.root}/{_place(topic)}")

    def take_due(self) -> list[str]:
        """The denied places (`status`, `table/<target>/#`) whose retained state is to be sent again now."""
        now = asyncio.get_running_loop().time()
        due: list[str] = []
        for topic, denial in list(self.denied.items()):
            if topic.startswith("event/"):
                if now - denial.at > 10 * DENIED_S:
                    del self.denied[topic]
            elif now - denial.at > DENIED_S:
                self.denied[topic] = denial._replace(at=now)
                due.append(_place(topic))
        return due


def _place(topic: str) -> str:
    """The topic that a denial is noted by: the buckets of a target's table share one."""
    return f"{topic.rpartition('/')[0]}/#" if topic.startswith("table/") else topic
