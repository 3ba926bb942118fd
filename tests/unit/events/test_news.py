"""Which events a follower has seen: each is shown once, whatever the order in which they come."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.events.mqtt_client import WINDOW
from routesync.events.reader import ReceivedMessage, _News


def message(
    sequence: int | None, *, epoch: str = "e", late: bool = False, node: str = "n"
) -> ReceivedMessage:
    return ReceivedMessage.model_validate(
        {
            "id": f"{epoch}-{sequence}",
            "source": f"/routesync/{node}",
            "type": "io.routesync.route.accepted.v1",
            "time": "2026-01-31T12:00:00Z",
            "sequence": sequence,
            "epoch": epoch,
            "late": late,
            "data": {},
        }
    )


def shown(sequences: Iterable[int], news: _News | None = None) -> list[int]:
    news = news or _News()
    return [sequence for sequence in sequences if news.take(message(sequence))]


@pytest.mark.parametrize("first", [1, 7, 2**40])
def test_what_was_refused_for_the_moment_is_shown_after_what_was_in_flight_with_it(first: int) -> None:
    arrived = [first + offset for offset in (1, 2, 4, 5, 3, 0, 6, 7)]
    assert shown(arrived) == arrived


@given(st.integers(0, 2**32), st.integers(0, 2**40), st.sampled_from((1, 2)))
def test_each_event_is_shown_once_however_they_overtake_each_other(seed: int, first: int, step: int) -> None:
    chance = random.Random(seed)
    sent = range(first, first + 1000, step)
    delayed = sorted(sent, key=lambda it: it + chance.choice((0, chance.randrange((WINDOW + 1) * step + 1))))
    news = _News()
    assert shown(delayed, news) == delayed
    run = sorted(chance.sample(delayed, 300))
    assert shown(run, news) == [], "they come again, as after a reconnection of the node"


def test_what_came_while_the_follower_was_away_is_shown_when_it_comes_again() -> None:
    assert shown([*range(1, 100), *range(200, 300), *range(90, 300)]) == [
        *range(1, 100),
        *range(200, 300),
        *range(100, 200),
    ]


def test_another_epoch_counts_anew_and_other_nodes_count_for_themselves() -> None:
    news = _News()
    takes = [
        (message(5), True),
        (message(5, node="m"), True),
        (message(5, epoch="f"), True),
        (message(5, epoch="f"), False),
        (message(None), True),
        (message(4, epoch="f", late=True), True),
        (message(4, epoch="f"), False),
    ]
    assert [news.take(it) for it, _ in takes] == [is_new for _, is_new in takes]


def test_what_is_kept_of_a_node_is_bounded() -> None:
    news = _News()
    shown(range(0, 2**62, 2**50), news)
    assert len(news._nodes["n"].gaps) == WINDOW
    assert news.take(message(7, late=True)), "it was held, and its gap was forgotten"
