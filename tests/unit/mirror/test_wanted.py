"""Which routes may be told to a loxilb, and the code of each reason why not."""

from __future__ import annotations

import pytest

from routesync.loxilb.wire import parse_inventory
from routesync.mirror.wanted import Blocked, Reason, TargetFacts, TargetRules, Wanted, judge
from routesync.names import PROTOCOLS, TYPES
from routesync.route import (
    Address,
    Candidate,
    HopFlag,
    NextHop,
    Prefix,
    Rewrite,
    Route,
    Verdict,
    parse_address,
)

NO_FACTS = TargetFacts()
RULES = TargetRules()


def route(prefix: str, *gateways: str | None, **fields: int | bool) -> Route:
    hops = tuple(sorted(NextHop(parse_address(gw) if gw else None, 3) for gw in gateways))
    base = Route(Prefix.parse(prefix), 254, 0, 0, PROTOCOLS["bgp"], 0, TYPES["unicast"], hops)
    return base._replace(**fields)  # type: ignore[arg-type]


def judged(
    given: Route,
    *,
    rules: TargetRules = RULES,
    facts: TargetFacts = NO_FACTS,
    rewrite: Rewrite | None = None,
    targets: frozenset[Address] = frozenset(),
) -> Wanted | Blocked:
    return judge(Candidate(given, Verdict(keep=True, rule="r", rewrite=rewrite)), rules, facts, targets)


def test_a_route_with_one_gateway_is_wanted_with_it() -> None:
    assert judged(route("10.0.0.0/8", "192.168.10.1")) == Wanted(parse_address("192.168.10.1"), "r")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (route("10.0.0.0/8", type=TYPES["blackhole"]), Reason.NOT_UNICAST),
        (route("10.0.0.0/8", "192.0.2.1", tos=16), Reason.TOS),
        (route("10.0.0.0/8", "192.0.2.1", encap=True), Reason.ENCAPSULATED),
        (route("10.0.0.0/8", None), Reason.NO_GATEWAY),
        (route("10.0.0.0/8", "2001:db8::1"), Reason.OTHER_FAMILY_GATEWAY),
        (route("2001:db8:1::/48", "fe80::1"), Reason.LINK_LOCAL_GATEWAY),
        (route("10.0.0.0/8", "169.254.0.1"), Reason.LINK_LOCAL_GATEWAY),
        (route("fe80::/64", "2001:db8::1"), Reason.LINK_LOCAL_PREFIX),
        (route("169.254.0.0/16", "192.0.2.1"), Reason.LINK_LOCAL_PREFIX),
        (route("ff00::/8", "2001:db8::1"), Reason.MULTICAST_PREFIX),
        (route("239.1.0.0/16", "192.0.2.1"), Reason.MULTICAST_PREFIX),
        (route("127.0.0.0/8", "192.0.2.1"), Reason.LOOPBACK_PREFIX),
        (route("10.0.0.0/8", "127.0.0.1"), Reason.INVALID_GATEWAY),
        (route("10.0.0.0/8", "0.0.0.0"), Reason.INVALID_GATEWAY),
        (route("192.0.2.0/24", "192.0.2.1"), Reason.CONTAINS_NEXT_HOP),
        (route("192.0.2.1/32", "192.0.2.1"), Reason.CONTAINS_NEXT_HOP),
        (route("0.0.0.0/0", "192.0.2.1"), Reason.DEFAULT_NOT_ALLOWED),
        (route("::/0", "2001:db8::1"), Reason.DEFAULT_NOT_ALLOWED),
    ],
)
def test_what_loxilb_cannot_be_told_or_would_be_harmed_by_is_blocked(given: Route, reason: Reason) -> None:
    judgement = judged(given)
    assert isinstance(judgement, Blocked)
    assert judgement.reason is reason
    assert judgement.detail


def test_a_default_route_passes_where_it_is_allowed_although_it_contains_its_next_hop() -> None:
    allowed = judged(route("0.0.0.0/0", "192.0.2.1"), rules=TargetRules(allow_default=True))
    assert allowed == Wanted(parse_address("192.0.2.1"), "r")


def test_a_prefix_within_a_network_of_the_target_is_refused_unless_forced() -> None:
    facts = TargetFacts(connected=(Prefix.parse("192.168.10.0/24"),))
    given = route("192.168.10.128/25", "192.0.2.1")
    refused = judged(given, facts=facts)
    assert isinstance(refused, Blocked)
    assert refused.reason is Reason.CONNECTED_AT_TARGET
    assert isinstance(judged(given, facts=facts, rules=TargetRules(force_connected=True)), Wanted)
    assert isinstance(judged(route("192.168.0.0/16", "10.9.9.9"), facts=facts), Wanted), (
        "wider than the network"
    )


def test_no_target_is_told_to_route_through_a_target() -> None:
    other = parse_address("192.168.10.21")
    given = route("20.20.20.1/32", "192.168.10.21")
    for judgement in (
        judged(given, targets=frozenset({other})),
        judged(given, facts=TargetFacts(addresses=frozenset({other}))),
    ):
        assert isinstance(judgement, Blocked)
        assert judgement.reason is Reason.SPLIT_HORIZON


def test_of_an_ecmp_route_the_first_hop_is_told_and_it_is_said_that_this_is_not_all() -> None:
    judgement = judged(route("10.0.0.0/8", "192.0.2.9", "192.0.2.3"))
    assert judgement == Wanted(parse_address("192.0.2.3"), "r", degraded=True)


def test_a_dead_hop_does_not_make_a_route_ecmp() -> None:
    hops = (
        NextHop(parse_address("192.0.2.3"), 3, flags=HopFlag.DEAD | HopFlag.LINKDOWN),
        NextHop(parse_address("192.0.2.9"), 4),
    )
    judgement = judged(route("10.0.0.0/8")._replace(hops=hops))
    assert judgement == Wanted(parse_address("192.0.2.9"), "r")


def test_a_rewrite_makes_device_ecmp_and_on_link_routes_representable() -> None:
    behind = parse_address("192.168.10.10")
    rewrite = Rewrite(inet=behind)
    for given in (
        route("10.244.0.0/24", None),
        route("10.244.1.0/24", "10.244.1.0"),
        route("10.9.0.0/16", "192.0.2.9", "192.0.2.3"),
    ):
        assert judged(given, rewrite=rewrite) == Wanted(behind, "r")


def test_the_rules_rewrite_goes_before_the_targets() -> None:
    first, second = parse_address("192.0.2.1"), parse_address("192.0.2.2")
    given = route("10.0.0.0/8", "192.0.2.9")
    rules = TargetRules(rewrite=Rewrite(inet=second))
    assert judged(given, rules=rules) == Wanted(second, "r")
    assert judged(given, rules=rules, rewrite=Rewrite(inet=first)) == Wanted(first, "r")


def test_a_rewrite_of_the_other_family_leaves_a_route_alone() -> None:
    rewrite = Rewrite(inet6=parse_address("2001:db8::1"))
    assert judged(route("10.0.0.0/8", "192.0.2.9"), rewrite=rewrite) == Wanted(
        parse_address("192.0.2.9"), "r"
    )


def test_a_rewritten_next_hop_must_not_lie_in_the_prefix_either() -> None:
    judgement = judged(route("192.168.0.0/16", None), rewrite=Rewrite(inet=parse_address("192.168.10.10")))
    assert isinstance(judgement, Blocked)
    assert judgement.reason is Reason.CONTAINS_NEXT_HOP


def test_a_targets_networks_and_addresses_are_read_off_its_table() -> None:
    body = b"""{"routeAttr":[
      {"destinationIPNet":"192.168.10.0/24","flags":"Self","gateway":"","protocol":"unspec"},
      {"destinationIPNet":"192.168.10.20/32","flags":"Self"},
      {"destinationIPNet":"fd00:10::/32","flags":"Self"},
      {"destinationIPNet":"fd00:10::/64","flags":"Self"},
      {"destinationIPNet":"192.168.10.1/32","flags":"Ind Host","gateway":"192.168.10.1"},
      {"destinationIPNet":"10.1.0.0/16","flags":"Ind","gateway":"192.168.10.1","protocol":"static"}]}"""
    facts = TargetFacts.from_inventory(parse_inventory(body, "test"))
    assert facts.addresses == {parse_address("192.168.10.20")}
    assert facts.connected == (Prefix.parse("192.168.10.0/24"), Prefix.parse("fd00:10::/64"))
