"""Routes that come back: one by a lease renewal is removed again, a contended one is left alone."""

from __future__ import annotations

from routesync.config.models import GuardSettings
from routesync.guard.guard import CHECK_INTERVAL_S, LEAVE_ALONE_S, NEVER, Case, key_of
from support.routes import ip_route

SETTINGS = GuardSettings(settle_s=2, contended_within_s=60)
KEY = (254, 100, 2)
OTHER = (254, 1024, 2)
ROUTE = ip_route("192.168.10.1 dev ens3 proto dhcp scope link metric 100")


def came_and_went(case: Case, now: float) -> None:
    """It came, was found when it had settled, and was removed at that moment."""
    case.announced(now, 2)
    assert case.found(now + 2, [KEY], SETTINGS) is None
    case.removed(now + 2, KEY, SETTINGS)
    assert case.due_at == now + 4


def contended(now: float) -> Case:
    """It came back a second after its removal, which a look has found at this time."""
    case = Case()
    came_and_went(case, now - 5)
    case.announced(now - 2, 2)
    assert case.found(now, [KEY], SETTINGS) == 1
    assert case.contended
    return case


def test_it_is_looked_at_when_it_has_settled_and_then_seldom() -> None:
    case = Case()
    case.announced(100, 2)
    case.announced(101, 2)
    assert case.due_at == 102, "a route that is announced again and again is looked at all the same"
    assert case.found(102, [KEY], SETTINGS) is None
    assert case.due_at == 102 + CHECK_INTERVAL_S
    case.announced(110, 2)
    assert case.due_at == 112


def test_a_renewal_is_no_contention() -> None:
    case = Case()
    came_and_went(case, 0)
    for renewal in range(1, 20):
        case.announced(1800 * renewal, 2)
        assert case.found(1800 * renewal + 2, [KEY], SETTINGS) == 1798
        assert not case.contended
        assert case.not_before == 0
        case.removed(1800 * renewal + 2, KEY, SETTINGS)


def test_one_that_reappears_at_once_is_left_alone_whatever_is_announced() -> None:
    case = contended(now=5)
    assert case.not_before == 5 + LEAVE_ALONE_S
    assert case.due_at == 5 + CHECK_INTERVAL_S, "whether it is still there is seen before"
    case.announced(6, 2)
    assert case.due_at == 5 + CHECK_INTERVAL_S


def test_contention_ends_when_it_stays_away_after_one_more_removal() -> None:
    case = contended(now=5)
    case.removed(4000, KEY, SETTINGS)
    states = [(case.contended, case.due_at)]
    case.missing()
    states.append((case.contended, case.due_at))
    assert states == [(True, 4060), (False, NEVER)]


def test_contention_goes_on_when_it_reappears_once_more() -> None:
    case = contended(now=5)
    case.removed(4000, KEY, SETTINGS)
    case.announced(4001, 2)
    assert case.due_at == 4003
    assert case.found(4003, [KEY], SETTINGS) == 1
    assert case.contended
    assert case.not_before == 4003 + LEAVE_ALONE_S


def test_contention_ends_when_it_goes_by_itself() -> None:
    case = contended(now=5)
    case.missing()
    assert not case.contended
    case.announced(100, 2)
    assert case.due_at == 102, "what comes now is new"


def test_an_announcement_from_before_the_removal_is_no_return() -> None:
    case = Case()
    came_and_went(case, 100)
    case.announced(102.01, 2)  # it was still under way
    case.missing()
    assert case.due_at == NEVER
    case.announced(502, 2)
    assert case.found(504, [KEY], SETTINGS) == 400


def test_another_route_of_the_prefix_is_no_return() -> None:
    case = Case()
    case.found(100, [KEY, OTHER], SETTINGS)
    case.removed(102, KEY, SETTINGS)
    assert case.found(104, [OTHER], SETTINGS) is None
    assert case.found(1804, [OTHER, KEY], SETTINGS) == 1700, "the other one was there all the time"
    assert not case.contended


def test_each_finding_is_reported_once() -> None:
    case = Case()
    assert case.is_news(ROUTE, "only-way")
    assert not case.is_news(ROUTE, "only-way")
    assert case.is_news(ROUTE, "other-link")
    case.removed(0, key_of(ROUTE), SETTINGS)
    assert case.is_news(ROUTE, "other-link"), "it was away meanwhile"
