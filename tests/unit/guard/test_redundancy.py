"""Which host routes may be taken out of the kernel, over many shapes of tables."""

from __future__ import annotations

import pytest

from routesync.config.rules import PolicySettings, compile_policy
from routesync.guard.redundancy import Needed, Reason, Redundant, assess, guarded
from routesync.kernel import Links, RouteDetails, Sysctls, TableDump
from routesync.route import Family, Prefix, Route, Verdict, leads_to_gateway, link_gateways
from support.routes import INTERFACES, ip_route

POLICY = compile_policy(
    PolicySettings.model_validate(
        {
            "rules": [
                {
                    "name": "dhcp-host-routes",
                    "match": {"protocol": "dhcp", "host": True, "gateway": False},
                    "action": "drop",
                    "guard": True,
                },
                {"name": "linkdown", "match": {"flags": "linkdown"}, "action": "drop"},
            ]
        }
    )
)
HOST = "192.168.10.1 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100"
SUBNET = "192.168.10.0/24 dev ens3 proto kernel scope link src 192.168.10.10"
DEFAULT = "default via 192.168.10.1 dev ens3 proto dhcp src 192.168.10.10 metric 100"


def evaluate(route: Route, _links: Links) -> Verdict:
    return POLICY.evaluate(route, INTERFACES)


GUARD_GATEWAYS = compile_policy(
    PolicySettings.model_validate(
        {
            "rules": [
                {
                    "name": "link-gateways",
                    "match": {"link_gateway": True},
                    "action": "drop",
                    "guard": True,
                }
            ]
        }
    )
)


def dump(*routes: Route, details: dict[Route, RouteDetails] | None = None) -> TableDump:
    return TableDump(routes, {}, (), Sysctls(), details or {})


def verdict_on(host: str, *others: str) -> Redundant | Needed:
    """Assess a host route in a table, listed in the kernel's order."""
    route = ip_route(host)
    family = route.prefix.family
    covering = [ip_route(line, family) for line in others]
    return assess(
        route, dump(route, *(it for it in covering if it.prefix.contains(route.prefix.packed))), evaluate
    )


REDUNDANT = {
    "the connected network": ([HOST, SUBNET, DEFAULT], "192.168.10.0/24"),
    "a wider connected network": (
        [HOST, SUBNET.replace("10.0/24", "0.0/16")],
        "192.168.0.0/16",
    ),
    "the subnet route of dhcpcd": (
        [HOST, "192.168.10.0/24 dev ens3 proto dhcp scope link src 192.168.10.10 metric 1002"],
        "192.168.10.0/24",
    ),
    "the more specific of two": (
        [HOST, SUBNET, "192.168.10.0/30 dev ens3 proto static scope link src 192.168.10.10"],
        "192.168.10.0/30",
    ),
    "the peer of a link": (
        [
            HOST.replace("metric 100", "metric 200"),
            "192.168.10.1 dev ens3 proto kernel scope link src 192.168.10.10",
        ],
        "192.168.10.1/32",
    ),
    "the lower of two metrics": (
        [HOST, SUBNET, SUBNET.replace("ens3", "eth1") + " metric 1"],
        "192.168.10.0/24",
    ),
    "a host route without a source": (
        ["192.168.10.1 dev ens3 proto dhcp scope link metric 100", SUBNET],
        "192.168.10.0/24",
    ),
    "IPv6": (
        ["2001:db8::53 dev ens3 proto dhcp metric 1024", "2001:db8::/64 dev ens3 proto kernel metric 256"],
        "2001:db8::/64",
    ),
    "beside an unrelated one of the same kind": (
        [HOST, SUBNET, "192.168.10.2 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100"],
        "192.168.10.0/24",
    ),
    "a wider network that is down": (
        [HOST, SUBNET, "192.168.0.0/16 dev docker0 proto kernel scope link linkdown"],
        "192.168.10.0/24",
    ),
}


@pytest.mark.parametrize(("lines", "by"), REDUNDANT.values(), ids=REDUNDANT)
def test_it_is_redundant_by(lines: list[str], by: str) -> None:
    finding = verdict_on(*lines)
    assert isinstance(finding, Redundant), finding
    assert str(finding.by) == by


NEEDED = {
    "a cloud host of /32": (
        [
            "10.0.0.1 dev ens3 proto dhcp scope link src 10.0.0.5 metric 100",
            "default via 10.0.0.1 dev ens3 proto dhcp src 10.0.0.5 metric 100",
        ],
        Reason.ONLY_BY_GATEWAY,
    ),
    "a host alone": ([HOST], Reason.ONLY_WAY),
    "a server beyond the gateway that a lease calls on-link": (
        ["203.0.113.53 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100", SUBNET, DEFAULT],
        Reason.ONLY_BY_GATEWAY,
    ),
    "the network is on another link": ([HOST, SUBNET.replace("ens3", "eth1"), DEFAULT], Reason.OTHER_LINK),
    "the better metric is on another link": (
        [HOST, SUBNET + " metric 200", SUBNET.replace("ens3", "eth1") + " metric 100"],
        Reason.OTHER_LINK,
    ),
    "a more specific route leads another way": (
        [HOST, SUBNET, "192.168.10.0/25 via 192.168.10.254 dev ens3 proto bgp"],
        Reason.ONLY_BY_GATEWAY,
    ),
    "a more specific route leads nowhere": (
        [HOST, SUBNET, "blackhole 192.168.10.0/28"],
        Reason.ONLY_WAY,
    ),
    "a more specific route is on another link": (
        [HOST, SUBNET, "192.168.10.0/28 dev eth1 scope link"],
        Reason.OTHER_LINK,
    ),
    "only an on-link default": (
        [HOST, "default dev ens3 proto dhcp scope link src 192.168.10.10 metric 100"],
        Reason.ONLY_BY_DEFAULT,
    ),
    "only another one that would go as well": (
        [HOST, HOST.replace("metric 100", "metric 1024")],
        Reason.ONLY_WAY,
    ),
    "the network has no carrier": ([HOST, SUBNET + " linkdown"], Reason.OTHER_DOWN),
    "the network is dead": ([HOST, SUBNET + " dead linkdown"], Reason.OTHER_DOWN),
    "another source": ([HOST, SUBNET.replace("src 192.168.10.10", "src 192.168.10.99")], Reason.OTHER_SOURCE),
    "a source that the kernel would pick": (
        [HOST, "192.168.10.0/24 dev ens3 proto kernel scope link"],
        Reason.OTHER_SOURCE,
    ),
    "a network of global scope": (
        [HOST, "192.168.10.0/24 dev ens3 proto static scope global src 192.168.10.10"],
        Reason.OTHER_SCOPE,
    ),
    "several links": (
        [HOST, "192.168.10.0/24 proto static scope link src 192.168.10.10 nexthop dev ens3 nexthop dev eth1"],
        Reason.OTHER_ODD,
    ),
    "a twin of another source": (
        ["192.168.10.1 dev ens3 proto dhcp scope link metric 100", SUBNET, HOST],
        Reason.AMBIGUOUS,
    ),
    "a twin of another metric, where ours is 0": (
        ["192.168.10.1 dev ens3 proto dhcp scope link src 192.168.10.10", SUBNET, HOST],
        Reason.AMBIGUOUS,
    ),
    "IPv6 beside one with a gateway": (
        [
            "2001:db8::53 dev ens3 proto dhcp metric 1024",
            "2001:db8::53 via fe80::1 dev ens3 proto dhcp metric 1024",
            "2001:db8::/64 dev ens3 proto kernel metric 256",
        ],
        Reason.AMBIGUOUS,
    ),
    "IPv6 alone": (
        ["2001:db8::53 dev ens3 proto dhcp metric 1024", "default via fe80::1 dev ens3 proto ra"],
        Reason.ONLY_BY_GATEWAY,
    ),
}


@pytest.mark.parametrize(("lines", "reason"), NEEDED.values(), ids=NEEDED)
def test_it_is_needed_where(lines: list[str], reason: Reason) -> None:
    finding = verdict_on(*lines)
    assert isinstance(finding, Needed), finding
    assert finding.reason is reason
    assert finding.detail


@pytest.mark.parametrize(
    "line",
    [
        "192.168.10.1 via 192.168.10.2 dev ens3 proto dhcp src 192.168.10.10 metric 100",
        "192.168.10.1 dev ens3 proto static scope link src 192.168.10.10 metric 100",
        "192.168.10.1 dev ens3 proto dhcp scope global src 192.168.10.10 metric 100",
        "192.168.10.0/25 dev ens3 proto dhcp scope link src 192.168.10.10 metric 100",
        "192.168.10.1 proto dhcp scope link nexthop dev ens3 nexthop dev eth1",
        "blackhole 192.168.10.1 proto dhcp",
    ],
)
def test_what_is_no_plain_host_route_by_dhcp_is_never_touched(line: str) -> None:
    """Also when a rule would say so: what the configuration refuses is refused here once more."""
    finding = assess(ip_route(line), dump(ip_route(line), ip_route(SUBNET)), evaluate)
    assert isinstance(finding, Needed)
    assert finding.reason is Reason.NOT_PLAIN


@pytest.mark.parametrize("change", [{"tos": 4}, {"nexthop_id": 7}, {"encap": True}, {"table": 100}])
def test_what_is_odd_is_never_touched(change: dict[str, int]) -> None:
    route = ip_route(HOST)._replace(**change)  # type: ignore[arg-type]
    finding = assess(route, dump(route, ip_route(SUBNET)), evaluate)
    assert isinstance(finding, Needed)
    assert finding.reason in {Reason.NOT_PLAIN, Reason.ONLY_WAY}


def test_a_network_that_expires_is_no_substitute() -> None:
    route = ip_route("2001:db8::53 dev ens3 proto dhcp metric 1024")
    network = ip_route("2001:db8::/64 dev ens3 proto ra metric 256", Family.INET6)
    finding = assess(route, dump(route, network, details={network: RouteDetails(expires_s=1800)}), evaluate)
    assert isinstance(finding, Needed)
    assert finding.reason is Reason.OTHER_EXPIRES


def test_only_routes_of_guarding_rules_are_looked_at() -> None:
    host, static = ip_route(HOST), ip_route("192.168.10.1 dev ens3 proto static scope link metric 5")
    found = guarded(dump(static, host, ip_route(SUBNET)), host.prefix, evaluate)
    assert [route for route, _ in found] == [host]
    assert found[0][1].rule == "dhcp-host-routes"


def test_an_equal_twin_in_the_same_dump_makes_it_ambiguous() -> None:
    """IPv6 can hold two that differ in nothing that a Route tells."""
    route = ip_route("2001:db8::53 dev ens3 proto dhcp metric 1024")
    network = ip_route("2001:db8::/64 dev ens3 proto kernel metric 256", Family.INET6)
    finding = assess(route, dump(route, route, network), evaluate)
    assert isinstance(finding, Needed)
    assert finding.reason is Reason.AMBIGUOUS


BOOT_HOST = "192.168.10.1 dev ens3 scope link src 192.168.10.10"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([BOOT_HOST, SUBNET, DEFAULT], Redundant(Prefix.parse("192.168.10.0/24"))),
        ([BOOT_HOST, DEFAULT], Reason.ONLY_BY_GATEWAY),
        ([BOOT_HOST.replace("scope", "proto static scope"), SUBNET, DEFAULT], Reason.NOT_PLAIN),
    ],
    ids=["a normal mask", "a mask of /32", "an operator's"],
)
def test_a_host_route_to_the_gateway_by_protocol_boot(lines: list[str], expected: Redundant | Reason) -> None:
    routes = [ip_route(line) for line in lines]
    gateways = link_gateways(routes)
    seen = dump(*routes)

    def by_gateway(route: Route, _links: Links) -> Verdict:
        leads = leads_to_gateway(route, gateways)
        return GUARD_GATEWAYS.evaluate(route, INTERFACES, link_gateway=leads)

    assert [route for route, _ in guarded(seen, routes[0].prefix, by_gateway)] == [routes[0]]
    finding = assess(routes[0], seen, by_gateway)
    assert (finding.reason if isinstance(finding, Needed) else finding) == expected


def test_a_route_for_some_sources_takes_nobodys_place() -> None:
    host = ip_route("2001:db8::53 dev ens3 proto dhcp metric 1024", Family.INET6)
    net = ip_route("2001:db8::/64 dev ens3 proto kernel metric 256", Family.INET6)
    assert isinstance(assess(host, dump(host, net), evaluate), Redundant)
    some = net._replace(source=Prefix.parse("2001:db8:a::/48"))
    finding = assess(host, dump(host, some), evaluate)
    assert isinstance(finding, Needed)
    assert finding.reason is Reason.ONLY_WAY
