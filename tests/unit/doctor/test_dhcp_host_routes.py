"""Who wrote a DHCP host route, whether it matters, and what stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from routesync.doctor import Finding, Level
from routesync.doctor.dhcp import host_routes, is_dhcp_host_route, is_redundant, who_wrote
from routesync.doctor.facts import DhcpFacts, Facts, LocalLoxilb, NetworkdLink
from routesync.route import Route, link_gateways
from support.doctor_facts import ENS3, configuration, dump, healthy, route

HOST = route("192.168.10.1/32")
SUBNET = route("192.168.10.0/24", protocol="kernel")
NOBODY = DhcpFacts(frozenset(), {}, frozenset())


def leased(**lease: str) -> DhcpFacts:
    addresses = {key: frozenset(value.split()) for key, value in lease.items()}
    return NOBODY._replace(networkd={ENS3: NetworkdLink("/etc/systemd/network/10-lan.network", addresses)})


DROP = """
[[policy.rules]]
name = "dhcp-host-routes"
match = { protocol = "dhcp", host = true, gateway = false }
action = "drop"
[[policy.rules]]
name = "link-gateways"
match = { link_gateway = true }
action = "drop"
"""
KEEP = '[policy]\ndefault_action = "keep"\n'


def found(facts: Facts, *routes: Route, keep: bool = False, dhcp: DhcpFacts = NOBODY) -> Finding:
    kernel = facts.kernel._replace(dump=dump(*(routes or (HOST, SUBNET))))
    config = configuration(facts.config.path.parent, KEEP if keep else DROP)
    (finding,) = host_routes(facts._replace(config=config, kernel=kernel, dhcp=dhcp))
    return finding


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (route("192.168.10.0/24"), "the subnet route of dhcpcd"),
        (route("0.0.0.0/0", gateway="192.168.10.1"), "a default route"),
        (route("10.9.9.9/32", gateway="192.168.10.1"), "a host route by a gateway"),
        (SUBNET, "a connected route"),
        (route("192.168.10.1/32", protocol="static"), "an operator's host route"),
    ],
)
def test_only_a_host_route_without_a_gateway_is_one(other: object, what: str) -> None:
    assert is_dhcp_host_route(HOST)
    assert not is_dhcp_host_route(other), what  # type: ignore[arg-type]


def test_a_lease_that_names_the_address_convicts_networkd() -> None:
    writer = who_wrote(HOST, leased(ROUTER="192.168.10.1", DNS="9.9.9.9"))
    assert (writer.client, writer.certain) == ("systemd-networkd", True)
    assert "ROUTER" in writer.because


def test_another_lease_on_the_link_makes_it_probable() -> None:
    writer = who_wrote(HOST, leased(ROUTER="192.168.10.254"))
    assert (writer.client, writer.certain) == ("systemd-networkd", False)


@pytest.mark.parametrize(
    ("dhcp", "client"),
    [
        (NOBODY._replace(network_manager=frozenset({ENS3})), "NetworkManager"),
        (NOBODY._replace(clients=frozenset({"dhcpcd"})), "dhcpcd"),
        (NOBODY._replace(clients=frozenset({"systemd-network"})), "systemd-networkd"),
        (NOBODY._replace(clients=frozenset({"dhclient"})), None),
        (NOBODY._replace(network_manager=frozenset({ENS3 + 1})), None),
        (NOBODY, None),
    ],
)
def test_otherwise_it_is_said_how_little_is_known(dhcp: DhcpFacts, client: str | None) -> None:
    writer = who_wrote(HOST, dhcp)
    assert writer.client == client
    assert not writer.certain


def test_a_dropped_one_is_well_and_a_kept_one_is_a_warning(tmp_path: Path) -> None:
    facts = healthy(tmp_path)
    assert found(facts).level is Level.OK
    kept = found(facts, keep=True)
    assert kept.level is Level.WARN
    assert "host = true" in kept.remedy[0]


@pytest.mark.parametrize(
    ("version", "level"),
    [("before 0.9.8", Level.FAIL), ("0.9.1", Level.FAIL), (None, Level.FAIL), ("0.9.8.8", Level.OK)],
)
def test_a_loxilb_that_reads_this_table_suffers_by_its_version(
    tmp_path: Path, version: str | None, level: Level
) -> None:
    local = (LocalLoxilb(99, shares_namespace=True, version=version),)
    finding = found(healthy(tmp_path)._replace(local=local))
    assert finding.level is level
    assert ("only noise" in finding.why) == (level is Level.OK)


def test_networkd_is_stopped_by_its_exact_settings(tmp_path: Path) -> None:
    steps = "\n".join(found(healthy(tmp_path), dhcp=leased(ROUTER="192.168.10.1")).remedy)
    for words in (
        "/etc/systemd/network/10-lan.network.d/",
        "UseGateway=no",
        "RoutesToDNS=no",
        "RoutesToNTP=no",
        "Gateway=192.168.10.1 Protocol=static",
        "networkctl reconfigure ens3",
        "ip route del 192.168.10.1/32 dev ens3",
    ):
        assert words in steps


def test_network_manager_is_stopped_by_its_own(tmp_path: Path) -> None:
    steps = "\n".join(
        found(healthy(tmp_path), dhcp=NOBODY._replace(network_manager=frozenset({ENS3}))).remedy
    )
    assert "ipv4.ignore-auto-routes yes" in steps


def test_what_a_host_needs_is_not_to_be_taken_away(tmp_path: Path) -> None:
    assert is_redundant(HOST, dump(HOST, SUBNET))
    assert not is_redundant(HOST, dump(HOST, route("0.0.0.0/0")))
    assert not is_redundant(HOST, dump(HOST, route("192.168.10.0/24", protocol="kernel", ifindex=ENS3 + 1)))
    finding = found(healthy(tmp_path), HOST)
    assert finding.remedy == ()
    assert "do not remove it" in finding.why


BOOT_HOST = route("203.0.113.1/32", protocol="boot")
DEFAULT = route("0.0.0.0/0", gateway="203.0.113.1", protocol="boot")


def test_one_of_protocol_boot_shows_by_the_gateway_that_it_leads_to() -> None:
    assert is_dhcp_host_route(BOOT_HOST, link_gateways([BOOT_HOST, DEFAULT]))
    assert not is_dhcp_host_route(BOOT_HOST, link_gateways([BOOT_HOST]))
    elsewhere = route("0.0.0.0/0", gateway="203.0.113.1", protocol="boot", ifindex=ENS3 + 1)
    assert not is_dhcp_host_route(BOOT_HOST, link_gateways([BOOT_HOST, elsewhere]))
    static = route("203.0.113.1/32", protocol="static")
    assert not is_dhcp_host_route(static, link_gateways([static, DEFAULT])), "no DHCP client writes it"


@pytest.mark.parametrize(
    ("clients", "client"),
    [
        ({"dhclient"}, "dhclient"),
        ({"dhcpcd", "systemd-network"}, "dhcpcd"),
        ({"dhclient", "dhcpcd"}, None),
        ({"NetworkManager"}, None),
        (set(), None),
    ],
)
def test_protocol_boot_is_of_dhclient_or_dhcpcd(clients: set[str], client: str | None) -> None:
    dhcp = leased(ROUTER="203.0.113.1")._replace(clients=frozenset(clients))
    assert who_wrote(BOOT_HOST, dhcp).client == client


def test_a_kept_one_of_protocol_boot_is_a_warning_with_its_own_remedy(tmp_path: Path) -> None:
    finding = found(healthy(tmp_path), BOOT_HOST, DEFAULT, keep=True)
    assert finding.level is Level.WARN
    assert "proto boot" in finding.summary
    assert "link_gateway = true" in finding.remedy[0]
    assert "do not remove it" in finding.why
