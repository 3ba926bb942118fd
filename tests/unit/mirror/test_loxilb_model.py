"""The model of loxilb that the mirror's state machine is tested against does what a real one was seen to do."""

from __future__ import annotations

import pytest

from routesync.names import PROTOCOLS
from routesync.route import Address, Prefix, parse_address
from support.loxilb_model import (
    FAILED,
    NOT_SENT,
    QUEUE_LIMIT,
    SUCCESS,
    UNANSWERED,
    Fate,
    LoxilbModel,
    Reply,
    Writer,
)

P = Prefix.parse("10.1.0.0/24")
P6 = Prefix.parse("2001:db8:1::/48")
GATEWAY, OTHER = parse_address("192.168.10.1"), parse_address("192.168.10.2")
GATEWAY6, OTHER6 = parse_address("fd00:10::1"), parse_address("fd00:10::2")
BOTH = pytest.mark.parametrize(("prefix", "gateway", "other"), [(P, GATEWAY, OTHER), (P6, GATEWAY6, OTHER6)])

EXISTS = Reply(409, "file exists")
ABSENT = Reply(404, "no such process")


@pytest.fixture
def lb() -> LoxilbModel:
    return LoxilbModel()


def routes(lb: LoxilbModel, prefix: Prefix) -> list[tuple[int, tuple[Address, ...], Writer]]:
    return [(route.metric, route.gateways, route.owner) for route in lb.kernel(prefix)]


def shown(lb: LoxilbModel, prefix: Prefix, now: float) -> tuple[tuple[Address, ...], str] | None:
    inventory = lb.inventory(now)
    assert inventory is not None
    row = inventory.rows.get(prefix)
    return None if row is None else (row.gateways, row.protocol)


def numbered(number: int) -> Prefix:
    return Prefix(Address(bytes([11, number >> 16, number >> 8 & 255, number & 255])), 32)


# -- POST -----------------------------------------------------------------------------------------------------------


def test_a_post_makes_a_static_route_at_metric_0_and_for_ipv6_at_1024(lb: LoxilbModel) -> None:
    assert lb.post(P, GATEWAY, 0) == SUCCESS
    assert lb.post(P6, GATEWAY6, 0) == SUCCESS
    assert routes(lb, P) == [(0, (GATEWAY,), Writer.OURS)]
    assert routes(lb, P6) == [(1024, (GATEWAY6,), Writer.OURS)]
    assert {route.protocol for route in lb.kernel_routes(Writer.OURS)} == {PROTOCOLS["static"]}


@BOTH
def test_a_post_of_a_key_that_exists_changes_nothing_and_costs_no_ingestion(
    lb: LoxilbModel, prefix: Prefix, gateway: Address, other: Address
) -> None:
    lb.post(prefix, gateway, 0)
    before = lb.waiting, routes(lb, prefix)
    assert [lb.post(prefix, gateway, 0), lb.post(prefix, other, 0)] == [EXISTS, EXISTS]
    assert (lb.waiting, routes(lb, prefix)) == before


@BOTH
def test_a_post_beside_another_metric_is_a_second_route(
    lb: LoxilbModel, prefix: Prefix, gateway: Address, other: Address
) -> None:
    lb.foreign_add(prefix, other, now=0, metric=100)
    assert lb.post(prefix, gateway, 0) == SUCCESS
    ours = (0 if prefix is P else 1024, (gateway,), Writer.OURS)
    theirs = (100, (other,), Writer.FOREIGN)
    assert routes(lb, prefix) == sorted([ours, theirs])


def test_an_unreachable_gateway_is_refused_even_when_the_route_exists(lb: LoxilbModel) -> None:
    assert lb.post(P, parse_address("203.0.113.9"), 0) == Reply(500, "network is unreachable")
    assert lb.post(P6, parse_address("2001:db8:ffff::1"), 0) == Reply(500, "no route to host")
    lb.post(P, GATEWAY, 0)
    lb.remove_address(Prefix.parse("192.168.10.0/24"), 1)
    assert lb.post(P, GATEWAY, 1).status == 500
    assert routes(lb, P) == [(0, (GATEWAY,), Writer.OURS)]
    assert lb.delete(P, 1) == SUCCESS


def test_families_are_not_mixed(lb: LoxilbModel) -> None:
    assert lb.post(P, GATEWAY6, 0).status == lb.post(P6, GATEWAY, 0).status == 500


def test_the_connected_network_exists_already(lb: LoxilbModel) -> None:
    connected = Prefix.parse("192.168.10.0/24")
    assert lb.post(connected, GATEWAY, 0) == EXISTS
    assert lb.delete(connected, 0) == ABSENT


# -- DELETE ---------------------------------------------------------------------------------------------------------


def test_a_delete_of_what_is_absent_changes_nothing(lb: LoxilbModel) -> None:
    assert lb.delete(P, 0) == ABSENT
    assert lb.waiting == 2  # the connected networks


def test_a_delete_takes_the_lowest_metric_first_whosever_it_is(lb: LoxilbModel) -> None:
    for metric in (300, 100, 200):
        lb.foreign_add(P, OTHER, now=0, metric=metric)
    left = []
    while lb.delete(P, 0) == SUCCESS:
        left.append([metric for metric, _, _ in routes(lb, P)])
    assert left == [[200, 300], [300], []]
    assert [route.metric for route in lb.taken_from_others] == [100, 200, 300]


def test_an_ipv4_delete_takes_ours_before_a_foreign_metric_and_an_ipv6_one_theirs(lb: LoxilbModel) -> None:
    lb.foreign_add(P, OTHER, now=0, metric=100)
    lb.foreign_add(P6, OTHER6, now=0, metric=20)
    lb.post(P, GATEWAY, 0)
    lb.post(P6, GATEWAY6, 0)
    assert lb.delete(P, 0) == SUCCESS
    assert routes(lb, P) == [(100, (OTHER,), Writer.FOREIGN)]
    assert not lb.taken_from_others
    assert lb.delete(P6, 0) == SUCCESS
    assert routes(lb, P6) == [(1024, (GATEWAY6,), Writer.OURS)]
    assert [route.gateways for route in lb.taken_from_others] == [(OTHER6,)]


def test_an_ipv4_delete_passes_over_scope_link_and_an_ipv6_one_does_not(lb: LoxilbModel) -> None:
    host, host6 = Prefix.parse("192.168.10.1/32"), Prefix.parse("fd00:10::1/128")
    assert lb.foreign_add(host, now=0, metric=100, protocol="dhcp")
    assert lb.foreign_add(host6, now=0, metric=100)
    assert lb.delete(host, 0) == ABSENT
    assert lb.delete(host6, 0) == SUCCESS
    assert lb.delete(Prefix.parse("fd00:10::/64"), 0) == SUCCESS
    assert {route.owner for route in lb.taken_from_others} == {Writer.FOREIGN, Writer.LOXILB}


def test_a_route_that_was_put_in_place_of_ours_is_taken(lb: LoxilbModel) -> None:
    lb.post(P, GATEWAY, 0)
    assert lb.foreign_replace(P, OTHER, now=1)
    assert lb.post(P, GATEWAY, 1) == EXISTS
    assert lb.delete(P, 1) == SUCCESS
    assert [(route.gateways, route.since) for route in lb.taken_from_others] == [((OTHER,), 1)]


def test_a_foreign_route_in_front_of_ours_with_its_metric_is_taken_first(lb: LoxilbModel) -> None:
    lb.post(P, GATEWAY, 0)
    assert not lb.foreign_add(P, OTHER, now=0)
    assert lb.foreign_add(P, OTHER, now=0, how="prepend")
    assert lb.foreign_add(P, parse_address("192.168.10.3"), now=0, how="append")
    lb.delete(P, 0)
    assert [route.gateways for route in lb.taken_from_others] == [(OTHER,)]
    assert routes(lb, P)[0] == (0, (GATEWAY,), Writer.OURS)


def test_an_appended_ipv6_hop_makes_one_route_that_goes_whole(lb: LoxilbModel) -> None:
    lb.post(P6, GATEWAY6, 0)
    assert lb.foreign_add(P6, OTHER6, now=0, how="append")
    assert not lb.foreign_add(P6, OTHER6, now=0, how="append")
    assert routes(lb, P6) == [(1024, (GATEWAY6, OTHER6), Writer.FOREIGN)]
    assert shown(lb, P6, 1) == ((OTHER6, GATEWAY6), "186")
    assert lb.delete(P6, 1) == SUCCESS
    assert routes(lb, P6) == []
    assert len(lb.taken_from_others) == 1


# -- its own table --------------------------------------------------------------------------------------------------


def test_what_was_accepted_is_shown_at_most_half_a_second_later(lb: LoxilbModel) -> None:
    lb.post(P, GATEWAY, 10.1)
    assert shown(lb, P, 10.2) is None
    assert lb.unsafe_reads == 1
    assert shown(lb, P, 10.6) == ((GATEWAY,), "static")
    assert lb.unsafe_reads == 1


def test_it_ingests_256_a_second(lb: LoxilbModel) -> None:
    lb.tick(100)
    for number in range(1000):
        lb.post(numbered(number), GATEWAY, 100)
    for seconds, left in ((1, 744), (2, 488), (3.5, 104), (4, 0)):
        lb.tick(100 + seconds)
        assert lb.waiting == left


def test_with_too_many_waiting_it_goes_deaf_until_its_restart(lb: LoxilbModel) -> None:
    lb.tick(1)
    for number in range(QUEUE_LIMIT + 1):
        assert lb.post(numbered(number), GATEWAY, 1) == SUCCESS
    assert lb.deaf
    lb.tick(300)
    assert lb.row(numbered(QUEUE_LIMIT - 1)) is not None
    assert lb.post(P, GATEWAY, 300) == SUCCESS
    assert lb.row(numbered(QUEUE_LIMIT)) is None
    assert shown(lb, P, 400) is None
    lb.restart(400)
    assert shown(lb, P, 600) == ((GATEWAY,), "static")


def test_the_last_event_wins_and_any_removal_drops_the_row(lb: LoxilbModel) -> None:
    lb.post(P, GATEWAY, 0)
    lb.foreign_add(P, OTHER, now=1, metric=100)
    assert shown(lb, P, 2) == ((OTHER,), "186")
    lb.foreign_delete(P, 3, metric=100)
    assert shown(lb, P, 4) is None
    assert routes(lb, P) == [(0, (GATEWAY,), Writer.OURS)]
    assert lb.post(P, GATEWAY, 4) == EXISTS
    assert shown(lb, P, 5) is None
    lb.delete(P, 5)
    lb.post(P, GATEWAY, 5)
    assert shown(lb, P, 6) == ((GATEWAY,), "static")


def test_the_same_gateway_keeps_the_protocol_of_the_row(lb: LoxilbModel) -> None:
    lb.foreign_add(P, GATEWAY, now=0, metric=100, protocol="dhcp")
    lb.post(P, GATEWAY, 1)
    assert shown(lb, P, 2) == ((GATEWAY,), "16")
    lb.delete(P, 2)
    assert shown(lb, P, 3) is None
    assert routes(lb, P) == [(100, (GATEWAY,), Writer.FOREIGN)]


def test_its_own_networks_and_the_gateways_are_in_its_table(lb: LoxilbModel) -> None:
    lb.post(P, GATEWAY, 0)
    inventory = lb.inventory(1)
    assert inventory is not None
    assert {str(prefix): " ".join(sorted(row.flags)) for prefix, row in inventory.rows.items()} == {
        "192.168.10.0/24": "Self",
        "192.168.10.20/32": "Self",
        "fd00:10::/64": "Self",
        "fd00:10::/32": "Self",
        "10.1.0.0/24": "Ind",
        "192.168.10.1/32": "Host Ind",
    }


def test_an_ipv6_hop_that_goes_drops_the_row_though_the_route_stays(lb: LoxilbModel) -> None:
    lb.post(P6, GATEWAY6, 0)
    lb.foreign_add(P6, OTHER6, now=0, how="append")
    assert lb.foreign_delete(P6, 1, gateway=OTHER6)
    assert routes(lb, P6) == [(1024, (GATEWAY6,), Writer.OURS)]
    assert shown(lb, P6, 2) is None


# -- links, restarts, lost answers ----------------------------------------------------------------------------------


def test_a_link_flap_leaves_stale_rows_that_post_and_delete_remove(lb: LoxilbModel) -> None:
    lb.foreign_add(Prefix.parse("10.9.0.0/16"), OTHER, now=0)
    lb.post(P, GATEWAY, 0)
    lb.post(P6, GATEWAY6, 0)
    lb.tick(1)
    lb.link_down(1)
    assert lb.post(P, GATEWAY, 1).status == 500
    lb.link_up(1)
    assert [route.owner for route in lb.kernel_routes()] == [Writer.LOXILB] * 2
    assert shown(lb, P, 2) == ((GATEWAY,), "static")
    assert shown(lb, P6, 2) is None, "IPv6 routes are announced"
    assert lb.delete(P, 2) == ABSENT
    assert shown(lb, P, 3) == ((GATEWAY,), "static")
    assert (lb.post(P, GATEWAY, 3), lb.delete(P, 3)) == (SUCCESS, SUCCESS)
    assert shown(lb, P, 4) is None


def test_an_ecmp_route_loses_a_hop_silently(lb: LoxilbModel) -> None:
    lb.add_network("198.51.100.1/24", 0, link="eth1")
    lb.foreign_add(P, OTHER, parse_address("198.51.100.2"), now=0)
    lb.tick(1)
    lb.link_down(1, "eth1")
    assert routes(lb, P) == [(0, (OTHER,), Writer.FOREIGN)]
    assert shown(lb, P, 2) == ((OTHER, parse_address("198.51.100.2")), "186")


def test_a_restart_keeps_the_kernels_routes_and_fills_the_table_slowly(lb: LoxilbModel) -> None:
    lb.tick(0.9)
    for number in range(1500):
        lb.post(numbered(number), GATEWAY, 0.9)
    lb.tick(20)
    lb.restart(20)
    assert lb.inventory(24.9) is None
    assert lb.post(P, GATEWAY, 24.9) == NOT_SENT
    counts = []
    for now in (25, 27.9, 29, 30, 31):
        inventory = lb.inventory(now)
        assert inventory is not None
        counts.append(len(inventory.rows))
    assert counts[:2] == [0, 0]
    assert 0 < counts[2] < counts[3] == counts[4]
    assert counts[4] > 1500
    assert len(lb.kernel_routes(Writer.OURS)) == 1500


def test_in_a_new_namespace_it_has_its_connected_networks_only(lb: LoxilbModel) -> None:
    lb.post(P, GATEWAY, 0)
    lb.foreign_add(P6, GATEWAY6, now=0)
    lb.restart(1, new_namespace=True)
    assert [route.owner for route in lb.kernel_routes()] == [Writer.LOXILB] * 2
    inventory = lb.inventory(20)
    assert inventory is not None
    assert {row.flags for row in inventory.rows.values()} == {frozenset({"Self"})}


@pytest.mark.parametrize(
    ("fate", "reply", "done"),
    [
        (Fate.ANSWERED, SUCCESS, True),
        (Fate.LOST, UNANSWERED, True),
        (Fate.DROPPED, UNANSWERED, False),
        (Fate.REFUSED, NOT_SENT, False),
    ],
)
def test_a_lost_answer_says_nothing_of_what_was_done(
    lb: LoxilbModel, fate: Fate, reply: Reply, *, done: bool
) -> None:
    assert lb.post(P, GATEWAY, 0, fate) == reply
    assert bool(lb.kernel(P)) is done
    lb.foreign_replace(P, OTHER, now=0)
    assert lb.delete(P, 0, fate) == reply
    assert bool(lb.kernel(P)) is not done
    assert (lb.inventory(0, fate) is None) is (fate is not Fate.ANSWERED)


def test_every_request_and_every_announced_change_is_on_record(lb: LoxilbModel) -> None:
    before = len(lb.changes)
    lb.post(P, GATEWAY, 1)
    lb.post(P, GATEWAY, 2)
    lb.foreign_delete(P, 3)
    lb.delete(P, 4)
    assert [(request.at, request.method, request.status) for request in lb.requests] == [
        (1, "POST", 200),
        (2, "POST", 409),
        (4, "DELETE", 404),
    ]
    assert [(change.at, change.writer, change.kind) for change in lb.changes[before:]] == [
        (1, Writer.OURS, "add"),
        (3, Writer.FOREIGN, "delete"),
    ]


# -- v0.9.1 ---------------------------------------------------------------------------------------------------------


def test_the_old_one_gives_no_reasons_and_has_one_row_for_both_defaults() -> None:
    lb = LoxilbModel(old=True)
    default, default6 = Prefix.parse("0.0.0.0/0"), Prefix.parse("::/0")
    assert lb.post(default, GATEWAY, 0) == SUCCESS
    assert lb.post(default, GATEWAY, 0) == lb.delete(P, 0) == FAILED
    assert shown(lb, default, 1) == ((GATEWAY,), "3")
    assert lb.post(default6, GATEWAY6, 1) == SUCCESS
    assert shown(lb, default, 2) == ((GATEWAY,), "3"), "an entry keeps its first gateway"
    lb.delete(default6, 2)
    assert shown(lb, default, 3) is None
    assert routes(lb, default) == [(0, (GATEWAY,), Writer.OURS)]


def test_a_witness_reads_its_kernel_in_the_order_of_delete(lb: LoxilbModel) -> None:
    lb.foreign_add(P, OTHER, now=0, metric=100)
    lb.post(P, GATEWAY, 0)
    seen = [route.as_candidate().route for route in lb.kernel(P)]
    assert [(route.metric, route.hops[0].gateway) for route in seen] == [(0, GATEWAY), (100, OTHER)]
