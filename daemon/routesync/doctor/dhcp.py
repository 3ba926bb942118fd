"""The founding bug: host routes that a DHCP client wrote, which client that was, and how to stop it.

What each client writes was observed on Debian 12. systemd-networkd adds host routes to the servers of its lease, with
protocol dhcp. dhclient and dhcpcd add one to the gateway where the lease has a mask of /32 (GCE, Hetzner), with
protocol boot; so it is recognised only by what it leads to: the gateway of another route over the same link. dhcpcd's
*subnet* route of protocol dhcp is no such route and has to stay.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final, NamedTuple

from routesync.doctor.facts import DhcpFacts, Facts, Finding, Level, NetworkdLink, ok, prefix_text
from routesync.doctor.loxilb import has_the_bug, sharing_loxilbs
from routesync.guard.redundancy import Redundant, assess
from routesync.kernel import Links, TableDump
from routesync.names import PROTOCOLS, TYPES
from routesync.route import LinkAddress, Route, Verdict, leads_to_gateway, link_gateways

DHCP: Final = PROTOCOLS["dhcp"]
BOOT: Final = PROTOCOLS["boot"]


class Writer(NamedTuple):
    """Which client wrote a route, as far as is known."""

    client: str | None
    because: str
    certain: bool = False


def is_dhcp_host_route(route: Route, gateways: Container[LinkAddress] = ()) -> bool:
    """Whether a route has the shape of the founding bug: full length, no gateway, protocol dhcp; or boot, to a gateway.

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
    """Which client wrote a host route, by what the clients left behind."""
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
            return Writer(name, "it runs, and nothing else was found; it keeps no lease of that link")
    seen = sorted(dhcp.clients)
    if seen:
        return Writer(
            None,
            f"{' and '.join(seen)} runs, but writes its routes with protocol boot; one that ended may have",
        )
    return Writer(None, "no DHCP client is visible; it has ended, or runs in a container or as another user")


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
        "dhclient and dhcpcd write it so on a lease with a /32, and ip(8) does by hand; neither client is visible",
    )


def is_redundant(route: Route, dump: TableDump) -> bool:
    """Whether nothing is lost without it, by the same rules as in mode guard."""
    gateways = link_gateways(dump.routes)

    def evaluate(other: Route, _links: Links) -> Verdict:
        return Verdict(keep=False, rule="doctor", guard=is_dhcp_host_route(other, gateways))

    return isinstance(assess(route, dump, evaluate), Redundant)


def host_routes(facts: Facts) -> Iterator[Finding]:
    """Are there DHCP host routes, which client wrote them, and does it matter here?"""
    dump, policy = facts.kernel.dump, facts.config.loaded.policy
    if dump is None:
        return
    names = {ifindex: link.name for ifindex, link in dump.links.items()}
    gateways = link_gateways(dump.routes)
    found = [route for route in dump.routes if is_dhcp_host_route(route, gateways)]
    for route in found:
        verdict = policy.evaluate(route, names, link_gateway=leads_to_gateway(route, gateways))
        yield _finding(route, verdict, facts, dump)
    if not found:
        yield ok("no DHCP client has written a host route")


def _finding(route: Route, verdict: Verdict, facts: Facts, dump: TableDump) -> Finding:
    ifindex = route.hops[0].ifindex
    device = dump.links[ifindex].name if ifindex in dump.links else str(ifindex)
    address, is_boot = prefix_text(route.prefix), route.protocol == BOOT
    writer = who_wrote(route, facts.dhcp)
    by = f"written by {writer.client or 'a DHCP client that is not known'}"
    if writer.client and not writer.certain:
        by = f"probably {by}"
    level, consequence = _consequence(facts, verdict)
    why = f"{consequence} Who wrote it: {writer.because}."
    remedy: list[str] = []
    if verdict.keep:
        match = "link_gateway = true" if is_boot else 'protocol = "dhcp", host = true, gateway = false'
        remedy.append(f'let a rule drop it: match = {{ {match} }}, action = "drop"')
    if is_redundant(route, dump):
        remedy += _cure(writer.client, device, address, facts.dhcp.networkd.get(ifindex))
        remedy.append(f"then: ip route del {address}/{route.prefix.length} dev {device}")
    else:
        why += (
            " No other route reaches that neighbour over that link, as on hosts with a /32: do not remove it."
        )
    summary = f"{address} dev {device} proto {'boot' if is_boot else 'dhcp'}, {by}"
    return Finding(level, summary, why, tuple(remedy), str(route.prefix))


def _consequence(facts: Facts, verdict: Verdict) -> tuple[Level, str]:
    """Whether the route does harm here: to a loxilb that reads this table itself, or as a mirrored route."""
    for loxilb in sharing_loxilbs(facts):
        if has_the_bug(loxilb.version) is not False:
            known = loxilb.version or "not known"
            return Level.FAIL, (
                f"{loxilb.name} reads this table itself, and before 0.9.2 such a route blocks the neighbour that it "
                f"names (its version: {known}). Rules here do not reach it: upgrade it, or remove the route."
            )
        if not verdict.keep:
            return Level.OK, (
                f"{loxilb.name} reads this table itself, and in its version {loxilb.version} such a route is only "
                "noise."
            )
    if not facts.config.known:
        does = "keep" if verdict.keep else "drop"
        return Level.OK, f"The shipped rules {does} it; whether the rules of this host do is not known."
    if verdict.keep:
        return Level.WARN, f"The rules keep it (rule {verdict.rule})."
    return Level.OK, f"It is mirrored into no target: rule {verdict.rule} drops it."


def _cure(client: str | None, device: str, gateway: str, link: NetworkdLink | None) -> tuple[str, ...]:
    """How to stop the client from writing it."""
    match client:
        case "systemd-networkd":
            file = (link.network_file if link else None) or f"/etc/systemd/network/NAME-OF-{device}.network"
            dropin = f"/etc/systemd/network/{file.rpartition('/')[2]}.d/no-host-route.conf"
            router = next(iter(sorted((link.lease if link else {}).get("ROUTER", ()))), gateway)
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
