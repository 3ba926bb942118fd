"""The pace of writing and the quiet for reading."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from routesync.mirror.limits import SETTLE_S, Ingestion, TokenBucket


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
    assert ingestion.quiet_in(0) > SETTLE_S, "an earlier life may have written just now"
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
