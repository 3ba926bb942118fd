"""How often a node connects to a broker that does not keep it."""

from __future__ import annotations

import random

import pytest

from routesync.events.backoff import Backoff


@pytest.mark.parametrize("luck", [0.5, 0.75, 1.0])
def test_a_minute_of_failures_is_no_flapping_in_a_brokers_eyes(
    monkeypatch: pytest.MonkeyPatch, luck: float
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, _high: luck)
    backoff = Backoff()
    for start in range(1, 20):  # whichever minute it is
        elapsed, connections = 0.0, 1
        for failures in range(start, start + 100):
            elapsed += backoff.delay_s(failures)
            if elapsed > 60:
                break
            connections += 1
        assert connections <= 7  # EMQX bans at 15


def test_many_nodes_do_not_return_at_once() -> None:
    delays = {round(Backoff().delay_s(5), 3) for _ in range(100)}
    assert len(delays) > 50
    assert 8 <= min(delays) < max(delays) <= 16
