"""When a status below our own topic shows another daemon, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import JsonValue

from routesync.events.models import Event
from routesync.events.namesakes import Namesakes, Run
from routesync.events.reader import ReceivedMessage

NOW = datetime.now(UTC)
OWN = Run(NOW, "own")
BEAT_S = 5
GONE_S = 3 * BEAT_S


class Sink:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def emit(self, event: Event) -> None:
        self.kinds.append(type(event).__name__)


def status(
    *, number: int = 1, retained: bool = True, heartbeat_s: int = BEAT_S, ahead_h: int = 1
) -> ReceivedMessage:
    """The status of a daemon that began an hour before us, from a clock that is so many hours ahead."""
    began = NOW - timedelta(hours=1)
    data: dict[str, JsonValue] = {
        "state": "online",
        "node": "node-1",
        "started": began.isoformat(),
        "heartbeat_s": heartbeat_s,
    }
    return ReceivedMessage(
        id=f"other-status-{number}",
        source="/routesync/node-1",
        type="io.routesync.status.v1",
        time=NOW + timedelta(hours=ahead_h),
        epoch="other",
        data=data,
        place="status",
        retained=retained,
    )


@pytest.fixture
def namesakes() -> Namesakes:
    return Namesakes("node-1", Sink())


def test_what_a_dead_run_left_with_a_clock_that_was_ahead_is_believed_once(namesakes: Namesakes) -> None:
    assert namesakes.take(status(), OWN, 0)
    assert namesakes.look(OWN, GONE_S - 1)
    assert not namesakes.take(status(), OWN, GONE_S - 1)  # each connection gets it again
    assert not namesakes.look(OWN, GONE_S)
    assert not namesakes.take(status(), OWN, GONE_S)
    assert not namesakes.look(OWN, GONE_S)
    assert namesakes.alarm is None


def test_a_daemon_that_lives_replaces_what_is_retained(namesakes: Namesakes) -> None:
    for number in range(5):
        at = number * (GONE_S - 1)
        assert namesakes.take(status(number=number), OWN, at)
        assert namesakes.look(OWN, at + GONE_S - 2)


def test_a_heartbeat_is_news_each_time(namesakes: Namesakes) -> None:
    assert namesakes.take(status(), OWN, 0)
    assert namesakes.take(status(retained=False), OWN, GONE_S - 1)
    assert namesakes.look(OWN, GONE_S + 1)


def test_what_was_retained_before_our_start_is_no_other_daemon(namesakes: Namesakes) -> None:
    assert not namesakes.take(status(ahead_h=-1), OWN, 0)
    assert not namesakes.look(OWN, 0)


def test_no_heartbeat_keeps_a_name_for_longer_than_the_longest_that_can_be_configured(
    namesakes: Namesakes,
) -> None:
    assert namesakes.take(status(retained=False, heartbeat_s=2**62), OWN, 0)
    assert namesakes.look(OWN, 3 * 86_400 - 1)
    assert not namesakes.look(OWN, 3 * 86_400)
