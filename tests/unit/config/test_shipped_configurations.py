"""The configurations that come with the program: they load, and their verdicts on real tables are as they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from routesync.config import load, shipped_configuration
from routesync.policy import Policy
from routesync.route import Family, format_address
from support.routes import INTERFACES, ip_route

CONFIG = Path(__file__).parents[3] / "config"
EXAMPLES = CONFIG / "examples"

FOUNDING_TABLE = {
    "default via 192.168.10.1 dev ens3 proto dhcp src 192.168.10.10 metric 100": ("keep", "default", None),
    "10.244.0.0/24 dev cni0 proto kernel scope link src 10.244.0.1": (
        "keep",
        "pod-networks",
        "192.168.10.10",
    ),
    "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink": ("keep", "pod-networks", "192.168.10.10"),
    "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink": ("keep", "pod-networks", "192.168.10.10"),
    "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink": ("keep", "pod-networks", "192.168.10.10"),
    "172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1 linkdown": ("drop", "linkdown", None),
    "192.168.10.0/24 dev ens3 proto kernel scope link src 192.168.10.10": ("drop", "connected", None),
    "192.168.10.1 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100": (
        "drop",
        "dhcp-host-routes",
        None,
    ),
}


def policy(path: Path) -> Policy:
    return load(path, {}).policy


def verdict_on(path: Path, line: str, family: Family = Family.INET) -> tuple[str, str, str | None]:
    route = ip_route(line, family)
    verdict = policy(path).evaluate(route, INTERFACES)
    gateway = verdict.rewrite.for_family(route.prefix.family) if verdict.rewrite else None
    return "keep" if verdict.keep else "drop", verdict.rule, format_address(gateway) if gateway else None


@pytest.mark.parametrize("path", sorted(CONFIG.rglob("*.toml")), ids=lambda path: path.name)
def test_it_loads_without_a_warning(path: Path) -> None:
    loaded = load(path, {})
    assert loaded.warnings == ()
    assert loaded.settings.kernel.tables == (254,)


def test_the_shipped_one_is_found() -> None:
    assert shipped_configuration().read_bytes() == (CONFIG / "routesync.toml").read_bytes()


def test_the_shipped_one_writes_nowhere() -> None:
    settings = load(CONFIG / "routesync.toml", {}).settings
    assert settings.targets == ()
    assert settings.mqtt is None


@pytest.mark.parametrize(("line", "expected"), FOUNDING_TABLE.items())
def test_the_founding_table(line: str, expected: tuple[str, str, str | None]) -> None:
    assert verdict_on(EXAMPLES / "kubernetes-external-loxilb.toml", line) == expected


@pytest.mark.parametrize(("line", "expected"), FOUNDING_TABLE.items())
def test_the_founding_table_by_the_shipped_rules(line: str, expected: tuple[str, str, str | None]) -> None:
    action, rule, _ = expected
    if rule == "pod-networks":
        action, rule = ("drop", "connected") if "proto kernel" in line else ("keep", "default")
    assert verdict_on(CONFIG / "routesync.toml", line) == (action, rule, None)


def test_drops_of_dhcp_host_routes_are_reported() -> None:
    route = ip_route("192.168.10.1 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100")
    for name in ("routesync.toml", "examples/kubernetes-external-loxilb.toml"):
        assert policy(CONFIG / name).evaluate(route, INTERFACES).report


@pytest.mark.parametrize("name", ["routesync.toml", "examples/kubernetes-external-loxilb.toml"])
@pytest.mark.parametrize(
    ("client", "line", "rule"),
    [
        (
            "networkd",
            "192.168.10.53 dev ens3 proto dhcp scope link src 192.168.10.10 metric 1024",
            "dhcp-host-routes",
        ),
        (
            "networkd",
            "192.168.10.53 via 192.168.10.1 dev ens3 proto dhcp src 192.168.10.10 metric 1024",
            "default",
        ),
        ("networkd", "default via 192.168.10.1 dev ens3 proto dhcp src 192.168.10.10 metric 1024", "default"),
        ("dhcpcd", "192.168.10.0/24 dev ens3 proto dhcp scope link src 192.168.10.10 metric 1002", "default"),
        ("dhcpcd", "default via 192.168.10.1 dev ens3 proto dhcp src 192.168.10.10 metric 1002", "default"),
        ("cloud", "default dev ens3 proto dhcp scope link metric 100", "default"),
        ("dhclient", "default via 192.168.10.1 dev ens3", "default"),
    ],
)
def test_only_host_routes_of_a_lease_are_dropped(name: str, client: str, line: str, rule: str) -> None:
    del client
    assert verdict_on(CONFIG / name, line)[1] == rule


@pytest.mark.parametrize("name", ["routesync.toml", "examples/kubernetes-external-loxilb.toml"])
def test_ipv6(name: str) -> None:
    assert verdict_on(CONFIG / name, "2001:db8::53 dev ens3 proto dhcp metric 1024")[1] == "dhcp-host-routes"
    assert verdict_on(CONFIG / name, "default via fe80::1 dev ens3 proto ra", Family.INET6)[1] == "default"
    assert verdict_on(CONFIG / name, "fe80::/64 dev ens3 proto kernel metric 256")[1] == "connected"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("default via 203.0.113.1 dev ens3 proto bgp metric 20", ("keep", "routed", "192.168.20.1")),
        (
            "198.51.100.0/24 via 203.0.113.1 dev ens3 proto zstatic metric 20",
            ("keep", "routed", "192.168.20.1"),
        ),
        (
            "10.9.0.0/16 proto ospf nexthop via 203.0.113.1 dev ens3 nexthop via 192.168.20.2 dev eth0",
            ("keep", "routed", "192.168.20.1"),
        ),
        ("2001:db8:9::/48 via fe80::1 dev ens3 proto bgp metric 20", ("keep", "routed", "2001:db8:20::1")),
        ("10.10.0.0/16 via 192.168.20.2 dev eth0 proto bgp metric 20", ("drop", "behind-loxilb", None)),
        ("10.11.0.0/16 via 203.0.113.1 dev ens3 proto bgp linkdown", ("drop", "linkdown", None)),
        ("blackhole 10.12.0.0/16 proto bgp", ("drop", "default", None)),
        ("203.0.113.0/24 dev ens3 proto kernel src 203.0.113.2", ("drop", "default", None)),
        ("default via 203.0.113.1 dev ens3 proto dhcp", ("drop", "default", None)),
    ],
)
def test_a_router_mirrors_what_its_protocols_brought(
    line: str, expected: tuple[str, str, str | None]
) -> None:
    assert verdict_on(EXAMPLES / "router-feeding-loxilb.toml", line) == expected


@pytest.mark.parametrize(
    "name",
    ["routesync.toml", "examples/kubernetes-external-loxilb.toml", "examples/loxilb-in-host-network.toml"],
)
@pytest.mark.parametrize(
    "line",
    [
        "203.0.113.1 dev ens3 scope link",
        "203.0.113.1 dev ens3 scope link src 203.0.113.50 metric 1002",
        "203.0.113.1 dev ens3 proto static scope link",
    ],
    ids=["dhclient", "dhcpcd", "by hand"],
)
def test_host_routes_to_the_gateway_of_their_link_are_dropped_and_no_others(name: str, line: str) -> None:
    rules, route = policy(CONFIG / name), ip_route(line)
    verdict = rules.evaluate(route, INTERFACES, link_gateway=True)
    assert (verdict.keep, verdict.rule, verdict.report) == (False, "link-gateways", True)
    assert verdict.guard == (name == "examples/loxilb-in-host-network.toml")
    assert rules.evaluate(route, INTERFACES).keep


@pytest.mark.parametrize("name", ["routesync.toml", "examples/kubernetes-external-loxilb.toml"])
def test_a_host_route_of_a_lease_has_the_same_rule_whatever_else_is_known_of_it(name: str) -> None:
    route = ip_route("192.168.10.1 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100")
    verdicts = {policy(CONFIG / name).evaluate(route, INTERFACES, link_gateway=it) for it in (False, True)}
    assert {verdict.rule for verdict in verdicts} == {"dhcp-host-routes"}


def test_the_short_file_of_the_packages_has_the_rules_of_the_whole_one() -> None:
    short, whole = (
        load(path, {}).settings.policy for path in (CONFIG / "installed.toml", shipped_configuration())
    )
    assert short == whole
