"""Policies against a plain implementation of the rule language, with rules and routes made up by hypothesis."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routesync.config.rules import PolicySettings, compile_policy
from routesync.names import PROTOCOLS, SCOPES, TABLES, TYPES
from routesync.policy import Policy
from routesync.policy.conditions import Header, LinkGateway, TableIn
from routesync.route import Address, Family, HopFlag, NextHop, Prefix, Route

Match: TypeAlias = Mapping[str, object]

INTERFACES = {1: "eth0", 2: "eth1", 3: "cni0"}
NETWORKS = [
    *("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.2.0.0/16", "192.168.10.1"),
    *("::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::1/128", "fe80::1"),
]
ADDRESSES = ["10.1.2.3", "10.2.0.1", "192.168.10.1", "2001:db8:1::1", "fe80::1"]


def as_list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(str(text))


def lies_in(address: bytes | None, networks: object) -> bool:
    return address is not None and any(
        ipaddress.ip_address(address) in network(item) for item in as_list(networks)
    )


def number_in(number: int, words: object, names: Mapping[str, int]) -> bool:
    return any((names[word] if isinstance(word, str) else word) == number for word in as_list(words))


def within_span(number: int, span: object) -> bool:
    low, dash, high = str(span).partition("-")
    return int(low or 0) <= number <= (int(high) if high else int(low) if not dash else 2**32)


def prefix_matches(term: object, destination: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    def subnet(inner: object, outer: object) -> bool:
        a, b = network(inner), network(outer)
        return a.version == b.version and a.prefixlen >= b.prefixlen and a.network_address in b

    if not isinstance(term, dict):
        return destination == network(term)
    return all(
        any(
            destination == network(item)
            if key == "exact"
            else subnet(destination, item)
            if key == "within"
            else subnet(item, destination)
            if key == "covers"
            else within_span(destination.prefixlen, item)
            for item in as_list(wanted)
        )
        for key, wanted in term.items()
    )


def hop_matches(key: str, wanted: object, hop: NextHop) -> bool:
    if key == "gateway":
        return hop.gateway is not None if wanted is True else lies_in(hop.gateway, wanted)
    if key == "interface":
        name = INTERFACES.get(hop.ifindex)
        return name is not None and any(fnmatch.fnmatchcase(name, str(glob)) for glob in as_list(wanted))
    return any(hop.flags & HopFlag.NAMES[str(flag)] for flag in as_list(wanted))


def could_lead_to_gateway(route: Route) -> bool:
    """The shape that `link_gateway` is about."""
    destination = ipaddress.ip_network((route.prefix.packed, route.prefix.length))
    return (
        destination.prefixlen == destination.max_prefixlen
        and route.type == TYPES["unicast"]
        and (destination.version == 6 or route.scope == SCOPES["link"])
        and [(hop.gateway, hop.ifindex > 0) for hop in route.hops] == [(None, True)]
    )


def facts(route: Route) -> list[bool]:
    """What may be known of a route: whether it leads to a gateway of its link."""
    return [False, True] if could_lead_to_gateway(route) else [False]


def field_matches(key: str, wanted: object, route: Route, *, link_gateway: bool) -> bool:
    destination = ipaddress.ip_network((route.prefix.packed, route.prefix.length))
    match key:
        case "protocol":
            return number_in(route.protocol, wanted, PROTOCOLS)
        case "scope":
            return number_in(route.scope, wanted, SCOPES)
        case "type":
            return number_in(route.type, wanted, TYPES)
        case "table":
            return number_in(route.table, wanted, TABLES)
        case "family":
            return f"ipv{destination.version}" in as_list(wanted)
        case "host":
            return wanted is (destination.prefixlen == destination.max_prefixlen)
        case "default_route":
            return wanted is (destination.prefixlen == 0)
        case "prefix":
            return any(prefix_matches(term, destination) for term in as_list(wanted))
        case "metric":
            return any(within_span(route.metric, span) for span in as_list(wanted))
        case "source":
            return lies_in(route.prefsrc, wanted)
        case "link_gateway":
            return wanted is link_gateway
    live = route.hops
    if len(live) > 1:
        live = tuple(h for h in live if not h.flags & (HopFlag.DEAD | HopFlag.LINKDOWN)) or live
    if key == "gateway" and wanted is False:
        return not any(hop.gateway for hop in live)
    return len(live) > 0 and all(hop_matches(key, wanted, hop) for hop in live)


def matches(match: Match, route: Route, *, link_gateway: bool) -> bool:
    return all(field_matches(key, wanted, route, link_gateway=link_gateway) for key, wanted in match.items())


def one_or_many(*values: object) -> st.SearchStrategy[object]:
    return st.sampled_from(values) | st.lists(st.sampled_from(values), min_size=1, max_size=3)


prefix_tables = st.fixed_dictionaries(
    {},
    optional={
        "exact": one_or_many(*NETWORKS),
        "within": one_or_many(*NETWORKS),
        "covers": one_or_many(*NETWORKS),
        "length": one_or_many(0, 24, "24-32", "33-", "-16"),
    },
).filter(bool)
prefix_terms = st.sampled_from(NETWORKS) | prefix_tables
match_tables = st.fixed_dictionaries(
    {},
    optional={
        "protocol": one_or_many("dhcp", "kernel", "bgp", 2, 16),
        "family": one_or_many("ipv4", "ipv6"),
        "prefix": prefix_terms | st.lists(prefix_terms, min_size=1, max_size=3),
        "host": st.booleans(),
        "default_route": st.booleans(),
        "scope": one_or_many("link", "global", 253),
        "type": one_or_many("unicast", "blackhole", 1),
        "table": one_or_many("main", "local", 252, 1000),
        "metric": one_or_many(0, "100", "100-200", "1024-", "-50"),
        "gateway": st.booleans() | one_or_many(*NETWORKS),
        "interface": one_or_many("eth0", "eth*", "*", "cni?", "[ce]*0"),
        "flags": one_or_many("linkdown", "dead", "onlink"),
        "source": one_or_many(*NETWORKS),
        "link_gateway": st.booleans(),
    },
)
rules = st.lists(
    st.builds(
        lambda match, action, report: {"match": match, "action": action, "report": report},
        # Few keys at once: rules that match nothing prove little.
        match_tables.map(lambda table: dict(list(table.items())[:3])),
        st.sampled_from(["keep", "drop"]),
        st.booleans(),
    ),
    max_size=5,
).map(lambda made: [rule | {"name": f"rule-{number}"} for number, rule in enumerate(made)])


@st.composite
def routes(draw: st.DrawFn) -> Route:
    prefix = Prefix.parse(draw(st.sampled_from(NETWORKS)))
    hop = st.builds(
        NextHop,
        gateway=st.none()
        | st.sampled_from([Address(ipaddress.ip_address(text).packed) for text in ADDRESSES]),
        ifindex=st.sampled_from([0, 1, 2, 3, 99]),
        flags=st.sampled_from(
            [0, 0, HopFlag.ONLINK, HopFlag.LINKDOWN, HopFlag.DEAD, HopFlag.DEAD | HopFlag.LINKDOWN]
        ),
    )
    width = len(prefix.packed)
    sources = [packed for text in ADDRESSES if len(packed := ipaddress.ip_address(text).packed) == width]
    return Route(
        prefix=prefix,
        table=draw(st.sampled_from([254, 254, 255, 252, 1000])),
        tos=0,
        metric=draw(st.sampled_from([0, 50, 51, 100, 150, 200, 1024, 2**32 - 1])),
        protocol=draw(st.sampled_from([2, 3, 16, 186])),
        scope=draw(st.sampled_from([0, 253])),
        type=draw(st.sampled_from([1, 1, 6])),
        hops=tuple(sorted(draw(st.lists(hop, max_size=3)), key=repr)),
        prefsrc=draw(st.none() | st.sampled_from([Address(source) for source in sources])),
    )


def policy_of(made: list[dict[str, object]], default: Literal["keep", "drop"]) -> Policy:
    return compile_policy(PolicySettings.model_validate({"rules": made, "default_action": default}))


@given(made=rules, default=st.sampled_from(["keep", "drop"]), seen=st.lists(routes(), min_size=1, max_size=8))
@settings(deadline=None)
def test_the_first_rule_that_matches_decides(
    made: list[dict[str, object]], default: Literal["keep", "drop"], seen: list[Route]
) -> None:
    policy = policy_of(made, default)
    for route, link_gateway in [(it, fact) for it in seen for fact in facts(it)]:
        verdict = policy.evaluate(route, INTERFACES, link_gateway=link_gateway)
        wanted = next(
            (rule for rule in made if matches(rule["match"], route, link_gateway=link_gateway)),  # type: ignore[arg-type]
            None,
        )
        if wanted is None:
            assert (verdict.rule, verdict.keep, verdict.report) == ("default", default == "keep", False)
        else:
            assert verdict.rule == wanted["name"]
            assert verdict.keep == (wanted["action"] == "keep")
            assert verdict.report == wanted["report"]


@given(made=rules, seen=st.lists(routes(), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_verdict_by_the_header_is_the_one_for_the_whole_route(
    made: list[dict[str, object]], seen: list[Route]
) -> None:
    policy = policy_of(made, "keep")
    for route in seen:
        table = route.table if route.table < 256 else 252
        for rtm_table in (table, 0):
            by_header = policy.header_verdict(
                route.prefix.family,
                route.prefix.length,
                route.tos,
                rtm_table,
                route.protocol,
                route.scope,
                route.type,
                0,
            )
            for link_gateway in facts(route):
                verdict = policy.evaluate(route, INTERFACES, link_gateway=link_gateway)
                assert by_header in (None, verdict)


@given(made=rules, seen=st.lists(routes(), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_rule_that_is_said_to_be_without_effect_never_decides(
    made: list[dict[str, object]], seen: list[Route]
) -> None:
    policy = policy_of(made, "keep")
    lines = [line for line in policy.warnings if "never" in line]
    idle = {name for name in policy.rules for line in lines if f"({name})" in line}
    assert not idle & {
        policy.evaluate(route, INTERFACES, link_gateway=link_gateway).rule
        for route in seen
        for link_gateway in facts(route)
    }


def test_routes_of_another_family_than_ip_get_no_verdict_by_their_header() -> None:
    policy = policy_of([], "drop")
    assert policy.header_verdict(Family.INET, 24, 0, 254, 186, 0, 1, 0) is not None
    assert policy.header_verdict(129, 24, 0, 254, 186, 0, 1, 0) is None


ROUTE = Route(Prefix.parse("10.0.0.0/8"), TABLES["main"], 0, 0, PROTOCOLS["bgp"], 0, TYPES["unicast"], ())


def drops(match: Match, route: Route) -> bool:
    policy = policy_of([{"name": "r", "match": match, "action": "drop"}], "keep")
    return not policy.evaluate(route, INTERFACES).keep


@pytest.mark.parametrize("spans", ["100-200", ["100-200", "300-400"]])
def test_a_span_of_metrics_has_both_of_its_ends(spans: object) -> None:
    dropped = [
        metric for metric in (99, 100, 200, 201) if drops({"metric": spans}, ROUTE._replace(metric=metric))
    ]
    assert dropped == [100, 200]


def test_a_prefix_that_lies_in_none_of_several_networks_does_not_match() -> None:
    within = {"prefix": {"within": ["10.0.0.0/8", "192.168.10.0/24", "172.16.0.0/12"]}}
    assert drops(within, ROUTE._replace(prefix=Prefix.parse("172.16.1.0/24")))
    assert not drops(within, ROUTE._replace(prefix=Prefix.parse("11.0.1.0/24")))


def test_every_hop_has_to_match() -> None:
    near, far = (Address(ipaddress.ip_address(text).packed) for text in ("192.168.10.1", "10.2.0.1"))
    both = ROUTE._replace(
        hops=(NextHop(near, 1, flags=HopFlag.ONLINK), NextHop(far, 2, flags=HopFlag.OFFLOAD))
    )
    for match in ({"gateway": "192.168.0.0/16"}, {"interface": "eth0"}, {"flags": "onlink"}):
        assert not drops(match, both)
        assert drops(match, both._replace(hops=both.hops[:1]))
        assert not drops(match, both._replace(hops=both.hops[1:]))


def test_what_cannot_lead_to_a_gateway_of_its_link_does_not() -> None:
    for route in (
        ROUTE,
        ROUTE._replace(prefix=Prefix.parse("10.0.0.1/32")),
        ROUTE._replace(prefix=Prefix.parse("10.0.0.1/32"), scope=SCOPES["link"], type=TYPES["local"]),
    ):
        assert not drops({"link_gateway": True}, route)
        assert drops({"link_gateway": False}, route)


def test_a_plan_by_the_header_alone_is_for_no_route() -> None:
    header = Header(4, 32, None, PROTOCOLS["boot"], SCOPES["link"], TYPES["unicast"], None)
    for condition in (LinkGateway(wanted=True), TableIn(frozenset({254}))):
        undecided = condition.decide(header)
        assert callable(undecided)
        with pytest.raises(
            AssertionError, match=r"^the header leaves it undecided, and no route is tested by its plan$"
        ):
            undecided(ROUTE, {})
