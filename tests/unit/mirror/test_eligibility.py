"""Which routes may be sent to a loxilb, with which gateway, and the code of each reason why not."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from routesync.kernel import InterfaceAddress
from routesync.loxilb.schema import Inventory, InventoryRow
from routesync.mirror.eligibility import (
    Desired,
    Ineligible,
    Networks,
    NodeFacts,
    Reason,
    ReturnPath,
    TargetFacts,
    TargetRules,
    beside_nearly_default,
    contains_our_end,
    cuts_return_path,
    evaluate,
    interface_addresses,
    self_addresses,
)
from routesync.names import PROTOCOLS, TYPES
from routesync.route import (
    Address,
    Candidate,
    Family,
    HopFlag,
    NextHop,
    Prefix,
    Rewrite,
    Route,
    Verdict,
    parse_address,
)
from support.inventories import parse_inventory

Row = tuple[str, str, str]
"""Of an inventory: prefix, flags, gateways."""
NO_FACTS = TargetFacts()
NO_NODE = NodeFacts()
RULES = TargetRules()


def at(text: str) -> Address:
    return parse_address(text)


def route(prefix: str, *gateways: str | None, **fields: object) -> Route:
    hops = tuple(sorted(NextHop(at(gw) if gw else None, 3) for gw in gateways))
    base = Route(Prefix.parse(prefix), 254, 0, 0, PROTOCOLS["bgp"], 0, TYPES["unicast"], hops)
    return base._replace(**fields)  # type: ignore[arg-type]


def evaluated(
    of: Route,
    *,
    rules: TargetRules = RULES,
    facts: TargetFacts = NO_FACTS,
    node: NodeFacts = NO_NODE,
    rewrite: Rewrite | None = None,
    current: str | None = None,
) -> Desired | Ineligible:
    candidate = Candidate(of, Verdict(keep=True, rule="r", rewrite=rewrite))
    return evaluate(candidate, rules, facts, node, at(current) if current else None)


def refused(result: Desired | Ineligible) -> Reason:
    assert isinstance(result, Ineligible), result
    assert result.detail
    assert result.rule == "r"
    return result.reason


def inventory(*rows: Row) -> Inventory:
    found = {}
    for text, flags, gateways in rows:
        prefix = Prefix.parse(text)
        found[prefix] = InventoryRow(tuple(map(at, gateways.split())), frozenset(flags.split()), "static")
    return Inventory(found, 0)


def facts_of(*rows: Row, ours: str, theirs: str) -> TargetFacts:
    return TargetFacts.from_inventory(inventory(*rows), (at(ours), at(theirs)))


def test_a_route_with_one_gateway_is_desired_with_it() -> None:
    assert evaluated(route("10.0.0.0/8", "192.168.10.1")) == Desired(at("192.168.10.1"), "r")


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (route("10.0.0.0/8", type=TYPES["blackhole"]), Reason.NOT_UNICAST),
        (route("10.0.0.0/8", "192.0.2.1", tos=16), Reason.TOS),
        (route("10.0.0.0/8", "192.0.2.1", encap=True), Reason.ENCAPSULATED),
        (
            route("2001:db8:1::/48", "2001:db8::1", source=Prefix.parse("2001:db8:2::/48")),
            Reason.SOURCE_SPECIFIC,
        ),
        (route("::/0", "fe80::1", source=Prefix.parse("2001:db8:2::/48")), Reason.SOURCE_SPECIFIC),
        (route("10.0.0.0/8", None), Reason.NO_GATEWAY),
        (route("10.0.0.0/8"), Reason.NO_GATEWAY),
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
        (route("10.0.0.0/8", "255.255.255.255"), Reason.INVALID_GATEWAY),
        (route("10.0.0.0/8", "224.0.0.5"), Reason.INVALID_GATEWAY),
        (route("10.0.0.0/8", "127.1.2.3"), Reason.INVALID_GATEWAY),
        (route("2001:db8:1::/48", "ff02::1"), Reason.INVALID_GATEWAY),
        (route("192.0.2.0/24", "192.0.2.1"), Reason.CONTAINS_NEXT_HOP),
        (route("192.0.2.1/32", "192.0.2.1"), Reason.CONTAINS_NEXT_HOP),
        (route("0.0.0.0/0", "192.0.2.1"), Reason.DEFAULT_NOT_ALLOWED),
        (route("::/0", "2001:db8::1"), Reason.DEFAULT_NOT_ALLOWED),
    ],
)
def test_what_loxilb_cannot_be_sent_or_would_be_harmed_by_is_ineligible(of: Route, reason: Reason) -> None:
    assert refused(evaluated(of)) is reason


@pytest.mark.parametrize(
    ("of", "facts", "node", "detail"),
    [
        (route("10.0.0.0/8", type=TYPES["blackhole"]), NO_FACTS, NO_NODE, "its type is blackhole"),
        (route("10.0.0.0/8", tos=16), NO_FACTS, NO_NODE, "it is for TOS 0x10 only"),
        (route("10.0.0.0/8", encap=True), NO_FACTS, NO_NODE, "it encapsulates"),
        (
            route("2001:db8:1::/48", source=Prefix.parse("2001:db8:2::/48")),
            NO_FACTS,
            NO_NODE,
            "it is for packets from 2001:db8:2::/48 only",
        ),
        (route("fe80::/64"), NO_FACTS, NO_NODE, "it lies in fe80::/10"),
        (route("0.0.0.0/0"), NO_FACTS, NO_NODE, "allow_default is false for this target"),
        (
            route("0.0.0.0/1"),
            NO_FACTS,
            NO_NODE,
            (
                "it is shorter than /8, nearly a default route, which allow_default does not cover; lower "
                "`min_prefix_length` of this target to mirror it"
            ),
        ),
        (
            route("192.0.2.1/32"),
            NO_FACTS,
            NodeFacts(gateways=frozenset({at("192.0.2.1")})),
            "192.0.2.1 is a gateway of this node, and a host route to it could cut it off; drop it by a rule",
        ),
        (
            route("192.0.2.1/32"),
            TargetFacts(gateways=frozenset({at("192.0.2.1")})),
            NO_NODE,
            "192.0.2.1 is a gateway of the target, and a host route to it could cut it off; drop it by a rule",
        ),
        (
            route("192.0.2.1/32"),
            TargetFacts(neighbours=frozenset({at("192.0.2.1")})),
            NO_NODE,
            "192.0.2.1 is a neighbour of the target, and a host route to it could cut it off; drop it by a rule",
        ),
        (
            route("192.0.2.0/25"),
            TargetFacts(connected=Networks([Prefix.parse("192.0.2.0/24")])),
            NO_NODE,
            "the target is connected to 192.0.2.0/24",
        ),
        (
            route("10.0.0.0/8", "192.0.2.1"),
            TargetFacts(addresses=frozenset({at("192.0.2.1")})),
            NO_NODE,
            "its next hop 192.0.2.1 is a target's own address",
        ),
        (route("10.0.0.0/8", "127.0.0.1"), NO_FACTS, NO_NODE, "127.0.0.1 cannot be a next hop"),
        (
            route("10.244.1.0/24", "10.244.1.0"),
            NO_FACTS,
            NO_NODE,
            "its next hop 10.244.1.0 lies inside the prefix itself; set `next_hop` in the rule or the target",
        ),
        (
            route("10.0.0.0/8", "192.0.2.1"),
            NO_FACTS,
            NodeFacts(suspects=frozenset({Prefix.parse("10.0.0.0/8")})),
            "the target fell silent when it was posted; `routesync resync --force` tries it again",
        ),
        (
            route("10.0.0.0/8", "192.0.2.1"),
            TargetFacts(ends=(at("10.0.0.1"), at("192.0.2.20"))),
            NO_NODE,
            (
                "it contains the address that we speak to the target from: by the gateway 192.0.2.1 the target's "
                "answers might not reach us any more, and we could never withdraw it; if they do reach us, list the "
                "prefix in `return_path_ok` of this target"
            ),
        ),
        (route("10.0.0.0/8"), NO_FACTS, NO_NODE, "it has no next hop"),
        (
            route("10.0.0.0/8", None),
            NO_FACTS,
            NO_NODE,
            "it has no gateway, only a device; set `next_hop` in the rule or the target",
        ),
        (
            route("10.0.0.0/8", "2001:db8::1"),
            NO_FACTS,
            NO_NODE,
            "its gateway 2001:db8::1 is of the other family; set `next_hop` in the rule or the target",
        ),
        (
            route("10.0.0.0/8", "169.254.0.1"),
            NO_FACTS,
            NO_NODE,
            "its gateway 169.254.0.1 means nothing beyond this link; set `next_hop` in the rule or the target",
        ),
    ],
)
def test_the_reason_says_what_is_wrong_and_what_to_do(
    of: Route, facts: TargetFacts, node: NodeFacts, detail: str
) -> None:
    result = evaluated(of, facts=facts, node=node)
    assert isinstance(result, Ineligible)
    assert result.detail == detail


def test_a_default_that_old_versions_share_is_refused_with_the_remedy() -> None:
    rules, old = TargetRules(allow_default="yes"), TargetFacts(one_default=True)
    result = evaluated(route("::/0", "2001:db8::1"), rules=rules, facts=old)
    assert isinstance(result, Ineligible)
    assert result.detail == (
        "this version of loxilb has one entry for 0.0.0.0/0 and ::/0, and mirroring both destroys one; "
        "use loxilb v0.9.8 or newer"
    )


def test_a_next_hop_of_our_own_that_we_do_not_have_is_refused_with_the_remedy() -> None:
    for rewrite, detail in (
        (
            Rewrite(to_self=True),
            (
                "we have no ipv4 address on the interface that reaches the target, on a network that the target is "
                'connected to; set `next_hop` to an address instead of "self"'
            ),
        ),
        (
            Rewrite(interface="ens4"),
            "we have no ipv4 address on ens4; give it one, or set `next_hop` to another interface or an address",
        ),
    ):
        result = evaluated(route("10.0.0.0/8", None), rewrite=rewrite)
        assert isinstance(result, Ineligible)
        assert result.detail == detail


def test_a_gateway_that_only_looks_special_is_one() -> None:
    for prefix, gateway in (
        ("10.0.0.0/8", "255.255.255.254"),
        ("10.0.0.0/8", "0.0.0.1"),
        ("2001:db8:1::/48", "64:ff9b::1"),
    ):
        assert evaluated(route(prefix, gateway)) == Desired(at(gateway), "r")


def test_a_default_that_overrides_does_so_with_a_next_hop_of_the_rule_too() -> None:
    rules, rewrite = TargetRules(allow_default="override"), Rewrite(inet=at("192.0.2.9"))
    result = evaluated(route("0.0.0.0/0", "192.0.2.1"), rules=rules, rewrite=rewrite)
    assert result == Desired(at("192.0.2.9"), "r", beside=True)


# -- defaults, and what is nearly one


@pytest.mark.parametrize("allow", ["yes", "override"])
@pytest.mark.parametrize(("prefix", "gateway"), [("0.0.0.0/0", "192.0.2.1"), ("::/0", "2001:db8::1")])
def test_a_default_route_passes_where_it_is_allowed_although_it_contains_its_next_hop(
    allow: str, prefix: str, gateway: str
) -> None:
    rules = TargetRules(allow_default=allow)  # type: ignore[arg-type]
    beside = allow == "override" and prefix == "0.0.0.0/0"
    assert evaluated(route(prefix, gateway), rules=rules) == Desired(at(gateway), "r", beside=beside)


def test_old_versions_get_the_ipv4_default_only_for_they_have_one_entry_for_both() -> None:
    empty = Inventory({}, 0)
    old = TargetFacts.from_inventory(empty, version="before 0.9.8")
    rules = TargetRules(allow_default="yes")
    assert (
        refused(evaluated(route("::/0", "2001:db8::1"), rules=rules, facts=old))
        is Reason.DEFAULT_SHARED_WITH_IPV4
    )
    assert isinstance(evaluated(route("0.0.0.0/0", "192.0.2.1"), rules=rules, facts=old), Desired)
    for version in ("0.9.8.5", "v0.9.8", "unknown", None):
        new = TargetFacts.from_inventory(empty, version=version)
        assert isinstance(evaluated(route("::/0", "2001:db8::1"), rules=rules, facts=new), Desired)


@pytest.mark.parametrize(
    ("prefix", "nearly"),
    [
        ("0.0.0.0/1", True),
        ("128.0.0.0/1", True),
        ("64.0.0.0/2", True),
        ("224.0.0.0/3", True),
        ("12.0.0.0/7", True),
        ("10.0.0.0/8", False),
        ("240.0.0.0/4", False),
        ("248.0.0.0/5", False),
        ("::/1", True),
        ("8000::/1", True),
        ("2000::/3", True),
        ("2000::/15", True),
        ("fc00::/6", True),
        ("2001::/16", False),
        ("fc00::/7", False),
        ("fd00::/8", False),
    ],
)
@pytest.mark.parametrize("allow", ["no", "yes", "override"])
def test_what_is_nearly_a_default_is_refused_whether_a_default_is_allowed_or_not(
    *, prefix: str, nearly: bool, allow: str
) -> None:
    gateway = "203.0.113.1" if "." in prefix else "3fff::1"
    of = route(prefix, gateway)
    rules = TargetRules(allow_default=allow, min_prefix_length=(8, 16))  # type: ignore[arg-type]
    result = evaluated(of, rules=rules)
    if nearly:
        assert refused(result) is Reason.NEARLY_DEFAULT
        result = evaluated(of, rules=rules._replace(min_prefix_length=(0, 0)))
    if of.prefix.contains(at(gateway)):
        assert refused(result) is Reason.CONTAINS_NEXT_HOP
    else:
        assert isinstance(result, Desired)


def test_the_bounds_are_those_of_the_target_each_family_by_its_own() -> None:
    rules = TargetRules(min_prefix_length=(12, 20))
    assert refused(evaluated(route("10.0.0.0/11", "192.0.2.1"), rules=rules)) is Reason.NEARLY_DEFAULT
    assert isinstance(evaluated(route("10.0.0.0/12", "192.0.2.1"), rules=rules), Desired)
    assert refused(evaluated(route("2001::/19", "3fff::1"), rules=rules)) is Reason.NEARLY_DEFAULT
    assert isinstance(evaluated(route("2001::/20", "3fff::1"), rules=rules), Desired)


def test_what_passes_beside_a_nearly_default_route_over_the_same_hop_is_counted() -> None:
    tunnel = [route(prefix, "10.8.0.5") for prefix in ("0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/8")]
    other = [route("128.0.0.0/1", "10.9.0.1"), route("172.16.0.0/12", "10.10.0.1")]
    verdict = Verdict(keep=True, rule="r")
    results = [(Candidate(it, verdict), evaluated(it)) for it in (*tunnel, *other)]
    results.append(
        (Candidate(route("32.0.0.0/5"), verdict), Ineligible(Reason.NEARLY_DEFAULT, "no hops", "r"))
    )
    assert beside_nearly_default(results) == {Prefix.parse("0.0.0.0/5"): 2, Prefix.parse("8.0.0.0/7"): 2}


# -- the target's own network


def test_a_prefix_within_a_network_of_the_target_is_refused_unless_forced() -> None:
    facts = TargetFacts(connected=Networks([Prefix.parse("192.168.10.0/24")]))
    of = route("192.168.10.128/25", "192.0.2.1")
    assert refused(evaluated(of, facts=facts)) is Reason.CONNECTED_AT_TARGET
    assert refused(evaluated(route("192.168.10.0/24", "192.0.2.1"), facts=facts)) is (
        Reason.CONNECTED_AT_TARGET
    )
    assert isinstance(evaluated(of, facts=facts, rules=TargetRules(force_connected=True)), Desired)
    assert isinstance(evaluated(route("192.168.0.0/16", "10.9.9.9"), facts=facts), Desired), "it is wider"


def test_no_target_is_sent_a_route_through_a_target() -> None:
    other = frozenset({at("192.168.10.21")})
    of = route("20.20.20.1/32", "192.168.10.21")
    assert refused(evaluated(of, node=NodeFacts(targets=other))) is Reason.SPLIT_HORIZON
    assert refused(evaluated(of, facts=TargetFacts(addresses=other))) is Reason.SPLIT_HORIZON


@pytest.mark.parametrize(
    ("facts", "node"),
    [
        (NO_FACTS, NodeFacts(gateways=frozenset({at("203.0.113.1")}))),
        (TargetFacts(gateways=frozenset({at("203.0.113.1")})), NO_NODE),
        (TargetFacts(neighbours=frozenset({at("203.0.113.1")})), NO_NODE),
    ],
)
def test_a_host_route_to_a_gateway_or_neighbour_is_refused_whatever_its_next_hop(
    facts: TargetFacts, node: NodeFacts
) -> None:
    """The founding fault: such a route in loxilb cuts off the neighbour that it leads to."""
    rules = TargetRules(rewrite=Rewrite(inet=at("203.0.113.50")), force_connected=True)
    for of in (route("203.0.113.1/32", None), route("203.0.113.1/32", "203.0.113.2")):
        result = evaluated(of, rules=rules, facts=facts, node=node)
        assert refused(result) is Reason.GATEWAY_HOST_ROUTE
    assert isinstance(evaluated(route("203.0.113.0/31", None), rules=rules, facts=facts, node=node), Desired)
    assert isinstance(evaluated(route("203.0.113.9/32", None), rules=rules, facts=facts, node=node), Desired)


def test_a_gateway_of_ipv6_is_protected_too() -> None:
    node = NodeFacts(gateways=frozenset({at("2001:db8::1")}))
    assert refused(evaluated(route("2001:db8::1/128", "2001:db8::9"), node=node)) is Reason.GATEWAY_HOST_ROUTE


def test_a_targets_place_in_the_network_is_read_off_its_table() -> None:
    body = b"""{"routeAttr":[
      {"destinationIPNet":"192.168.10.0/24","flags":"Self","gateway":"","protocol":"unspec"},
      {"destinationIPNet":"192.168.10.20/32","flags":"Self"},
      {"destinationIPNet":"fd00:10::/32","flags":"Self"},
      {"destinationIPNet":"fd00:10::/64","flags":"Self"},
      {"destinationIPNet":"192.168.10.1/32","flags":"Ind Host","gateway":"192.168.10.1"},
      {"destinationIPNet":"0.0.0.0/0","flags":"Ind","gateway":"192.168.10.254","protocol":"16"},
      {"destinationIPNet":"10.9.0.0/16","flags":"Ind","gateway":"192.168.10.7, 192.168.10.8","protocol":"186"},
      {"destinationIPNet":"10.1.0.0/16","flags":"Ind","gateway":"192.168.10.1","protocol":"static"},
      {"destinationIPNet":"10.2.0.0/16","flags":"Ind","gateway":"192.168.10.2","protocol":"static"}]}"""
    owned = {Prefix.parse("10.1.0.0/16"): at("192.168.10.1"), Prefix.parse("10.2.0.0/16"): at("192.168.10.3")}
    facts = TargetFacts.from_inventory(parse_inventory(body, "test"), None, owned)
    assert facts.addresses == {at("192.168.10.20")}
    assert facts.connected == (Prefix.parse("192.168.10.0/24"), Prefix.parse("fd00:10::/64"))
    assert facts.neighbours == {at("192.168.10.1")}
    assert facts.gateways == {at(f"192.168.10.{host}") for host in (254, 7, 8, 2)}, (
        "10.1.0.0/16 is ours; 10.2.0.0/16 was, and another writer replaced it"
    )


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)), max_size=8),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)),
)
def test_the_network_of_a_prefix_is_found_as_by_looking_at_each(
    networks: list[tuple[int, int]], sought: tuple[int, int]
) -> None:
    def prefix(number: int, length: int) -> Prefix:
        return Prefix.of(Address(number.to_bytes(4, "big")), length)

    members = [prefix(*it) for it in networks] + [Prefix.parse("fd00::/8")]
    found = Networks(members).covering(prefix(*sought))
    by_looking = [it for it in members if it.covers(prefix(*sought))]
    assert found == max(by_looking, key=lambda it: it.length, default=None)


# -- the return path

BEHIND_A_ROUTER = (
    ("192.0.2.0/24", "Self", ""),
    ("192.0.2.20/32", "Self", ""),
    ("0.0.0.0/0", "Ind", "192.0.2.1"),
)
BEHIND_A_ROUTER6 = (
    ("2001:db8:0:1::/64", "Self", ""),
    ("2001:db8::/32", "Self", ""),
    ("::/0", "Ind", "2001:db8:0:1::1"),
)


@pytest.mark.parametrize(
    ("rows", "ours", "theirs", "prefix", "gateway", "cuts"),
    [
        # our address lies behind the target's router
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "10.99.0.0/16", "192.0.2.9", True),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "10.99.0.10/32", "192.0.2.9", True),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "0.0.0.0/0", "192.0.2.9", True),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "10.98.0.0/16", "192.0.2.9", False),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "10.99.0.0/16", "192.0.2.1", False),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "0.0.0.0/0", "192.0.2.1", False),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "10.99.0.0/16", "10.99.0.10", False),
        (BEHIND_A_ROUTER, "10.99.0.10", "192.0.2.20", "2001:db8::/32", "2001:db8::1", False),
        (BEHIND_A_ROUTER6, "fd99::10", "2001:db8:0:1::20", "fd99::/48", "2001:db8:0:1::9", True),
        (BEHIND_A_ROUTER6, "fd99::10", "2001:db8:0:1::20", "::/0", "2001:db8:0:1::9", True),
        (BEHIND_A_ROUTER6, "fd99::10", "2001:db8:0:1::20", "fd99::/48", "2001:db8:0:1::1", False),
        # ECMP back to us: no one gateway is certain
        (
            (("0.0.0.0/0", "Ind", "192.0.2.1 192.0.2.2"),),
            "10.9.0.1",
            "192.0.2.20",
            "10.9.0.0/16",
            "192.0.2.1",
            True,
        ),
        # a longer row of the target's is the one that counts
        (
            (*BEHIND_A_ROUTER, ("10.99.0.0/24", "Ind", "192.0.2.2")),
            "10.99.0.10",
            "192.0.2.20",
            "10.99.0.0/16",
            "192.0.2.1",
            True,
        ),
        (
            (*BEHIND_A_ROUTER, ("10.99.0.0/24", "Ind", "192.0.2.2")),
            "10.99.0.10",
            "192.0.2.20",
            "10.99.0.0/16",
            "192.0.2.2",
            False,
        ),
        # our address is on a network of the target
        (BEHIND_A_ROUTER, "192.0.2.10", "192.0.2.20", "192.0.0.0/16", "10.0.0.1", False),
        (BEHIND_A_ROUTER, "192.0.2.10", "192.0.2.20", "192.0.2.0/24", "10.0.0.1", False),
        (BEHIND_A_ROUTER, "192.0.2.10", "192.0.2.20", "0.0.0.0/0", "192.0.2.9", False),
        (BEHIND_A_ROUTER, "192.0.2.10", "192.0.2.20", "192.0.2.8/29", "192.0.2.30", True),
        (BEHIND_A_ROUTER, "192.0.2.10", "192.0.2.20", "192.0.2.10/32", "192.0.2.10", False),
        (BEHIND_A_ROUTER6, "2001:db8:0:1::10", "2001:db8:0:1::20", "::/0", "2001:db8:0:1::9", False),
        # a network that the target had: only one end lies in it
        (
            (("192.0.2.0/24", "Self", ""), ("198.51.100.0/24", "Self", "")),
            "198.51.100.10",
            "192.0.2.20",
            "198.51.0.0/16",
            "192.0.2.9",
            True,
        ),
        # the IPv6 rows of length 32 are no networks
        (BEHIND_A_ROUTER6, "2001:db8:0:2::10", "2001:db8:0:1::20", "2001:db8::/32", "2001:db8:0:1::9", True),
        # a device row for our very address, as loxilb shows it and as old versions do
        (
            (("203.0.113.50/32", "Ind Host Interface", "203.0.113.50"),),
            "203.0.113.50",
            "203.0.113.20",
            "203.0.113.0/24",
            "192.0.2.1",
            False,
        ),
        (
            (("203.0.113.50/32", "Ind Host Interface", ""),),
            "203.0.113.50",
            "203.0.113.20",
            "203.0.113.0/24",
            "192.0.2.1",
            False,
        ),
        (
            (("203.0.113.50/32", "Ind Host Interface", ""),),
            "203.0.113.50",
            "203.0.113.20",
            "203.0.113.50/32",
            "192.0.2.1",
            True,
        ),
        (
            (("203.0.113.50/32", "Host Interface", ""),),
            "203.0.113.50",
            "203.0.113.20",
            "203.0.113.0/24",
            "192.0.2.1",
            False,
        ),
        (
            (("203.0.113.50/32", "Self", ""),),
            "203.0.113.50",
            "203.0.113.20",
            "203.0.113.0/24",
            "192.0.2.1",
            True,
        ),
        # no route leads to a link-local or loopback address
        ((), "fe80::10", "fe80::20", "::/0", "2001:db8::1", False),
        ((), "169.254.7.1", "169.254.7.2", "0.0.0.0/0", "192.0.2.1", False),
        ((), "127.0.0.1", "127.0.0.1", "0.0.0.0/0", "192.0.2.1", False),
        ((), "::1", "::1", "::/0", "2001:db8::1", False),
        # an IPv6 socket that carries IPv4
        (BEHIND_A_ROUTER, "::ffff:10.99.0.10", "::ffff:192.0.2.20", "10.99.0.0/16", "192.0.2.9", True),
        (BEHIND_A_ROUTER, "::ffff:192.0.2.10", "::ffff:192.0.2.20", "192.0.0.0/16", "10.0.0.1", False),
    ],
)
def test_a_prefix_that_contains_our_end_is_refused_unless_the_answers_come_back(
    *, rows: tuple[Row, ...], ours: str, theirs: str, prefix: str, gateway: str, cuts: bool
) -> None:
    facts = facts_of(*rows, ours=ours, theirs=theirs)
    where = Prefix.parse(prefix)
    assert cuts_return_path(where, at(gateway), facts) is cuts
    assert not cuts_return_path(where, at(gateway), facts, frozenset({where})), "the operator allows it"
    assert not cuts_return_path(where, at(gateway), facts._replace(ends=None)), "no TCP, or not known"
    if cuts:
        assert contains_our_end(where, facts)


def test_the_return_path_is_a_reason_of_its_own_forced_default_or_not() -> None:
    facts = facts_of(*BEHIND_A_ROUTER, ours="10.99.0.10", theirs="192.0.2.20")
    rules = TargetRules(allow_default="override", force_connected=True)
    for of in (route("10.99.0.0/16", "192.0.2.9"), route("0.0.0.0/0", "192.0.2.9")):
        assert refused(evaluated(of, rules=rules, facts=facts)) is Reason.RETURN_PATH
        allowed = rules._replace(return_path_ok=frozenset({of.prefix}))
        assert isinstance(evaluated(of, rules=allowed, facts=facts), Desired)
    on_link = facts_of(*BEHIND_A_ROUTER, ours="192.0.2.10", theirs="192.0.2.20")
    forced = evaluated(route("192.0.2.8/29", "192.0.2.30"), rules=rules, facts=on_link)
    assert refused(forced) is Reason.RETURN_PATH


def test_a_prefix_after_which_the_target_fell_silent_is_refused_although_it_is_allowed() -> None:
    of = route("10.99.0.0/16", "192.0.2.9")
    node = NodeFacts(suspects=frozenset({of.prefix}))
    rules = TargetRules(return_path_ok=frozenset({of.prefix}))
    assert refused(evaluated(of, rules=rules, node=node)) is Reason.RETURN_PATH
    assert isinstance(evaluated(of, rules=rules), Desired)


def test_rows_of_ours_say_nothing_of_the_targets_own_way_back() -> None:
    ends = (at("10.99.0.10"), at("192.0.2.20"))
    prefix = Prefix.parse("10.99.0.0/16")
    table = inventory(*BEHIND_A_ROUTER, ("10.99.0.0/16", "Ind", "192.0.2.9"))
    owned = {prefix: at("192.0.2.9")}
    facts = TargetFacts.from_inventory(table, ends, owned)
    assert cuts_return_path(prefix, at("192.0.2.9"), facts), "an owned route that fails now goes"
    assert not cuts_return_path(prefix, at("192.0.2.1"), facts)
    theirs = TargetFacts.from_inventory(table, ends, {prefix: at("192.0.2.1")})
    assert not cuts_return_path(prefix, at("192.0.2.9"), theirs), "another writer replaced ours"


def test_the_one_route_by_which_the_target_reaches_us_is_kept() -> None:
    """Its own default has gone, and ours is all that is left: to withdraw it would cut us off."""
    ends = (at("10.99.0.10"), at("192.0.2.20"))
    prefix = Prefix.parse("10.99.0.0/16")
    table = inventory(("192.0.2.0/24", "Self", ""), ("10.99.0.0/16", "Ind", "192.0.2.9"))
    facts = TargetFacts.from_inventory(table, ends, {prefix: at("192.0.2.9")})
    assert not cuts_return_path(prefix, at("192.0.2.9"), facts)
    assert cuts_return_path(prefix, at("192.0.2.8"), facts)
    assert cuts_return_path(Prefix.parse("10.99.0.0/24"), at("192.0.2.9"), facts)


SPACE = {4: ("10.0.0.", 28, "10.0.1.9"), 6: ("fd00::", 124, "fd00::1:9")}
"""Sixteen addresses of each family, and one outside."""


@st.composite
def _situations(draw: st.DrawFn) -> tuple[tuple[Row, ...], frozenset[Prefix], str, str, str, str]:
    base, shortest, outside = SPACE[draw(st.sampled_from((4, 6)))]
    address = st.builds(
        lambda number: f"{base}{number:x}" if ":" in base else f"{base}{number}", st.integers(0, 15)
    )
    lengths = st.sampled_from((0, *range(shortest, shortest + 5)))
    prefix = st.builds(
        lambda host, length: str(ipaddress.ip_network(f"{host}/{length}", strict=False)), address, lengths
    )
    gateway = st.sampled_from((outside, f"{base}1", f"{base}2"))
    row = st.one_of(
        st.tuples(prefix, st.just("Self"), st.just("")),
        st.tuples(prefix, st.just("Ind Host Interface"), st.just("")),
        st.tuples(prefix, st.just("Ind"), st.one_of(gateway, st.just(f"{outside} {base}1"))),
    )
    rows = tuple({text: (text, flags, to) for text, flags, to in draw(st.lists(row, max_size=6))}.values())
    owned = frozenset(
        Prefix.parse(text) for text, _, to in rows if to and " " not in to and draw(st.booleans())
    )
    return rows, owned, draw(address), draw(address), draw(prefix), draw(gateway)


def _by_the_letter(
    *, rows: tuple[Row, ...], owned: frozenset[Prefix], ours: str, theirs: str, prefix: str, gateway: str
) -> bool:
    """The rule as it is written, by looking at every row."""
    here, there = ipaddress.ip_address(ours), ipaddress.ip_address(theirs)
    network, full = ipaddress.ip_network(prefix), here.max_prefixlen
    if here not in network:
        return False
    if gateway == ours:
        return False
    all_rows = [
        (ipaddress.ip_network(text), set(flags.split()), to.split(), Prefix.parse(text))
        for text, flags, to in rows
    ]
    for where, flags, _to, _key in all_rows:
        shared = flags == {"Self"} and here in where and there in where and 0 < where.prefixlen < full
        if shared and where.prefixlen >= network.prefixlen:
            return False
        if (
            flags == {"Ind", "Host", "Interface"}
            and str(where) == f"{here}/{full}"
            and network.prefixlen < full
        ):
            return False
    containing = sorted((row for row in all_rows if here in row[0]), key=lambda row: row[0].prefixlen)
    foreign = [row for row in containing if row[3] not in owned]
    if foreign:
        return foreign[-1][2] != [gateway]
    if containing:
        return (containing[-1][0], containing[-1][2]) != (network, [gateway])
    return True


@given(_situations())
@example(((("10.0.0.0/28", "Self", ""),), frozenset(), "10.0.0.3", "10.0.0.4", "10.0.0.0/28", "10.0.1.9"))
@example(((("10.0.0.0/28", "Self", ""),), frozenset(), "10.0.0.3", "10.0.0.4", "10.0.0.2/31", "10.0.1.9"))
def test_the_return_path_is_judged_as_the_rule_is_written(
    situation: tuple[tuple[Row, ...], frozenset[Prefix], str, str, str, str],
) -> None:
    rows, owned, ours, theirs, prefix, gateway = situation
    expected = _by_the_letter(
        rows=rows, owned=owned, ours=ours, theirs=theirs, prefix=prefix, gateway=gateway
    )
    table = inventory(*rows)
    claims = {it: table.rows[it].gateways[0] for it in owned}
    facts = TargetFacts.from_inventory(table, (at(ours), at(theirs)), claims)
    assert cuts_return_path(Prefix.parse(prefix), at(gateway), facts) is expected


# -- the choice of a hop


def ecmp(prefix: str, *hops: tuple[str, int, int]) -> Route:
    """Hops as (gateway, weight, flags)."""
    made = tuple(sorted(NextHop(at(gateway), 3, weight, flags) for gateway, weight, flags in hops))
    return route(prefix)._replace(hops=made)


DOWN = HopFlag.DEAD | HopFlag.LINKDOWN
LAN = TargetFacts(connected=Networks([Prefix.parse("192.0.2.0/24"), Prefix.parse("2001:db8:0:1::/64")]))


@pytest.mark.parametrize(
    ("hops", "current", "chosen"),
    [
        # the lowest address, all else being equal
        ((("192.0.2.9", 1, 0), ("192.0.2.3", 1, 0)), None, "192.0.2.3"),
        # the heaviest goes before
        ((("192.0.2.9", 200, 0), ("192.0.2.3", 1, 0)), None, "192.0.2.9"),
        # a network of the target goes before weight
        ((("10.0.0.1", 200, 0), ("192.0.2.9", 1, 0)), None, "192.0.2.9"),
        ((("10.0.0.1", 1, 0), ("10.0.0.2", 2, 0)), None, "10.0.0.2"),
        # the one that was sent is kept while it is alive
        ((("192.0.2.3", 9, 0), ("192.0.2.9", 1, 0)), "192.0.2.9", "192.0.2.9"),
        ((("10.0.0.1", 1, 0), ("192.0.2.9", 1, 0)), "10.0.0.1", "10.0.0.1"),
        ((("192.0.2.3", 1, 0), ("192.0.2.9", 1, DOWN), ("192.0.2.11", 1, 0)), "192.0.2.9", "192.0.2.3"),
        ((("192.0.2.3", 1, 0), ("192.0.2.5", 1, 0)), "192.0.2.9", "192.0.2.3"),
        # one that loxilb could not be sent, or would be harmed by, is passed over
        ((("169.254.0.1", 1, 0), ("192.0.2.9", 1, 0)), None, "192.0.2.9"),
        ((("192.0.2.20", 9, 0), ("192.0.2.30", 1, 0)), None, "192.0.2.30"),
    ],
)
def test_of_an_ecmp_route_one_hop_is_sent(
    hops: tuple[tuple[str, int, int], ...], current: str | None, chosen: str
) -> None:
    node = NodeFacts(targets=frozenset({at("192.0.2.20")}))
    result = evaluated(ecmp("10.86.0.0/16", *hops), facts=LAN, node=node, current=current)
    assert result == Desired(at(chosen), "r", degraded=True)


def test_of_an_ecmp_route_of_ipv6_too() -> None:
    of = ecmp("2001:db8:86::/48", ("fe80::1", 9, 0), ("2001:db8:9::1", 9, 0), ("2001:db8:0:1::5", 1, 0))
    assert evaluated(of, facts=LAN) == Desired(at("2001:db8:0:1::5"), "r", degraded=True)


def test_a_hop_inside_the_prefix_is_passed_over_for_another() -> None:
    of = ecmp("192.0.0.0/16", ("192.0.2.5", 1, 0), ("10.0.0.1", 1, 0))
    assert evaluated(of, facts=LAN) == Desired(at("10.0.0.1"), "r", degraded=True)
    of = ecmp("192.0.0.0/16", ("192.0.2.5", 1, 0), ("192.0.2.6", 1, 0))
    assert refused(evaluated(of, facts=LAN)) is Reason.CONTAINS_NEXT_HOP


def test_a_dead_hop_does_not_make_a_route_ecmp() -> None:
    of = ecmp("10.0.0.0/8", ("192.0.2.3", 1, DOWN), ("192.0.2.9", 1, 0))
    assert evaluated(of, current="192.0.2.3") == Desired(at("192.0.2.9"), "r")


# -- next_hop


def test_a_next_hop_makes_device_ecmp_and_on_link_routes_representable() -> None:
    behind = at("192.168.10.10")
    for of in (
        route("10.244.0.0/24", None),
        route("10.244.1.0/24", "10.244.1.0"),
        route("10.9.0.0/16", "192.0.2.9", "192.0.2.3"),
    ):
        assert evaluated(of, rewrite=Rewrite(inet=behind), current="192.0.2.9") == Desired(behind, "r")


def test_the_rules_next_hop_goes_before_the_targets() -> None:
    of = route("10.0.0.0/8", "192.0.2.9")
    rules = TargetRules(rewrite=Rewrite(inet=at("192.0.2.2")))
    assert evaluated(of, rules=rules) == Desired(at("192.0.2.2"), "r")
    assert evaluated(of, rules=rules, rewrite=Rewrite(inet=at("192.0.2.1"))) == Desired(at("192.0.2.1"), "r")


def test_a_next_hop_of_the_other_family_leaves_a_route_alone() -> None:
    rewrite = Rewrite(inet6=at("2001:db8::1"))
    assert evaluated(route("10.0.0.0/8", "192.0.2.9"), rewrite=rewrite) == Desired(at("192.0.2.9"), "r")


def test_a_next_hop_that_was_set_must_not_lie_in_the_prefix_either() -> None:
    result = evaluated(route("192.168.0.0/16", None), rewrite=Rewrite(inet=at("192.168.10.10")))
    assert refused(result) is Reason.CONTAINS_NEXT_HOP


def test_self_is_our_address_of_the_routes_family_or_the_route_is_ineligible() -> None:
    rewrite = Rewrite(to_self=True)
    both = NodeFacts(self_addresses={Family.INET: at("192.0.2.10"), Family.INET6: at("2001:db8:0:1::10")})
    inet, inet6 = route("10.244.0.0/24", None), route("fd00:244::/64", None)
    for of, address in ((inet, "192.0.2.10"), (inet6, "2001:db8:0:1::10")):
        assert evaluated(of, rewrite=rewrite, node=both) == Desired(at(address), "r")
        assert evaluated(of, rules=TargetRules(rewrite=rewrite), node=both) == Desired(at(address), "r")
        assert refused(evaluated(of, rewrite=rewrite)) is Reason.NO_SELF_ADDRESS
    only = NodeFacts(self_addresses={Family.INET: at("192.0.2.10")})
    assert refused(evaluated(inet6, rewrite=rewrite, node=only)) is Reason.NO_SELF_ADDRESS


def _own(*rows: tuple[int, str, str]) -> list[InterfaceAddress]:
    return [
        InterfaceAddress(ifindex, at(address), Prefix.parse(network)) for ifindex, address, network in rows
    ]


E0 = (2, "192.0.2.10", "192.0.2.0/24"), (2, "2001:db8:0:1::10", "2001:db8:0:1::/64")
LO = (1, "127.0.0.1", "127.0.0.0/8"), (1, "10.99.0.10", "10.99.0.10/32")


@pytest.mark.parametrize(
    ("ours", "theirs", "own", "expected"),
    [
        ("192.0.2.10", "192.0.2.20", (*LO, *E0), ("192.0.2.10", "2001:db8:0:1::10")),
        # by IPv6 the same two
        ("2001:db8:0:1::10", "2001:db8:0:1::20", (*LO, *E0), ("192.0.2.10", "2001:db8:0:1::10")),
        # we speak from an address of the loopback interface
        ("10.99.0.10", "192.0.2.20", (*LO, *E0), ("192.0.2.10", "2001:db8:0:1::10")),
        # our end goes before a lower address
        (
            "192.0.2.10",
            "192.0.2.20",
            ((2, "192.0.2.5", "192.0.2.0/24"), *E0),
            ("192.0.2.10", "2001:db8:0:1::10"),
        ),
        # two interfaces in one network: that of our end
        (
            "192.0.2.11",
            "192.0.2.20",
            (*E0, (3, "192.0.2.11", "192.0.2.0/24")),
            ("192.0.2.11", None),
        ),
        (
            "192.0.2.11",
            "192.0.2.20",
            ((3, "192.0.2.10", "192.0.2.0/24"), (2, "192.0.2.11", "192.0.2.0/24")),
            ("192.0.2.11", None),
        ),
        # we speak from elsewhere: the interface with the longer network goes first
        (
            "10.99.0.10",
            "192.0.2.20",
            ((3, "192.0.3.1", "192.0.0.0/16"), (2, "192.0.2.10", "192.0.2.0/24")),
            ("192.0.2.10", None),
        ),
        # none of our networks has the target's address: the interface with our end
        (
            "192.0.2.10",
            "203.0.113.9",
            ((3, "10.9.0.1", "10.9.0.0/24"), (2, "192.0.2.10", "192.0.2.0/24")),
            ("192.0.2.10", None),
        ),
        # an address of that interface that the target is not connected to
        ("192.0.2.10", "192.0.2.20", (E0[0], (2, "fd00:7::1", "fd00:7::/64")), ("192.0.2.10", None)),
        # behind a router
        ("198.51.100.10", "192.0.2.20", ((2, "198.51.100.10", "198.51.100.0/24"),), (None, None)),
        # of another namespace
        ("192.0.2.10", "192.0.2.20", LO, (None, None)),
        # a link-local address reaches it, and is no next hop
        (
            "fe80::10",
            "fe80::20",
            ((2, "fe80::10", "fe80::/64"), *E0),
            ("192.0.2.10", "2001:db8:0:1::10"),
        ),
    ],
)
def test_self_is_an_address_of_the_interface_that_reaches_the_target_on_a_network_of_the_target(
    ours: str,
    theirs: str,
    own: tuple[tuple[int, str, str], ...],
    expected: tuple[str | None, str | None],
) -> None:
    facts = facts_of(
        ("192.0.2.0/24", "Self", ""),
        ("2001:db8:0:1::/64", "Self", ""),
        ("fe80::/64", "Self", ""),
        ours=ours,
        theirs=theirs,
    )
    wanted = {family: at(text) for family, text in zip(Family, expected, strict=True) if text is not None}
    assert self_addresses(_own(*own), facts) == wanted
    assert self_addresses(_own(*own), facts._replace(ends=None)) == {}


def test_an_interface_is_our_address_on_it_or_the_route_is_ineligible() -> None:
    facts = facts_of(("192.0.2.0/24", "Self", ""), ours="192.0.2.10", theirs="192.0.2.20")
    own = _own(
        (3, "10.9.0.1", "10.9.0.0/24"), (3, "192.0.2.77", "192.0.2.0/24"), (4, "fe80::4", "fe80::/64"), *E0
    )
    found = interface_addresses(own, {3: "ens3", 4: "ens4"}, facts)
    assert found == {"ens3": {Family.INET: at("192.0.2.77")}}
    node = NodeFacts(interface_addresses=found)
    of = route("10.244.0.0/24", None)
    assert evaluated(of, rewrite=Rewrite(interface="ens3"), node=node) == Desired(at("192.0.2.77"), "r")
    for rewrite in (Rewrite(interface="ens4"), Rewrite(interface="gone")):
        assert refused(evaluated(of, rewrite=rewrite, node=node)) is Reason.NO_SELF_ADDRESS


# -- cost


def test_facts_are_cheap_to_compare_and_gathered_in_slices() -> None:
    rows: Mapping[str, Row] = {
        f"10.{high}.{low}.0/24": (f"10.{high}.{low}.0/24", "Ind", "192.0.2.9")
        for high in range(40)
        for low in range(250)
    }
    table = inventory(*rows.values(), *BEHIND_A_ROUTER)
    ends = (at("10.99.0.10"), at("192.0.2.20"))
    owned = {Prefix.parse(text): at("192.0.2.9") for text in rows}
    steps = TargetFacts.gather(table, ends, owned)
    assert sum(1 for _ in steps) == len(table.rows), "others may run after each row"
    facts = TargetFacts.from_inventory(table, ends, owned)
    assert facts == TargetFacts.from_inventory(table, ends, owned)
    assert facts.gateways == {at("192.0.2.1")}
    assert facts.return_path == ReturnPath(gateways=(at("192.0.2.1"),))


def test_thousands_are_evaluated_in_a_moment() -> None:
    """30,000 a second are asked for; a tenth of it must do on a machine that is busy otherwise."""
    facts = facts_of(*BEHIND_A_ROUTER, ours="10.99.0.10", theirs="192.0.2.20")._replace(
        connected=Networks(Prefix.parse(f"172.16.{number}.0/24") for number in range(200))
    )
    verdict = Verdict(keep=True, rule="r")
    candidates = [
        Candidate(route(f"10.{high}.{low}.0/24", "192.0.2.9"), verdict)
        for high in range(12)
        for low in range(250)
    ]
    began = time.process_time()
    for candidate in candidates:
        assert isinstance(evaluate(candidate, RULES, facts, NO_NODE), Desired)
    assert time.process_time() - began < 1


def test_before_the_target_has_answered_self_is_not_known_and_what_is_there_stays() -> None:
    before = TargetFacts(known=False)
    of, rewrite = route("10.244.0.0/24", None), Rewrite(to_self=True)
    assert refused(evaluated(of, rewrite=rewrite, facts=before)) is Reason.TARGET_UNKNOWN
    there = evaluated(of, rewrite=rewrite, facts=before, current="192.0.2.10")
    assert there == Desired(at("192.0.2.10"), "r")
    assert refused(evaluated(of, rewrite=rewrite, current="192.0.2.10")) is Reason.NO_SELF_ADDRESS
