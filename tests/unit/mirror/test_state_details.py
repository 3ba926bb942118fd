"""What the life of a route costs, when its next step comes, and what is said of it; the steps are in test_state.py."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

import pytest

from routesync.events.models import (
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteIneligible,
    RouteRefused,
    RouteWithdrawn,
    SyncLost,
)
from routesync.loxilb.schema import Inventory, InventoryRow
from routesync.mirror.eligibility import Ineligible, Reason
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Limits
from routesync.mirror.queue import Urgency
from routesync.mirror.state import (
    CONFLICT_INVENTORY_S,
    FRESH_S,
    RETRY_MOST_S,
    WITNESS_LAG_S,
    Answer,
    Kind,
    Outcome,
    Phase,
    describe_row,
    is_ours,
)
from routesync.route import Address, Family, Prefix, format_address
from support.target_life import D4, D6, OTHER, OURS, P4, P6, THEIRS, Life, Witness

Q4, R4 = Prefix.parse("10.2.0.0/16"), Prefix.parse("10.3.0.0/16")
SLOW = Limits(rate=0.001, burst=10)
"""Tokens do not come back by themselves."""
ABOUT_P4: dict[str, Any] = {
    "target": "lb",
    "prefix": "10.1.0.0/16",
    "family": "ipv4",
    "gateway": "192.168.10.1",
}
"""What events about our route to this prefix have."""


def full(limits: Limits = SLOW, witness: Witness | None = None) -> Life:
    """A life that begins with ten tokens."""
    life = Life(witness, limits)
    life.state.bucket._tokens = 10.0
    return life


def tokens(life: Life) -> int:
    return round(life.state.bucket._tokens)


def shown(life: Life, *prefixes: Prefix) -> None:
    """Have the table show our routes."""
    life.read({prefix: (OURS[len(prefix.packed)], "static") for prefix in prefixes})


# -- what a request costs


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (Answer.CREATED, 9),
        (Answer.UNKNOWN, 9),
        (Answer.EXISTS, 10),
        (Answer.UNREACHABLE, 10),
        (Answer.REJECTED, 10),
        (Answer.NOT_SENT, 10),
        (Answer.DENIED, 10),
    ],
)
def test_a_post_costs_a_token_if_it_may_have_changed_something(answer: Answer, left: int) -> None:
    life = full()
    life.want(P4, OURS[4])
    request = life.next()
    assert request is not None
    assert (request.tokens, request.repair, tokens(life)) == (1, False, 9)
    life.answer(request, answer)
    assert tokens(life) == left


@pytest.mark.parametrize(
    ("prefix", "reserved", "steps", "left"),
    [
        (P4, 2, ((Kind.ASSERT, Answer.EXISTS), (Kind.DELETE, Answer.DELETED)), 9),
        (P4, 2, ((Kind.ASSERT, Answer.CREATED), (Kind.DELETE, Answer.DELETED)), 8),
        (P6, 1, ((Kind.DELETE, Answer.DELETED),), 9),
        (P6, 1, ((Kind.DELETE, Answer.ABSENT),), 10),
    ],
)
def test_a_withdrawal_reserves_what_it_may_cost_and_returns_the_rest(
    prefix: Prefix, reserved: int, steps: tuple[tuple[Kind, Answer], ...], left: int
) -> None:
    life = full()
    life.added(prefix)
    life.want(prefix, None)
    life.state.bucket._tokens = 10.0
    request = life.next(1.5)
    assert request is not None
    assert (request.tokens, request.repair, tokens(life)) == (reserved, False, 10 - reserved)
    assert life.follow(request, *(answer for _, answer in steps)) == [kind for kind, _ in steps]
    assert tokens(life) == left


@pytest.mark.parametrize(("prefix", "reserved"), [(P4, 3), (P6, 2)])
def test_a_replacement_costs_two_changes(prefix: Prefix, reserved: int) -> None:
    life, size = full(), len(prefix.packed)
    life.added(prefix)
    life.want(prefix, OTHER[size])
    life.state.bucket._tokens = 10.0
    request = life.next(1.5)
    assert request is not None
    assert request.tokens == reserved
    first = [Answer.EXISTS] if size == 4 else []
    life.follow(request, *first, Answer.DELETED, Answer.CREATED)
    assert tokens(life) == 8


def test_what_is_not_certain_to_be_there_costs_a_post_more() -> None:
    life = full()
    life.added(P6)
    life.want(P6, None)
    life.read({})
    life.state.bucket._tokens = 10.0
    request = life.next()
    assert request is not None
    assert (request.kind, request.tokens) == (Kind.ASSERT, 2)


@pytest.mark.parametrize(("answer", "left"), [(Answer.EXISTS, 10), (Answer.CREATED, 8), (Answer.UNKNOWN, 8)])
def test_a_verification_reserves_a_repair_with_the_deletion_that_it_makes_good(
    answer: Answer, left: int
) -> None:
    life = full()
    life.added(P4)
    life.state.bucket._tokens = life.state.repairs._bucket._tokens = 10.0
    life.state.verify_soon(life.now)
    request = life.next()
    assert request is not None
    room = life.state.repairs._bucket._tokens
    assert room == 15
    assert (request.kind, request.tokens, request.repair, tokens(life)) == (Kind.VERIFY, 2, True, 8)
    assert life.answer(request, answer) is None
    assert tokens(life) == left
    life.state.repairs._bucket._refill(life.now)
    assert life.state.repairs._bucket._tokens == (15 if answer is Answer.CREATED else 16)


def test_without_tokens_nothing_is_taken_from_the_repairs_either() -> None:
    life = full()
    life.added(P4)
    life.state.bucket._tokens = 0.0
    life.state.verify_soon(life.now)
    assert life.next() is None
    assert life.state.token_in > 1000
    assert life.state.repairs._bucket._tokens == 16.0
    life.state.bucket._tokens = 10.0
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    assert life.state.token_in == 0.0
    assert life.state.counters.verifications == 1, "it was put back, not begun again"


def test_a_token_that_comes_in_a_moment_is_waited_for_without_room_for_a_repair() -> None:
    life = full(Limits(rate=10, burst=10))
    life.added(P4)
    life.state.verify_soon(life.now)
    life.state.bucket._refill(life.now)
    life.state.bucket._tokens = 1.5
    assert life.next(0) is None
    assert round(life.state.token_in, 3) == 0.05
    assert life.state.repairs._bucket._tokens == 16.0


def test_without_room_for_a_repair_no_token_is_taken() -> None:
    life = full()
    life.added(P4)
    life.read({})
    life.state.bucket._tokens = 10.0
    life.state.repairs._bucket._tokens = 0.0
    life.state.repairs._bucket._at = life.now
    assert life.next(0) is None
    assert (round(life.state.token_in, 4), tokens(life)) == (0.0625, 10)
    request = life.next(0.1)
    assert request is not None
    assert (request.kind, request.tokens, request.repair) == (Kind.ADD, 2, True)


# -- what goes first, and when


def test_withdrawals_go_first_then_replacements_the_default_route_and_the_rest() -> None:
    life = Life(Witness())
    for prefix in (P4, P6, D4):
        life.want(prefix, OURS[len(prefix.packed)])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.now += 2
    life.want(Q4, OURS[4])
    life.want(D6, OURS[16])
    life.want(P4, OTHER[4])
    life.want(D4, None)
    life.want(P6, None)
    sent = [life.next(0) for _ in range(5)]
    assert [request and request.prefix for request in sent] == [P6, D4, P4, D6, Q4]


def test_a_prefix_changes_once_a_second() -> None:
    life = Life(Witness())
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.want(P4, None)
    assert life.next(0.9) is None
    life.send(Kind.ASSERT, P4, Answer.EXISTS, after_s=0.2)


def test_a_refused_route_is_tried_again_ever_later() -> None:
    life = Life(limits=Limits(inventory_interval_s=1e6))
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.UNREACHABLE)
    for failures in range(1, 12):
        route, wait = life.state.routes[P4], min(300, 2 ** (failures - 1))
        assert (route.failures, route.error) == (failures, "unreachable")
        assert wait * 0.8 <= route.retry_at - life.now <= wait * 1.2
        assert life.state.queue.next_due() == route.retry_at
        assert life.state.synced, "it waits for its own time"
        life.now = route.retry_at
        assert life.state.next_request(life.now - 0.01) is None
        life.send(Kind.ADD, P4, Answer.UNREACHABLE, after_s=0)
    assert len(life.events.of("route/refused")) == 1


def test_another_gateway_is_tried_at_once() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.UNREACHABLE)
    life.want(P4, OTHER[4])
    route = life.state.routes[P4]
    assert (route.phase, route.failures, route.error) == (Phase.PENDING, 0, "")
    life.send(Kind.ADD, P4, Answer.CREATED, after_s=0)


def test_an_operator_may_have_withdrawals_wait() -> None:
    life = Life(Witness(), Limits(withdraw_delay_s=30, probe_interval_s=1000))
    life.added(P4)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    life.want(P4, None)
    life.want(Q4, None)
    assert life.phase(Q4) is None
    assert life.next(29.9) is None
    life.want(P4, OURS[4])
    assert life.next(2) is None, "it is wanted again"
    life.want(P4, None)
    assert life.next(29.9) is None
    life.send(Kind.ASSERT, P4, Answer.EXISTS, after_s=0.2)


def test_what_the_kernel_has_again_and_then_loses_waits_no_longer_for_the_start_up_hold() -> None:
    life = Life(Witness(), limits=Limits(startup_hold_s=60))
    deque(life.state.claim([(P4, Row(OURS[4]))], life.now), 0)
    assert life.next() is None
    assert life.state.held_at_start(life.now) == 1
    life.want(P4, OURS[4])
    assert life.state.held_at_start(life.now) == 0
    life.want(P4, None)
    assert life.state.held_at_start(life.now) == 0
    life.send(Kind.ASSERT, P4, Answer.EXISTS)


def test_what_is_there_and_desired_again_is_held_no_longer() -> None:
    life = Life(limits=Limits(startup_hold_s=60))
    deque(life.state.claim([(P4, Row(OURS[4]))], life.now), 0)
    shown(life, P4)
    assert life.state.held_at_start(life.now) == 1
    life.want(P4, OURS[4])
    assert life.state.held_at_start(life.now) == 0


def test_after_the_start_up_hold_nothing_is_held_by_it() -> None:
    life = Life(Witness(), limits=Limits(startup_hold_s=60))
    deque(life.state.claim([(P4, Row(OURS[4])), (P6, Row(OURS[16], clean=True))], life.now), 0)
    assert life.state.held_at_start(life.now + 59.9) == 2
    assert life.state.held_at_start(life.now + 60) == 0
    states = life.state.routes
    assert (states[P4].clean, states[P6].clean, states[P4].proved_once) == (False, True, True)
    assert life.state.owned == {P4: OURS[4], P6: OURS[16]}
    assert (life.state.owning, life.state.occupied) == (2, {Family.INET: 1, Family.INET6: 1})


def test_a_mass_of_withdrawals_waits_for_a_second_dump() -> None:
    life = Life(Witness(), Limits(withdraw_share=0.5, withdraw_minimum=2, probe_interval_s=1000))
    for prefix in (P4, Q4, R4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.want(P4, None)
    life.want(Q4, None)
    life.want(R4, OTHER[4])
    request = life.next()
    assert request is not None
    assert (request.prefix, request.kind) == (R4, Kind.ASSERT), "replacements are not held back"
    assert life.resyncs == 1
    assert life.state.resynced(life.now - 1) == 0, "it began before"
    assert life.state.resynced(life.now + 1) == 2
    assert {request.prefix for _ in "ab" if (request := life.next(0))} == {P4, Q4}


def test_a_release_covers_no_later_withdrawal() -> None:
    life = Life(Witness(), Limits(withdraw_share=0.5, withdraw_minimum=2, probe_interval_s=1000))
    for prefix in (P4, Q4, R4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    for prefix in (P4, Q4, R4):
        life.send(Kind.VERIFY, prefix, Answer.EXISTS)
    for resyncs in (1, 2):
        for prefix in (P4, Q4):
            life.want(prefix, None)
        assert life.next() is None
        assert life.resyncs == resyncs
        assert life.state.resynced(life.now) == 2
        for prefix in (P4, Q4):
            life.want(prefix, OURS[4])
    life.want(P4, None)
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED)
    assert not life.state.withdrawal_limit._released


def test_a_long_search_for_the_next_request_lets_others_run() -> None:
    life = Life()
    many = [Prefix.parse(f"10.{number // 256}.{number % 256}.0/24") for number in range(501)]
    life.read(dict.fromkeys(many, (THEIRS[4], "bird")))
    for prefix in many:
        life.want(prefix, OURS[4])
    assert life.next() is None
    assert life.state.token_in == 0.001
    assert life.state.phases == {Phase.CONFLICTING: 500, Phase.PENDING: 1}
    assert life.next(0) is None
    assert life.state.phases[Phase.CONFLICTING] == 501
    assert (life.state.token_in, len(life.state._verify)) == (0.001, 1), "all are looked at to be verified"
    assert life.next(0) is None
    assert (life.state.token_in, len(life.state._verify)) == (0.0, 0)


def test_what_is_desired_again_waits_for_no_proof() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    assert life.next(5.1) is None
    assert [*life.state.unproved] == [P4]
    life.want(P4, OTHER[4])
    assert [*life.state.unproved] == [P4], "the old one is to be deleted still"
    life.want(P4, OURS[4])
    assert life.state.unproved == {}


def test_a_route_that_is_healed_or_replaced_waits_for_nothing() -> None:
    life = Life(Witness())
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.now += 0.1
    assert not life.state.witness_changed(P4, life.now, foreign_removed=True)
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED, Answer.CREATED)


def test_what_is_desired_again_is_no_withdrawal_of_the_mass() -> None:
    life = Life(Witness(), Limits(withdraw_share=0.1, withdraw_minimum=2, probe_interval_s=1000))
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.want(P4, None)
    life.want(Q4, None)
    assert [*life.state.withdrawal_limit.waiting] == [P4, Q4]
    life.want(P4, OURS[4])
    assert [*life.state.withdrawal_limit.waiting] == [Q4]
    life.send(Kind.ASSERT, Q4, Answer.EXISTS)


# -- room


def test_room_is_counted_by_family() -> None:
    life = Life(Witness(), Limits(max_inet=1, max_inet6=1))
    other6 = Prefix.parse("fd02::/48")
    for prefix in (P4, Q4, R4, P6, other6):
        life.want(prefix, OURS[len(prefix.packed)])
    assert life.state.over == {Family.INET: {Q4: None, R4: None}, Family.INET6: {other6: None}}
    assert life.state.occupied == {Family.INET: 1, Family.INET6: 1}
    assert life.state.all_phases() == {Phase.PENDING: 2, Phase.OVER_CAPACITY: 3}
    life.want(Q4, None)
    life.refused[R4] = Ineligible(Reason.TOS, "it is for TOS 0x10 only", "rule")
    life.want(R4, OURS[4])
    assert life.state.over_capacity == 1
    assert life.state.all_phases() == {Phase.PENDING: 2, Phase.OVER_CAPACITY: 1, Phase.INELIGIBLE: 1}
    life.want(P6, None)
    assert life.state.all_phases() == {Phase.PENDING: 2, Phase.INELIGIBLE: 1}


def test_a_conflicting_route_needs_no_room_until_it_is_posted() -> None:
    life = Life(limits=Limits(max_inet=1))
    life.read({P4: (THEIRS[4], "bird")})
    for prefix in (P4, Q4, P6):
        life.want(prefix, OURS[len(prefix.packed)])
    assert life.state.over_capacity == 1
    life.send(Kind.ADD, P6, Answer.CREATED)
    life.send(Kind.ADD, Q4, Answer.CREATED, after_s=0)
    assert life.phase(P4) is Phase.CONFLICTING
    assert life.state.over_capacity == 0
    shown(life, Q4, P6)
    life.send(Kind.VERIFY, P6, Answer.EXISTS)
    assert life.phase(P4) is None, "there is no room for it any more"
    assert life.state.over[Family.INET] == {P4: None}
    assert life.state.desired == 2


def test_a_route_that_an_inventory_shows_to_be_another_writers_leaves_its_room_to_the_next() -> None:
    life = Life(limits=Limits(max_inet=1))
    life.want(P4, OURS[4])
    life.want(Q4, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS)
    assert life.state.over_capacity == 1
    life.read({P4: (OURS[4], "bird")})
    assert life.phase(P4) is Phase.PRESENT
    assert life.phase(Q4) is Phase.PENDING
    life.send(Kind.ADD, Q4, Answer.CREATED)


def test_a_refused_route_that_found_no_room_meanwhile_waits_for_it() -> None:
    life = Life(limits=Limits(max_inet=1))
    life.want(P4, OURS[4])
    life.want(Q4, OURS[4])
    life.send(Kind.ADD, P4, Answer.REJECTED)
    life.send(Kind.ADD, Q4, Answer.CREATED, after_s=0)
    life.send(Kind.VERIFY, Q4, Answer.EXISTS)
    assert life.phase(P4) is None
    assert life.state.over[Family.INET] == {P4: None}


def test_other_limits_apply_at_once_and_take_nothing_away() -> None:
    life = Life(Witness(), Limits(max_inet=2))
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    life.send(Kind.VERIFY, Q4, Answer.EXISTS, after_s=0)
    now = life.now
    fewer = Limits(
        rate=7, burst=3, max_inet=1, probe_interval_s=0.5, verify_interval_s=40, withdraw_share=0.2
    )
    life.state.change_limits(fewer, now)
    assert life.state.limits == fewer
    assert (life.state.bucket.rate, life.state.bucket.burst) == (7, 3)
    assert (life.state._probe_at, life.state._verify_at) == (now + 0.5, now + 40)
    assert (life.state.withdrawal_limit._share, life.state.withdrawal_limit._minimum) == (0.2, 50)
    assert len(life.state.owned) == 2
    life.want(R4, OURS[4])
    assert life.state.over_capacity == 1
    life.state.change_limits(Limits(max_inet=3, probe_interval_s=600), now)
    assert life.state._probe_at == now + 0.5, "it is not put off"
    deque(life.state.reevaluate(now), 0)
    assert life.phase(R4) is Phase.PENDING
    assert life.state.over_capacity == 0


# -- what is ineligible


def test_each_reason_is_counted_and_reported_once() -> None:
    life = Life()
    first, second = Ineligible(Reason.TOS, "a", "rule"), Ineligible(Reason.ENCAPSULATED, "b", "rule")
    life.refused[P4] = first
    life.want(P4, OURS[4])
    life.want(P4, OTHER[4])
    assert life.events.seen == [
        RouteIneligible(
            target="lb", prefix="10.1.0.0/16", family="ipv4", reason="tos", detail="a", rule="rule"
        )
    ]
    life.refused[P4] = second
    deque(life.state.reevaluate(life.now, [P6]), 0)
    assert len(life.events.seen) == 2
    assert +life.state.reasons == {Reason.ENCAPSULATED: 1}
    assert life.state.ineligible == {P4: second}
    del life.refused[P4]
    deque(life.state.reevaluate(life.now), 0)
    assert life.phase(P4) is Phase.PENDING
    assert (+life.state.reasons, life.state.ineligible) == ({}, {})
    life.refused[P4] = first
    life.want(P4, OURS[4])
    assert life.phase(P4) is None, "nothing of it was there"
    assert +life.state.reasons == {Reason.TOS: 1}
    life.want(P4, None)
    assert (life.state.ineligible, life.state.desired) == ({}, 0)


def test_routes_of_the_same_reason_are_counted() -> None:
    life = Life()
    for prefix in (P4, Q4):
        life.refused[prefix] = Ineligible(Reason.TOS, "a", "rule")
        life.want(prefix, OURS[4])
    assert life.state.reasons == {Reason.TOS: 2}


def test_what_others_than_the_known_are_evaluated_too() -> None:
    life = Life()
    life.gateways[P4] = OURS[4]
    deque(life.state.reevaluate(life.now, [P4]), 0)
    assert life.phase(P4) is Phase.PENDING


def test_an_evaluation_is_given_the_gateway_that_was_sent_already() -> None:
    life = Life()
    life.want(P4, OURS[4])
    assert life.sent == {P4: None}
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.want(P4, OURS[4])
    assert life.sent == {P4: OURS[4]}
    life.sent.clear()
    deque(life.state.reevaluate(life.now), 0)
    assert life.sent == {P4: OURS[4]}
    deque(life.state.claim([(Q4, Row(OTHER[4]))], life.now), 0)
    assert life.sent[Q4] == OTHER[4]
    taken(life, R4)
    assert life.sent[R4] == THEIRS[4]


# -- what is reported


def test_a_route_is_reported_with_what_it_replaced_and_for_how_long_it_was_missing() -> None:
    life = Life(Witness())
    life.want(P4, OURS[4], life.now - 0.25)
    life.send(Kind.ADD, P4, Answer.CREATED)
    shown(life, P4)
    life.want(P4, OTHER[4])
    request = life.next()
    assert request is not None
    delete = life.answer(request, Answer.EXISTS)
    assert delete is not None
    post = life.answer(delete, Answer.DELETED)
    assert post is not None
    life.now += 0.1234567
    life.answer(post, Answer.CREATED)
    accepted, confirmed, replaced = life.events.seen
    assert accepted == RouteAccepted(**ABOUT_P4, rule="rule")
    assert confirmed == RouteConfirmed(
        **ABOUT_P4,
    )
    assert replaced == RouteAccepted(
        target="lb",
        prefix="10.1.0.0/16",
        family="ipv4",
        gateway="192.168.10.2",
        rule="rule",
        previous_gateway="192.168.10.1",
        gap_ms=123.457,
    )
    measures = life.report.measures.convergence
    assert [measures[stage].count for stage in ("accepted", "confirmed", "withdrawn")] == [1, 1, 0]
    assert measures["accepted"].sum_s == pytest.approx(2.25)
    counters = life.state.counters
    assert (counters.posted, counters.deleted, counters.inventories) == (2, 1, 2)


def test_a_withdrawal_is_reported_with_its_time_and_reason() -> None:
    for why, reason in ((None, "no-route"), (Reason.SPLIT_HORIZON, "split-horizon")):
        life = Life(Witness())
        life.added(P4)
        if why is not None:
            life.refused[P4] = Ineligible(why, "detail", "rule")
        life.want(P4, None if why is None else OURS[4], life.now)
        life.follow(life.next(), Answer.EXISTS, Answer.DELETED)
        assert life.last() == RouteWithdrawn(**ABOUT_P4, reason=reason)
        assert life.report.measures.convergence["withdrawn"].count == 1
        assert life.named().count("route/withdrawn") == 1


def test_a_change_that_needs_nothing_is_not_measured() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, OURS[4], life.now)
    assert life.state.routes[P4].kernel_changed_at is None


def test_a_refusal_is_reported_with_the_targets_words() -> None:
    life = Life()
    life.want(P4, OURS[4])
    request = life.next()
    assert request is not None
    life.state.finished(request, Outcome(Answer.REJECTED, "it is too long", 400), life.now)
    assert life.last() == RouteRefused(
        **ABOUT_P4,
        status=400,
        message="it is too long",
        retry_in_s=1.0,
    )


def test_a_conflict_is_reported_once_with_the_other_route() -> None:
    life = Life()
    life.read({P4: (THEIRS[4], "bird")})
    life.want(P4, OURS[4])
    assert life.next() is None
    life.read({P4: (OTHER[4], "bird")})
    assert life.events.seen == [
        RouteConflicting(
            **ABOUT_P4,
            detail="another writer has it there: via 192.168.10.9, protocol bird",
        )
    ]
    assert life.state.counters.conflicts == 1
    assert life.state.routes[P4].error == "another writer has it there: via 192.168.10.2, protocol bird"


def test_a_row_is_described_whatever_it_lacks() -> None:
    ours = InventoryRow((OURS[4],), frozenset(), "static")
    assert is_ours(ours, OURS[4])
    assert not is_ours(ours, OTHER[4])
    assert not is_ours(ours._replace(protocol="bgp"), OURS[4])
    assert is_ours(ours._replace(protocol="bgp"), OURS[4], frozenset({"bgp"}))
    two = InventoryRow((OURS[4], OTHER[4]), frozenset(), "")
    assert describe_row(two) == (
        "another writer has it there: via 192.168.10.1, 192.168.10.2, protocol unknown"
    )
    assert describe_row(two._replace(gateways=())) == (
        "another writer has it there: via no gateway, protocol unknown"
    )


def test_a_loss_is_reported_and_what_follows_is_a_repair() -> None:
    life = Life()
    life.added(P4)
    life.read({})
    assert life.last() == SyncLost(
        target="lb", prefix="10.1.0.0/16", detail="its table does not show the route any more"
    )
    assert life.phase(P4) is Phase.PENDING
    life.read({})
    assert life.state.counters.lost == 1, "it is lost once"
    life.send(Kind.ADD, P4, Answer.CREATED)
    assert life.state.counters.repaired == 1
    assert life.state.repairs.losses[P4].times == 1
    life.read({})
    request = life.next()
    assert request is not None
    life.answer(request, Answer.CREATED)
    assert life.state.repairs.losses[P4].times == 2
    life.read({})
    assert life.state.routes[P4].phase is Phase.PENDING
    assert life.next(0) is None, "the second repair in a row waits"
    assert 4 <= life.state.repairs.not_before(P4) - (life.now - 3) <= 6


def test_what_a_new_connection_does_not_show_was_lost_by_a_restart() -> None:
    life = Life()
    life.added(P4)
    life.connect()
    assert not life.state.routes[P4].lost
    assert life.named()[-1] == "sync/lost"
    request = life.next()
    assert request is not None
    assert (request.kind, request.repair) == (Kind.ADD, False)


# -- what each answer means


def test_a_post_whose_answer_is_lost_is_ours_until_the_contrary_is_proved() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    route = life.state.routes[P4]
    assert (route.owned, route.certain, route.failures, route.error) == (OURS[4], False, 1, "unknown")
    assert (life.state.owning, life.state.owned) == (1, {P4: OURS[4]})
    request = life.next()
    assert request is not None
    assert (request.kind, request.tokens) == (Kind.ADD, 1)
    life.answer(request, Answer.REJECTED)
    assert (life.phase(P4), life.ledger, route.owned) == (
        Phase.REFUSED,
        {P4: Row(OURS[4], clean=True)},
        OURS[4],
    )


def test_what_was_never_proved_and_is_refused_now_was_refused_then() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    life.want(P4, None)
    life.read({})
    life.send(Kind.ASSERT, P4, Answer.UNREACHABLE)
    assert (life.phase(P4), life.ledger) == (None, {})


@pytest.mark.parametrize("answer", [Answer.UNREACHABLE, Answer.REJECTED])
def test_what_was_proved_once_is_left_behind_where_its_post_is_refused(answer: Answer) -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.read({})
    life.send(Kind.ASSERT, P4, answer)
    route = life.state.routes[P4]
    assert (route.phase, route.failures, route.heal) == (Phase.LEFT_BEHIND, 1, False)
    assert route.error == (
        "ours is left behind, since nothing proves that DELETE would remove it and no other: "
        f"a POST of it is refused: {answer.name.lower()}"
    )
    assert life.last() == RouteWithdrawn(**ABOUT_P4, reason="left-behind")
    life.read({})
    assert life.phase(P4) is Phase.LEFT_BEHIND, "it was tried a moment ago"
    life.now = route.since + 300 - 3.1
    life.read({})
    assert life.phase(P4) is Phase.LEFT_BEHIND
    life.now = route.since + 300 - 3
    life.read({})
    assert life.phase(P4) is Phase.WITHDRAWING, "it is tried again"


@pytest.mark.parametrize("answer", [Answer.NOT_SENT, Answer.DENIED, Answer.UNKNOWN])
def test_a_withdrawal_that_is_not_answered_is_tried_again(answer: Answer) -> None:
    life = Life(Witness())
    life.added(P4)
    life.want(P4, None)
    life.send(Kind.ASSERT, P4, answer)
    route = life.state.routes[P4]
    assert (route.phase, route.failures, route.error) == (Phase.WITHDRAWING, 1, answer.name.lower())
    assert route.certain == (answer is not Answer.UNKNOWN)
    assert life.next(0.5) is None
    life.follow(life.next(1.0), Answer.EXISTS, Answer.DELETED)


@pytest.mark.parametrize(
    ("prefix", "answer", "gone"),
    [
        (P4, Answer.ABSENT, False),  # the POST before it said that it is there
        (P4, Answer.UNKNOWN, False),
        (P4, Answer.REJECTED, False),
        (P6, Answer.ABSENT, True),
        (P6, Answer.UNKNOWN, False),
        (P6, Answer.NOT_SENT, False),
    ],
)
def test_what_each_answer_to_a_delete_means(prefix: Prefix, answer: Answer, gone: bool) -> None:  # noqa: FBT001
    life = Life()
    life.added(prefix)
    life.want(prefix, None)
    first = [Answer.EXISTS] if prefix == P4 else []
    life.follow(life.next(1.5), *first, answer)
    assert (life.phase(prefix) is None) == gone
    assert (prefix in life.ledger) != gone
    assert life.state.counters.deleted == 0
    if not gone:
        route = life.state.routes[prefix]
        assert (route.certain, route.failures, route.error) == (False, 1, answer.name.lower())


def test_a_post_that_finds_another_writers_route_first_leaves_ours_behind_without_a_failure() -> None:
    witness = Witness()
    life = Life(witness)
    life.added(P4)
    life.want(P4, None)
    request = life.next()
    assert request is not None
    witness.has = "another, ours"
    assert life.answer(request, Answer.EXISTS) is None
    route = life.state.routes[P4]
    assert (route.phase, route.failures) == (Phase.LEFT_BEHIND, 0)
    assert "a POST of it is refused" not in route.error


def test_a_replacement_that_was_left_behind_is_tried_again_where_only_a_post_can_tell() -> None:
    life = Life()
    life.added(P6)
    life.want(P6, OTHER[16])
    life.read({})
    life.send(Kind.ADD, P6, Answer.EXISTS)
    assert life.phase(P6) is Phase.LEFT_BEHIND
    life.now += RETRY_MOST_S + 1
    life.read({})
    assert life.phase(P6) is Phase.PENDING
    life.send(Kind.ADD, P6, Answer.CREATED)


def test_the_route_that_a_post_may_not_have_replaced_is_known_by_each_protocol_of_ours() -> None:
    life = Life()
    life.state.protocols = frozenset({"static", "boot"})
    life.added(P4)
    life.want(P4, OTHER[4])
    life.read({})
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    life.read({P4: (OURS[4], "boot")})
    assert life.state.routes[P4].owned == OURS[4]


def test_a_withdrawal_is_not_finished_when_the_route_is_desired_again_meanwhile() -> None:
    for answer in (Answer.EXISTS, Answer.CREATED):
        life = Life(Witness())
        life.added(P4)
        life.want(P4, None)
        request = life.next()
        assert request is not None
        life.want(P4, OURS[4])
        assert life.answer(request, answer) is None
        assert life.state.routes[P4].owned == OURS[4]
        assert life.phase(P4) is Phase.ACCEPTED


def test_a_proof_that_grew_old_between_post_and_delete_is_fetched_again() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    shown(life, P4)
    request = life.next(4)
    assert request is not None
    life.now += 2
    assert life.answer(request, Answer.EXISTS) is None
    assert life.phase(P4) is Phase.WITHDRAWING
    assert life.next() is None
    assert [*life.state.unproved] == [P4]
    shown(life, P4)
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED)


def test_a_post_that_finds_the_route_gone_is_proof_for_ipv4_and_clean_ipv6() -> None:
    for prefix in (P4, P6):
        life = Life()
        life.added(prefix)
        life.want(prefix, None)
        life.read({})
        assert life.send(Kind.ASSERT, prefix, Answer.CREATED) is not None
        assert life.state.counters.stale_removed == 1


def test_what_nothing_could_prove_afterwards_is_not_posted_to_be_deleted() -> None:
    unclean = Life()
    unclean.added(P6)
    unclean.read({P6: (THEIRS[16], "static")})
    default = Life()
    default.added(D6)
    for life, prefix in ((default, D6), (unclean, P6)):
        life.want(prefix, None)
        for wait_s in (0.0, RETRY_MOST_S + 1, RETRY_MOST_S + 1):
            life.now += wait_s
            life.read({})
            assert life.next() is None
            assert life.phase(prefix) is Phase.LEFT_BEHIND
        assert life.state.routes[prefix].error.endswith(
            "no other: the target's table does not show it, its kernel may have it"
        )


@pytest.mark.parametrize(
    ("answer", "phase", "gateway"),
    [
        (Answer.CREATED, Phase.ACCEPTED, OTHER),
        (Answer.EXISTS, Phase.LEFT_BEHIND, OURS),
        (Answer.REJECTED, Phase.REFUSED, OURS),
        (Answer.NOT_SENT, Phase.PENDING, OURS),
        (Answer.UNKNOWN, Phase.PENDING, OTHER),
    ],
)
def test_a_replacement_of_what_the_table_does_not_show_is_posted_at_once(
    answer: Answer, phase: Phase, gateway: dict[int, Address]
) -> None:
    """A 2xx proves that the old one is gone: both have the same key."""
    life = Life()
    life.added(P4)
    life.want(P4, OTHER[4])
    life.read({})
    request = life.next()
    assert request is not None
    assert (request.kind, request.gateway) == (Kind.ADD, OTHER[4])
    assert life.ledger[P4] == Row(OTHER[4], clean=True)
    life.answer(request, answer)
    assert life.state.routes[P4].clean == (answer is not Answer.EXISTS)
    assert ("route/refused" in life.named()) == (answer is Answer.REJECTED)
    assert (life.phase(P4), life.ledger[P4].gateway) == (phase, gateway[4])
    assert life.state.routes[P4].owned == gateway[4]
    assert life.events.of("route/withdrawn") == [], "a route to the prefix is desired still"


def test_a_409_says_nothing_new_while_the_table_is_as_old_as_the_last_request() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    deque(life.state.take_inventory(Inventory({}, 0), life.now, life.now), 0)
    life.send(Kind.ADD, P4, Answer.EXISTS)
    assert life.phase(P4) is Phase.UNJUDGED


def test_what_happens_again_is_counted_again() -> None:
    life = Life()
    life.read({R4: (THEIRS[4], "bird"), P6: (THEIRS[16], "bird")})
    for prefix in (R4, P6):
        life.want(prefix, OURS[len(prefix.packed)])
    assert life.next() is None
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
        life.want(prefix, None)
    life.read({})
    for _ in "ab":
        life.follow(life.next(), Answer.CREATED, Answer.DELETED)
    counters = life.state.counters
    assert (counters.posted, counters.stale_removed, counters.deleted, counters.conflicts) == (4, 2, 2, 2)
    life = Life()
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.read({})
    for prefix in (P4, Q4):
        life.send(Kind.ADD, prefix, Answer.CREATED)
    counters = life.state.counters
    assert (counters.lost, counters.repaired) == (2, 2)


def test_a_row_that_our_delete_removed_is_no_other_writers() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.follow(life.next(1.5), Answer.EXISTS, Answer.DELETED)
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)


def test_what_looks_as_ours_depends_on_the_targets_version() -> None:
    life = Life()
    life.state.protocols = frozenset({"bgp"})
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.read({P4: (OURS[4], "bgp")})
    assert life.phase(P4) is Phase.CONFIRMED
    life.want(P4, None)
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED)
    assert life.state.foreign_not_forwarded == {}


def test_an_inventory_is_a_proof_for_five_seconds_if_nothing_was_sent_since() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    assert life.next(6) is None
    shown(life, P4)
    life.state.routes[P4].changed_at = life.state.inventory_at
    assert life.next(0) is None
    shown(life, P4)
    assert life.next(5) is not None


def test_what_is_pending_is_judged_when_its_turn_comes() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.read({P4: (THEIRS[4], "bird")})
    assert life.phase(P4) is Phase.PENDING
    assert life.next(0) is None
    assert life.phase(P4) is Phase.CONFLICTING


def test_what_shows_again_is_not_posted() -> None:
    life = Life()
    life.added(P4)
    life.read({})
    shown(life, P4)
    assert life.phase(P4) is Phase.CONFIRMED
    assert P4 not in life.state.queue
    assert life.named().count("route/confirmed") == 2, "it was lost in between"
    shown(life, P4)
    assert life.named().count("route/confirmed") == 2


def test_ours_that_shows_again_below_another_is_replaced_then() -> None:
    life = Life()
    life.added(P4)
    life.read({P4: (THEIRS[4], "bird")})
    life.want(P4, OTHER[4])
    assert life.next(0) is None
    assert life.phase(P4) is Phase.CONFLICTING
    shown(life, P4)
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED, Answer.CREATED)


def test_a_replacement_that_fails_after_the_delete_is_a_withdrawal() -> None:
    life = Life(Witness())
    life.added(P4)
    life.want(P4, OTHER[4])
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED, Answer.REJECTED)
    assert life.named()[-2:] == ["route/withdrawn", "route/refused"]
    assert life.events.of("route/withdrawn") == [
        RouteWithdrawn(
            **ABOUT_P4,
            reason="replacement-failed",
        )
    ]
    assert life.ledger == {}
    assert life.state.routes[P4].gap_since is not None
    request = life.next()
    assert request is not None
    assert (request.kind, request.tokens) == (Kind.ADD, 1)
    life.answer(request, Answer.REJECTED)
    life.want(P4, None)
    assert life.phase(P4) is None


def test_the_gap_lasts_until_any_route_to_the_prefix_is_there() -> None:
    life = Life(Witness())
    life.added(P4)
    life.want(P4, OTHER[4])
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED, Answer.REJECTED)
    life.want(P4, THEIRS[4])
    life.send(Kind.ADD, P4, Answer.CREATED, after_s=3)
    (_, accepted) = life.events.of("route/accepted")
    assert isinstance(accepted, RouteAccepted)
    assert accepted.gap_ms == 3000


def test_the_target_that_says_nothing_of_a_route_that_it_showed_means_that_it_exists() -> None:
    """Old versions refuse a POST without a word why."""
    life = Life()
    life.added(P4)
    life.state.routes[P4].certain = False
    life.state._place(life.state.routes[P4], life.now)
    shown_row = life.state.inventory.rows
    assert P4 in shown_row
    life.send(Kind.ADD, P4, Answer.UNEXPLAINED)
    assert life.phase(P4) is Phase.UNJUDGED


def test_a_refusal_without_a_word_why_is_one_where_the_table_shows_nothing_of_ours() -> None:
    life = Life()
    life.added(P4)
    life.read({})
    life.send(Kind.ADD, P4, Answer.UNEXPLAINED)
    assert life.phase(P4) is Phase.REFUSED
    life = Life()
    life.beside = True
    life.read({D4: (THEIRS[4], "16")})
    life.want(D4, OURS[4])
    life.send(Kind.ADD, D4, Answer.UNEXPLAINED)
    assert life.phase(D4) is Phase.REFUSED


@pytest.mark.parametrize("clean", [True, False])
def test_ours_that_is_posted_again_is_as_clean_as_it_was(*, clean: bool) -> None:
    life = Life()
    life.added(P4)
    if not clean:
        life.read({P4: (THEIRS[4], "bird")})
    life.want(P4, None)
    shown(life, P4)
    life.send(Kind.ASSERT, P4, Answer.UNKNOWN)
    life.want(P4, OURS[4])
    request = life.next()
    assert request is not None
    assert request.intent == Row(OURS[4], clean)
    life.answer(request, Answer.CREATED)
    assert life.state.routes[P4].clean == clean


def test_what_a_post_proved_once_is_left_behind_where_another_is_refused() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.want(P4, None)
    life.read({})
    life.send(Kind.ASSERT, P4, Answer.REJECTED)
    assert life.phase(P4) is Phase.LEFT_BEHIND


def test_only_ours_on_clean_ground_stays_clean() -> None:
    life = Life()
    life.read({P6: (THEIRS[16], "ra")})
    life.want(P6, OURS[16])
    assert life.next() is None
    life = Life()
    life.read({D4: (THEIRS[4], "16")})
    life.beside = True
    life.want(D4, OURS[4])
    request = life.next()
    assert request is not None
    assert request.intent == Row(OURS[4], clean=False)
    life.answer(request, Answer.CREATED)
    assert not life.state.routes[D4].clean


# -- a 409 and its judgement


def test_one_inventory_judges_all_and_not_before_ten_seconds_after_the_last() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS)
    assert life.state.inventory_in(life.now) == 8
    life.want(Q4, OURS[4])
    life.send(Kind.ADD, Q4, Answer.EXISTS, after_s=0)
    life.read({P4: (OURS[4], "bird")})
    assert (life.phase(P4), life.phase(Q4)) == (Phase.PRESENT, Phase.CONFLICTING)
    assert (life.state.routes[P4].failures, life.state.routes[P4].error) == (0, "")
    assert life.state._judge_gap_s == 10.0


def test_while_others_wait_a_409_waits_five_seconds_for_more() -> None:
    life = Life()
    life.now += 100
    life.read({})
    life.now += 100
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS, after_s=0)
    assert life.state.inventory_due(life.now), "nothing else waits"
    life.want(Q4, OURS[4])
    assert not life.state.inventory_due(life.now)
    assert life.state.inventory_in(life.now) == 5
    life.send(Kind.ADD, Q4, Answer.CREATED, after_s=0)


def test_judgements_that_change_nothing_double_the_gap() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS)
    route = life.state.routes[P4]
    for gap in (20, 40, 80, 120, 120):
        route.changed_at = inf  # it changed while the table was read
        life.read({})
        assert life.phase(P4) is Phase.UNJUDGED
        assert life.state._judge_gap_s == gap


def test_a_route_behind_a_409_that_no_table_shows_is_tried_after_five_minutes() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS)
    assert life.state.routes[P4].error == "exists"
    life.read({})
    assert life.phase(P4) is Phase.CONFLICTING
    assert life.state.routes[P4].error == "a route exists in its kernel that its table does not show"
    route = life.state.routes[P4]
    assert route.retry_at == life.now + 300
    life.now = route.retry_at - 3.1
    life.read({})
    assert life.phase(P4) is Phase.CONFLICTING
    life.now = route.retry_at - 3
    life.read({})
    assert (route.phase, route.failures, route.error) == (Phase.PENDING, 0, "")


# -- inventories


def test_the_table_is_read_every_ten_minutes_and_more_often_beside_other_writers() -> None:
    life = Life()
    assert life.state.inventory_in(life.now) == 600
    assert not life.state.inventory_due(life.now + 599.9)
    assert life.state.inventory_due(life.now + 600)
    life.want(P4, OURS[4])
    assert not life.state.inventory_due(life.now + 600), "first what waits"
    life.read({P4: (THEIRS[4], "bird")})
    assert life.next(0) is None
    assert life.phase(P4) is Phase.CONFLICTING
    assert life.state.inventory_in(life.now) == CONFLICT_INVENTORY_S
    life.read({P4: (OURS[4], "bird")})
    assert life.phase(P4) is Phase.PRESENT
    assert life.state.inventory_in(life.now) == CONFLICT_INVENTORY_S


def test_what_is_verified_again_does_not_put_the_inventory_off() -> None:
    life = Life()
    life.added(P4)
    life.state.queue.put(P4, Urgency.VERIFY, now=life.now)
    assert life.state.inventory_due(life.now + 600)


def test_what_is_left_behind_has_the_table_read_more_often() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.read({P4: (THEIRS[4], "bird")})
    assert life.next(0) is None
    assert life.phase(P4) is Phase.LEFT_BEHIND
    assert life.state.inventory_in(life.now) == CONFLICT_INVENTORY_S
    shown(life, P4)
    assert life.phase(P4) is Phase.WITHDRAWING, "now there is a proof"


def test_a_proof_waits_for_quiet_and_for_the_gap_between_two_inventories() -> None:
    life = Life(limits=Limits(inventory_gap_s=1.5))
    life.added(P4)
    life.want(P4, None)
    life.now += 10
    assert life.next(0) is None
    assert [*life.state.unproved.values()] == [life.now]
    assert (life.state.waiting, life.state.synced) == (1, False)
    assert life.state.inventory_in(life.now) == 0
    assert life.state.oldest_s(life.now + 3) == 3
    life.state.inventory_at = life.now - 1
    assert life.state.inventory_in(life.now) == 0.5
    life.state.inventory_at = life.now - 2
    life.state.ingestion.note(life.now)
    assert life.state.inventory_in(life.now) == pytest.approx(1 + 1 / 256)


def test_what_changed_while_the_table_was_read_is_not_compared() -> None:
    life = Life()
    life.added(P4)
    empty = Inventory({}, 0)
    started = life.state.routes[P4].changed_at
    deque(life.state.take_inventory(empty, started, life.now), 0)
    assert life.phase(P4) is Phase.CONFIRMED
    assert life.state.inventory_at == started
    assert life.state.proved_at == life.now
    deque(life.state.take_inventory(empty, started + 0.1, life.now), 0)
    assert life.phase(P4) is Phase.PENDING
    assert life.state.routes[P4].lost


def test_what_waits_for_a_proof_that_an_inventory_is_none_of_waits_on() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    assert life.next(6) is None
    assert P4 in life.state.unproved
    life.state.routes[P4].changed_at = life.now
    deque(life.state.take_inventory(Inventory({}, 0), life.now, life.now), 0)
    assert P4 in life.state.queue
    assert life.next() is None
    assert P4 in life.state.unproved


def test_what_is_being_sent_is_not_compared() -> None:
    life = Life()
    life.added(P4)
    life.state.verify_soon(life.now)
    request = life.next()
    assert request is not None
    life.read({})
    assert life.phase(P4) is Phase.CONFIRMED
    life.answer(request, Answer.EXISTS)


def test_a_row_of_another_writer_over_ours_is_a_conflict_and_ours_stays_ours() -> None:
    life = Life()
    life.added(P4)
    life.read({P4: (THEIRS[4], "bird")})
    route = life.state.routes[P4]
    assert (route.phase, route.owned, route.certain, route.clean) == (
        Phase.CONFLICTING,
        OURS[4],
        False,
        False,
    )
    assert life.last() == RouteConflicting(
        **ABOUT_P4,
        detail="another writer has it there: via 192.168.10.9, protocol bird",
    )
    shown(life, P4)
    assert (route.phase, route.certain) == (Phase.CONFIRMED, True)
    life.read({P4: (OURS[4], "bird")})
    assert (route.phase, route.certain) == (Phase.PRESENT, False)
    life.want(P4, None)
    life.read({P4: (OURS[4], "bird")})
    assert life.phase(P4) is not Phase.PRESENT, "nothing is desired"


def test_what_a_previous_run_added_is_known_to_subscribers_before_it_is_withdrawn() -> None:
    life = Life(Witness(), Limits(startup_hold_s=0))
    deque(life.state.claim([(P4, Row(OURS[4]))], life.now), 0)
    shown(life, P4)
    assert life.named() == ["route/confirmed"]
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED)
    assert life.named() == ["route/confirmed", "route/withdrawn"]


def test_another_writers_route_that_our_delete_hid_is_remembered_until_it_shows() -> None:
    life = Life(Witness("ours and another"))
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.want(P4, None)
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED)
    assert [*life.state.foreign_not_forwarded] == [P4]
    life.read({})
    assert [*life.state.foreign_not_forwarded] == [P4]
    life.read({P4: (THEIRS[4], "bird")})
    assert life.state.foreign_not_forwarded == {}


def test_a_post_of_ours_ends_that_too() -> None:
    life = Life()
    life.state.foreign_not_forwarded[P4] = None
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    assert life.state.foreign_not_forwarded == {}


# -- checks


def test_probes_take_turns_and_all_are_verified_after_an_hour() -> None:
    life = Life(Witness(), Limits(probe_interval_s=5, verify_interval_s=100))
    for prefix in (P4, Q4, R4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED, after_s=0.1)
    for prefix in (P4, Q4, R4):
        life.send(Kind.VERIFY, prefix, Answer.EXISTS, after_s=0.1)
    began = life.now - 0.2
    probed = []
    for _ in range(6):
        request = life.next(5.1)
        assert request is not None
        probed.append(request.prefix)
        life.answer(request, Answer.EXISTS)
        assert life.next(0) is None, "one at a time"
    assert probed == [P4, Q4, R4] * 2
    assert (life.state.counters.probes, life.state.counters.verifications) == (6, 1)
    life.now = began + 99.9
    request = life.next(0)
    assert request is not None
    life.answer(request, Answer.EXISTS)
    assert life.state.counters.verifications == 1
    for prefix in (P4, Q4, R4):
        life.send(Kind.VERIFY, prefix, Answer.EXISTS, after_s=0.1)
    assert life.state.counters.verifications == 2
    assert life.next(4.8) is None, "a verification is a probe of each"


def test_a_gateway_that_is_unreachable_is_looked_at_with_each_probe_until_it_works() -> None:
    life = Life(Witness(), Limits(probe_interval_s=5))
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.send(Kind.VERIFY, P4, Answer.UNREACHABLE)
    life.send(Kind.VERIFY, Q4, Answer.UNREACHABLE)
    assert life.state.unreachable == {OURS[4]: P4}
    assert (life.phase(P4), life.state.complete) == (Phase.ACCEPTED, False)
    seen: list[Prefix] = []
    for _ in range(18):
        request = life.next(1)
        if request is not None:
            seen.append(request.prefix)
            life.answer(request, Answer.UNREACHABLE)
    assert seen[:6] == [P4, P4, P4, Q4, P4, P4]
    verified = life.state.counters.verifications
    for _ in range(6):
        request = life.next(1)
        if request is not None:
            life.answer(request, Answer.EXISTS)
    assert not life.state.unreachable
    assert life.next(1) is not None
    assert life.state.counters.verifications == verified + 1, "whatever goes by it is verified"


def test_an_unreachable_gateway_that_no_route_has_is_forgotten() -> None:
    life = Life(Witness(), Limits(probe_interval_s=5))
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.send(Kind.VERIFY, P4, Answer.UNREACHABLE)
    life.want(P4, OTHER[4])
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED, Answer.CREATED)
    life.now += 6
    life.next(0)
    assert life.state.unreachable == {}


def test_a_verification_that_is_not_answered_is_tried_again_by_itself() -> None:
    life = Life(Witness(), Limits(probe_interval_s=1000))
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.send(Kind.VERIFY, P4, Answer.UNKNOWN)
    route = life.state.routes[P4]
    assert (route.failures, route.error, route.certain) == (1, "unknown", True)
    assert not life.state.synced
    life.state.verify_soon(life.now)
    assert life.next(0.7) is None, "neither by a verification of all"
    life.send(Kind.VERIFY, P4, Answer.EXISTS, after_s=0.6)
    assert (route.failures, route.error, life.state.synced) == (0, "", True)


def test_what_is_lost_again_is_verified_when_its_time_comes_and_nothing_waits_for_that() -> None:
    life = Life(Witness(), Limits(probe_interval_s=1000))
    life.added(P4)
    for _ in "ab":
        life.state.verify_soon(life.now)
        life.send(Kind.VERIFY, P4, Answer.CREATED, after_s=11)
    assert life.state.queue.next_due() == life.state.repairs.not_before(P4) > life.now
    assert life.state.synced


def test_what_is_to_be_replaced_is_not_verified() -> None:
    life = Life(limits=Limits(inventory_gap_s=100, probe_interval_s=5))
    life.added(P4)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    life.want(P4, OTHER[4])
    assert life.next(5) is None
    assert [*life.state.unproved] == [P4]
    assert life.next(5) is None, "the gateway is another one"


def test_a_verification_that_repairs_is_a_loss_and_all_others_are_verified_soon() -> None:
    life = Life(Witness(), Limits(probe_interval_s=5))
    life.added(P4)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    life.state.verify_soon(life.now)
    life.send(Kind.VERIFY, P4, Answer.CREATED, after_s=1)
    assert life.events.of("sync/lost") == [
        SyncLost(
            target="lb",
            prefix="10.1.0.0/16",
            detail="a repeated POST was accepted: its kernel had lost the route, and has it again",
        )
    ]
    route = life.state.routes[P4]
    assert (route.phase, route.certain, route.lost) == (Phase.ACCEPTED, True, False)
    assert life.state.owning == 1
    assert (life.state.counters.lost, life.state.counters.repaired) == (1, 1)
    assert life.state._verify_at == life.now + 10, "not more often than every ten seconds"
    assert [*life.state._look] == [P4]
    assert life.state._look_at == life.now + 3


def test_a_repaired_route_is_looked_at_after_three_seconds() -> None:
    life = Life(Witness(), Limits(probe_interval_s=1000))
    life.added(P4)
    life.send(Kind.VERIFY, P4, Answer.CREATED, after_s=11)
    assert life.next(2.9) is None
    life.send(Kind.VERIFY, P4, Answer.EXISTS, after_s=0.1)
    assert (life.state.repairs._seen, life.state.repairs._kept) == (1, 1)
    assert not life.state._look
    life.state.verify_soon(life.now)
    life.send(Kind.VERIFY, P4, Answer.CREATED, after_s=1)
    assert (life.state.repairs._seen, life.state.repairs._kept) == (2, 1)


@pytest.mark.parametrize("found_by", ["inventory", "verification"])
def test_while_repaired_routes_stay_the_others_are_repaired_ever_faster(found_by: str) -> None:
    life = Life(limits=Limits(probe_interval_s=1000))
    prefixes = [Prefix.parse(f"10.{number // 256}.{number % 256}.0/24") for number in range(600)]
    for prefix in prefixes:
        life.want(prefix, OURS[4])
    there: set[Prefix] = set()
    play(life, there, 20)
    assert len(there) == 600
    life.read(dict.fromkeys(prefixes, (OURS[4], "static")))
    there.clear()
    if found_by == "inventory":
        life.read({})
    else:
        life.state.verify_soon(life.now)
    play(life, there, 3)
    assert len(there) < 100, "16 at once, and 16 a second"
    play(life, there, 10)
    assert life.state.repairs.rate == 120, "16, 32, 64, 120"
    assert len(there) > 400


def play(life: Life, there: set[Prefix], seconds: float) -> None:
    """Let that time pass, with a target that has these routes and answers at once."""
    end = life.now + seconds
    while life.now < end:
        life.state.tick(life.now)
        while (request := life.next(0)) is not None:
            answer = Answer.EXISTS if request.prefix in there else Answer.CREATED
            there.add(request.prefix)
            assert life.answer(request, answer) is None
        life.now += 0.05


def test_looks_do_not_hold_up_what_is_new() -> None:
    life = Life(limits=Limits(probe_interval_s=1000))
    life.added(P4)
    life.state.verify_soon(life.now)
    life.send(Kind.VERIFY, P4, Answer.CREATED)
    life.now += 3
    life.want(P6, OURS[16])
    life.send(Kind.ADD, P6, Answer.CREATED, after_s=0)
    life.send(Kind.VERIFY, P4, Answer.EXISTS, after_s=0)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.REFUSED])
def test_what_a_restart_took_and_is_not_added_again_yet_is_not_lost_by_the_next_inventory(
    phase: Phase,
) -> None:
    life = Life()
    life.added(P4)
    life.connect()
    if phase is Phase.REFUSED:
        life.send(Kind.ADD, P4, Answer.UNREACHABLE)
    life.read({})
    assert life.phase(P4) is phase
    request = life.next()
    assert request is not None
    assert not request.repair
    life.answer(request, Answer.CREATED)
    assert (life.state.counters.repaired, len(life.state.repairs.losses)) == (0, 0)
    life.read({})
    request = life.next()
    assert request is not None
    assert request.repair


def test_what_a_verification_repaired_is_verified_with_all_others_at_once() -> None:
    life = Life(Witness(), Limits(probe_interval_s=5))
    life.added(P4)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    life.state.verify_soon(life.now + 11)
    life.send(Kind.VERIFY, P4, Answer.EXISTS, after_s=5)
    life.state._verified_at = -inf
    life.send(Kind.VERIFY, P4, Answer.CREATED, after_s=5)
    life.send(Kind.VERIFY, P4, Answer.EXISTS, after_s=0)


def test_what_is_compared_or_answered_is_a_proof_of_that_time() -> None:
    life = Life()
    life.added(P4)
    assert life.state.proved_at == life.now
    life.state.verify_soon(life.now)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    assert life.state.proved_at == life.now
    life.want(Q4, OURS[4])
    life.send(Kind.ADD, Q4, Answer.CREATED)
    assert life.state.proved_at == life.now
    life.want(R4, OURS[4])
    life.send(Kind.ADD, R4, Answer.REJECTED)
    assert life.state.proved_at < life.now


def test_contention_ends_when_its_losses_are_forgotten() -> None:
    life = Life(Witness(), Limits(probe_interval_s=1000))
    life.added(P4)
    for _ in range(3):
        life.state.repairs.lost(P4, life.now)
    life.state.routes[P4].lost = True
    life.state.routes[P4].certain = False
    life.state._place(life.state.routes[P4], life.now)
    assert life.phase(P4) is Phase.CONTENDED
    assert life.state.synced, "it waits for its own time"
    life.now = life.state.repairs.not_before(P4)
    life.send(Kind.ADD, P4, Answer.CREATED, after_s=0)
    assert life.phase(P4) is Phase.CONTENDED
    shown(life, P4)
    assert life.phase(P4) is Phase.CONTENDED, "being there once proves nothing"
    life.now += 601
    life.state.tick(life.now)
    assert life.phase(P4) is Phase.ACCEPTED


# -- the witness


def test_what_the_witness_says_right_after_a_request_is_looked_at_again() -> None:
    life = Life(witness := Witness())
    assert not life.state.witness_changed(P4, life.now), "nothing is known of it"
    life.want(P4, OURS[4])
    request = life.next()
    assert request is not None
    assert life.state.witness_changed(P4, life.now + 1), "the answer is on its way"
    life.answer(request, Answer.CREATED)
    assert life.state.witness_changed(P4, life.now + 0.04)
    witness.ready = False
    assert not life.state.witness_changed(P4, life.now + 0.04)
    witness.ready = True
    assert not life.state.witness_changed(P4, life.now + WITNESS_LAG_S)
    assert life.phase(P4) is Phase.CONFIRMED
    assert life.last() == RouteConfirmed(
        **ABOUT_P4,
    )


def test_another_route_that_goes_lets_ours_in() -> None:
    life = Life(witness := Witness("another"))
    life.read({P4: (THEIRS[4], "bird")})
    life.want(P4, OURS[4])
    assert life.next() is None
    assert life.phase(P4) is Phase.CONFLICTING
    witness.has = "nothing"
    assert not life.state.witness_changed(P4, life.now)
    assert life.phase(P4) is Phase.PENDING
    assert P4 not in life.state.inventory.rows
    life.send(Kind.ADD, P4, Answer.CREATED)


def test_a_stale_row_of_another_writer_does_not_count_where_the_witness_shows_nothing() -> None:
    life = Life(Witness("nothing"))
    life.read({P4: (THEIRS[4], "bird")})
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)


@pytest.mark.parametrize(
    ("has", "phase", "event"),
    [
        ("another before ours", Phase.CONFLICTING, "route/conflicting"),
        ("another", Phase.CONFLICTING, "route/conflicting"),
        ("nothing", Phase.PENDING, "sync/lost"),
        ("ours and another", Phase.CONFIRMED, "route/confirmed"),
    ],
)
def test_what_the_witness_shows_of_a_route_of_ours(has: str, phase: Phase, event: str) -> None:
    life = Life(witness := Witness())
    life.added(P4)
    witness.has = has
    life.now += 1
    assert not life.state.witness_changed(P4, life.now)
    route = life.state.routes[P4]
    assert (route.phase, life.named()[-1]) == (phase, event)
    assert (route.owned is not None) == ("ours" in has)
    assert (P4 in life.ledger) == ("ours" in has)
    assert route.lost == (has == "nothing")
    assert (P4 in life.state.inventory.rows) == (has != "nothing")
    said = {
        "another before ours": "its kernel has another writer's route before ours",
        "another": "its kernel has another route to the prefix now",
    }
    assert route.error == said.get(has, "")
    if has == "nothing":
        assert life.last() == SyncLost(
            target="lb", prefix="10.1.0.0/16", detail="its kernel does not have the route any more"
        )
        life.send(Kind.ADD, P4, Answer.CREATED)
        assert life.state.repairs.losses[P4].times == 1


@pytest.mark.parametrize(("has", "reason"), [("nothing", "no-route"), ("another", "replaced-by-other")])
def test_a_withdrawal_that_another_writer_made_is_done(has: str, reason: str) -> None:
    life = Life(witness := Witness(), Limits(withdraw_delay_s=100))
    life.added(P4)
    life.want(P4, None)
    witness.has = has
    life.now += 1
    assert not life.state.witness_changed(P4, life.now)
    assert life.last() == RouteWithdrawn(**ABOUT_P4, reason=reason)
    assert life.ledger == {}
    if has == "nothing":
        assert life.phase(P4) is Phase.WITHDRAWING, "its row may be left"
        assert life.next() is None
        assert life.state.inventory_due(life.now + 2)
        life.read({})
    assert life.next() is None
    assert life.phase(P4) is None


@pytest.mark.parametrize("wanted_until", ["the flap", "the next table"])
def test_a_row_that_a_flapping_link_left_of_what_is_withdrawn_is_removed_by_post_and_delete(
    wanted_until: str,
) -> None:
    """Else the target would go on forwarding by it, and nothing of it would be in the ledger."""
    life = Life(witness := Witness())
    life.added(P4)
    witness.has = "nothing"
    life.now += 1
    if wanted_until == "the flap":
        life.want(P4, None)
        assert not life.state.witness_changed(P4, life.now)
    else:
        life.gateways.pop(P4)
        life.state.route_changed(P4, life.now)
        life.read({P4: (OURS[4], "static")})
    assert life.last() == RouteWithdrawn(**ABOUT_P4, reason="no-route")
    assert life.ledger == {}, "what looks like it in the kernel from now on is another writer's"
    assert life.next() is None
    life.read({P4: (OURS[4], "static")})
    assert life.phase(P4) is Phase.WITHDRAWING
    request = life.next()
    assert request is not None
    assert request.intent == life.ledger[P4] == Row(OURS[4]), "on disk before the POST"
    assert life.follow(request, Answer.CREATED, Answer.DELETED) == [Kind.ASSERT, Kind.DELETE]
    assert life.phase(P4) is None
    assert life.ledger == {}


def withdrawn_and_lost() -> tuple[Life, Witness]:
    """A life in which the kernel lost a route while it was to be withdrawn: its row may be left."""
    life = Life(witness := Witness())
    life.added(P4)
    life.want(P4, None)
    witness.has = "nothing"
    assert not life.state.witness_changed(P4, life.now + 1)
    assert life.next() is None
    return life, witness


@pytest.mark.parametrize(("protocol", "is_removed"), [("bird", False), ("boot", True)])
def test_a_row_of_another_protocol_is_not_what_is_left_of_ours(protocol: str, *, is_removed: bool) -> None:
    life, _ = withdrawn_and_lost()
    life.state.protocols = frozenset({"static", "boot"})  # as of a loxilb before v0.9.5
    life.read({P4: (OURS[4], protocol)})
    assert (life.next() is not None) == is_removed


def test_a_witness_may_lag_behind_an_answer() -> None:
    life = Life(Witness("nothing"))
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.now -= 3 - WITNESS_LAG_S / 2  # `read` takes 3 s
    life.read({P4: (OURS[4], "static")})
    assert life.phase(P4) is Phase.CONFIRMED


@pytest.mark.parametrize(
    ("gateway", "protocol"), [(OURS[4], "static"), (OTHER[4], "static"), (THEIRS[4], "bird")]
)
@pytest.mark.parametrize("connected", [False, True])
def test_a_row_does_not_count_for_a_route_of_ours_that_the_witness_does_not_show(
    gateway: Address, protocol: str, *, connected: bool
) -> None:
    """A restart may come between the withdrawal of the old gateway and the POST of the new one."""
    life = Life(witness := Witness())
    life.added(P4)
    witness.has = "nothing"
    life.read({P4: (gateway, protocol)}, connected=connected)
    assert (life.phase(P4), life.named()[-1]) == (Phase.PENDING, "sync/lost")
    assert life.state.routes[P4].lost is not connected
    life.send(Kind.ADD, P4, Answer.CREATED)


@pytest.mark.parametrize("came", ["before the POST", "with the POST"])
def test_what_comes_up_where_only_our_row_is_left_is_not_touched(came: str) -> None:
    life, witness = withdrawn_and_lost()
    if came == "before the POST":
        witness.has = "ours"  # it looks as ours would
        life.read({P4: (OURS[4], "static")})
        assert life.next() is None
    else:
        life.read({P4: (OURS[4], "static")})
        assert life.send(Kind.ASSERT, P4, Answer.EXISTS) is None
    assert (life.phase(P4), life.ledger) == (None, {})


def test_what_was_added_again_without_an_answer_is_ours_and_no_stale_row() -> None:
    life = Life(witness := Witness())
    life.added(P4)
    witness.has = "nothing"
    assert not life.state.witness_changed(P4, life.now + 1)
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    witness.has = "ours"
    life.now += 1
    assert not life.state.witness_changed(P4, life.now)
    life.want(P4, None)
    assert life.follow(life.next(), Answer.EXISTS, Answer.DELETED) == [Kind.ASSERT, Kind.DELETE]
    assert life.ledger == {}


def test_a_stale_row_whose_gateway_is_not_reached_is_removed_later() -> None:
    life, _ = withdrawn_and_lost()
    life.read({P4: (OURS[4], "static")})
    assert life.send(Kind.ASSERT, P4, Answer.UNREACHABLE) is None
    assert (life.phase(P4), life.ledger) == (Phase.WITHDRAWING, {})
    assert life.follow(life.next(after_s=400), Answer.CREATED, Answer.DELETED) == [Kind.ASSERT, Kind.DELETE]


def test_what_is_lost_and_then_withdrawn_leaves_no_row() -> None:
    life = Life(witness := Witness())
    life.added(P4)
    witness.has = "nothing"
    assert not life.state.witness_changed(P4, life.now + 1)
    life.want(P4, None)
    life.read({P4: (OURS[4], "static")})
    assert life.follow(life.next(), Answer.CREATED, Answer.DELETED) == [Kind.ASSERT, Kind.DELETE]
    assert (life.phase(P4), life.ledger) == (None, {})


def test_only_a_table_that_was_read_later_tells_that_no_row_is_left() -> None:
    life = Life(witness := Witness())
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.want(P4, None)
    witness.has = "nothing"
    assert not life.state.witness_changed(P4, life.now + 1)
    assert life.phase(P4) is Phase.WITHDRAWING
    life.read({P4: (OURS[4], "static")})
    assert life.follow(life.next(), Answer.CREATED, Answer.DELETED) == [Kind.ASSERT, Kind.DELETE]


def test_subscribers_are_told_what_became_of_the_routes_of_the_state_before() -> None:
    """A target gets another connection when its token changes: what was lost meanwhile goes unconfirmed."""
    before = Life()
    for prefix in (P4, P6):
        before.want(prefix, OURS[len(prefix.packed)])
        before.send(Kind.ADD, prefix, Answer.CREATED)
    after = Life()
    list(after.state.claim({P4: before.ledger[P4]}.items(), after.now))
    after.state.continue_from(before.state.published())
    assert after.last() == SyncLost(
        target="lb", prefix="fd01::/48", detail="the ledger does not know it any more"
    )
    after.now += 100
    after.read({})
    after.follow(after.next(), Answer.CREATED, Answer.DELETED)
    assert after.named()[-1] == "route/withdrawn"
    assert after.state.published() == {}


def test_what_the_witness_shows_as_another_writers_is_theirs_whatever_the_row() -> None:
    life = Life(witness := Witness())
    life.added(P4)
    witness.has = "another"
    life.read({P4: (OURS[4], "static")})
    assert (life.phase(P4), life.ledger) == (Phase.CONFLICTING, {})


def test_what_another_writer_left_without_a_row_is_healed_only_if_ours_is_alone() -> None:
    for has, heal in (("ours", True), ("ours and another", False)):
        life = Life(witness := Witness(), Limits(probe_interval_s=1000))
        life.added(P4)
        life.send(Kind.VERIFY, P4, Answer.EXISTS)
        witness.has = has
        assert not life.state.witness_changed(P4, life.now, foreign_removed=True)
        route = life.state.routes[P4]
        assert (route.phase, route.heal, route.clean) == (Phase.NOT_FORWARDED, heal, False)
        assert route.error == (
            "the target's kernel has the route, its table does not: another route to the prefix came and went"
        )
        assert (life.next() is not None) == heal


def test_a_witness_that_shows_a_proof_has_what_is_left_behind_withdrawn() -> None:
    life = Life(witness := Witness("ours and another"))
    life.want(P6, OURS[16])
    life.send(Kind.ADD, P6, Answer.CREATED)
    life.want(P6, None)
    assert life.next() is None
    assert life.phase(P6) is Phase.LEFT_BEHIND
    life.now += 1
    life.state.witness_changed(P6, life.now)
    assert life.phase(P6) is Phase.LEFT_BEHIND
    witness.has = "ours"
    life.state.witness_changed(P6, life.now)
    assert life.phase(P6) is Phase.WITHDRAWING
    life.send(Kind.DELETE, P6, Answer.DELETED)


def test_a_witness_that_does_not_show_ours_any_more_ends_the_withdrawal() -> None:
    life = Life(witness := Witness())
    life.added(P4)
    life.want(P4, None)
    witness.has = "another"
    assert life.next() is None
    assert (life.phase(P4), life.ledger) == (None, {})


def test_what_the_witness_says_of_a_prefix_that_no_table_showed_counts_too() -> None:
    life = Life(witness := Witness())
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS)
    life.send(Kind.ADD, Q4, Answer.CREATED, after_s=0)
    life.now += 1
    assert not life.state.witness_changed(P4, life.now)
    assert life.phase(P4) is Phase.PENDING
    witness.has = "nothing"
    assert not life.state.witness_changed(Q4, life.now)
    assert life.phase(Q4) is Phase.PENDING


def test_our_route_beside_another_is_neither_confirmed_nor_forwarded_by_the_word_of_the_witness() -> None:
    life = Life(witness := Witness("ours and another"))
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.now += 1
    assert not life.state.witness_changed(P4, life.now)
    assert life.phase(P4) is Phase.ACCEPTED
    life.state.witness_changed(P4, life.now, foreign_removed=True)
    assert life.phase(P4) is Phase.NOT_FORWARDED
    witness.has = "ours"
    life.state.witness_changed(P4, life.now)
    assert life.phase(P4) is Phase.NOT_FORWARDED, "its table has no row for it"


# -- a shared namespace, a target that falls silent, pauses


def test_what_came_up_in_our_own_kernel_is_taken_back_at_once() -> None:
    life = Life()
    life.added(P4)
    life.state.suspend(P4)
    assert life.state.halted
    assert [*life.state.suspended] == [P4]
    assert life.next() is None
    assert life.state.take_back(P6, life.now) is None, "it is not ours"
    request = life.state.take_back(P4, life.now)
    assert request is not None
    assert (request.kind, request.prefix, request.gateway, request.tokens) == (Kind.DELETE, P4, OURS[4], 0)
    assert life.state.take_back(P4, life.now) is None, "it is under way"
    assert life.answer(request, Answer.DELETED) is None
    assert life.last() == RouteWithdrawn(**ABOUT_P4, reason="shared-namespace")
    life.state.connected(life.now)
    assert (life.state.halted, life.state.one_at_a_time, life.state.suspended) == (False, True, {})


def test_what_is_not_ours_yet_is_not_taken_back() -> None:
    life = Life()
    life.want(P4, OURS[4])
    assert life.state.take_back(P4, life.now) is None


def test_a_target_that_does_not_answer_ends_what_was_verified() -> None:
    life = Life()
    life.added(P4)
    life.state.verify_soon(life.now)
    life.state._looking.append(P4)
    assert life.state.has_work(life.now)
    assert [*life.state._verify] == []
    life.state._looking.clear()
    assert life.state.has_work(life.now)
    assert [*life.state._verify] == [P4]
    life.state._looking.append(P4)
    life.state.disconnected()
    assert (len(life.state._verify), len(life.state._looking)) == (0, 0)
    assert life.state.suspects == {}


def test_a_target_that_answers_again_fell_silent_for_no_post() -> None:
    life = Life()
    life.want(D4, OURS[4])
    life.send(Kind.ADD, D4, Answer.UNKNOWN)
    life.state.connected(life.now)
    life.state.disconnected()
    assert life.state.suspects == {}


def test_a_new_connection_has_all_verified() -> None:
    life = Life(limits=Limits(probe_interval_s=1000))
    life.added(P4)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    assert life.next() is None
    life.state.connected(life.now)
    life.state.one_at_a_time = False
    life.send(Kind.VERIFY, P4, Answer.EXISTS)


# -- the next wake-up, and figures


def test_the_next_wake_up_is_for_what_comes_first() -> None:
    life = Life(limits=Limits(rate=1, burst=5, probe_interval_s=30, verify_interval_s=50))
    life.added(P4)
    life.read({P4: (OURS[4], "static")})
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    assert life.next(0) is None
    state = life.state
    assert state.next_wakeup(life.now) == 30, "the probe"
    assert state.next_wakeup(life.now + 40) == 0
    state._probe_at += 100
    assert state.next_wakeup(life.now + 60) == 0
    assert state.next_wakeup(life.now) == 50, "the verification"
    state._verify_at += 600
    state._look.append(P4)
    state._look_at = life.now + 7
    assert state.next_wakeup(life.now) == 7
    assert state.next_wakeup(life.now + 8) == 0
    state._look.clear()
    assert state.next_wakeup(life.now) == 130
    state._probe_at += 1000
    assert state.next_wakeup(life.now) == state.inventory_in(life.now)
    state.token_in = 0.5
    assert state.next_wakeup(life.now) == 0.5
    state.token_in = 0.0
    life.want(Q4, OURS[4])
    assert state.next_wakeup(life.now) == state.inventory_in(life.now), (
        "it may be sent now: that is no waiting"
    )
    life.state.queue.put(P4, Urgency.VERIFY, now=life.now, not_before=life.now + 9)
    assert state.next_wakeup(life.now) == 9
    assert state.next_wakeup(life.now + 10) == 0
    state._verify.append(P4)
    state._probe_at = state._verify_at = life.now
    assert state.next_wakeup(life.now) == 9, "probes come after what is verified"
    state.unproved[P4] = life.now
    state.ingestion.note(life.now, 256)
    assert state.next_wakeup(life.now) == pytest.approx(2), "quiet, whatever else is due"
    state.halted = True
    assert state.next_wakeup(life.now) == inf


def test_what_is_to_be_sent_is_known_before_it_is_begun() -> None:
    life = Life()
    assert not life.state.has_work(life.now + 60), "there is nothing to probe"
    life.want(P4, OURS[4])
    assert life.state.has_work(life.now)
    life.send(Kind.ADD, P4, Answer.CREATED)
    assert not life.state.has_work(life.now)
    life.now += 70
    for _ in range(2):
        assert life.state.has_work(life.now), "the probe"
    life.send(Kind.VERIFY, P4, Answer.EXISTS, after_s=0)
    assert not life.state.has_work(life.now)
    life.state.halted = True
    assert not life.state.has_work(life.now + 70)


def test_figures_say_what_waits_and_for_how_long() -> None:
    life = Life(Witness(), Limits(max_inet=2))
    assert (life.state.waiting, life.state.oldest_s(life.now), life.state.complete) == (0, 0.0, True)
    life.want(P4, OURS[4])
    life.want(Q4, OURS[4])
    life.want(R4, OURS[4])
    assert (life.state.desired, life.state.waiting, life.state.over_capacity) == (2, 2, 1)
    assert life.state.oldest_s(life.now + 4) == 4
    request = life.next()
    assert request is not None
    assert (life.state.waiting, life.state.busy) == (2, {P4})
    life.answer(request, Answer.EXISTS)
    assert life.state.oldest_s(life.now + 30) == 32, "the other one"
    life.send(Kind.ADD, Q4, Answer.CREATED, after_s=0)
    assert life.state.waiting == 1
    assert life.state.oldest_s(life.now + 30) == 30, "the one that no inventory has judged"
    shown(life, P4, Q4)
    assert (life.phase(P4), life.phase(Q4)) == (Phase.PRESENT, Phase.CONFIRMED)
    assert life.state.synced is False, "the third has room now"
    life.send(Kind.ADD, R4, Answer.CREATED)
    life.send(Kind.VERIFY, Q4, Answer.EXISTS, after_s=0)
    life.send(Kind.VERIFY, R4, Answer.EXISTS, after_s=0)
    assert (life.state.synced, life.state.complete) == (True, True)
    life.want(Prefix.parse("10.9.0.0/16"), OURS[4])
    assert (life.state.synced, life.state.complete) == (True, False), "one waits for room"


def test_what_shows_after_a_lost_answer_has_not_failed() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    shown(life, P4)
    route = life.state.routes[P4]
    assert (route.phase, route.certain, route.failures, route.error) == (Phase.CONFIRMED, True, 0, "")


def test_the_states_of_a_route_are_each_since_their_own_time() -> None:
    life = Life()
    life.want(P4, OURS[4])
    assert life.state.routes[P4].since == life.now
    life.send(Kind.ADD, P4, Answer.CREATED)
    accepted = life.now
    assert life.state.routes[P4].since == accepted
    shown(life, P4)
    confirmed = life.now
    assert life.state.routes[P4].since == confirmed
    shown(life, P4)
    assert life.state.routes[P4].since == confirmed


# -- what an operator does


def test_adopting_takes_equal_routes_and_names_what_is_left_behind() -> None:
    life = Life()
    life.read({P4: (OURS[4], "bird"), Q4: (OURS[4], "bird"), R4: (THEIRS[4], "bird")})
    for prefix in (P4, Q4, R4):
        life.want(prefix, OURS[4])
    assert life.next() is None
    assert life.state.adopt([R4], life.now) == 0, "another gateway"
    assert life.state.adopt([P4], life.now) == 1
    assert life.ledger == {P4: Row(OURS[4])}
    assert (life.phase(P4), life.phase(Q4)) == (Phase.PENDING, Phase.PRESENT)
    assert life.state.adopt([], life.now) == 1
    assert life.ledger == {P4: Row(OURS[4]), Q4: Row(OURS[4])}
    assert life.state.owning == 2
    shown(life, P4, Q4)
    assert (life.phase(P4), life.phase(Q4)) == (Phase.CONFIRMED, Phase.CONFIRMED)


def test_what_is_left_behind_is_adopted_or_forgotten_only_by_name() -> None:
    life = Life()
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
        life.want(prefix, None)
    life.read({P4: (THEIRS[4], "bird"), Q4: (THEIRS[4], "bird")})
    assert life.next(0) is None
    assert life.state.adopt([], life.now) == 0
    assert life.state.forget([Q4], life.now) == 1
    assert (life.phase(P4), life.phase(Q4)) == (Phase.LEFT_BEHIND, None)
    life.state.routes[P4].retry_at = life.now + 100
    life.state.routes[P4].failures = 2
    assert life.state.adopt([P4], life.now) == 1
    assert life.state.routes[P4].failures == 0
    assert life.phase(P4) is Phase.WITHDRAWING
    assert life.next() is None
    life.read({P4: (OURS[4], "bird")})
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED)
    assert life.ledger == {}
    assert [*life.state.foreign_not_forwarded] == [P4], "the row was of another route"


def test_healing_is_of_the_routes_that_are_named() -> None:
    life = Life()
    for prefix in (P4, Q4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.read({})
    for prefix in (P4, Q4):
        life.send(Kind.ADD, prefix, Answer.EXISTS, after_s=0)
    assert life.state.phases[Phase.NOT_FORWARDED] == 2
    assert life.state.heal([Q4], life.now) == 1
    life.read({})
    request = life.next(0)
    assert request is not None
    assert (request.kind, request.prefix) == (Kind.ASSERT, Q4)
    life.follow(request, Answer.EXISTS, Answer.DELETED, Answer.CREATED)
    route = life.state.routes[Q4]
    assert (route.heal, route.by_hand, route.phase) == (False, False, Phase.ACCEPTED)
    assert life.state.phases[Phase.NOT_FORWARDED] == 1


# -- routes of a node that is gone


def taken(life: Life, *prefixes: Prefix) -> None:
    life.read({prefix: (THEIRS[len(prefix.packed)], "static") for prefix in prefixes})
    life.state.begin_takeover("node-2", life.now)
    assert life.state.take_over({it: THEIRS[len(it.packed)] for it in prefixes}, life.now) == []


def test_what_is_taken_over_is_counted_until_it_is_gone() -> None:
    life = Life()
    taken(life, P4, Q4)
    assert (life.state.taking_over, life.state.owning) == (2, 2)
    assert life.state.taken_over == {P4: THEIRS[4], Q4: THEIRS[4]}
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED)
    assert life.state.taking_over == 1
    request = life.next(0)
    assert request is not None
    life.state.end_takeover(life.now)
    assert [*life.ledger] == [Q4], "its request is under way"
    life.follow(request, Answer.EXISTS, Answer.DELETED)
    assert (life.state.taking_over, life.ledger) == (0, {})


def test_another_node_begins_without_what_is_remembered_of_the_first() -> None:
    life = Life()
    taken(life, P4)
    life.state.came_back[P4] = None
    life.state.begin_takeover("node-2", life.now + 599)
    assert (life.state.taken_over, life.state.came_back) == ({P4: THEIRS[4]}, {P4: None})
    life.state.begin_takeover("node-2", life.now + 599 + 600)
    assert (life.state.taken_over, life.state.came_back) == ({}, {}), "it was long ago"
    life.state.taken_over[P4] = THEIRS[4]
    life.state.begin_takeover("node-3", life.now + 599 + 601)
    assert life.state.taken_over == {}


def test_what_is_not_taken_over_keeps_nothing_else_from_it() -> None:
    life = Life()
    life.state.protocols = frozenset({"bgp"})
    life.want(Q4, THEIRS[4])
    life.read({Q4: (THEIRS[4], "bgp"), P6: (THEIRS[16], "bgp"), P4: (THEIRS[4], "bgp")})
    life.state.begin_takeover("node-2", life.now)
    rows = {R4: THEIRS[4], Q4: THEIRS[4], P6: THEIRS[16], P4: THEIRS[4]}
    assert life.state.take_over(rows, life.state.inventory_at + 5) == [P6], (
        "not there, wanted here, not proved"
    )
    assert [*life.state.taken_over] == [P4]
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED)
    life.read({P4: (THEIRS[4], "bgp")})
    assert [*life.state.came_back] == [P4], "it looks as theirs did"


def test_a_takeover_takes_ipv6_by_the_word_of_the_witness() -> None:
    class TheirWitness(Witness):
        def only_ours(self, prefix: Prefix, gateway: Address) -> bool:
            return (prefix, gateway) == (P6, THEIRS[16])

    life = Life(TheirWitness())
    taken(life, P6)
    assert life.ledger == {P6: Row(THEIRS[16])}
    assert life.phase(P6) is Phase.WITHDRAWING


def test_what_is_ours_under_another_gateway_is_not_taken_over() -> None:
    life = Life()
    life.added(P4)
    life.read({P4: (THEIRS[4], "static")})
    life.state.begin_takeover("node-2", life.now)
    assert life.state.take_over({P4: THEIRS[4]}, life.now) == [P4]
    assert life.state.taken_over == {}


def test_a_route_that_this_node_wants_with_that_very_gateway_stays() -> None:
    life = Life()
    taken(life, P4)
    life.want(P4, THEIRS[4])
    assert life.state.taking_over == 0
    life.read({P4: (THEIRS[4], "static")})
    assert life.state.came_back == {}
    assert format_address(life.ledger[P4].gateway) == "192.168.10.9"


def test_a_takeover_that_is_left_behind_is_over() -> None:
    life = Life()
    taken(life, P4)
    life.read({P4: (OTHER[4], "bird")})
    assert life.next(0) is None
    assert life.phase(P4) is Phase.LEFT_BEHIND
    assert life.state.taking_over == 0


# -- what a restart, a reload or an operator's word leaves


def restarted(before: Life, rows: dict[Prefix, tuple[Address, str]]) -> Life:
    """The next run of the daemon, with the ledger of this one, at a target with this table."""
    life = Life(limits=Limits(startup_hold_s=0))
    life.ledger = dict(before.ledger)
    for _slice in life.state.claim(before.ledger.items(), life.now):
        pass
    life.read(rows, connected=True)
    return life


def test_the_next_run_knows_that_another_writer_had_a_route_to_the_prefix_too() -> None:
    life = Life()
    life.added(P6)
    assert life.ledger[P6].clean
    life.read({P6: (THEIRS[16], "bird")})
    assert not life.ledger[P6].clean
    ours = {P6: (OURS[16], "static")}
    again = restarted(life, ours)
    assert again.next() is None
    again.read(ours)
    assert again.next(0) is None
    assert again.phase(P6) is Phase.LEFT_BEHIND


def test_a_claim_holds_only_what_the_kernel_does_not_have() -> None:
    life = Life(limits=Limits(startup_hold_s=60))
    for prefix in (P4, Q4):
        life.ledger[prefix] = Row(OURS[4])
    life.gateways[P4] = OURS[4]
    for _slice in life.state.claim(life.ledger.items(), life.now):
        pass
    life.read({P4: (OURS[4], "static"), Q4: (OURS[4], "static")}, connected=True)
    assert life.state.held_at_start(life.now) == 1
    life.want(P4, None)
    assert life.state.held_at_start(life.now) == 1
    assert life.state.routes[Q4].hold_until > life.now
    assert not life.state.routes[P4].hold_until > life.now


def test_a_delete_holds_for_as_long_as_its_proof() -> None:
    for prefix, kinds in ((P4, [Kind.ASSERT, Kind.DELETE]), (P6, [Kind.DELETE])):
        life = Life()
        life.added(prefix)
        life.want(prefix, None)
        assert life.next(10) is None
        shown(life, prefix)
        request, read_at = life.next(1), life.state.inventory_at
        while request is not None and request.kind is not kinds[-1]:
            request = life.answer(request, Answer.EXISTS)
        assert request is not None
        assert request.not_after == read_at + FRESH_S
        life.now = request.not_after + 1
        assert life.answer(request, Answer.WITHHELD) is None
        assert life.next() is None  # it has to be proved again
        life.now += 60
        shown(life, prefix)
        life.follow(life.next(0), *([Answer.EXISTS] if len(kinds) > 1 else []), Answer.DELETED)


def test_the_operators_word_ends_when_the_route_is_wanted_again() -> None:
    life = Life()
    life.added(P6)
    life.read({P6: (THEIRS[16], "bird")})
    life.want(P6, None)
    assert life.next() is None
    life.read({P6: (THEIRS[16], "bird")})
    assert life.next(0) is None
    assert life.state.adopt([P6], life.now) == 1
    life.want(P6, OURS[16])
    assert not life.state.routes[P6].by_hand
    life.read({P6: (OURS[16], "bgp")})  # another writer's, by the same gateway
    life.want(P6, None)
    assert life.next() is None
    life.read({P6: (OURS[16], "bgp")})
    assert life.next(0) is None
    assert life.phase(P6) is Phase.LEFT_BEHIND


def test_a_row_that_is_back_needs_no_repair_any_more() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.read({})
    life.send(Kind.ADD, P4, Answer.EXISTS, after_s=0)
    assert life.phase(P4) is Phase.NOT_FORWARDED
    assert life.state.heal([P4], life.now) == 1
    shown(life, P4)
    assert life.phase(P4) is Phase.CONFIRMED
    route = life.state.routes[P4]
    assert (route.heal, route.by_hand) == (False, False)


def test_a_default_that_was_added_beside_another_one_leaves_that_one_not_forwarded() -> None:
    life = Life()
    life.beside = True
    life.read({D4: (THEIRS[4], "dhcp")})
    life.want(D4, OURS[4])
    life.send(Kind.ADD, D4, Answer.CREATED)
    shown(life, D4)
    again = restarted(life, {D4: (OURS[4], "static")})
    for run in (life, again):
        run.want(D4, None)
        run.now += 10
        assert run.next() is None
        run.read({D4: (OURS[4], "static")})
        run.follow(run.next(0), Answer.EXISTS, Answer.DELETED)
        assert [*run.state.foreign_not_forwarded] == [D4]


def test_the_mass_withdrawal_limit_counts_routes_that_are_there() -> None:
    life = Life(limits=Limits(rate=1000, burst=1000))
    there = [Prefix.parse(f"10.1.{number}.0/24") for number in range(100)]
    for prefix in there:
        life.want(prefix, OURS[4])
    while life.state.owning < len(there):
        request = life.next(0.1)
        assert request is not None
        life.answer(request, Answer.CREATED)
    shown(life, *there)
    for number in range(120):
        life.want(Prefix.parse(f"10.2.{number}.0/24"), OURS[4])  # these wait
    for prefix in there:
        life.want(prefix, None)
    life.next()
    assert len(life.state.withdrawal_limit.held) == len(there)


@pytest.mark.parametrize("restart", [False, True])
def test_what_the_witness_sees_go_counts_as_lost_again_but_not_over_a_restart(restart: bool) -> None:  # noqa: FBT001
    witness = Witness()
    life = Life(witness)
    life.added(P4)
    life.now += 10
    witness.has = ""
    assert not life.state.witness_changed(P4, life.now)
    if restart:
        life.state.disconnected()
        life.connect()
    witness.has = "ours"
    life.send(Kind.ADD, P4, Answer.CREATED)
    assert (P4 in life.state.repairs.losses) is not restart


def test_what_is_gone_before_it_is_replaced_is_not_lost() -> None:
    witness = Witness()
    life = Life(witness)
    life.added(P4)
    life.want(P4, OTHER[4])
    witness.has = ""
    life.send(Kind.ADD, P4, Answer.CREATED)
    assert life.state.repairs.losses == {}


def test_all_is_given_up_where_the_target_is_another_loxilb() -> None:
    life = Life()
    life.added(P4)
    life.want(Q4, OURS[4])
    life.send(Kind.ADD, Q4, Answer.REJECTED)  # this one is not there
    life.want(R4, OURS[4])
    life.send(Kind.ADD, R4, Answer.CREATED)
    life.want(R4, None)
    life.now += 50
    for _slice in life.state.give_up_all("it is another", life.now):
        pass
    assert life.ledger == {}
    assert life.state.owning == 0
    assert life.state.published() == {}
    lost = [event for event in life.events.seen if isinstance(event, SyncLost)]
    assert [(it.prefix, it.detail) for it in lost] == [(str(P4), "it is another"), (str(R4), "it is another")]
    assert R4 not in life.state.routes
    assert life.state.routes[P4].since == life.now
    assert P4 in life.state.queue


def test_a_claim_evaluates_with_the_gateway_that_is_there() -> None:
    life = Life()
    life.gateways[P4] = OTHER[4]
    for _slice in life.state.claim([(P4, Row(OURS[4]))], life.now):
        assert life.sent[P4] == OURS[4]


def test_a_route_that_comes_up_by_the_post_before_its_delete_is_proof_for_a_moment() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.read({})
    delete = life.send(Kind.ASSERT, P4, Answer.CREATED)
    assert delete is not None
    assert delete.not_after == life.now + FRESH_S


def test_only_an_ipv4_default_hides_another_one_behind_its_row() -> None:
    for prefix in (P4, D4):
        life = Life()
        life.read({prefix: (OURS[4], "bird")})
        life.want(prefix, OURS[4])
        assert life.next() is None
        assert life.state.adopt([prefix], life.now) == 1
        shown(life, prefix)
        assert not life.state.routes[prefix].clean
        life.want(prefix, None)
        assert life.next(10) is None
        shown(life, prefix)
        life.follow(life.next(0), Answer.EXISTS, Answer.DELETED)
        assert [*life.state.foreign_not_forwarded] == ([D4] if prefix == D4 else [])
    life = Life()
    life.added(D4)
    life.want(D4, None)
    assert life.next(10) is None
    shown(life, D4)
    life.follow(life.next(0), Answer.EXISTS, Answer.DELETED)
    assert not life.state.foreign_not_forwarded
