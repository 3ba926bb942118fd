"""How long failures are waited for."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from routesync.backoff import Backoff, SpreadBackoff, backoff_s, doubled_s
from routesync.events.publisher import MOST_BACKOFF_S


@pytest.mark.parametrize(
    ("times", "expected"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (6, 10), (1_000_000, 10)]
)
def test_it_doubles_up_to_its_bound(times: int, expected: float) -> None:
    assert doubled_s(times, 1, 10) == expected


def test_a_bound_below_the_first_holds() -> None:
    assert doubled_s(1, 5, 2) == 2


@pytest.mark.parametrize("failures", [1, 2, 5, 10_000])
def test_jitter_is_a_fifth_both_ways(failures: int) -> None:
    delays = [backoff_s(failures, 1, 16) for _ in range(2000)]
    full = doubled_s(failures, 1, 16)
    assert 0.8 * full <= min(delays) < 0.83 * full
    assert 1.17 * full < max(delays) <= 1.2 * full


def test_many_nodes_do_not_return_at_once() -> None:
    assert len({round(Backoff(1, 60).delay_s(5), 3) for _ in range(100)}) > 50


@pytest.mark.parametrize("spread_s", [1, 15, 60])
def test_a_minute_of_failures_is_no_flapping_in_a_brokers_eyes(
    monkeypatch: pytest.MonkeyPatch, spread_s: float
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, _high: low)  # bad luck
    for start in range(1, 20):  # whichever minute it is
        elapsed, connections = 0.0, 1
        for failures in range(start, start + 100):
            elapsed += SpreadBackoff(spread_s, MOST_BACKOFF_S).delay_s(failures)
            if elapsed > 60:
                break
            connections += 1
        assert connections <= 7  # EMQX bans at 15


@pytest.mark.parametrize("outage_s", [0, 1, 7, 600])
def test_a_fleet_returns_spread_and_nobody_is_late(outage_s: float) -> None:
    random.seed(1)
    backoff = SpreadBackoff(15, MOST_BACKOFF_S)
    returns = []
    for _ in range(200):
        at = backoff.delay_s(1)
        if at < outage_s:  # the broker does not answer
            at += backoff.delay_s(1)
        while at < outage_s:
            at += backoff.delay_s(0)
        returns.append(at - outage_s)
    assert max(returns) <= 15
    assert max(Counter(map(int, returns)).values()) <= 30  # 15 % in a second
