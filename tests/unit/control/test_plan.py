"""The plan says of each route what would be done at each target, and why not."""

from __future__ import annotations

from routesync.config.rules import PolicySettings, compile_policy
from routesync.control.models import PlanOutcome
from routesync.control.plan import (
    PlanRows,
    TargetInput,
    choose,
    evaluator,
    plan_targets,
    withdrawn_choices,
)
from routesync.control.views import RouteNames
from routesync.kernel import InterfaceAddress
from routesync.loxilb.schema import Inventory, InventoryRow
from routesync.mirror.eligibility import TargetRules
from routesync.names import PROTOCOLS, TYPES, Names
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
    return TargetInput("lb", url, rules or TargetRules(), owned or {}, Inventory(table, 0), ends)


class Planned:
    """A plan for one target: the outcome by prefix, and the prefixes that are deleted."""

    def __init__(self, at: TargetInput, *routes: Route) -> None:
        policy = compile_policy(PolicySettings())
        choices = list(choose(routes, evaluator(policy, {2: "e0"}, routes), (254,), {}))
        targets = plan_targets([at], choices, OURS)
        choices += withdrawn_choices(at.owned, choices, targets)
        rows = PlanRows(choices, {}, targets, RouteNames(Names(), {2: "e0"}))
        self.at: dict[str, PlanOutcome] = {
            row.prefix: outcome for row in rows if row is not None for outcome in row.targets
        }
        self.deleted = [it.prefix for it in rows.targets()[0].delete]

    @property
    def ends(self) -> dict[str, tuple[str, str]]:
        return {prefix: (it.fate, it.code) for prefix, it in self.at.items()}


def fate(at: TargetInput, route: Route) -> str:
    return Planned(at, route).at[str(route.prefix)].fate


def test_each_reason_is_shown_with_what_to_do() -> None:
    plan = Planned(
        target(LAN, ("0.0.0.0/0", "Ind", "192.0.2.1", "16"), ours="10.99.0.10"),
        route("10.99.0.0/16", "192.0.2.9"),
        route("0.0.0.0/1", "192.0.2.9"),
        route("192.0.2.5/32", None),
        route("10.5.0.0/16", "192.0.2.5"),
        route("10.244.1.0/24", "10.244.1.0"),
    )
    assert plan.ends == {
        "10.99.0.0/16": ("refused", "return-path"),
        "0.0.0.0/1": ("refused", "nearly-default"),
        "192.0.2.5/32": ("refused", "gateway-host-route"),
        "10.5.0.0/16": ("post", "default"),
        "10.244.1.0/24": ("refused", "contains-next-hop"),
    }
    details = {prefix: it.detail for prefix, it in plan.at.items()}
    assert "set `next_hop` in the rule or the target" in details["10.244.1.0/24"]
    assert "`return_path_ok`" in details["10.99.0.0/16"]
    assert "`min_prefix_length`" in details["0.0.0.0/1"]


def test_self_is_our_address_on_the_network_of_the_target() -> None:
    rules = TargetRules(rewrite=Rewrite(to_self=True))
    pods, pods6 = route("10.244.1.0/24", "10.244.1.0"), route("fd00:244::/64", None)
    plan = Planned(target(LAN, rules=rules), pods, pods6)
    assert plan.ends == {
        "10.244.1.0/24": ("post", "default"),
        "fd00:244::/64": ("refused", "no-self-address"),
    }
    assert plan.at["10.244.1.0/24"].gateway == "192.0.2.10"
    assert Planned(target(rules=rules), pods).ends == {"10.244.1.0/24": ("refused", "no-self-address")}


def test_nothing_is_concluded_from_a_table_that_was_not_read() -> None:
    owned = {Prefix.parse("10.244.1.0/24"): parse_address("192.0.2.10")}
    at = target(rules=TargetRules(rewrite=Rewrite(to_self=True)), owned=owned)
    at = at._replace(inventory=None, ends=None)
    plan = Planned(at, route("10.244.1.0/24", "10.244.1.0"), route("10.244.2.0/24", "10.244.2.0"))
    assert plan.ends == {
        "10.244.1.0/24": ("post", "default"),
        "10.244.2.0/24": ("refused", "target-unknown"),
    }
    assert not plan.deleted


def test_a_loxilb_with_one_entry_for_both_defaults_gets_none_of_ipv6() -> None:
    rules = TargetRules(allow_default="yes")
    at = target(("fd00::/64", "Self", None, "unspec"), rules=rules)
    default = route("::/0", "fd00::1")
    assert fate(at, default) == "post"
    plan = Planned(at._replace(version="before 0.9.8"), default)
    assert plan.ends == {"::/0": ("refused", "default-shared-with-ipv4")}


def test_an_owned_hop_of_an_ecmp_route_is_kept_and_an_ineligible_route_of_ours_is_deleted() -> None:
    both = route("10.9.0.0/16", None)._replace(
        hops=tuple(NextHop(parse_address(f"192.0.2.{host}"), 2) for host in (4, 5))
    )
    owned = {
        Prefix.parse("10.9.0.0/16"): parse_address("192.0.2.5"),
        Prefix.parse("10.244.1.0/24"): parse_address("192.0.2.7"),
    }
    row = ("10.9.0.0/16", "Ind", "192.0.2.5", "static")
    plan = Planned(target(LAN, row, owned=owned), both, route("10.244.1.0/24", "10.244.1.0"))
    assert plan.at["10.9.0.0/16"].fate == "present"
    assert plan.deleted == ["10.244.1.0/24"]


def test_a_default_is_mirrored_beside_the_targets_own_only_with_override() -> None:
    own = ("0.0.0.0/0", "Ind", "192.0.2.1", "16")
    of = route("0.0.0.0/0", "192.0.2.9")
    for allow, expected in (("no", "refused"), ("yes", "conflict"), ("override", "post")):
        rules = TargetRules(allow_default=allow)  # type: ignore[arg-type]
        assert fate(target(LAN, own, rules=rules), of) == expected
    same = route("0.0.0.0/0", "192.0.2.1")
    rules = TargetRules(allow_default="override")
    assert fate(target(LAN, own, rules=rules), same) == "present"
    six = ("::/0", "Ind", "2001:db8::1", "16")
    assert fate(target(LAN, six, rules=rules), route("::/0", "2001:db8::9")) == "conflict", "IPv6 never"


def test_a_target_is_explained_as_its_reconciler_would_find_it() -> None:
    owned = {
        Prefix.parse("10.1.0.0/16"): parse_address("192.0.2.9"),
        Prefix.parse("10.2.0.0/16"): parse_address("192.0.2.8"),
        Prefix.parse("10.244.1.0/24"): parse_address("192.0.2.7"),
        Prefix.parse("10.7.0.0/16"): parse_address("192.0.2.7"),
    }
    at = target(
        LAN,
        ("10.1.0.0/16", "Ind", "192.0.2.9", "static"),
        ("10.2.0.0/16", "Ind", "192.0.2.8", "static"),
        ("10.3.0.0/16", "Ind", "192.0.2.9", "static"),
        ("10.4.0.0/16", "Ind", "192.0.2.77", "16"),
        owned=owned,
    )
    routes = [route(f"10.{number}.0.0/16", "192.0.2.9") for number in range(1, 6)]
    routes.append(route("10.244.1.0/24", "10.244.1.0"))
    choices = list(choose(routes, evaluator(compile_policy(PolicySettings()), {}, routes), (254,), {}))
    (planned,) = plan_targets([at], choices, OURS)
    phases = {str(it): planned.route(it).phase.value for it in planned.prefixes()}  # type: ignore[union-attr]
    assert phases == {
        "10.1.0.0/16": "confirmed",
        "10.2.0.0/16": "pending",
        "10.3.0.0/16": "present",
        "10.4.0.0/16": "conflicting",
        "10.5.0.0/16": "pending",
        "10.7.0.0/16": "withdrawing",
        "10.244.1.0/24": "withdrawing",
    }
    assert planned.route(Prefix.parse("10.8.0.0/16")) is None
