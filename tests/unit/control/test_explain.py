"""Every candidate has its sentence: which rule decided, and why another one is preferred."""

from __future__ import annotations

import random
from pathlib import Path

from routesync.cli.routes import route_text
from routesync.config import load
from routesync.control.models import ExplainedPrefix
from routesync.control.plan import choose, explain
from routesync.control.views import RouteNames
from routesync.kernel import Rules
from routesync.kernel.decode import RouteDetails
from routesync.kernel.evaluate import Evaluator
from routesync.kernel.links import LinkTables
from routesync.kernel.replica import Replica, siblings_at
from routesync.names import PROTOCOLS, TYPES, Names
from routesync.route import Evaluated, NextHop, Prefix, Route, Verdict, parse_address

RULES = """
[[policy.rules]]
name = "leases"
match = { protocol = "dhcp", host = true }
action = "drop"

[[policy.rules]]
name = "pods"
match = { prefix = { within = "10.244.0.0/16" } }
action = "keep"
next_hop = "192.0.2.9"

[[policy.rules]]
name = "services"
match = { prefix = { within = "10.96.0.0/12" } }
action = "keep"
next_hop = "self"
"""


def route(prefix: str, *, protocol: str = "static", metric: int = 0, table: int = 254, tos: int = 0) -> Route:
    hops = (NextHop(parse_address("192.0.2.1"), 2),)
    return Route(Prefix.parse(prefix), table, tos, metric, PROTOCOLS[protocol], 0, 1, hops)


def explained(
    tmp_path: Path, *routes: Route, details: dict[Route, RouteDetails] | None = None
) -> list[ExplainedPrefix]:
    file = tmp_path / "routesync.toml"
    file.write_text(RULES)
    names = Names()
    policy = load(file, {}, names).policy
    found = details or dict.fromkeys(routes, RouteDetails())
    choices = choose(found, lambda it: policy.evaluate(it, {}), (100, 254), found)
    shown = RouteNames(names, {2: "eth0"})
    return list(explain(Prefix.parse("default"), choices, found, [], shown, tables=(100, 254)).prefixes)


def why(found: ExplainedPrefix) -> list[str]:
    return [it.why for it in found.candidates]


def test_the_longest_prefix_comes_first(tmp_path: Path) -> None:
    found = explained(tmp_path, route("0.0.0.0/0"), route("10.0.0.0/8"), route("10.244.1.0/24"))
    assert [it.prefix for it in found] == ["10.244.1.0/24", "10.0.0.0/8", "0.0.0.0/0"]


def test_each_verdict_names_its_rule_or_the_default(tmp_path: Path) -> None:
    lease, pods, other = explained(
        tmp_path, route("10.244.1.7/32"), route("10.9.1.7/32", protocol="dhcp"), route("10.9.0.0/16")
    )[:3]
    assert why(pods) == ["rule pods keeps it; elected"]
    assert pods.candidates[0].next_hop == ("192.0.2.9",)
    (service,) = explained(tmp_path, route("10.96.0.0/16"))
    assert service.candidates[0].next_hop == ("self",)
    assert why(lease) == ["rule leases drops it"]
    assert not lease.candidates[0].elected
    assert why(other) == ["no rule matches; default_action keeps it; elected"]


def test_a_runner_up_takes_the_place_of_what_is_dropped(tmp_path: Path) -> None:
    (found,) = explained(
        tmp_path, route("10.9.1.7/32", metric=20), route("10.9.1.7/32", protocol="dhcp", metric=10)
    )
    assert [(it.metric, it.verdict, it.elected) for it in found.candidates] == [
        (10, "drop", False),
        (20, "keep", True),
    ]


def test_what_is_not_elected_says_why(tmp_path: Path) -> None:
    (found,) = explained(
        tmp_path,
        route("10.9.0.0/16", tos=8),
        route("10.9.0.0/16", metric=30),
        route("10.9.0.0/16", table=100, metric=90),
        route("10.9.0.0/16", table=100, metric=90, protocol="bgp"),
        route("10.9.0.0/16", table=100, metric=95),
    )
    assert [said.partition("; ")[2].partition("; ")[2] for said in why(found)] == [
        "elected",
        "not elected: the kernel lists the elected route first",
        "not elected: its metric 95 is above 90",
        "not elected: its table comes later in [kernel] tables",
        "not elected: it applies only to TOS 0x08",
    ]


def test_of_routes_for_several_sources_or_tos_one_is_listed_first(tmp_path: Path) -> None:
    first, second = (Prefix.parse(f"2001:db8:{end}::/48") for end in "ab")
    (found,) = explained(
        tmp_path,
        route("2001:db8::/32", metric=1)._replace(source=second),
        route("2001:db8::/32", metric=1024)._replace(source=first),
    )
    assert why(found)[1].endswith(
        "not elected: it applies only to packets from 2001:db8:b::/48; "
        "the route for packets from 2001:db8:a::/48 is listed first"
    )
    (found,) = explained(
        tmp_path, route("10.9.0.0/16", tos=16, metric=1), route("10.9.0.0/16", tos=8, metric=2)
    )
    assert why(found)[1].endswith(
        "not elected: it applies only to TOS 0x10; the route for TOS 0x08 is listed first"
    )
    assert route_text(found.candidates[1]) == "tos 0x10 via 192.0.2.1 dev eth0 proto static metric 1"


def test_the_elected_route_is_the_one_that_the_daemon_elects() -> None:
    kept, tables = Verdict(keep=True, rule="default"), (100, 254)
    sources = [None, *(Prefix.parse(it) for it in ("2001:db8:b::/48", "2001:db8:a::/48", "2001:db8:a::/56"))]
    every = [
        (throw if kind == "throw" else route)("2001:db8::/32", table=table, metric=metric)._replace(
            tos=tos, source=source
        )
        for kind in ("unicast", "throw")
        for table in tables
        for metric in (1, 1024)
        for tos in (0, 8, 16)
        for source in sources
    ]
    some = random.Random(1)
    evaluator = Evaluator(tables, Rules(lambda *_: kept), LinkTables())
    for _ in range(500):
        routes = some.sample(every, some.randint(1, 6))
        replica = Replica()
        for it in routes:
            subkey = evaluator.subkey(it.attributes)
            assert subkey is not None
            siblings = siblings_at(replica.slots(it.prefix), subkey)
            replica.put(it.prefix, subkey, (*siblings, Evaluated(it.attributes, kept)))
        ((prefix, candidates),) = replica.candidates()
        (choice,) = choose(routes, lambda _: kept, tables, {})
        assert choice.elected == candidates[0].at(prefix)


def throw(prefix: str, *, table: int, metric: int = 0) -> Route:
    return route(prefix, table=table, metric=metric)._replace(type=TYPES["throw"], hops=())


def test_a_throw_route_ends_the_search_in_its_own_table_only(tmp_path: Path) -> None:
    (found,) = explained(
        tmp_path,
        throw("10.9.0.0/16", table=100, metric=10),
        route("10.9.0.0/16", table=100, metric=20),
        route("10.9.0.0/16", table=254),
    )
    assert [it.elected for it in found.candidates] == [False, False, True]
    assert [said.partition("not elected: ")[2] for said in why(found)] == [
        "it ends the search in its table, and the next table has a route",
        "a throw route ends the search in its table, and the next table has a route",
        "",
    ]


def test_a_throw_route_that_stands_alone_is_what_there_is(tmp_path: Path) -> None:
    (found,) = explained(tmp_path, throw("10.9.0.0/16", table=100))
    assert [it.elected for it in found.candidates] == [True]


def test_a_route_for_some_sources_is_shown_behind_the_plain_one_whatever_its_metric(tmp_path: Path) -> None:
    source = Prefix.parse("2001:db8:a::/48")
    specific = route("2001:db8::/32", metric=1)._replace(source=source)
    plain = route("2001:db8::/32", metric=1024)
    (found,) = explained(tmp_path, specific, plain)
    assert [(it.source_prefix, it.elected) for it in found.candidates] == [(None, True), (str(source), False)]
    assert why(found)[1].endswith("not elected: it applies only to packets from 2001:db8:a::/48")


def test_a_route_whose_lifetime_is_over_is_not_used(tmp_path: Path) -> None:
    over, other = route("2001:db8::/32", metric=1), route("2001:db8::/32", metric=1024)
    (found,) = explained(
        tmp_path, over, other, details={over: RouteDetails(expires_s=-3), other: RouteDetails(expires_s=9)}
    )
    assert [it.elected for it in found.candidates] == [False, True]
    assert "it has expired" in why(found)[0]
