"""How gently a target is written to: rate limit, backlog estimate, repair window, mass-withdrawal limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.mirror.limits import (
    FORGET_LOSS_S,
    SETTLE_S,
    Ingestion,
    MassWithdrawalLimit,
    RepairWindow,
    TokenBucket,
)
from routesync.route import Prefix


def test_a_bucket_is_empty_at_start_so_that_a_crash_loop_cannot_flood() -> None:
    bucket = TokenBucket(rate=10, burst=5, now=100)
    assert bucket.take(100) > 0
    assert bucket.take(100.2) == 0


def test_a_quiet_time_fills_it_to_the_burst_and_no_further() -> None:
    bucket = TokenBucket(rate=10, burst=5, now=0)
    taken = 0
    while bucket.take(1000) == 0:
        taken += 1
    assert taken == 5


@given(
    st.lists(st.floats(0, 0.5), max_size=300),
    st.floats(1, 500),
    st.integers(1, 100),
)
def test_never_more_than_burst_and_rate_allow(steps: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst, 0)
    now, taken = 0.0, 0
    for step in steps:
        now += step
        while bucket.take(now) == 0:
            taken += 1
        assert taken <= rate * now + 1e-6
        assert bucket.take(now) <= 1 / rate + 1e-9


def test_a_token_given_back_can_be_taken_again() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=0)
    assert bucket.take(1) == 0
    assert bucket.take(1) > 0
    bucket.give_back(1)
    assert bucket.take(1) == 0


def test_it_is_quiet_only_when_all_that_was_accepted_had_time_to_be_ingested() -> None:
    ingestion = Ingestion(0, rate=256)
    assert ingestion.quiet_in(0) > SETTLE_S, "a previous run may have written just now"
    assert ingestion.quiet_in(9) == 0
    for _ in range(512):
        ingestion.note(10)
    assert ingestion.quiet_in(10) == 2 + SETTLE_S
    assert ingestion.quiet_in(12) == SETTLE_S
    assert ingestion.quiet_in(12 + SETTLE_S) == 0


def test_another_pace_keeps_what_is_in_the_bucket_and_no_more_than_fits() -> None:
    bucket = TokenBucket(rate=10, burst=10, now=0)
    bucket.change(rate=1, burst=5, now=1)
    assert [bucket.take(1) for _ in range(5)] == [0] * 5
    assert bucket.take(1) == 1
    bucket.change(rate=2, burst=5, now=1)
    assert bucket.take(1) == 0.5


def test_more_tokens_than_fit_become_a_debt_so_that_the_rate_holds() -> None:
    bucket = TokenBucket(rate=2, burst=1, now=0)
    assert bucket.take(1, 3) == 0
    assert bucket.take(1, 1) == 1.5, "two tokens of debt, and the one that is needed"


PREFIX = Prefix.parse("10.1.0.0/16")


def no_jitter(low: float, high: float) -> float:
    return (low + high) / 2


@pytest.mark.parametrize(("losses", "wait_s"), [(1, 0), (2, 5), (3, 10), (4, 20), (8, 300), (20, 300)])
def test_each_further_loss_of_a_prefix_makes_its_next_post_wait_longer(losses: int, wait_s: float) -> None:
    window = RepairWindow(0, no_jitter)
    for _ in range(losses - 1):
        window.lost(PREFIX, 100)
    loss = window.lost(PREFIX, 100)
    assert loss.next_post_at == 100 + wait_s
    assert window.is_contended(PREFIX) == (losses >= 3)


def test_a_prefix_that_stayed_for_ten_minutes_starts_again() -> None:
    window = RepairWindow(0, no_jitter)
    for _ in range(5):
        window.lost(PREFIX, 100)
    assert window.tick(100 + FORGET_LOSS_S) == [PREFIX]
    assert window.lost(PREFIX, 101 + FORGET_LOSS_S).times == 1


def is_contended(window: RepairWindow) -> bool:
    return window.contended


def settle(window: RepairWindow, now: float, *, kept: bool, looks: int = 32) -> float:
    for _ in range(looks):
        window.saw(kept=kept)
    window.tick(now)
    return window.rate


def test_the_window_opens_while_repairs_stay_and_closes_while_they_do_not() -> None:
    window = RepairWindow(0, no_jitter)
    window.lost(PREFIX, 0)
    assert [settle(window, 3.0 * turn, kept=True) for turn in range(1, 5)] == [32, 64, 120, 120]
    assert [settle(window, 30 + 3.0 * turn, kept=False) for turn in range(1, 9)] == [
        60,
        30,
        15,
        7.5,
        3.75,
        1.875,
        1,
        1,
    ]


def test_contention_is_over_when_repairs_stay_or_nothing_is_lost_any_more() -> None:
    window = RepairWindow(0, no_jitter)
    window.lost(PREFIX, 0)
    settle(window, 3, kept=False)
    assert not is_contended(window), "8 a second is the bound"
    settle(window, 6, kept=False)
    assert is_contended(window)
    for turn in range(3, 6):
        settle(window, 3.0 * turn, kept=True)
    assert is_contended(window), "not before 60 a second"
    settle(window, 18, kept=True)
    assert not is_contended(window)
    for turn in range(7, 12):
        settle(window, 3.0 * turn, kept=False)
    assert is_contended(window)
    window.tick(FORGET_LOSS_S + 1)
    assert not is_contended(window)


def test_repairs_are_never_faster_than_the_window() -> None:
    window = RepairWindow(0, no_jitter)
    taken = 0
    for tenth in range(100):
        while window.take(tenth / 10) == 0:
            taken += 1
    assert taken <= 16 + 16 * 10


def prefixes(first: int, end: int) -> list[Prefix]:
    return [Prefix.parse(f"10.{number}.0.0/16") for number in range(first, end)]


def withdraw(limit: MassWithdrawalLimit, first: int, end: int) -> None:
    for prefix in prefixes(first, end):
        limit.add(prefix)


def test_a_mass_is_more_than_a_share_and_at_least_a_minimum() -> None:
    limit = MassWithdrawalLimit(0.5, 10, lambda: None)
    withdraw(limit, 0, 9)
    assert not limit.holds(9, 0)
    withdraw(limit, 9, 20)
    assert not limit.holds(40, 0)
    withdraw(limit, 20, 21)
    assert limit.holds(40, 0)
    assert len(limit.held) == 21
    limit.discard(prefixes(0, 1)[0])
    assert not limit.holds(40, 1)
    assert not limit.held


def test_only_a_dump_that_began_after_the_hold_releases_it() -> None:
    asked: list[None] = []
    limit = MassWithdrawalLimit(0.5, 10, lambda: asked.append(None))
    withdraw(limit, 0, 20)
    assert limit.holds(20, now=100)
    assert len(asked) == 1
    assert not limit.resynced(began=99)
    withdraw(limit, 20, 25)
    assert not limit.resynced(began=101), "others joined: one more dump"
    assert len(asked) == 2
    assert limit.holds(25, now=101.5)
    assert limit.resynced(began=102) == 25
    assert not limit.holds(25, now=103)
    withdraw(limit, 25, 26)
    assert limit.holds(26, now=104), "another one is not covered by that"


def test_a_release_does_not_cover_the_next_withdrawal_of_a_prefix() -> None:
    limit = MassWithdrawalLimit(0.5, 10, lambda: None)
    withdraw(limit, 0, 20)
    assert limit.holds(20, 0)
    assert limit.release() == 20
    assert limit.release() == 0, "nothing is held any more"
    prefix = prefixes(0, 1)[0]
    limit.discard(prefix)
    limit.forget(prefix)
    assert not limit.holds(20, 1)
    limit.add(prefix)
    assert limit.holds(20, 1)
