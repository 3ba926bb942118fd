"""Sends messages over one connection, and learns which of them the broker refuses.

What a refusal means (MQTT 5, 3.4.2.1), by its reason code:

- 0x97 (quota exceeded), 0x83, 0x80 and unknown ones: for the moment. Everything waits: a second at first, later 30.
  Six times in a row for one topic, a code other than 0x97 counts as a denial.
- 0x87 (not authorized): the topic is denied. It is tried again every 30 seconds.
- 0x90, 0x99 and a message that exceeds the announced limit: this message will never be taken.

By 3.1.1 a denied publish is acknowledged like any other (3.3.5), so there the sender reads back a message of its own:
after each connect it subscribes to `status` and to one topic of each group of events and of each target's table, before
it sends the first message there. A message that does not come back after its acknowledgement was denied, or may not be
read: 3.1.1 cannot tell which.

Some brokers only close the connection (RabbitMQ for a denied topic, a broker of 3.1.1 for a message that is too large).
`Quarantine` finds the message by sending what was in flight one by one, and sets it aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, NamedTuple, NoReturn

import aiomqtt
import structlog

from routesync.backoff import doubled_s
from routesync.config.models import MqttSettings
from routesync.events.models import EventsLost
from routesync.events.mqtt_client import (
    TOO_LARGE,
    MqttConnection,
    Publication,
    Refusal,
    SubscriptionDeniedError,
)
from routesync.events.outbox import Outbox

log = structlog.get_logger("routesync.events")

DENIED_S: Final = 30.0
"""What the broker denied is tried again after this."""
PAUSE_S: Final = 1.0
MOST_PAUSE_S: Final = 30.0
ASIDE_S: Final = 60.0
MOST_ASIDE_S: Final = 3600.0
"""A message that the connection broke with is tried again seldom: each time may cost a connection."""
UNANSWERED_S: Final = 30.0
"""A broker that acknowledges nothing for so long, although something waits for it, is a trouble."""
LARGE: Final = 2048
"""Bytes: a message on which the connection breaks is too large for the broker; below this size, its topic is denied."""
REPORTS: Final = EventsLost.topic()
_UNSEEN: Final = "what is sent there does not come back: it may not be written or, by MQTT 3.1.1, not be read"
_DENIED: Final = 0x87
_QUOTA: Final = 0x97
_FINAL: Final = (0x90, 0x99, TOO_LARGE)
_MOST_UNCLEAR: Final = 6

Answer = Literal["taken", "wait", "denied", "lost"]
"""`wait`: send it again; `denied`: hold it until its topic is allowed; `lost`: it will never be taken."""


class Denial(NamedTuple):
    """The broker's answer, and when it last came, in the loop's time."""

    answer: str
    at: float


class _Aside(NamedTuple):
    size: int  # bytes
    times: int
    retry_at: float


class Quarantine:
    """Finds messages on which the connection breaks; outlives the connections.

    After a connection broke, the topics that were in flight are suspects: the next connection sends their first message
    alone. If that breaks, too, after the broker took other messages, the topic is set aside, and with it those that are
    denied together (`_place`), since each would cost a connection; or, if the message is large, all messages that are
    not much smaller.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.suspects: set[str] = set()
        self._aside: dict[str, _Aside] = {}  # by `_place`; "" for what is too large
        self._clock = clock

    def find(self, topic: str, size: int) -> str | None:
        """Why this message is not to be sent now; None: send it."""
        for key, least in (("", self.limit), (_place(topic), 0)):
            aside = self._aside.get(key)
            if aside is None or least is None or size < least or self._clock() >= aside.retry_at:
                continue
            what = f"a message of {aside.size} bytes" if not key else "a message of this topic"
            return f"the broker closes the connection when it gets {what}"
        return None

    @property
    def limit(self) -> int | None:
        """The size in bytes from which on messages seem to be too large for the broker; None: none were."""
        aside = self._aside.get("")
        return None if aside is None else aside.size * 3 // 4

    def isolates(self, topic: str, size: int) -> bool:
        """Whether this message is to be sent alone."""
        return (
            topic in self.suspects
            or _place(topic) in self._aside
            or ((limit := self.limit) is not None and size >= limit)
        )

    def note_taken(self, topic: str, size: int) -> None:
        """The broker answered to a message that was sent alone."""
        self.suspects.discard(topic)
        self._aside.pop(_place(topic), None)
        if (limit := self.limit) is not None and size >= limit:
            del self._aside[""]

    def note_break(self, unanswered: Mapping[str, int], *, took_others: bool) -> str | None:
        """The connection broke.

        Args:
            unanswered: What the broker had not answered: topic to size in bytes.
            took_others: Whether the broker took other messages over this connection.

        Returns:
            The topic of the message that is set aside now.
        """
        if len(unanswered) == 1 and took_others:
            ((topic, size),) = unanswered.items()
            if self.isolates(topic, size):
                self.suspects.discard(topic)
                key = "" if size >= LARGE else _place(topic)
                times = self._aside[key].times + 1 if key in self._aside else 1
                wait_s = doubled_s(times, ASIDE_S, MOST_ASIDE_S)
                self._aside[key] = _Aside(size, times, self._clock() + wait_s)
                return topic
        self.suspects = {*unanswered}
        return None


class Sender:
    """Sends over one connection, and ends with it.

    Args:
        connection: The connection, open.
        settings: The broker.
        root: `<root>/<node>`. Topics are below it, but for one that begins with `/`: that is a whole topic with a `/`
            in front, which is only to be cleared.
        outbox: Is informed of events that were lost without an answer.
        quarantine: What earlier connections broke with.
    """

    def __init__(
        self,
        connection: MqttConnection,
        settings: MqttSettings,
        root: str,
        *,
        outbox: Outbox,
        quarantine: Quarantine,
    ) -> None:
        self.settings = settings
        self.root = root
        self.connection = connection
        self.denied: dict[str, Denial] = {}
        """Topics that the broker denies."""
        self._restored: set[str] = set()  # places that were denied, of which others may have been, too
        self.waits_for: str | None = None
        """The broker's answer for which everything waits; None: nothing waits."""
        self.unanswered: dict[str, int] = {}
        """When the connection ended, what the broker had not answered: topic to size of its last message in bytes."""
        self.has_taken = False
        """Whether the broker took anything."""
        self.quarantine = quarantine
        self.listeners: list[Callable[[aiomqtt.Message], None]] = []
        """Take every message that comes."""
        self.followed: set[str] = set()
        """Topics that are subscribed to for the whole connection."""
        self._outbox = outbox
        self._in_flight: Counter[str] = Counter()  # by topic
        self._sizes: dict[str, int] = {}  # topic to size of its last message
        self._sending = asyncio.Lock()
        self._answered_at = (
            0.0  # in the loop's time; or when something was sent after everything was answered
        )
        self._resume_at = 0.0
        self._pauses = 0  # in a row
        self._unclear: Counter[str] = Counter()  # topic to refusals in a row that may be a denial
        self._reads_back = not connection.is_v5
        self._chosen: dict[str, str] = {}  # group of topics to the one of it that is checked
        self._checked: set[str] = set()  # topics that need no check now
        self._largest: Counter[str] = Counter()  # group to size of the largest message that was checked
        self._echoes: dict[str, asyncio.Event] = {}  # topic to whether its message came back
        self._unechoed: set[str] = set()  # those of them whose message is not acknowledged yet
        self._checks: set[asyncio.Task[None]] = set()

    def whole(self, topic: str) -> str:
        """The topic as the broker knows it."""
        return topic[1:] if topic.startswith("/") else f"{self.root}/{topic}"

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
                for listener in self.listeners:
                    listener(message)
        finally:
            self.unanswered = {topic: self._sizes[topic] for topic in +self._in_flight}
            for check in self._checks:
                check.cancel()
        raise AssertionError("the iterator ends by raising")

    async def send(
        self, topic: str, publication: Publication, answered: Callable[[Answer], None] | None = None
    ) -> None:
        """Send as soon as the broker takes something and the window has room; see `post`."""
        async with self._sending:
            await self.ready()
            size = len(publication.payload)
            await self.prepare(topic, size)
            if self.quarantine.isolates(topic, size) and self.quarantine.find(topic, size) is None:
                await self.connection.quiet()
                self.post(topic, publication, answered)
                await self.connection.quiet()
                self.quarantine.note_taken(topic, size)
            else:
                self.post(topic, publication, answered)

    async def ready(self) -> None:
        """Wait until the broker takes something and the window has room."""
        while (wait_s := self._resume_at - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110 - a pause may follow
            await asyncio.sleep(wait_s)
        await self.connection.room()

    async def prepare(self, topic: str, size: int) -> None:
        """Subscribe to the topic where its next message, of this size in bytes, is to be read back.

        Some brokers acknowledge a message that is too large, and discard it: so one that is much larger than those of
        its group before is checked as well.

        Raises:
            aiomqtt.MqttError: the connection has broken.
        """
        # who may clear a former topic may often not read it
        if not self._reads_back or topic.startswith("/"):
            return
        group = "/".join(topic.split("/")[:2])
        chosen = self._chosen.setdefault(group, topic)
        has_grown = size >= LARGE and size > 1.25 * self._largest[group]
        is_suspicious = topic == chosen or topic in self.denied
        if topic in self._echoes or (not has_grown and (not is_suspicious or topic in self._checked)):
            return
        self._largest[group] = max(size, self._largest[group])
        self._checked.add(topic)
        try:
            if topic not in self.followed:
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
        self._unechoed.add(topic)

    def post(
        self, topic: str, publication: Publication, answered: Callable[[Answer], None] | None = None
    ) -> None:
        """Send at once.

        Args:
            topic: The publication's, below the root.
            publication: What to send.
            answered: Called with what the broker's answer means.
        """
        size = len(publication.payload)
        if (aside := self.quarantine.find(topic, size)) is not None:
            self._note_denial(topic, aside)
            if answered is not None:
                answered("lost" if size >= LARGE else "denied")
            return
        if self.connection.is_quiet:
            self._answered_at = asyncio.get_running_loop().time()
        self._in_flight[topic] += 1
        self._sizes[topic] = size
        self.connection.post(publication, partial(self._note_answer, topic, answered))

    def _note_answer(
        self, topic: str, answered: Callable[[Answer], None] | None, refusal: Refusal | None
    ) -> None:
        self._in_flight[topic] -= 1
        self._answered_at = asyncio.get_running_loop().time()
        answer = self._evaluate(topic, refusal)
        if answered is not None:
            answered(answer)

    def _evaluate(self, topic: str, refusal: Refusal | None) -> Answer:
        if refusal is None:
            self._note_acknowledged(topic)
            return "taken"
        if refusal.code in _FINAL:
            self._note_denial(topic, refusal.words)
            return "lost"
        if refusal.code not in (_DENIED, _QUOTA):
            self._unclear[topic] += 1
        if refusal.code == _DENIED or self._unclear[topic] >= _MOST_UNCLEAR:
            self._note_denial(topic, refusal.words)
            return "denied"
        self._pause(refusal.words)
        return "wait"

    def _pause(self, answer: str) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._resume_at:  # it was in flight with another one that was refused
            return
        self._pauses += 1
        self._resume_at = now + doubled_s(self._pauses, PAUSE_S, MOST_PAUSE_S)
        if self.waits_for is None:
            log.warning("broker_refuses_for_now", answer=answer, consequence="events wait in the outbox")
        self.waits_for = answer

    def _note_acknowledged(self, topic: str) -> None:
        self.has_taken = True
        if self._pauses and asyncio.get_running_loop().time() >= self._resume_at:
            self._pauses = 0
            self.waits_for = None
            log.info("broker_takes_again")
        if self._unclear:
            self._unclear.pop(topic, None)
        if self.connection.is_v5:
            self._note_taken(topic)
        elif topic in self._unechoed:
            self._unechoed.remove(topic)
            check = asyncio.create_task(self._check_echo(topic))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check_echo(self, topic: str) -> None:
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await self._echoes[topic].wait()
        except TimeoutError:
            self._note_denial(topic, f"{_UNSEEN} ({self._sizes[topic]} bytes)")
            if topic.startswith("event/") and topic != REPORTS:  # a report of it could only be denied again
                self._outbox.lose_unknown("denied")
        else:
            self._note_taken(topic)
        del self._echoes[topic]
        with contextlib.suppress(aiomqtt.MqttError):  # the connection has broken, which others notice
            if topic not in self.followed:
                await self.connection.unsubscribe(f"{self.root}/{topic}")
        if topic in self.denied:
            await asyncio.sleep(DENIED_S)
            self._checked.discard(topic)

    @property
    def unanswered_s(self) -> float | None:
        """For how long the broker has acknowledged nothing, where that is a trouble; else None."""
        silent_s = asyncio.get_running_loop().time() - self._answered_at
        return None if self.connection.is_quiet or silent_s < UNANSWERED_S else silent_s

    # ---- what the broker denies ----

    @property
    def denials(self) -> dict[str, str]:
        """What the broker denies, with its words; the buckets of a target's table are one."""
        return {_place(topic): denial.answer for topic, denial in sorted(self.denied.items())}

    def _note_denial(self, topic: str, answer: str) -> None:
        if topic.startswith("/"):  # the caller that clears it says so, and nothing is sent there again
            return
        if _place(topic) not in self.denials:
            log.error("broker_denies_topic", topic=f"{self.root}/{_place(topic)}", answer=answer)
        self.denied[topic] = Denial(answer, asyncio.get_running_loop().time())

    def _note_taken(self, topic: str) -> None:
        if not self.denied or self.denied.pop(topic, None) is None:
            return
        if not self.connection.is_v5 and _place(topic) != topic:
            self._restored.add(_place(topic))
        if _place(topic) not in self.denials:
            log.info("broker_takes_topic", topic=f"{self.root}/{_place(topic)}")

    def take_due(self) -> list[str]:
        """The topics whose retained state is to be sent again now, since they were denied.

        By 3.1.1 a denial is only seen of topics that are read back. So when such a one is taken again, all of its table
        (`table/<target>/#`) is due.
        """
        now = asyncio.get_running_loop().time()
        due, self._restored = [*self._restored], set()
        for topic, denial in list(self.denied.items()):
            if now - denial.at <= DENIED_S:
                continue
            if not topic.startswith("event/"):
                self.denied[topic] = denial._replace(at=now)
                due.append(topic)
            elif topic not in self._outbox.held and now - denial.at > 10 * DENIED_S:
                del self.denied[topic]  # there is nothing to try it with
        return due


def _place(topic: str) -> str:
    """What a denial is noted by: the topic; the buckets of a table share one place, as do neighbours to be cleared."""
    return f"{topic.rpartition('/')[0]}/#" if topic.startswith(("table/", "kernel-table/", "/")) else topic
