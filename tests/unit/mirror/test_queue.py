"""The waiting work: urgency, times, one place per prefix."""

from __future__ import annotations

from routesync.mirror.pending import Pending, Urgency
from routesync.route import Prefix

A, B, C = (Prefix.parse(f"10.{number}.0.0/16") for number in (1, 2, 3))


def drain(pending: Pending, now: float) -> list[Prefix]:
    taken = []
    while job := pending.pop(now):
        taken.append(job[0])
    return taken


def test_the_urgent_go_first_and_equals_in_their_order() -> None:
    pending = Pending()
    pending.put(A, Urgency.ADD, now=0)
    pending.put(B, Urgency.ADD, now=0)
    pending.put(C, Urgency.WITHDRAW, now=0)
    assert drain(pending, 0) == [C, A, B]


def test_a_prefix_waits_once_and_the_last_wish_counts() -> None:
    pending = Pending()
    pending.put(A, Urgency.ADD, now=0)
    pending.put(A, Urgency.WITHDRAW, now=0)
    assert len(pending) == 1
    assert pending.pop(0) == (A, Urgency.WITHDRAW)
    assert pending.pop(0) is None


def test_what_may_not_go_yet_is_passed_over_until_its_time() -> None:
    pending = Pending()
    pending.put(A, Urgency.WITHDRAW, now=0, not_before=5)
    pending.put(B, Urgency.ADD, now=0)
    assert drain(pending, 4.9) == [B]
    assert pending.next_due() == 5
    assert drain(pending, 5) == [A]


def test_a_new_time_replaces_the_old_one() -> None:
    pending = Pending()
    pending.put(A, Urgency.ADD, now=0, not_before=5)
    pending.put(A, Urgency.ADD, now=0, not_before=9)
    assert drain(pending, 5) == []
    assert pending.next_due() == 9
    pending.put(A, Urgency.ADD, now=0)
    assert drain(pending, 0) == [A]
    assert drain(pending, 10) == []


def test_discarded_work_is_not_done_even_when_its_time_comes() -> None:
    pending = Pending()
    pending.put(A, Urgency.ADD, now=0, not_before=5)
    pending.put(B, Urgency.ADD, now=0)
    pending.discard(A)
    pending.discard(B)
    assert len(pending) == 0
    assert pending.next_due() is None
    assert drain(pending, 10) == []


def test_work_below_the_asked_urgency_stays() -> None:
    pending = Pending()
    pending.put(A, Urgency.ADD, now=0)
    assert not pending.ready(0, least=Urgency.REPLACE)
    assert pending.pop(0, least=Urgency.REPLACE) is None
    assert pending.ready(0)


def test_the_age_of_waiting_work_counts_from_its_first_wish() -> None:
    pending = Pending()
    pending.put(A, Urgency.ADD, now=10)
    pending.put(A, Urgency.WITHDRAW, now=15)
    pending.put(B, Urgency.ADD, now=1, not_before=99)
    assert pending.oldest_s(20) == 10
    pending.pop(20)
    assert pending.oldest_s(20) == 0


def test_a_brake_leaves_the_most_urgent_waiting() -> None:
    pending = Pending()
    pending.put(A, Urgency.WITHDRAW, now=0)
    assert not pending.ready(0, most=Urgency.REPLACE)
    assert pending.pop(0, most=Urgency.REPLACE) is None
    assert pending.of(Urgency.WITHDRAW) == {A}
