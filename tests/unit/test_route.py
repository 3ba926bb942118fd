"""The values that routes are made of."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.route import (
    Address,
    Candidate,
    Family,
    HopFlag,
    NextHop,
    Prefix,
    Rewrite,
    Verdict,
    address_family,
    flag_names,
    format_address,
    is_link_local,
    is_multicast,
    parse_address,
    past_throws,
)
from support.routes import ip_route

addresses = st.ip_addresses().filter(lambda it: it.version == 4 or it.ipv4_mapped is None)
prefixes = addresses.flatmap(
    lambda it: st.integers(0, it.max_prefixlen).map(
        lambda length: ipaddress.ip_network((it, length), strict=False)
    )
)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@given(addresses)
def test_addresses_are_read_and_written_as_people_do(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    packed = parse_address(str(address))
    assert packed == address.packed
    assert ipaddress.ip_address(format_address(packed)) == address
    assert address_family(packed).label == f"ipv{address.version}"
    assert is_multicast(packed) == address.is_multicast
    assert is_link_local(packed) == address.is_link_local


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.0/8", "host", "1:2"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        parse_address(text)


@given(prefixes)
def test_prefixes_are_read_and_written_in_cidr_form(network: Network) -> None:
    prefix = Prefix.parse(str(network))
    assert (prefix.packed, prefix.length) == (network.network_address.packed, network.prefixlen)
    assert ipaddress.ip_network(str(prefix)) == network
    assert prefix.is_host == (network.prefixlen == network.max_prefixlen)
    assert prefix.is_default == (network.prefixlen == 0)
    assert prefix.family.bits == network.max_prefixlen


@given(prefixes, prefixes)
def test_one_prefix_covers_another(one: Network, other: Network) -> None:
    expected = (
        one.version == other.version and one.prefixlen <= other.prefixlen and other.network_address in one
    )
    assert Prefix.parse(str(one)).covers(Prefix.parse(str(other))) == expected


def test_covering_near_the_edges() -> None:
    default, network, host = map(Prefix.parse, ("0.0.0.0/0", "10.0.0.0/8", "10.255.255.255"))
    assert default.covers(network)
    assert network.covers(network)
    assert network.covers(host)
    assert not host.covers(network)
    assert not Prefix.parse("::/0").covers(network)
    assert not Prefix.parse("::/0").contains(parse_address("10.0.0.1"))


def test_host_bits_are_an_error_that_says_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'10\.1\.2\.3/8' has host bits set; did you mean 10\.0\.0\.0/8\?"):
        Prefix.parse("10.1.2.3/8")


def test_what_is_no_prefix() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.0/33' is not a prefix"):
        Prefix.parse("10.0.0.0/33")


def test_default_is_that_of_ipv4() -> None:
    assert str(Prefix.parse("default")) == "0.0.0.0/0"


def test_prefixes_in_the_order_for_people() -> None:
    ordered = ["0.0.0.0/0", "9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "::/0", "2001:db8::/32"]
    assert [str(p) for p in sorted(map(Prefix.parse, reversed(ordered)), key=lambda p: p.sort_key)] == ordered


def test_flags_have_names() -> None:
    assert flag_names(0) == []
    assert flag_names(HopFlag.LINKDOWN | HopFlag.DEAD) == ["dead", "linkdown"]


def test_dead_and_linkdown_hops_of_several_do_not_count() -> None:
    route = ip_route("10.0.0.0/8 nexthop via 192.0.2.1 dev eth0 dead linkdown nexthop via 192.0.2.2 dev eth1")
    assert route.live_hops == (NextHop(parse_address("192.0.2.2"), 7),)


def test_a_route_that_is_down_keeps_its_hops() -> None:
    one = ip_route("10.0.0.0/8 via 192.0.2.1 dev eth0 linkdown")
    assert one.live_hops == one.hops
    both = ip_route("10.0.0.0/8 nexthop via 192.0.2.1 dev eth0 dead nexthop via 192.0.2.2 dev eth1 linkdown")
    assert both.live_hops == both.hops
    assert len(both.hops) == 2
    assert not any(hop.usable for hop in both.hops)


def test_a_rewrite_has_a_hop_for_each_family() -> None:
    rewrite = Rewrite(inet6=Address(bytes(15) + b"\1"))
    assert rewrite.for_family(Family.INET) is None
    assert rewrite.for_family(Family.INET6) == parse_address("::1")


def candidate(gateway: str, *, table: int = 254, tos: int = 0, source: str | None = None) -> Candidate:
    """One that the rules keep; gateway `throw` is a throw route."""
    throw = gateway == "throw"
    route = ip_route("throw 10.0.0.0/8" if throw else f"10.0.0.0/8 via 192.0.2.{gateway} dev eth0")
    made = route._replace(table=table, tos=tos, source=Prefix.parse(source) if source else None)
    return Candidate(made, Verdict(keep=True, rule="default"))


def order(*candidates: Candidate) -> list[int]:
    """The places that the candidates had, in the order in which the kernel uses them."""
    return [candidates.index(it) for it in past_throws(candidates)]


def test_a_throw_route_goes_behind_the_routes_of_later_tables() -> None:
    assert order(candidate("1"), candidate("2", table=300)) == [0, 1]
    assert order(candidate("throw", table=1), candidate("1", table=254)) == [1, 0]
    earlier = candidate("1", table=1)
    assert order(earlier, candidate("throw", table=1), candidate("2", table=1), candidate("3")) == [
        0,
        3,
        1,
        2,
    ]
    two = (candidate("throw", table=1), candidate("throw", table=2), candidate("3"))
    assert order(*two) == [2, 0, 1]
    assert order(candidate("throw", table=1), candidate("1", table=1)) == [0, 1], "no later table has a route"


def test_a_throw_route_stays_before_routes_for_some_packets_only() -> None:
    specific = candidate("2", source="2001:db8::/48")
    assert order(candidate("throw"), candidate("1", tos=8), specific) == [0, 1, 2]
