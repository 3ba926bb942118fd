"""Another daemon with this node's name, recognised by what comes under the topic of our own status.

Both would take the MQTT session from each other, time and again, and overwrite each other's table. So the one that
began later stands by: it keeps its events, publishes nothing that stays, and takes the name when the other is gone.
A run of a daemon is known by its start and its epoch: a machine that was cloned with its state has the same epoch.

Pure, but for the events of the alarm: messages and the time are passed in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog
from pydantic import ValidationError

from routesync.events.fleet import BEATS
from routesync.events.models import AlarmCleared, AlarmKind, AlarmRaised, EventSink
from routesync.events.node_status import AlarmStatus, Status
from routesync.events.reader import Cleared, ReceivedMessage

log = structlog.get_logger("routesync.events")

_KIND: Final[AlarmKind] = "duplicate-name"
_DEFAULT_BEAT_S: Final = 60
_LONGEST_BEAT_S: Final = 86_400  # which the configuration allows
_UNKNOWN: Final = datetime.min.replace(tzinfo=UTC)


class Run(NamedTuple):
    """A run of a daemon; the one that began first is the least."""

    started: datetime
    epoch: str


class _Namesake(NamedTuple):
    run: Run
    version: str | None
    gone_at: float  # unless it is seen again before


def run_of(status: Status, epoch: str) -> Run:
    """The run of the daemon that made this status."""
    return Run(status.started or _UNKNOWN, epoch)


class Namesakes:
    """What is known of another daemon with this node's name; outlives the connections.

    Args:
        node: The node's name.
        sink: Takes the events of the alarm.
    """

    def __init__(self, node: str, sink: EventSink) -> None:
        self.alarm: AlarmStatus | None = None
        """Raised while there is another daemon."""
        self._node = node
        self._sink = sink
        self._began = datetime.now(UTC)
        self._raised_at = 0.0
        self._other: _Namesake | None = None
        self._taken_id = ""
        self._is_denied = False

    def note_denied(self, topic: str) -> None:
        """The broker denies reading the own status; logged once."""
        if not self._is_denied:
            log.warning(
                "own_state_unread",
                topic=topic,
                reason="the broker denies this node to read what it published itself",
                consequence="a second host with this name is not noticed, and each connection publishes all tables",
                remedy="allow reading status and table/+/manifest below the node's own topic",
            )
        self._is_denied = True

    def take(self, message: ReceivedMessage | Cleared, own: Run, now: float) -> bool:
        """Take a message from the topic of the own status; returns whether it is another daemon's."""
        if isinstance(message, Cleared):
            return False
        try:
            status = Status.model_validate(message.data, extra="ignore")
        except ValidationError:
            return False
        run = run_of(status, message.epoch)
        if status.state == "offline":  # a last will does not know when its daemon started
            if self._other is not None and run.epoch == self._other.run.epoch:
                self._other = None
            return False
        # What the broker retained from before our start may be of our own former run, which has lost its state; so may
        # be what seems to be from later, if the clock was set back. A daemon that lives replaces it.
        if run == own or (message.retained and (message.time <= self._began or message.id == self._taken_id)):
            return False
        self._taken_id = message.id
        beat_s = min(status.heartbeat_s or _DEFAULT_BEAT_S, _LONGEST_BEAT_S)
        self._other = _Namesake(run, status.version, now + BEATS * beat_s)
        return True

    def look(self, own: Run, now: float) -> bool:
        """Raise or clear the alarm; returns whether this daemon has to stand by."""
        if self._other is not None and now >= self._other.gone_at:
            self._other = None
        if self._other is None:
            self._clear(now)
            return False
        is_later = own > self._other.run
        if self.alarm is None:
            self._raise(self._describe(self._other, is_later=is_later), now)
        return is_later

    def _describe(self, other: _Namesake, *, is_later: bool) -> str:
        started = (
            "" if other.run.started == _UNKNOWN else f", started {other.run.started:%Y-%m-%d %H:%M:%S} UTC"
        )
        consequence = (
            "this one began later, so its events wait in the outbox and its tables are not published"
            if is_later
            else "that one began later, and waits"
        )
        return (
            f"another daemon publishes as node {self._node} (epoch {other.run.epoch}{started}): {consequence}; "
            "give each host its own node.name"
        )

    def _raise(self, detail: str, now: float) -> None:
        self.alarm = AlarmStatus(kind=_KIND, target=None, detail=detail)
        self._raised_at = now
        log.warning("alarm_raised", target=None, kind=_KIND, detail=detail)
        self._sink.emit(AlarmRaised(target=None, kind=_KIND, detail=detail))

    def _clear(self, now: float) -> None:
        if self.alarm is None:
            return
        self.alarm = None
        lasted_s = round(now - self._raised_at, 1)
        log.warning("alarm_cleared", target=None, kind=_KIND, lasted_s=lasted_s, detail=None)
        self._sink.emit(AlarmCleared(target=None, kind=_KIND, lasted_s=lasted_s))
