"""The founding bug: host routes that a DHCP client wrote, who that was, and how to stop it.

What each client writes was observed on Debian 12. systemd-networkd adds host routes to the servers of its lease, with
protocol dhcp. dhclient and dhcpcd add one to the gateway where the lease has a mask of /32 (GCE, Hetzner), with
protocol boot; so it shows only by what it leads to: the gateway of another route over the same link. dhcpcd's own mark,
a *subnet* route of protocol dhcp, is no such route and has to stay.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Final, NamedTuple

from routesync.doctor.facts import DhcpFacts, Facts, JudgedRoute, NetworkdLink, prefix_text
from routesync.doctor.finding import Check, Finding, Level
from routesync.doctor.targets import has_the_bug, sharing_loxilbs
from routesync.guard.redundancy import Redundant, assess
from routesync.kernel import Link, TableDump
from routesync.names import PROTOCOLS, TYPES
from routesync.route import LinkAddress, Route, Verdict, leads_to_gateway, link_gateways

DHCP: Final = PROTOCOLS["dhcp"]
BOOT: Final = PROTOCOLS["boot"]


class Writer(NamedTuple):
    """Who wrote a route, as far as can be told."""

    client: str | None
    because: str
    certain: bool = False


def is_dhcp_host_route(route: Route, gateways: Container[LinkAddress] = ()) -> bool:
    """Whether a route is one that started it all: full length, no gateway, protocol dhcp; or boot, to a link's gateway.

    Args:
        route: the route.
        gateways: those of all routes, each with its link.
    """
    if route.protocol == BOOT:
        return leads_to_gateway(route, gateways)
    return (
        route.protocol == DHCP
        and route.prefix.is_host
        and route.type == TYPES["unicast"]
        and bool(route.hops)
        and all(hop.gateway is None for hop in route.hops)
    )


def who_wrote(route: Route, dhcp: DhcpFacts) -> Writer:
    """Say which client wrote a host route, by what the clients left behind."""
    if route.protocol == BOOT:
        return _who_wrote_boot(dhcp)
    ifindex = route.hops[0].ifindex
    address = prefix_text(route.prefix)
    link = dhcp.networkd.get(ifindex)
    if link is not None and link.lease:
        for role, addresses in link.lease.items():
            if address in addresses:
                return Writer(
                    "systemd-networkd", f"its lease on that link names {address} as {role}", certain=True
                )
        return Writer("systemd-networkd", "it holds a lease on that link")
    if ifindex in dhcp.network_manager:
        return Writer(
            "NetworkManager",
            "it manages that link; it writes such a route where the lease's gateway lies outside of the subnet",
        )
    for client in ("dhcpcd", "NetworkManager", "systemd-network"):
        if client in dhcp.clients:
            name = client.replace("systemd-network", "systemd-networkd")
            return Writer(name, "it runs, and nothing else was found; it left no lease for that link")
    seen = sorted(dhcp.clients)
    if seen:
        return Writer(
            None,
            f"{' and '.join(seen)} runs, but writes its routes with protocol boot; one that ended may have",
        )
    return Writer(None, "no DHCP client is seen; it has ended, or runs in a container or as another user")


def _who_wrote_boot(dhcp: DhcpFacts) -> Writer:
    running = [client for client in ("dhclient", "dhcpcd") if client in dhcp.clients]
    if len(running) == 1:
        return Writer(
            running[0], "it runs, and on a lease with a /32 it writes such a route with protocol boot"
        )
    if running:
        return Writer(None, f"{' and '.join(running)} run, and each writes such a route with protocol boot")
    return Writer(
        None,
        "dhclient and dhcpcd write it so on a lease with a /32, and ip(8) does by hand; neither client is seen to run",
    )


def is_redundant(route: Route, reading: TableDump) -> bool:
    """Whether nothing is lost without it, by the judgement of mode guard."""
    gateways = link_gateways(reading.routes)

    def evaluate(other: Route) -> Verdict:
        return Verdict(keep=False, rule="doctor", guard=is_dhcp_host_route(other, gateways))

    return isinstance(assess(route, reading, evaluate), Redundant)


def host_routes(facts: Facts) -> Iterator[Finding]:
    """Are there DHCP host routes, who wrote them, and does it matter here?"""
    reading = facts.kernel.reading
    if reading is None:
        return
    if not facts.host_routes:
        yield Finding(Check.DHCP_HOST_ROUTES, Level.OK, "no DHCP client has written a host route")
        return
    for judged in facts.host_routes:
        yield _judge(judged, facts, reading)


def _judge(judged: JudgedRoute, facts: Facts, reading: TableDump) -> Finding:
    route, verdict = judged
    link = reading.links.get(route.hops[0].ifindex)
    device = link.name if link else str(route.hops[0].ifindex)
    address = prefix_text(route.prefix)
    writer = who_wrote(route, facts.dhcp)
    by = f"written by {writer.client}" if writer.client else "written by a DHCP client that cannot be told"
    if writer.client and not writer.certain:
        by = f"probably {by}"
    summary = f"{address} dev {device} proto {'boot' if route.protocol == BOOT else 'dhcp'}, {by}"
    redundant = is_redundant(route, reading)
    why = f"Who wrote it: {writer.because}."
    if not redundant:
        why += " No other route reaches that neighbour over that link, as on hosts with a /32: do not take it away."
    level, consequence = _consequence(facts, verdict.keep, verdict.rule)
    remedy = (
        ()
        if not redundant
        else (
            *_cure(writer.client, device, link, route, facts.dhcp.networkd),
            f"then: ip route del {address}/{route.prefix.length} dev {device}",
        )
    )
    if verdict.keep:
        match = (
            "link_gateway = true"
            if route.protocol == BOOT
            else 'protocol = "dhcp", host = true, gateway = false'
        )
        remedy = (f'let a rule drop it: match = {{ {match} }}, action = "drop"', *remedy)
    return Finding(Check.DHCP_HOST_ROUTES, level, summary, f"{consequence} {why}", remedy, str(route.prefix))


def _consequence(facts: Facts, kept: bool, rule: str) -> tuple[Level, str]:  # noqa: FBT001 - the verdict
    for loxilb in sharing_loxilbs(facts):
        if has_the_bug(loxilb.version) is not False:
            known = loxilb.version or "not known"
            return Level.FAIL, (
                f"{loxilb.name} reads this table itself, and before 0.9.2 such a route blocks the neighbour that it "
                f"names (its version: {known}). Rules here do not reach it: upgrade it, or take the route away."
            )
        if not kept:
            return Level.OK, (
                f"{loxilb.name} reads this table itself, and in its version {loxilb.version} such a route is only "
                "noise."
            )
    if kept:
        return Level.WARN, f"The rules keep it (rule {rule})."
    return Level.OK, f"It is told to no target: rule {rule} drops it."


def _cure(
    client: str | None, device: str, link: Link | None, route: Route, networkd: Mapping[int, NetworkdLink]
) -> tuple[str, ...]:
    gateway = prefix_text(route.prefix)
    match client:
        case "systemd-networkd":
            known = networkd.get(link.ifindex) if link else None
            file = (known.network_file if known else None) or f"/etc/systemd/network/NAME-OF-{device}.network"
            dropin = f"/etc/systemd/network/{file.rpartition('/')[2]}.d/no-host-route.conf"
            router = next(iter(sorted((known.lease if known else {}).get("ROUTER", ()))), gateway)
            return (
                f"write {dropin}, one setting a line:",
                "   [DHCPv4] UseGateway=no RoutesToDNS=no RoutesToNTP=no",
                f"   [Route] Gateway={router} Protocol=static",
                "the two RoutesTo… alone have no effect, and Gateway=_dhcp4 brings the route back",
                f"networkctl reload; networkctl reconfigure {device}",
            )
        case "NetworkManager":
            return (
                f"nmcli -g GENERAL.CONNECTION device show {device}, which names the connection",
                'nmcli connection modify NAME ipv4.ignore-auto-routes yes +ipv4.routes "0.0.0.0/0 GATEWAY"',
                f"nmcli device reapply {device}",
            )
        case "dhcpcd":
            return (
                "dhcpcd 9.4 writes one of its own only on a lease with a /32; a server can hand one out: against that,",
                "in /etc/dhcpcd.conf,",
                f"   interface {device}",
                "   nooption classless_static_routes",
                "   nooption static_routes",
                "leave its subnet route alone, which has protocol dhcp, too",
            )
        case _:
            return (
                "find the client that renews the lease; until then the route comes back with each renewal",
            )
