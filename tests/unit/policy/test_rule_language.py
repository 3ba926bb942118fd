"""What each key of a rule means, by examples from real tables."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from routesync.config.rules import PolicySettings, compile_policy
from routesync.names import Names
from routesync.policy import Policy
from routesync.route import Family, NextHop, Rewrite, Route, Verdict, parse_address
from support.routes import INTERFACES, ip_route

HOST_ROUTE = "192.168.10.1 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100"
DEFAULT = "default via 192.168.10.1 dev ens3 proto dhcp src 192.168.10.10 metric 100"
MULTIPATH = "10.9.0.0/16 proto bgp nexthop via 192.168.10.2 dev ens3 nexthop via 192.168.20.2 dev eth0"
BLACKHOLE = "blackhole 10.66.0.0/16 proto static"


def policy(*rules: Mapping[str, object], names: Names | None = None, **others: object) -> Policy:
    return compile_policy(PolicySettings.model_validate({"rules": list(rules)} | others, context=names))


def matches(match: Mapping[str, object], route: Route | str) -> bool:
    rule = {"name": "it", "match": match, "action": "drop"}
    subject = ip_route(route) if isinstance(route, str) else route
    return policy(rule).evaluate(subject, INTERFACES).rule == "it"


@pytest.mark.parametrize(
    ("match", "line", "expected"),
    [
        ({}, DEFAULT, True),
        ({"protocol": "dhcp"}, HOST_ROUTE, True),
        ({"protocol": "16"}, HOST_ROUTE, True),
        ({"protocol": ["bgp", "ospf"]}, HOST_ROUTE, False),
        ({"protocol": ["bgp", 16]}, HOST_ROUTE, True),
        ({"host": True}, HOST_ROUTE, True),
        ({"host": False}, HOST_ROUTE, False),
        ({"default_route": True}, DEFAULT, True),
        ({"default_route": False}, DEFAULT, False),
        ({"scope": "link"}, HOST_ROUTE, True),
        ({"scope": "link"}, DEFAULT, False),
        ({"type": "blackhole"}, BLACKHOLE, True),
        ({"type": ["unreachable", "unicast"]}, BLACKHOLE, False),
        ({"table": "main"}, DEFAULT, True),
        ({"table": 254}, DEFAULT, True),
        ({"table": "local"}, DEFAULT, False),
        ({"metric": 100}, DEFAULT, True),
        ({"metric": "100"}, DEFAULT, True),
        ({"metric": "100-200"}, DEFAULT, True),
        ({"metric": "-99"}, DEFAULT, False),
        ({"metric": "101-"}, DEFAULT, False),
        ({"metric": [50, "90-110"]}, DEFAULT, True),
        ({"source": "192.168.10.10"}, DEFAULT, True),
        ({"source": ["10.0.0.0/8", "192.168.0.0/16"]}, DEFAULT, True),
        ({"source": "10.0.0.0/8"}, DEFAULT, False),
        ({"source": "0.0.0.0/0"}, MULTIPATH, False),
        ({"interface": "ens3"}, DEFAULT, True),
        ({"interface": "ENS3"}, DEFAULT, False),
        ({"interface": ["eth*", "en?3"]}, DEFAULT, True),
        ({"protocol": "dhcp", "host": True, "gateway": False}, HOST_ROUTE, True),
        ({"protocol": "dhcp", "host": True, "gateway": False}, DEFAULT, False),
    ],
)
def test_keys(match: dict[str, object], line: str, *, expected: bool) -> None:
    assert matches(match, line) is expected


@pytest.mark.parametrize(
    ("prefix", "destination", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("10.0.0.0/8", "10.1.0.0/16", False),
        ("10.0.0.0/8", "10.0.0.0/9", False),
        ("10.1.2.3", "10.1.2.3/32", True),
        (["10.0.0.0/8", "10.1.0.0/16"], "10.1.0.0/16", True),
        ({"within": "10.0.0.0/8"}, "10.0.0.0/8", True),
        ({"within": "10.0.0.0/8"}, "10.1.2.3", True),
        ({"within": "10.0.0.0/8"}, "11.0.0.0/8", False),
        ({"within": "10.0.0.0/8"}, "0.0.0.0/0", False),
        ({"within": "0.0.0.0/0"}, "11.0.0.0/8", True),
        ({"within": "0.0.0.0/0"}, "2001:db8::/32", False),
        ({"within": ["10.0.0.0/8", "2001:db8::/32"]}, "2001:db8:1::/48", True),
        ({"covers": "10.1.2.3"}, "10.0.0.0/8", True),
        ({"covers": "10.1.2.3"}, "0.0.0.0/0", True),
        ({"covers": "10.1.2.3"}, "10.1.2.0/31", False),
        ({"covers": "10.1.0.0/16"}, "10.1.0.0/16", True),
        ({"covers": "10.1.0.0/16"}, "10.1.2.0/24", False),
        ({"length": "24-32"}, "10.1.2.0/24", True),
        ({"length": "24-32"}, "10.1.2.0/23", False),
        ({"length": 64}, "2001:db8::/64", True),
        ({"within": "10.0.0.0/8", "length": "24-32"}, "10.1.2.0/24", True),
        ({"within": "10.0.0.0/8", "length": "24-32"}, "10.1.0.0/16", False),
        ({"within": "10.0.0.0/8", "length": "24-32"}, "11.1.2.0/24", False),
        (["192.168.0.0/16", {"within": "10.0.0.0/8", "length": [16, "24-"]}], "10.1.0.0/16", True),
    ],
)
def test_prefixes(prefix: object, destination: str, *, expected: bool) -> None:
    assert matches({"prefix": prefix}, f"{destination} dev ens3") is expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"gateway": True}, True),
        ({"gateway": False}, False),
        ({"gateway": "192.168.0.0/16"}, True),
        ({"gateway": "192.168.10.0/24"}, False),
        ({"gateway": ["192.168.10.2", "192.168.20.0/24"]}, True),
        ({"interface": "ens3"}, False),
        ({"interface": ["ens3", "eth0"]}, True),
        ({"flags": "onlink"}, False),
    ],
)
def test_a_key_about_hops_holds_only_for_all_of_them(match: dict[str, object], *, expected: bool) -> None:
    assert matches(match, MULTIPATH) is expected


def test_hops_that_are_down_do_not_count() -> None:
    route = ip_route(f"{MULTIPATH} dead linkdown")
    assert matches({"interface": "ens3"}, route)
    assert not matches({"flags": "linkdown"}, route)


def test_a_route_that_is_down_as_a_whole_has_the_flag() -> None:
    both = "10.9.0.0/16 nexthop via 192.168.10.2 dev ens3 linkdown nexthop via 192.168.20.2 dev eth0 dead linkdown"
    assert matches({"flags": "linkdown"}, both)
    assert not matches({"flags": "dead"}, both)
    assert matches({"flags": ["dead", "linkdown"]}, both)
    assert matches({"flags": "linkdown"}, "172.17.0.0/16 dev docker0 proto kernel linkdown")


@pytest.mark.parametrize("hops", [(), (NextHop(None, 0),)])
def test_a_route_to_nowhere_has_no_gateway_and_no_interface(hops: tuple[NextHop, ...]) -> None:
    route = ip_route(BLACKHOLE)._replace(hops=hops)
    assert matches({"gateway": False}, route)
    for match in ({"gateway": True}, {"gateway": "0.0.0.0/0"}, {"interface": "*"}, {"flags": "linkdown"}):
        assert not matches(match, route)


def test_an_ipv4_route_with_an_ipv6_gateway() -> None:
    route = ip_route("10.9.0.0/16 via inet6 2001:db8::1 dev ens3 proto bgp")
    assert matches({"gateway": True}, route)
    assert matches({"family": "ipv4", "gateway": "2001:db8::/32"}, route)
    assert not matches({"gateway": "0.0.0.0/0"}, route)


def test_an_interface_that_is_gone_has_no_name() -> None:
    rules = {"name": "it", "match": {"interface": "*"}, "action": "drop"}
    assert policy(rules).evaluate(ip_route(DEFAULT), {}).rule == "default"


def test_names_of_the_host_are_known() -> None:
    names = Names(protocols={"mine": 77}, tables={"blue": 4242})
    rule = {"name": "it", "match": {"protocol": "mine", "table": "blue"}, "action": "drop"}
    route = ip_route(DEFAULT)._replace(protocol=77, table=4242)
    assert policy(rule, names=names).evaluate(route, INTERFACES).rule == "it"


def test_a_rewrite_leaves_the_other_family_alone() -> None:
    made = policy({"name": "self", "action": "keep", "next_hop": "192.168.10.10"})
    verdict = made.evaluate(ip_route(MULTIPATH), INTERFACES)
    assert verdict == Verdict(keep=True, rule="self", rewrite=Rewrite(inet=parse_address("192.168.10.10")))
    assert verdict.rewrite is not None
    assert verdict.rewrite.for_family(Family.INET6) is None


@pytest.mark.parametrize("written", ["self", ["self"]])
def test_self_as_the_next_hop_is_for_both_families(written: object) -> None:
    made = policy({"name": "it", "action": "keep", "next_hop": written})
    verdict = made.evaluate(ip_route(MULTIPATH), INTERFACES)
    assert verdict == Verdict(keep=True, rule="it", rewrite=Rewrite(to_self=True))


def test_an_interface_as_the_next_hop_is_for_both_families() -> None:
    made = policy({"name": "it", "action": "keep", "next_hop": {"interface": "ens3"}})
    verdict = made.evaluate(ip_route(MULTIPATH), INTERFACES)
    assert verdict == Verdict(keep=True, rule="it", rewrite=Rewrite(interface="ens3"))


def test_a_prefix_list_serves_several_rules() -> None:
    lists = {"ours": ["10.66.0.0/16", {"within": "10.9.0.0/16", "length": "16-24"}], "other": "0.0.0.0/0"}
    made = policy(
        {"name": "static", "match": {"prefix": {"list": "ours"}, "protocol": "static"}, "action": "drop"},
        {"name": "more", "match": {"prefix": ["198.51.100.0/24", {"list": "ours"}]}, "action": "drop"},
        prefix_lists=lists,
    )
    for line, rule in ((BLACKHOLE, "static"), (MULTIPATH, "more"), (DEFAULT, "default")):
        assert made.evaluate(ip_route(line), INTERFACES).rule == rule


def test_the_verdict_of_the_default_names_itself() -> None:
    assert policy().evaluate(ip_route(DEFAULT), {}) == Verdict(keep=True, rule="default")
    assert policy(default_action="drop").evaluate(ip_route(DEFAULT), {}) == Verdict(
        keep=False, rule="default"
    )


def test_rules_are_listed_in_order() -> None:
    assert policy({"name": "b", "action": "keep"}, {"name": "a", "action": "drop"}).rules == ("b", "a")


def test_an_unknown_protocol_is_an_error_with_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        policy({"name": "it", "match": {"protocol": "dhpc"}, "action": "drop"})
    (error,) = caught.value.errors()
    assert error["loc"] == ("rules", 0, "match", "protocol", 0)
    assert "unknown protocol 'dhpc'; did you mean 'dhcp'?" in error["msg"]


def test_the_header_decides_where_it_can() -> None:
    made = policy(
        {"name": "connected", "match": {"protocol": "kernel"}, "action": "drop"},
        {"name": "long", "match": {"prefix": {"length": "25-32"}}, "action": "drop"},
        {"name": "mine", "match": {"table": 1000, "metric": 5}, "action": "drop"},
    )

    def rule(length: int, protocol: int, table: int) -> str | None:
        verdict = made.header_verdict(Family.INET, length, 0, table, protocol, 0, 1, 0)
        return verdict.rule if verdict else None

    assert rule(24, 2, 254) == "connected"
    assert rule(32, 186, 254) == "long"
    assert rule(24, 186, 254) == "default"
    assert rule(24, 186, 252) is None  # RT_TABLE_COMPAT: perhaps table 1000
    assert rule(24, 186, 0) is None


HOST = "192.168.10.1 dev ens3 scope link"


def test_a_link_gateway_is_what_the_caller_says() -> None:
    made = policy({"name": "it", "match": {"link_gateway": True}, "action": "drop"})
    assert made.evaluate(ip_route(HOST), INTERFACES).rule == "default"
    assert made.evaluate(ip_route(HOST), INTERFACES, link_gateway=True).rule == "it"
    others = policy({"name": "it", "match": {"link_gateway": False}, "action": "drop"})
    assert others.evaluate(ip_route(HOST), INTERFACES).rule == "it"
    assert others.evaluate(ip_route(HOST), INTERFACES, link_gateway=True).rule == "default"


def test_a_header_shows_only_that_a_route_leads_to_no_link_gateway() -> None:
    made = policy({"name": "it", "match": {"link_gateway": True}, "action": "drop"})

    def decided(family: Family, length: int, scope: int, kind: int) -> bool:
        return made.header_verdict(family, length, 0, 254, 3, scope, kind, 0) is not None

    assert not decided(Family.INET, 32, 253, 1)
    assert not decided(Family.INET6, 128, 0, 1)
    assert decided(Family.INET, 32, 0, 1), "scope global"
    assert decided(Family.INET, 24, 253, 1), "a network"
    assert decided(Family.INET, 32, 253, 2), "local"
    assert decided(Family.INET6, 64, 0, 1), "a network"


def test_very_many_distinct_headers_cost_no_memory() -> None:
    made = policy({"name": "it", "match": {"metric": 7}, "action": "drop"})
    for table in range(1, 20_000):
        made.evaluate(ip_route("10.0.0.0/8 dev ens3 metric 7")._replace(table=table), {})
    assert len(made._plans) <= 8192
