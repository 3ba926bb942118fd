"""The plan says of each route what would be done at each target, and why not."""

from __future__ import annotations

from routesync.config.compile import compile_policy
from routesync.config.models import PolicySettings
from routesync.kernel import InterfaceAddress
from routesync.loxilb.wire import Inventory, InventoryRow
from routesync.mirror.eligibility import TargetRules
from routesync.names import PROTOCOLS, TYPES, Names
from routesync.plan import Fate, Plan, TargetInput, make_plan
from routesync.route import Address, NextHop, Prefix, Rewrite, Route, parse_address

ENDS = (parse_address("192.0.2.10"), parse_address("192.0.2.20"))
OURS = (InterfaceAddress(2, ENDS[0], Prefix.parse("192.0.2.0/24")),)
LAN = ("192.0.2.0/24", "Self", None, "unspec")


def route(prefix: str, gateway: str | None) -> Route:
    hops = (NextHop(parse_address(gateway) if gateway else None, 2),)
    return Route(Prefix.parse(prefix), 254, 0, 0, PROTOCOLS["bgp"], 0, TYPES["unicast"], hops)


def target(
    *rows: tuple[str, str, str | None, str],
    rules: TargetRules | None = None,
    owned: dict[Prefix, Address] | None = None,
    ours: str = "192.0.2.10",
) -> TargetInput:
    table = {}
    for text, flags, gateway, protocol in rows:
        prefix = Prefix.parse(text)
        gateways = (parse_address(gateway),) if gateway else ()
        table[prefix] = InventoryRow(gateways, frozenset(flags.split()), protocol)
    ends = (parse_address(ours), ENDS[1])
    url = "http://192.0.2.20:11111"
    return TargetInput("lb", url, rules or TargetRules(), Inventory(table, 0), owned or {}, None, ends)


def planned(at: TargetInput, *routes: Route) -> Plan:
    policy = compile_policy(PolicySettings(), Names())
    return make_plan(routes, {2: "e0"}, policy, (254,), [at], addresses=OURS)


def ends(plan: Plan) -> dict[str, tuple[str, str]]:
    return {str(it.route.prefix): (end.fate, end.code) for it in plan.routes for end in it.targets}


def test_each_reason_is_shown_with_what_to_do() -> None:
    plan = planned(
        target(LAN, ("0.0.0.0/0", "Ind", "192.0.2.1", "16"), ours="10.99.0.10"),
        route("10.99.0.0/16", "192.0.2.9"),
        route("0.0.0.0/1", "192.0.2.9"),
        route("192.0.2.5/32", None),
        route("10.5.0.0/16", "192.0.2.5"),
        route("10.244.1.0/24", "10.244.1.0"),
    )
    assert ends(plan) == {
        "10.99.0.0/16": ("refused", "return-path"),
        "0.0.0.0/1": ("refused", "nearly-default"),
        "192.0.2.5/32": ("refused", "gateway-host-route"),
        "10.5.0.0/16": ("post", "default"),
        "10.244.1.0/24": ("refused", "contains-next-hop"),
    }
    details = {it.route.prefix: it.targets[0].detail for it in plan.routes}
    assert "set `next_hop` in the rule or the target" in details[Prefix.parse("10.244.1.0/24")]
    assert "`return_path_ok`" in details[Prefix.parse("10.99.0.0/16")]
    assert "`min_prefix_length`" in details[Prefix.parse("0.0.0.0/1")]


def test_self_is_our_address_on_the_network_of_the_target() -> None:
    rules = TargetRules(rewrite=Rewrite(to_self=True))
    pods, pods6 = route("10.244.1.0/24", "10.244.1.0"), route("fd00:244::/64", None)
    plan = planned(target(LAN, rules=rules), pods, pods6)
    assert ends(plan) == {
        "10.244.1.0/24": ("post", "default"),
        "fd00:244::/64": ("refused", "no-self-address"),
    }
    assert plan.routes[0].targets[0].gateway == ENDS[0]
    assert ends(planned(target(rules=rules), pods)) == {"10.244.1.0/24": ("refused", "no-self-address")}


def test_an_owned_hop_of_an_ecmp_route_is_kept_and_an_ineligible_route_of_ours_is_deleted() -> None:
    both = route("10.9.0.0/16", None)._replace(
        hops=tuple(NextHop(parse_address(f"192.0.2.{host}"), 2) for host in (4, 5))
    )
    owned = {
        Prefix.parse("10.9.0.0/16"): parse_address("192.0.2.5"),
        Prefix.parse("10.244.1.0/24"): parse_address("192.0.2.7"),
    }
    row = ("10.9.0.0/16", "Ind", "192.0.2.5", "static")
    plan = planned(target(LAN, row, owned=owned), both, route("10.244.1.0/24", "10.244.1.0"))
    assert plan.routes[0].targets[0].fate is Fate.STANDS
    assert [str(it.prefix) for it in plan.deletions] == ["10.244.1.0/24"]


def test_a_default_is_mirrored_beside_the_targets_own_only_with_override() -> None:
    own = ("0.0.0.0/0", "Ind", "192.0.2.1", "16")
    of = route("0.0.0.0/0", "192.0.2.9")
    for allow, fate in (("no", Fate.REFUSED), ("yes", Fate.CONFLICT), ("override", Fate.POST)):
        rules = TargetRules(allow_default=allow)  # type: ignore[arg-type]
        assert planned(target(LAN, own, rules=rules), of).routes[0].targets[0].fate is fate
    same = route("0.0.0.0/0", "192.0.2.1")
    rules = TargetRules(allow_default="override")
    assert planned(target(LAN, own, rules=rules), same).routes[0].targets[0].fate is Fate.STANDS
    six = ("::/0", "Ind", "2001:db8::1", "16")
    plan = planned(target(LAN, six, rules=rules), route("::/0", "2001:db8::9"))
    assert plan.routes[0].targets[0].fate is Fate.CONFLICT, "IPv6 never"
