"""Rules that can never decide anything are pointed out; others are not."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

import pytest

from routesync.config.rules import PolicySettings, compile_policy
from routesync.policy.conditions import ALL_SHAPES, Header, PrefixTerm, Span
from routesync.route import Prefix


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


MANY: dict[str, Callable[[int], dict[str, object]]] = {
    "exact prefixes": lambda n: {"prefix": f"10.{n >> 8}.{n & 255}.0/24", "host": False},
    "networks": lambda n: {"prefix": {"within": f"10.{n >> 8}.{n & 255}.0/24", "length": "24-32"}},
    "covered addresses": lambda n: {"prefix": {"covers": f"10.{n >> 8}.{n & 255}.1"}},
    "interfaces": lambda n: {"interface": [f"vlan{n}", f"v{n}-*"]},
    "gateways": lambda n: {"gateway": f"10.{n >> 8}.{n & 255}.1"},
    "metrics": lambda n: {"metric": n, "protocol": "bgp"},
    "long lists": lambda n: {"prefix": [f"10.{n >> 8}.{n & 255}.{last}" for last in range(8)]},
    "lists of tables": lambda n: {
        "prefix": [{"within": f"10.{n >> 8}.{n & 255}.{last}/32"} for last in range(8)]
    },
}


@pytest.mark.parametrize("match", MANY.values(), ids=MANY)
def test_many_rules_are_compared_as_far_as_that_is_quick(match: Callable[[int], dict[str, object]]) -> None:
    """Before, it took 36 s for 5,000 rules: each was compared with each."""
    rules = [{"name": f"r{n}", "match": match(n), "action": "drop"} for n in range(3000)]
    rules += [{"name": "last", "match": {"host": True, "default_route": True}, "action": "drop"}]
    compiled = compile_policy(PolicySettings.model_validate({"rules": rules}))
    began = time.process_time()
    found = compiled.warnings
    assert time.process_time() - began < 5, "it takes less than 1"
    (unfinished, contradiction) = found
    number = int(re.findall(r"#(\d+)", unfinished)[0])
    assert 50 < number <= 2000
    assert "and later rules: not compared with those above" in unfinished
    assert "#3001 (last): can never match" in contradiction, "that is quick"


PREFIXES = ("10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1")
PARTS: dict[str, tuple[object, ...]] = {
    "exact": (None, *((Prefix.parse(it),) for it in PREFIXES), (*map(Prefix.parse, PREFIXES),)),
    "within": (None, (Prefix.parse("10.0.0.0/8"),), (*map(Prefix.parse, PREFIXES[1:]),)),
    "covers": (None, (Prefix.parse("10.1.2.0/24"),), (*map(Prefix.parse, PREFIXES[::2]),)),
    "lengths": (None, (Span(0, 0),), (Span(8, 24), Span(32, 128))),
}


def test_the_shapes_of_a_term_are_those_that_a_header_does_not_exclude() -> None:
    for parts in itertools.product(*PARTS.values()):
        term = PrefixTerm(*parts)  # type: ignore[arg-type]
        left = {
            shape for shape in ALL_SHAPES if term.decide(Header(*shape, None, 0, 0, 0, None)) is not False
        }
        assert term.shapes() == left, term


def test_two_long_lists_do_not_hang_the_start() -> None:
    """Two networks are compared with each other, so two lists take the product of their lengths."""
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(20_000)]
    began = time.process_time()
    (unfinished,) = warnings({"prefix": {"within": networks}}, {"prefix": {"within": networks}}, {})
    assert time.process_time() - began < 20, "it takes 1, most of it to read the prefixes"
    assert "#2 (r2) and later rules" in unfinished
    (exact,) = warnings({"prefix": networks}, {"prefix": networks[:-1]})
    assert "never takes effect" in exact, "sets are compared at once"


def test_a_report_of_what_is_kept_is_pointed_out() -> None:
    rules = [{"name": "it", "action": "keep", "report": True}]
    made = compile_policy(PolicySettings.model_validate({"rules": rules}))
    assert made.warnings == ("[[policy.rules]] #1 (it): report is about drops, and this rule keeps",)
