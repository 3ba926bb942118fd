"""The life of one route, transition by transition; what any mixture of them leads to is in test_state_machine.py."""

from __future__ import annotations

from collections import deque

import pytest

from routesync.mirror.eligibility import Ineligible, Reason
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Limits
from routesync.mirror.state import Answer, Kind, Outcome, Phase
from routesync.route import Address, Prefix
from support.target_life import D4, D6, OTHER, OURS, P4, P6, THEIRS, Life, Witness


@pytest.mark.parametrize("prefix", [P4, P6])
def test_a_route_is_pending_accepted_confirmed_and_gone(prefix: Prefix) -> None:
    life = Life()
    life.want(prefix, OURS[len(prefix.packed)])
    assert life.phase(prefix) is Phase.PENDING
    assert life.send(Kind.ADD, prefix, Answer.CREATED) is None
    assert life.phase(prefix) is Phase.ACCEPTED
    life.read({prefix: (OURS[len(prefix.packed)], "static")})
    assert life.phase(prefix) is Phase.CONFIRMED
    life.want(prefix, None)
    assert life.phase(prefix) is Phase.WITHDRAWING
    if prefix.family.bits == 32:
        delete = life.send(Kind.ASSERT, prefix, Answer.EXISTS)
        assert delete is not None
        assert delete.kind is Kind.DELETE
        assert life.state.finished(delete, Outcome(Answer.DELETED), life.now) is None
    else:
        assert life.send(Kind.DELETE, prefix, Answer.DELETED) is None
    assert life.phase(prefix) is None
    assert life.ledger == {}
    assert life.named() == ["route/accepted", "route/confirmed", "route/withdrawn"]


@pytest.mark.parametrize(
    ("answer", "phase", "in_ledger"),
    [
        (Answer.CREATED, Phase.ACCEPTED, True),
        (Answer.EXISTS, Phase.UNJUDGED, False),
        (Answer.UNREACHABLE, Phase.REFUSED, False),
        (Answer.REJECTED, Phase.REFUSED, False),
        (Answer.UNEXPLAINED, Phase.REFUSED, False),
        (Answer.UNKNOWN, Phase.PENDING, True),
        (Answer.NOT_SENT, Phase.PENDING, False),
        (Answer.DENIED, Phase.PENDING, False),
    ],
)
def test_what_each_answer_to_a_first_post_means(answer: Answer, phase: Phase, in_ledger: bool) -> None:  # noqa: FBT001
    life = Life()
    life.want(P4, OURS[4])
    assert life.ledger == {}
    request = life.next()
    assert request is not None
    assert P4 in life.ledger, "the intent comes before the request"
    life.state.finished(request, Outcome(answer), life.now)
    assert (life.phase(P4), P4 in life.ledger) == (phase, in_ledger)


@pytest.mark.parametrize(
    ("gateway", "phase"),
    [(OURS[4], Phase.PRESENT), (THEIRS[4], Phase.CONFLICTING), (None, Phase.CONFLICTING)],
)
def test_a_409_is_judged_by_the_next_inventory(gateway: Address | None, phase: Phase) -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.send(Kind.ADD, P4, Answer.EXISTS)
    assert life.state.waiting == 1
    life.now += 10
    assert life.state.inventory_due(life.now)
    life.read({P4: (gateway, "bird")} if gateway else {})
    assert life.phase(P4) is phase
    assert life.state.synced
    assert life.state.complete == (phase is Phase.PRESENT)
    assert life.next(30) is None, "no timer posts it again"


@pytest.mark.parametrize("theirs", [OURS[4], THEIRS[4]])
def test_a_prefix_whose_row_is_another_writers_is_not_posted_until_the_row_goes(theirs: Address) -> None:
    life = Life()
    life.read({P4: (theirs, "bird")})
    life.want(P4, OURS[4])
    assert life.next() is None
    assert life.phase(P4) is (Phase.PRESENT if theirs == OURS[4] else Phase.CONFLICTING)
    assert life.ledger == {}
    life.read({})
    life.send(Kind.ADD, P4, Answer.CREATED)


def test_an_allowed_default_beside_the_targets_own_is_posted_only_with_override() -> None:
    life = Life()
    life.read({D4: (THEIRS[4], "16")})
    life.want(D4, OURS[4])
    assert life.next() is None
    life.beside = True
    life.want(D4, OTHER[4])
    life.send(Kind.ADD, D4, Answer.CREATED)


@pytest.mark.parametrize(
    ("prefix", "row", "proved"),
    [
        (P4, (OURS[4], "static"), True),
        (P4, (OURS[4], "bird"), False),
        (P4, (THEIRS[4], "static"), False),
        (P6, (OURS[16], "static"), True),
        (P6, (OURS[16], "ra"), False),
        (P6, (THEIRS[16], "static"), False),
        (D6, (OURS[16], "static"), False),
    ],
)
def test_a_delete_needs_proof_and_without_it_the_route_is_left_behind(
    prefix: Prefix,
    row: tuple[Address, str],
    proved: bool,  # noqa: FBT001
) -> None:
    life = Life()
    life.added(prefix)
    life.now += 10
    life.want(prefix, None)
    assert life.next() is None, "first an inventory"
    assert life.state.inventory_due(life.now)
    life.read({prefix: row})
    request = life.next(0)
    if not proved:
        assert request is None
        assert life.phase(prefix) is Phase.LEFT_BEHIND
        assert prefix in life.ledger
        assert life.state.synced
        assert not life.state.complete
    else:
        assert request is not None
        assert request.kind is (Kind.ASSERT if prefix.family.bits == 32 else Kind.DELETE)


@pytest.mark.parametrize(
    ("prefix", "has", "kind"),
    [
        (P4, "ours", Kind.ASSERT),
        (P4, "ours and another", Kind.ASSERT),
        (P6, "ours", Kind.DELETE),
        (P6, "ours and another", None),
        (D6, "ours", Kind.DELETE),
    ],
)
def test_a_witness_is_proof_without_an_inventory(prefix: Prefix, has: str, kind: Kind | None) -> None:
    life = Life(Witness(has))
    life.want(prefix, OURS[len(prefix.packed)])
    life.send(Kind.ADD, prefix, Answer.CREATED)
    life.want(prefix, None)
    request = life.next()
    assert (request.kind if request else None) is kind
    assert life.phase(prefix) is (Phase.LEFT_BEHIND if kind is None else Phase.WITHDRAWING)


def test_what_a_stale_row_shows_is_removed_by_post_and_delete() -> None:
    """Its kernel lost the route in silence; the table goes on showing it."""
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.read({P4: (OURS[4], "static")})
    delete = life.send(Kind.ASSERT, P4, Answer.CREATED)
    assert delete is not None
    assert delete.kind is Kind.DELETE


def test_when_the_row_is_missing_and_the_kernel_has_a_route_it_is_left_behind() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.read({})
    assert life.send(Kind.ASSERT, P4, Answer.EXISTS) is None
    assert life.phase(P4) is Phase.LEFT_BEHIND
    assert life.state.adopt([P4], life.now) == 1, "the operator says that it is ours"
    assert life.next() is None, "a newer inventory than that has to speak of no other"
    life.read({})
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    assert life.ledger == {}


def test_what_is_left_behind_can_be_given_up() -> None:
    life = Life()
    life.added(P4)
    life.want(P4, None)
    life.read({P4: (THEIRS[4], "bird")})
    assert life.next(0) is None
    assert life.state.forget([P4], life.now) == 1
    assert (life.phase(P4), life.ledger) == (None, {})


@pytest.mark.parametrize("prefix", [P4, P6])
def test_a_replacement_deletes_and_adds_in_one_go(prefix: Prefix) -> None:
    life, size = Life(), len(prefix.packed)
    life.added(prefix)
    life.want(prefix, OTHER[size])
    life.read({prefix: (OURS[size], "static")})
    answers = ([Answer.EXISTS] if size == 4 else []) + [Answer.DELETED, Answer.CREATED]
    kinds = life.follow(life.next(), *answers)
    assert kinds == ([Kind.ASSERT] if size == 4 else []) + [Kind.DELETE, Kind.ADD]
    assert life.ledger[prefix].gateway == OTHER[size]
    assert life.phase(prefix) is Phase.ACCEPTED


@pytest.mark.parametrize("prefix", [P4, P6])
@pytest.mark.parametrize("answer", [Answer.EXISTS, Answer.CREATED])
def test_what_is_being_replaced_is_not_said_to_be_there_once_its_delete_is_sent(
    prefix: Prefix, answer: Answer
) -> None:
    life, size = Life(), len(prefix.packed)
    life.added(prefix)
    life.want(prefix, OTHER[size])
    life.read({prefix: (OURS[size], "static")})
    request = life.next()
    if size == 4:
        assert life.phase(prefix) is Phase.CONFIRMED, "nothing was sent yet that removes it"
        assert request is not None
        request = life.answer(request, answer)
    assert request is not None
    assert request.kind is Kind.DELETE
    assert life.phase(prefix) is Phase.PENDING
    life.want(prefix, OURS[size])
    assert life.phase(prefix) is Phase.PENDING, "the DELETE may take it all the same"
    assert life.answer(request, Answer.UNKNOWN) is None
    assert life.phase(prefix) is Phase.PENDING
    life.read({prefix: (OURS[size], "static")})
    assert life.phase(prefix) is Phase.CONFIRMED


def test_a_foreign_route_that_came_and_went_leaves_ours_not_forwarded_and_a_repair_heals_it() -> None:
    life = Life()
    life.added(P4)
    life.read({})
    life.send(Kind.ADD, P4, Answer.EXISTS)
    assert life.phase(P4) is Phase.NOT_FORWARDED
    assert not life.state.routes[P4].lost
    assert life.state.synced
    assert not life.state.complete
    assert life.state.heal([P4], life.now) == 1
    life.read({})
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    add = life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    assert add is not None
    life.state.finished(add, Outcome(Answer.CREATED), life.now)
    assert life.phase(P4) is Phase.ACCEPTED


def test_with_a_witness_that_is_healed_at_once() -> None:
    life = Life(Witness())
    life.added(P4)
    life.now += 1
    assert not life.state.witness_changed(P4, life.now, foreign_removed=True)
    kinds = life.follow(life.next(0), Answer.EXISTS, Answer.DELETED, Answer.CREATED)
    assert kinds == [Kind.ASSERT, Kind.DELETE, Kind.ADD]


def test_a_lost_answer_is_a_doubt_about_that_prefix_alone() -> None:
    life = Life()
    life.added(P4)
    life.want(P6, OURS[16])
    life.send(Kind.ADD, P6, Answer.UNKNOWN)
    assert life.phase(P4) is Phase.CONFIRMED
    assert (life.phase(P6), P6 in life.ledger) == (Phase.PENDING, True)
    life.send(Kind.ADD, P6, Answer.EXISTS)
    life.read({P4: (OURS[4], "static"), P6: (OURS[16], "static")})
    assert life.phase(P6) is Phase.CONFIRMED


def test_a_refused_route_stops_neither_probes_nor_verification() -> None:
    life = Life(limits=Limits(probe_interval_s=5))
    life.added(P4)
    life.want(P6, OURS[16])
    life.send(Kind.ADD, P6, Answer.UNREACHABLE)
    assert life.phase(P6) is Phase.REFUSED
    probes = 0
    for _ in range(60):
        request = life.next(1)
        if request is not None:
            probes += request.kind is Kind.VERIFY
            answer = Answer.EXISTS if request.kind is Kind.VERIFY else Answer.UNREACHABLE
            life.state.finished(request, Outcome(answer), life.now)
    assert probes >= 10
    assert life.state.synced, "what waits for its own time does not count"


def test_a_probe_that_finds_a_loss_repairs_it_and_has_all_verified() -> None:
    life = Life(limits=Limits(probe_interval_s=5))
    life.added(P4)
    verified = life.state.counters.verifications
    life.send(Kind.VERIFY, P4, Answer.CREATED, after_s=20)
    assert life.named()[-2:] == ["sync/lost", "route/accepted"]
    request = life.next(15)
    assert request is not None
    assert request.kind is Kind.VERIFY
    assert life.state.counters.verifications > verified


def test_a_prefix_that_is_lost_again_and_again_is_contended_and_posted_ever_more_seldom() -> None:
    life = Life(limits=Limits(probe_interval_s=1))
    life.added(P4)
    posts = []
    while life.now < 3000:
        life.state.tick(life.now)
        if life.state.inventory_due(life.now):
            life.read({P4: (OURS[4], "static")})
        request = life.next(0.5)
        if request is not None:
            posts.append(life.now)
            life.state.finished(request, Outcome(Answer.CREATED), life.now)
    assert life.phase(P4) is Phase.CONTENDED
    assert life.state.repairs.contended
    assert not life.state.complete
    gaps = [later - sooner for sooner, later in zip(posts[-3:], posts[-2:], strict=False)]
    assert all(gap > 200 for gap in gaps), "five minutes, give or take a fifth"


def test_a_restart_of_the_target_is_not_contention() -> None:
    life = Life()
    life.added(P4)
    for _ in range(5):
        life.connect()
        life.send(Kind.ADD, P4, Answer.CREATED)
    assert not life.state.repairs.losses
    assert life.phase(P4) is Phase.ACCEPTED


def test_withdrawals_of_what_contains_our_own_address_go_last() -> None:
    life = Life(Witness())
    for prefix in (D4, P4):
        life.want(prefix, OURS[4])
        life.send(Kind.ADD, prefix, Answer.CREATED)
    life.want(D4, None)
    life.want(P4, None)
    first, second = life.next(), life.next(0)
    assert first is not None
    assert second is not None
    assert [first.prefix, second.prefix] == [P4, D4]


def test_a_route_that_an_unanswered_post_did_not_replace_stays_ours() -> None:
    life = Life()
    life.added(P4)
    life.read({})  # the table lost it, the kernel did not
    life.want(P4, OTHER[4])
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    assert life.ledger == {P4: Row(OTHER[4], clean=True)}
    life.read({P4: (OURS[4], "static")})
    assert life.ledger == {P4: Row(OURS[4], clean=True)}
    life.follow(life.next(), Answer.EXISTS, Answer.DELETED, Answer.CREATED)
    assert (life.phase(P4), life.ledger) == (Phase.ACCEPTED, {P4: Row(OTHER[4], clean=True)})


@pytest.mark.parametrize("by_inventory", [False, True])
def test_a_witness_too_shows_that_an_unanswered_post_did_not_replace_a_route(by_inventory: bool) -> None:  # noqa: FBT001
    witness = Witness(ready=False)
    life = Life(witness)
    life.added(P4)
    life.read({})
    life.want(P4, OTHER[4])
    life.send(Kind.ADD, P4, Answer.UNKNOWN)
    witness.ready = True
    life.now += 1
    if by_inventory:
        life.read({P4: (OURS[4], "static")})
    else:
        life.state.witness_changed(P4, life.now)
    assert life.ledger == {P4: Row(OURS[4], clean=True)}


def test_a_target_that_fell_silent_on_a_post_is_not_sent_it_again() -> None:
    life = Life()
    life.want(D4, OURS[4])
    life.send(Kind.ADD, D4, Answer.UNKNOWN)
    life.state.disconnected()
    assert list(life.state.suspects) == [D4]
    other = Life()
    other.want(D4, OURS[4])
    other.send(Kind.ADD, D4, Answer.UNKNOWN)
    other.send(Kind.ADD, D4, Answer.CREATED)
    other.state.disconnected()
    assert not other.state.suspects, "it answered after that"


def test_what_the_ledger_knows_and_nobody_desires_waits_for_the_start_up_hold() -> None:
    life = Life(limits=Limits(startup_hold_s=60))
    deque(life.state.claim([(P4, Row(OURS[4]))], life.now), 0)
    life.read({P4: (OURS[4], "static")})
    assert life.next() is None
    assert life.state.held_at_start(life.now) == 1
    life.now += 60
    life.read({P4: (OURS[4], "static")})
    request = life.next()
    assert request is not None
    assert request.kind is Kind.ASSERT


def test_what_is_ineligible_costs_a_reason_and_is_withdrawn_if_it_was_there() -> None:
    life = Life()
    life.added(P4)
    life.refused[P4] = Ineligible(Reason.SPLIT_HORIZON, "its next hop is a target", "rule")
    for _ in life.state.reevaluate(life.now):
        pass
    assert life.phase(P4) is Phase.WITHDRAWING
    life.read({P4: (OURS[4], "static")})
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    assert life.state.ineligible == life.refused
    assert life.state.reasons[Reason.SPLIT_HORIZON] == 1
    assert life.state.all_phases() == {Phase.INELIGIBLE: 1}


def test_beyond_capacity_the_first_ones_stay_and_the_next_moves_up() -> None:
    life = Life(Witness(), Limits(max_inet=1))
    other = Prefix.parse("10.2.0.0/16")
    life.want(P4, OURS[4])
    life.want(other, OURS[4])
    assert life.state.over_capacity == 1
    life.send(Kind.ADD, P4, Answer.CREATED)
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    assert life.next() is None
    life.want(P4, None)
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    life.send(Kind.ADD, other, Answer.CREATED)


def test_nothing_is_sent_while_an_inventory_is_due_or_the_target_is_paused() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.state.halted = True
    assert life.next() is None
    life.state.halted = False
    life.state.unproved[P6] = life.now
    assert life.next() is None


def test_it_waits_where_nothing_can_be_sent_whatever_is_due() -> None:
    """Else the session would look again each millisecond for as long as that takes."""
    life = Life()
    life.want(P4, OURS[4])
    request = life.next()
    assert request is not None
    life.now += 601  # inventory, probe: all are due, and the answer is not there
    assert life.state.next_request(life.now) is None
    assert life.state.next_wakeup(life.now) > 1, "the end of the request wakes it"
    life.state.finished(request, Outcome(Answer.CREATED), life.now)
    assert life.state.next_request(life.now) is None
    assert life.state.next_wakeup(life.now) > 0.5, "until loxilb is quiet"
    life.read({P4: (OURS[4], "static")})
    life.now += life.state.limits.probe_interval_s
    life.state.one_at_a_time = True
    assert life.next(0) is not None, "a probe"
    life.now += life.state.limits.probe_interval_s + 1
    assert life.next(0) is None
    assert life.state.next_wakeup(life.now) > 1


def test_until_two_namespaces_are_proved_requests_go_one_at_a_time() -> None:
    life = Life()
    life.state.one_at_a_time = True
    life.want(P4, OURS[4])
    life.want(P6, OURS[16])
    assert life.next() is not None
    assert life.next() is None


def test_a_ledger_that_can_be_read_only_later_adds_to_what_is_known() -> None:
    life = Life(limits=Limits(startup_hold_s=60))
    other, known = Prefix.parse("10.2.0.0/16"), Prefix.parse("10.3.0.0/16")
    life.added(P4)
    life.read({P4: (OURS[4], "static"), other: (OURS[4], "static"), known: (OURS[4], "static")})
    life.want(other, OURS[4])
    life.send(Kind.VERIFY, P4, Answer.EXISTS)
    assert life.phase(other) is Phase.PRESENT
    for _ in life.state.claim([(P4, Row(OTHER[4])), (other, Row(OURS[4])), (known, Row(OURS[4]))], life.now):
        pass
    life.read({P4: (OURS[4], "static"), other: (OURS[4], "static"), known: (OURS[4], "static")})
    assert life.phase(P4) is Phase.CONFIRMED, "what this run knows is newer than the ledger"
    assert life.phase(other) is Phase.CONFIRMED
    assert life.phase(known) is Phase.WITHDRAWING
    assert life.state.held_at_start(life.now) == 1


# -- routes of a node that is gone -----------------------------------------------------------------------------------


def taking(life: Life, *prefixes: Prefix, protocol: str = "static") -> list[Prefix]:
    """Another node's routes are there, and are taken over; returns what is not proved."""
    gateways = {prefix: THEIRS[len(prefix.packed)] for prefix in prefixes}
    life.read({prefix: (gateway, protocol) for prefix, gateway in gateways.items()})
    life.state.begin_takeover("node-2", life.now)
    return life.state.take_over(gateways, life.now)


def test_a_route_of_a_node_that_is_gone_is_proved_and_deleted() -> None:
    life = Life()
    assert taking(life, P4) == []
    assert life.ledger[P4].gateway == THEIRS[4]
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    assert delete.kind is Kind.DELETE
    life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    assert life.state.taking_over == 0
    assert life.ledger == {}
    assert life.phase(P4) is None


def test_what_this_node_wants_follows_at_once() -> None:
    life = Life()
    life.want(P4, OURS[4])
    life.read({P4: (THEIRS[4], "static")})
    assert life.next() is None
    assert life.phase(P4) is Phase.CONFLICTING
    assert taking(life, P4) == []
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    post = life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    assert post is not None
    assert (post.kind, post.gateway) == (Kind.ADD, OURS[4])
    life.state.finished(post, Outcome(Answer.CREATED), life.now)
    assert life.phase(P4) is Phase.ACCEPTED


def test_nothing_is_taken_over_without_a_fresh_row_of_its_own() -> None:
    life = Life()
    assert taking(life, P4, protocol="bgp") == []
    assert life.state.taken_over == {}
    life.read({P4: (OTHER[4], "static")})
    assert life.state.take_over({P4: THEIRS[4]}, life.now) == []
    life.read({P4: (THEIRS[4], "static")})
    assert life.state.take_over({P4: THEIRS[4]}, life.now + 6) == [P4], "the inventory is old"
    assert life.state.taken_over == {}
    assert life.next() is None


def test_ipv6_is_taken_over_only_where_the_witness_shows_nothing_else() -> None:
    life = Life()
    assert taking(life, P6) == [P6]
    assert life.state.taken_over == {}


def test_what_is_ours_or_equal_to_ours_is_not_taken_over() -> None:
    life = Life()
    life.want(P4, THEIRS[4])
    life.read({P4: (THEIRS[4], "static")})
    assert life.next() is None
    assert taking(life, P4) == []
    assert life.state.taken_over == {}
    assert life.phase(P4) is Phase.PRESENT


def test_a_route_that_comes_back_ends_it_and_nothing_more_is_touched() -> None:
    life = Life()
    second = Prefix.parse("10.2.0.0/16")
    assert taking(life, P4, second) == []
    delete = life.send(Kind.ASSERT, P4, Answer.EXISTS)
    assert delete is not None
    life.state.finished(delete, Outcome(Answer.DELETED), life.now)
    life.read({P4: (THEIRS[4], "static"), second: (THEIRS[4], "static")})
    assert [*life.state.came_back] == [P4]
    assert life.ledger == {}, "the second is not ours any more"
    assert life.next() is None
    life.state.begin_takeover("node-2", life.now)
    assert life.state.take_over({second: THEIRS[4]}, life.now) == [second]
    assert life.next() is None
    life.state.begin_takeover("node-2", life.now + 601)
    assert life.state.came_back == {}


def test_what_is_given_up_stays_and_is_not_ours() -> None:
    life = Life()
    assert taking(life, P4) == []
    life.state.end_takeover(life.now)
    assert life.ledger == {}
    assert life.next() is None
    life.state.begin_takeover("node-2", life.now)
    assert life.state.take_over({P4: THEIRS[4]}, life.now) == [P4], "once for each prefix"


def test_a_takeover_is_no_mass_withdrawal() -> None:
    life = Life()
    many = [Prefix.parse(f"10.{number}.0.0/16") for number in range(200)]
    assert taking(life, *many) == []
    request = life.next()
    assert request is not None
    assert request.kind is Kind.ASSERT
