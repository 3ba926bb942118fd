"""Which host routes are recognised as leading to their link's gateway, and how long they are held back."""

from __future__ import annotations

import pytest

from routesync.kernel.evaluate import HOLD_S, LinkGateways
from routesync.route import (
    Family,
    LinkAddress,
    NextHop,
    Prefix,
    leads_to_gateway,
    link_gateways,
    link_host,
    parse_address,
)
from support.routes import ip_route

E0, E1 = 2, 3
ROUTER = (E0, parse_address("192.0.2.1"))
ROUTER6 = (E0, parse_address("2001:db8::1"))


def hop(gateway: LinkAddress) -> NextHop:
    return NextHop(gateway[1], gateway[0])


@pytest.mark.parametrize(
    ("line", "family", "why"),
    [
        ("192.0.2.1 dev ens3 scope link", Family.INET, "as dhclient writes it"),
        ("192.0.2.1 dev ens3 scope link src 192.0.2.9 metric 1002", Family.INET, "as dhcpcd does"),
        ("192.0.2.1 dev ens3 proto static scope link", Family.INET, "whichever protocol wrote it"),
        ("2001:db8::1 dev ens3 scope global", Family.INET6, "IPv6 scope is always global"),
    ],
)
def test_the_shape_of_a_host_route_on_a_link(line: str, family: Family, why: str) -> None:
    route = ip_route(line, family)
    assert link_host(route) == (E0, route.prefix.packed), why
    assert leads_to_gateway(
        route, link_gateways([ip_route(f"default via {line.split(maxsplit=1)[0]} dev ens3", family)])
    )


@pytest.mark.parametrize(
    ("line", "family", "why"),
    [
        ("192.0.2.0/24 dev ens3 scope link", Family.INET, "a network"),
        ("192.0.2.1 via 192.0.2.2 dev ens3", Family.INET, "a gateway"),
        ("192.0.2.1 dev ens3 scope global", Family.INET, "no other route could use it"),
        ("local 192.0.2.1 dev ens3 scope link", Family.INET, "not unicast"),
        ("blackhole 192.0.2.1", Family.INET, "no device"),
        ("192.0.2.1 nexthop dev ens3 nexthop dev eth0", Family.INET, "several devices"),
        ("2001:db8::/64 dev ens3", Family.INET6, "a network"),
    ],
)
def test_any_other_shape_is_none(line: str, family: Family, why: str) -> None:
    assert link_host(ip_route(line, family)) is None, why


def test_a_host_route_for_some_sources_is_none() -> None:
    route = ip_route("2001:db8::1 dev ens3", Family.INET6)._replace(source=Prefix.parse("2001:db8:a::/48"))
    assert link_host(route) is None


def test_the_gateway_counts_on_its_own_link_only() -> None:
    route = ip_route("192.0.2.1 dev ens3 scope link")
    assert not leads_to_gateway(route, link_gateways([ip_route("default via 192.0.2.1 dev eth0")]))
    hops = "default nexthop via 192.0.2.7 dev eth0 nexthop via 192.0.2.1 dev ens3"
    assert leads_to_gateway(route, link_gateways([ip_route(hops)])), "any hop counts"


def test_each_gateway_is_new_once() -> None:
    gateways = LinkGateways()
    assert gateways.learn([hop(ROUTER), NextHop(None, E1)]) == [ROUTER]
    assert gateways.learn([hop(ROUTER)]) == []
    assert gateways.learn([hop(ROUTER), hop((E1, ROUTER[1]))]) == [(E1, ROUTER[1])]
    assert gateways.addresses == {ROUTER[1]}


def test_what_is_recognised_stays_so_while_it_exists() -> None:
    gateways = LinkGateways()
    assert not gateways.recognise(ROUTER, "a")
    gateways.learn([hop(ROUTER)])
    assert gateways.recognise(ROUTER, "a")
    assert gateways.recognise(ROUTER, "b")
    gateways.rebuild(set(), {ROUTER}, set())  # the default route is gone
    assert gateways.addresses == set()
    assert gateways.recognise(ROUTER, "a")
    assert gateways.recognise(ROUTER, "b")
    gateways.gone(ROUTER, "a")
    assert gateways.leads_to_gateway(ROUTER), "its twin exists"
    gateways.gone(ROUTER, "b")
    assert not gateways.leads_to_gateway(ROUTER)
    assert gateways.recognised_addresses == set()


def test_a_host_route_that_a_dump_lacks_is_forgotten() -> None:
    gateways = LinkGateways()
    gateways.learn([hop(ROUTER)])
    gateways.recognise(ROUTER, "a")
    gateways.rebuild(set(), set(), {ROUTER[1]})
    assert gateways.leads_to_gateway(ROUTER), "an event while the dump ran knows better"
    gateways.rebuild(set(), set(), set())
    assert not gateways.leads_to_gateway(ROUTER)


def test_an_ipv6_dump_that_misses_something_once_changes_nothing() -> None:
    gateways = LinkGateways()
    gateways.rebuild({ROUTER6}, {ROUTER6}, set())
    assert gateways.recognise(ROUTER6, "a")
    gateways.rebuild({ROUTER6}, {ROUTER6}, set())
    gateways.rebuild(set(), set(), set())
    assert gateways.leads_to_gateway(ROUTER6)
    assert gateways.addresses == {ROUTER6[1]}
    gateways.rebuild(set(), set(), set())
    assert not gateways.leads_to_gateway(ROUTER6)
    assert gateways.addresses == set()


def test_holding_back_ends_in_the_order_in_which_it_began() -> None:
    gateways = LinkGateways()
    other = (E1, ROUTER[1])
    gateways.hold_back(ROUTER, 10.0)
    gateways.hold_back(other, 11.0)
    assert gateways.is_held_back(ROUTER)
    assert gateways.release_at == 10 + HOLD_S
    assert gateways.release(11.9) == []
    gateways.hold_back(ROUTER, 12.0)  # gone, and back
    assert gateways.release(13.0) == [other]
    assert gateways.release_at == 12 + HOLD_S
    assert gateways.release(99.0) == [ROUTER]
    assert not gateways.is_held_back(ROUTER)
    assert gateways.release_at == float("inf")
