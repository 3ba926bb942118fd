"""The work queue: urgency, times, one place per prefix."""

from __future__ import annotations

from routesync.mirror.queue import Urgency, WorkQueue
from routesync.route import Prefix

A, B, C = (Prefix.parse(f"10.{number}.0.0/16") for number in (1, 2, 3))


def drain(queue: WorkQueue, now: float) -> list[Prefix]:
    taken = []
    while job := queue.first(now):
        taken.append(job[0])
        queue.discard(job[0])
    return taken


def test_the_urgent_go_first_and_equals_in_their_order() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=0)
    queue.put(B, Urgency.ADD, now=0)
    queue.put(C, Urgency.WITHDRAW, now=0)
    assert drain(queue, 0) == [C, A, B]


def test_a_prefix_waits_once_and_the_last_wish_counts() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=0)
    queue.put(A, Urgency.WITHDRAW, now=0)
    assert len(queue) == 1
    assert queue.first(0) == (A, Urgency.WITHDRAW)
    assert drain(queue, 0) == [A]


def test_what_may_not_go_yet_is_passed_over_until_its_time() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.WITHDRAW, now=0, not_before=5)
    queue.put(B, Urgency.ADD, now=0)
    assert drain(queue, 4.9) == [B]
    assert queue.next_due() == 5
    assert drain(queue, 5) == [A]


def test_a_new_time_replaces_the_old_one() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=0, not_before=5)
    queue.put(A, Urgency.ADD, now=0, not_before=9)
    assert drain(queue, 5) == []
    assert queue.next_due() == 9
    queue.put(A, Urgency.ADD, now=0)
    assert drain(queue, 0) == [A]
    assert drain(queue, 10) == []


def test_discarded_work_is_not_done_even_when_its_time_comes() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=0, not_before=5)
    queue.put(B, Urgency.ADD, now=0)
    queue.discard(A)
    queue.discard(B)
    assert len(queue) == 0
    assert queue.next_due() is None
    assert drain(queue, 10) == []


def test_work_below_the_asked_urgency_stays() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=0)
    assert queue.first(0, least=Urgency.REPLACE) is None
    assert queue.first(0) == (A, Urgency.ADD)


def test_the_age_of_waiting_work_counts_from_its_first_wish() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=10)
    queue.put(A, Urgency.WITHDRAW, now=15)
    queue.put(B, Urgency.ADD, now=1, not_before=99)
    assert queue.oldest_s(20) == 10
    queue.discard(A)
    assert queue.oldest_s(20) == 0


def test_held_withdrawals_are_passed_over() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.WITHDRAW, now=0)
    assert queue.first(0, most=Urgency.REPLACE) is None
    assert queue.counts[Urgency.WITHDRAW] == 1


def test_what_is_parked_does_not_count_as_waiting_until_its_time_comes() -> None:
    queue = WorkQueue()
    queue.put(A, Urgency.ADD, now=0, not_before=5, parked=True)
    queue.put(B, Urgency.ADD, now=0, not_before=5)
    assert (queue.waiting, len(queue)) == (1, 2)
    assert queue.first(5) is not None
    assert queue.waiting == 2
