"""loxilb's table as the stand-in keeps it: what each event does to it."""

from __future__ import annotations

import ipaddress

import pytest

from standin.addresses import Address
from standin.requests import parse_cidr
from standin.rtnl import Hop
from standin.table import Entry, RouteTable

ENS3, ENS4 = 3, 4
STATIC = 4


@pytest.fixture
def table() -> RouteTable:
    return RouteTable()


def _address(text: str) -> Address:
    return Address(ipaddress.ip_address(text).packed)


def _via(gateway: str, ifindex: int = ENS3) -> tuple[Hop, ...]:
    return (Hop(_address(gateway), ifindex),)


def _on(ifindex: int) -> tuple[Hop, ...]:
    return (Hop(None, ifindex),)


def _shown(table: RouteTable) -> dict[str, str]:
    return {str(entry.prefix): entry.flags for entry in table.entries()}


def _entry(table: RouteTable, prefix: str) -> Entry:
    (found,) = [entry for entry in table.entries() if entry.prefix == parse_cidr(prefix)]
    return found


def test_route_brings_its_gateway_as_a_neighbour(table: RouteTable) -> None:
    table.add_route(parse_cidr("10.1.0.0/16"), STATIC, _via("192.0.2.1"))
    assert _shown(table) == {"10.1.0.0/16": "Ind", "192.0.2.1/32": "Ind Host"}


def test_removed_route_leaves_its_neighbour(table: RouteTable) -> None:
    table.add_route(parse_cidr("10.1.0.0/16"), STATIC, _via("192.0.2.1"))
    table.remove_route(parse_cidr("10.1.0.0/16"))
    assert _shown(table) == {"192.0.2.1/32": "Ind Host"}


def test_equal_gateway_keeps_the_entry_and_its_protocol(table: RouteTable) -> None:
    table.add_route(parse_cidr("10.1.0.0/16"), STATIC, _via("192.0.2.1"))
    mark = _entry(table, "10.1.0.0/16").mark
    table.add_route(parse_cidr("10.1.0.0/16"), 186, _via("192.0.2.1"))
    entry = _entry(table, "10.1.0.0/16")
    assert (entry.protocol, entry.mark) == (STATIC, mark)


def test_another_gateway_makes_a_new_entry(table: RouteTable) -> None:
    table.add_route(parse_cidr("10.1.0.0/16"), STATIC, _via("192.0.2.1"))
    table.add_route(parse_cidr("10.1.0.0/16"), 186, _via("192.0.2.2"))
    entry = _entry(table, "10.1.0.0/16")
    assert entry.protocol == 186
    assert entry.gateways == (_address("192.0.2.2"),)


def test_host_route_and_neighbour_merge_and_part_again(table: RouteTable) -> None:
    host = parse_cidr("192.0.2.1/32")
    table.add_neighbour(Address(host.packed), ENS3)
    table.add_route(host, 16, _on(ENS3))
    assert _shown(table) == {"192.0.2.1/32": "Ind Host Interface"}
    table.remove_neighbour(Address(host.packed), ENS3)
    assert _shown(table) == {"192.0.2.1/32": "Ind Interface"}
    table.add_neighbour(Address(host.packed), ENS3)
    table.remove_route(host)
    assert _shown(table) == {"192.0.2.1/32": "Ind Host"}
    table.remove_neighbour(Address(host.packed), ENS3)
    assert _shown(table) == {}


def test_device_route_of_a_network_is_self(table: RouteTable) -> None:
    table.add_route(parse_cidr("192.0.2.0/24"), 2, _on(ENS3))
    assert _shown(table) == {"192.0.2.0/24": "Self"}


def test_own_addresses_come_and_go_with_their_networks(table: RouteTable) -> None:
    for address, length in (("192.0.2.20", 24), ("2001:db8:1::20", 64), ("198.51.100.1", 32)):
        table.add_address(ENS3, _address(address), length)
    own = ("192.0.2.0/24", "192.0.2.20/32", "2001:db8:1::/64", "2001:db8::/32", "198.51.100.1/32")
    assert _shown(table) == dict.fromkeys(own, "Self")
    for address, length in (("192.0.2.20", 24), ("2001:db8:1::20", 64), ("198.51.100.1", 32)):
        table.remove_address(ENS3, _address(address), length)
    assert _shown(table) == {}


def test_removed_link_takes_its_routes_neighbours_and_addresses(table: RouteTable) -> None:
    for ifindex, net in ((ENS3, "192.0.2"), (ENS4, "198.51.100")):
        table.add_address(ifindex, _address(f"{net}.20"), 24)
        table.add_route(parse_cidr(f"10.{ifindex}.0.0/16"), STATIC, _via(f"{net}.1", ifindex))
    table.remove_link(ENS3)
    assert set(_shown(table)) == {"198.51.100.0/24", "198.51.100.20/32", "10.4.0.0/16", "198.51.100.1/32"}


def test_marks_are_given_back() -> None:
    small = RouteTable(marks=2)
    for number in range(3):
        small.add_route(parse_cidr(f"10.{number}.0.0/16"), 2, _on(ENS3))
    assert [entry.mark for entry in small.entries()] == [1, 2, -1]
    small.remove_route(parse_cidr("10.0.0.0/16"))
    small.add_route(parse_cidr("10.9.0.0/16"), 2, _on(ENS3))
    assert _entry(small, "10.9.0.0/16").mark == 1
