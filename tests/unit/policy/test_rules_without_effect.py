"""Rules that can never decide anything are pointed out; others are not."""

from __future__ import annotations

import pytest

from routesync.config.rules import PolicySettings, compile_policy


def warnings(*matches: dict[str, object]) -> tuple[str, ...]:
    rules = [
        {"name": f"r{number}", "match": match, "action": "drop"} for number, match in enumerate(matches, 1)
    ]
    return compile_policy(PolicySettings.model_validate({"rules": rules})).warnings


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {"protocol": "bgp"}),
        ({"protocol": ["bgp", "ospf"]}, {"protocol": "bgp", "host": True}),
        ({"host": True}, {"prefix": ["10.1.2.3", "2001:db8::1"]}),
        ({"host": True}, {"prefix": {"within": "10.0.0.0/8", "length": 32}}),
        ({"family": "ipv4"}, {"default_route": True, "prefix": {"within": "0.0.0.0/0"}}),
        ({"prefix": {"within": "10.0.0.0/8"}}, {"prefix": {"within": ["10.1.0.0/16", "10.2.0.0/16"]}}),
        ({"prefix": {"within": "10.0.0.0/8"}}, {"prefix": "10.1.0.0/16", "metric": 5}),
        ({"prefix": {"covers": "10.1.2.3"}}, {"prefix": {"covers": "10.1.2.0/24"}}),
        ({"prefix": {"covers": "10.1.2.3"}}, {"prefix": "10.1.0.0/16"}),
        ({"prefix": {"length": "16-"}}, {"prefix": {"within": "10.0.0.0/8", "length": "24-32"}}),
        ({"metric": "100-200"}, {"metric": [100, "150-160"]}),
        ({"gateway": True}, {"gateway": "10.0.0.0/8"}),
        ({"gateway": "10.0.0.0/8"}, {"gateway": ["10.1.0.0/16", "10.2.3.4"]}),
        ({"interface": "eth*"}, {"interface": ["eth0", "eth1"]}),
        ({"interface": ["eth*", "*"]}, {"interface": "cni?"}),
        ({"interface": "LX*"}, {"interface": "LX0"}),
        ({"flags": ["linkdown", "dead"]}, {"flags": "dead"}),
        ({"source": "10.0.0.0/8"}, {"source": "10.1.2.3"}),
        ({"table": ["main", 100]}, {"table": 100}),
        ({"host": True, "gateway": False}, {"link_gateway": True}),
        ({"type": ["unicast", "local"]}, {"link_gateway": True, "protocol": "boot"}),
        ({"link_gateway": True}, {"link_gateway": True, "interface": "eth0"}),
        ({"protocol": ["bgp", "ospf"]}, {"protocol": ["ospf", "bgp"]}),
        ({"table": "main"}, {"table": "main", "protocol": "bgp"}),
        ({"host": True}, {"host": True, "protocol": "bgp"}),
        ({"prefix": ["10.0.0.0/8", "10.1.0.0/16"]}, {"prefix": ["10.1.0.0/16", "10.0.0.0/8"]}),
        ({"metric": "100-200"}, {"metric": "150-200"}),
    ],
)
def test_a_rule_behind_a_wider_one_is_named(earlier: dict[str, object], later: dict[str, object]) -> None:
    (line,) = warnings(earlier, later)
    assert line == "[[policy.rules]] #2 (r2): never takes effect: rule 'r1' above matches all that it does"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"protocol": "bgp"}, {"protocol": ["bgp", "ospf"]}),
        ({"protocol": "bgp"}, {}),
        ({"protocol": "bgp"}, {"scope": "link"}),
        ({"host": True}, {"prefix": {"within": "10.0.0.0/8"}}),
        ({"prefix": {"within": "10.1.0.0/16"}}, {"prefix": {"within": "10.0.0.0/8"}}),
        ({"prefix": "10.0.0.0/8"}, {"prefix": {"within": "10.0.0.0/8"}}),
        ({"prefix": {"covers": "10.1.2.0/24"}}, {"prefix": {"covers": "10.1.2.3"}}),
        ({"metric": "100-200"}, {"metric": "100-201"}),
        ({"gateway": False}, {"gateway": True}),
        ({"gateway": "10.0.0.0/8"}, {"gateway": True}),
        ({"interface": "eth0"}, {"interface": "eth*"}),
        ({"link_gateway": True}, {"host": True, "gateway": False}),
        ({"link_gateway": True}, {"link_gateway": False}),
        ({"gateway": False}, {"link_gateway": False}),
        ({"flags": "dead"}, {"flags": ["linkdown", "dead"]}),
        ({"interface": "e*"}, {"interface": "cni0"}),
        ({"protocol": "redirect"}, {"link_gateway": True}),
        ({"type": "local"}, {"link_gateway": True}),
        ({"type": "local"}, {"link_gateway": True, "family": "ipv4"}),
        ({"type": "local"}, {"link_gateway": True, "family": "ipv6"}),
    ],
)
def test_a_rule_that_may_still_decide_is_left_alone(
    earlier: dict[str, object], later: dict[str, object]
) -> None:
    assert warnings(earlier, later) == ()


@pytest.mark.parametrize(
    "match",
    [
        {"host": True, "default_route": True},
        {"link_gateway": True, "host": False},
        {"link_gateway": True, "prefix": {"length": "-24"}},
        {"family": "ipv6", "prefix": "10.0.0.0/8"},
        {"prefix": {"within": "10.0.0.0/8", "length": "33-"}},
        {"prefix": {"within": "10.0.0.0/8", "covers": "2001:db8::1"}},
    ],
)
def test_a_rule_that_contradicts_itself_is_named(match: dict[str, object]) -> None:
    (line,) = warnings(match)
    assert line.startswith("[[policy.rules]] #1 (r1): can never match")


def test_a_report_of_what_is_kept_is_pointed_out() -> None:
    rules = [{"name": "it", "action": "keep", "report": True}]
    made = compile_policy(PolicySettings.model_validate({"rules": rules}))
    assert made.warnings == ("[[policy.rules]] #1 (it): report is about drops, and this rule keeps",)
