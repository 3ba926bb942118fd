"""GET /config/route/all: what it shows, and what it goes on showing."""

from __future__ import annotations

import ipaddress

import pytest

from support.contract import Kernel, Target


async def test_posted_route_has_all_its_fields(target: Target, prefix: str) -> None:
    await target.post(prefix, target.gateway, protocol="static")
    row = await target.shown(prefix)
    assert isinstance(row.pop("hardwareMark"), int)
    row.pop("sync", None)
    assert row == {
        "destinationIPNet": prefix,
        "flags": "Ind",
        "gateway": target.gateway,
        "protocol": "static",
        "statistic": {"bytes": 0, "packets": 0},
    }


async def test_posted_ipv6_route(target: Target, prefix6: str, gateway6: str) -> None:
    await target.post(prefix6, gateway6, protocol="static")
    await target.shown(prefix6, flags="Ind", gateway=gateway6, protocol="static")


async def test_deleted_route_goes(target: Target, prefix: str) -> None:
    await target.post(prefix, target.gateway)
    await target.shown(prefix, protocol="boot")
    await target.delete(prefix)
    await target.not_shown(prefix)


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [("unspec", "unspec"), ("redirect", "redirect"), ("kernel", "kernel"), ("dhcp", "16"), ("bgp", "186")],
)
async def test_protocol_is_a_word_up_to_four_and_digits_above(
    target: Target, kernel: Kernel, prefix: str, protocol: str, shown: str
) -> None:
    kernel.ip(f"route add {prefix} via {target.gateway} proto {protocol}")
    await target.shown(prefix, protocol=shown)


async def test_ecmp_gateways_are_joined_by_commas(target: Target, kernel: Kernel, prefix: str) -> None:
    kernel.ip(f"route add {prefix} nexthop via {target.gateway} nexthop via {target.other_gateway}")
    await target.shown(prefix, gateway=f"{target.gateway},{target.other_gateway}")


async def test_own_addresses_and_their_networks_are_self(target: Target, kernel: Kernel) -> None:
    rows = {row["destinationIPNet"]: row for row in await target.rows()}
    connected = rows[target.connected]
    assert (connected["flags"], connected["protocol"]) == ("Self", "unspec")
    assert "gateway" not in connected
    (own,) = [
        word
        for word in kernel.ip(f"-4 -o addr show dev {kernel.device}").split()
        if "/" in word and ipaddress.ip_interface(word) in ipaddress.ip_network(target.connected)
    ]
    assert rows[own.split("/")[0] + "/32"]["flags"] == "Self"


async def test_own_ipv6_address_leaves_a_bogus_row_of_length_32(
    target: Target, flapping_link: str, kernel: Kernel
) -> None:
    kernel.ip(f"addr add 2001:db9:0:1::1/64 dev {flapping_link} nodad")
    await target.shown("2001:db9::/32", flags="Self")


async def test_neighbour_is_a_host_route_to_itself(
    target: Target, flapping_link: str, kernel: Kernel
) -> None:
    kernel.ip(f"neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev {flapping_link}")
    await target.shown("198.51.100.7/32", flags="Ind Host", gateway="198.51.100.7", protocol="unspec")


async def test_gateway_of_a_route_becomes_a_neighbour(
    target: Target, flapping_link: str, prefix: str
) -> None:
    assert flapping_link
    assert (await target.post(prefix, "198.51.100.9")).status == 200
    await target.shown("198.51.100.9/32", flags="Ind Host", gateway="198.51.100.9")


async def test_dhcp_host_route_is_shown_as_an_interface_route(
    target: Target, flapping_link: str, kernel: Kernel
) -> None:
    kernel.ip(f"route add 198.51.100.3 dev {flapping_link} proto dhcp scope link metric 100")
    await target.shown("198.51.100.3/32", flags="Ind Host Interface", gateway="198.51.100.3")


async def test_broadcast_address_of_a_link_that_came_up_is_shown(target: Target, flapping_link: str) -> None:
    assert flapping_link
    await target.shown("198.51.100.255/32")


async def test_one_entry_for_a_prefix_and_the_last_event_wins(
    target: Target, kernel: Kernel, prefix: str
) -> None:
    await target.post(prefix, target.gateway)
    await target.shown(prefix, gateway=target.gateway)
    kernel.ip(f"route add {prefix} via {target.other_gateway} metric 100")
    await target.shown(prefix, gateway=target.other_gateway)


async def test_prefix_vanishes_with_the_first_of_several_metrics(
    target: Target, kernel: Kernel, prefix: str
) -> None:
    kernel.ip(f"route add {prefix} via {target.other_gateway} metric 100")
    await target.post(prefix, target.gateway)
    await target.shown(prefix, gateway=target.gateway)
    await target.delete(prefix)
    await target.not_shown(prefix)
    assert len(kernel.routes(prefix)) == 1


async def test_other_tables_are_not_shown(target: Target, kernel: Kernel, prefix: str) -> None:
    kernel.ip(f"route add {prefix} via {target.gateway} table 100")
    try:
        await target.settled("198.19.2.0/24")
        assert await target.row(prefix) is None
    finally:
        kernel.ip(f"route del {prefix} table 100")


async def test_link_flap_leaves_a_stale_entry_and_post_then_delete_cures_it(
    target: Target, flapping_link: str, kernel: Kernel, prefix: str
) -> None:
    await target.post(prefix, "198.51.100.2", protocol="static")
    await target.shown(prefix)
    kernel.ip(f"link set {flapping_link} down")
    kernel.ip(f"link set {flapping_link} up")
    await target.settled("198.19.3.0/24")
    assert kernel.routes(prefix) == []
    assert await target.row(prefix) is not None
    assert (await target.delete(prefix)).status == 404
    assert await target.row(prefix) is not None
    assert (await target.post(prefix, "198.51.100.2", protocol="static")).status == 200
    assert (await target.delete(prefix)).status == 200
    await target.not_shown(prefix)


async def test_post_fails_while_our_route_exists_when_the_on_link_address_has_gone(
    target: Target, flapping_link: str, kernel: Kernel, prefix: str
) -> None:
    kernel.ip(f"addr add 203.0.113.1/24 dev {flapping_link}")
    assert (await target.post(prefix, "203.0.113.2")).status == 200
    kernel.ip(f"addr del 203.0.113.1/24 dev {flapping_link}")
    reply = await target.post(prefix, "203.0.113.2")
    assert (reply.status, reply.words) == (500, "network is unreachable")
    assert len(kernel.routes(prefix)) == 1


async def test_removal_of_an_address_leaves_a_stale_entry(
    target: Target, flapping_link: str, kernel: Kernel, prefix: str
) -> None:
    await target.post(prefix, "198.51.100.2")
    await target.shown(prefix)
    kernel.ip(f"addr del 198.51.100.1/24 dev {flapping_link}")
    await target.settled("198.19.4.0/24")
    assert kernel.routes(prefix) == []
    assert await target.row(prefix) is not None
