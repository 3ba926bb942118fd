"""Routes that come back: renewals are taken as they come, contention ever more slowly."""

from __future__ import annotations

from routesync.guard.returns import NEVER, Case, Patience

PATIENCE = Patience(
    settle_s=2, check_interval_s=300, contended_within_s=60, contended_delay_s=10, contended_delay_most_s=100
)

KEY = (254, 100, 2)


def stood_and_went(case: Case, now: float) -> None:
    """It came, was found, and was removed at that moment."""
    case.stirred(now, came=True)
    case.found(now, [KEY])
    case.removed(now, KEY)


def test_it_is_looked_at_when_it_has_settled_and_then_seldom() -> None:
    case = Case(lambda: PATIENCE)
    case.stirred(100, came=True)
    assert case.due_at == 102
    case.stirred(101, came=True)
    assert case.due_at == 102, "what is announced again and again is looked at all the same"
    assert case.found(102, [KEY]) is None
    assert case.due_at == 402
    case.stirred(110, came=False)
    assert case.due_at == 112


def test_a_renewal_is_no_contention() -> None:
    case = Case(lambda: PATIENCE)
    for renewal in range(20):
        stood_and_went(case, 1800 * renewal)
        case.stirred(1800 * (renewal + 1) - 2, came=True)
        back = case.found(1800 * (renewal + 1), [KEY])
        assert back is not None
        assert (back.away_s, back.contended, back.stays_s) == (1798, 0, 2)
        assert not case.waits(1800 * (renewal + 1))


def test_contention_is_answered_ever_more_slowly_up_to_a_bound() -> None:
    case = Case(lambda: PATIENCE)
    now = 0.0
    stays = []
    stood_and_went(case, now)
    for _ in range(6):
        case.stirred(now + 1, came=True)
        back = case.found(now + 3, [KEY])
        assert back is not None
        stays.append(back.stays_s)
        assert case.due_at == now + 1 + back.stays_s
        assert case.waits(now + 4)
        case.stirred(now + 5, came=True)
        assert case.due_at == now + 1 + back.stays_s, "what is announced meanwhile does not hasten it"
        now += 1 + back.stays_s
        assert not case.waits(now)
        assert case.found(now, [KEY]) is None
        case.removed(now, KEY)
    assert stays == [10, 20, 40, 80, 100, 100]


def test_contention_ends_when_it_stays_away_for_long() -> None:
    case = Case(lambda: PATIENCE)
    stood_and_went(case, 0)
    case.stirred(1, came=True)
    assert (back := case.found(3, [KEY])) is not None
    assert back.contended == 1
    case.removed(20, KEY)
    case.stirred(200, came=True)
    assert (back := case.found(202, [KEY])) is not None
    assert (back.contended, back.stays_s) == (0, 2)


def test_an_announcement_from_before_the_removal_is_no_return() -> None:
    case = Case(lambda: PATIENCE)
    stood_and_went(case, 100)
    case.stirred(100.01, came=True)  # it was still under way
    case.missing()
    assert case.due_at == NEVER
    case.stirred(500, came=True)
    assert (back := case.found(502, [KEY])) is not None
    assert back.away_s == 400


def test_what_was_left_alone_is_not_looked_at_before_its_time() -> None:
    case = Case(lambda: PATIENCE)
    case.stirred(0, came=True)
    case.found(2, [KEY])
    case.leave_alone(2, 3600)
    case.stirred(10, came=True)
    assert case.due_at == 3602
    assert case.waits(3601)


def test_what_is_gone_for_good_can_be_forgotten_unless_it_was_removed() -> None:
    case = Case(lambda: PATIENCE)
    case.stirred(0, came=True)
    said = [case.forgettable]
    case.missing()
    said.append(case.forgettable)
    stood_and_went(case, 10)
    said.append(case.forgettable)
    assert said == [False, True, False]


def test_another_route_of_the_prefix_is_no_return() -> None:
    case = Case(lambda: PATIENCE)
    stood_and_went(case, 100)
    case.stirred(100, came=False)
    assert case.found(102, [(254, 1024, 2)]) is None
    case.removed(102, (254, 1024, 2))
    case.stirred(150, came=True)
    assert (back := case.found(152, [(254, 1024, 2), KEY])) is not None
    assert (back.away_s, back.contended) == (48, 1)
