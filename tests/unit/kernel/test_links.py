"""Links, addresses and nexthop objects: which event calls for a resync, and what explains that a route is gone."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from routesync.kernel import DecodeError, InterfaceAddress, Link
from routesync.kernel.links import LinkTables, Nexthop, Resolved, decode_address, decode_link, decode_nexthop
from routesync.kernel.netlink import RTM_DELNEXTHOP, RTM_NEWNEXTHOP
from routesync.route import Address, NextHop, Prefix, parse_address
from support.route_messages import Attribute, message

UP = 0x10043  # IFF_UP, IFF_BROADCAST, IFF_RUNNING, IFF_LOWER_UP
DOWN, PROMISCUOUS = 0x1003, UP | 0x100
GATEWAY, OTHER = parse_address("192.0.2.2"), parse_address("192.0.2.3")
OWN = parse_address("192.0.2.1")
ANNOUNCEMENT = {RTM_DELLINK: RTM_NEWLINK, RTM_DELADDR: RTM_NEWADDR, RTM_DELNEXTHOP: RTM_NEWNEXTHOP}


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def link(
    name: str = "e0", flags: int = UP, *, ifindex: int = 2, family: int = 0, mac: bytes = b"", master: int = 0
) -> bytes:
    attributes = [Attribute(1, mac), Attribute(3, name.encode() + b"\0"), Attribute(4, number(1500))]
    if master:
        attributes.append(Attribute(10, number(master)))
    body = struct.pack("=BxHiII", family, 1, ifindex, flags, 0)
    return message(body + b"".join(it.encode() for it in attributes), RTM_NEWLINK)


def address(own: bytes = OWN, length: int = 24, *, peer: bytes | None = None) -> bytes:
    attributes = [Attribute(1, peer or own), Attribute(2, own)]
    body = struct.pack("=4BI", 2 if len(own) == 4 else 10, length, 0, 0, 2)
    return message(body + b"".join(it.encode() for it in attributes), RTM_NEWADDR)


def nexthop(number_: int, *attributes: Attribute, flags: int = 0) -> bytes:
    body = struct.pack("=4BI", 2, 0, 0, 0, flags)
    every = (Attribute(1, number(number_)), *attributes)
    return message(body + b"".join(it.encode() for it in every), RTM_NEWNEXTHOP)


def via(gateway: bytes) -> tuple[Attribute, Attribute]:
    return Attribute(5, number(2)), Attribute(6, gateway)


def group(*members: tuple[int, int]) -> Attribute:
    return Attribute(
        2, b"".join(struct.pack("=IBBH", member, weight - 1, 0, 0) for member, weight in members)
    )


# -- decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False], ids=["pyroute2 decoded one before", "it did not"])
@pytest.mark.parametrize(
    "mac", [bytes.fromhex("02fc00000001"), b"\xc0\0\2\1", bytes(range(16)), b""], ids=len
)
def test_a_link_has_its_whole_link_layer_address(mac: bytes, *, before: bool) -> None:
    if before:
        ifinfmsg(link()).decode()
    assert decode_link(link(mac=mac, master=7)) == Link(2, "e0", UP, mac, 7)


def test_a_name_that_is_no_utf8_can_be_shown() -> None:
    found = decode_link(link().replace(b"e0\0", b"\xff0\0"))
    assert found is not None
    assert found.name == "\\xff0"


def test_what_a_bridge_says_of_its_ports_is_no_link() -> None:
    assert decode_link(link(family=7)) is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (address(), InterfaceAddress(2, OWN, Prefix.parse("192.0.2.0/24"))),
        (
            address(peer=b"\xc6\x33\x64\1", length=32),
            InterfaceAddress(2, OWN, Prefix.parse("198.51.100.1/32")),
        ),
        (
            address(parse_address("2001:db8::1"), 64),
            InterfaceAddress(2, parse_address("2001:db8::1"), Prefix.parse("2001:db8::/64")),
        ),
    ],
    ids=["a network", "a peer", "IPv6"],
)
def test_an_address_connects_to_a_network(raw: bytes, expected: InterfaceAddress) -> None:
    assert decode_address(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (nexthop(7, *via(GATEWAY), flags=4), Nexthop(7, NextHop(GATEWAY, 2, 1, 4))),
        (nexthop(7, Attribute(5, number(2))), Nexthop(7, NextHop(None, 2))),
        (nexthop(7, Attribute(4, b"")), Nexthop(7, None, blackhole=True)),
        (nexthop(7, group((1, 1), (2, 256))), Nexthop(7, None, ((1, 1), (2, 256)))),
        (nexthop(7, *via(GATEWAY), Attribute(7, b"\1\0")), Nexthop(7, NextHop(GATEWAY, 2), encap=True)),
    ],
    ids=["a gateway", "a device", "a blackhole", "a group", "a tunnel"],
)
def test_nexthop_objects(raw: bytes, expected: Nexthop) -> None:
    assert decode_nexthop(raw) == expected


@pytest.mark.parametrize(
    ("decode", "raw"),
    [
        (decode_link, link()[:20]),
        (decode_address, address(length=33)),
        (decode_address, address(b"\xc0\0\2")),
        (decode_nexthop, message(struct.pack("=4BI", 2, 0, 0, 0, 0), RTM_NEWNEXTHOP)),
        (decode_nexthop, nexthop(7, Attribute(2, b"\1\0\0"))),
        (decode_nexthop, nexthop(7, Attribute(6, b"\1\0\0"))),
    ],
    ids=["cut", "a mask too long", "an address too short", "no id", "half a group", "half a gateway"],
)
def test_bad_input_is_one_typed_error(decode: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(raw)


# -- what an event means for routes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "before", "event", "cause", "why"),
    [
        (RTM_NEWLINK, None, link(), None, "no route is over a new link yet"),
        (RTM_NEWLINK, link(), link(), None, "nothing changed"),
        (RTM_NEWLINK, link(), link(flags=PROMISCUOUS), None, "no route depends on it"),
        (RTM_NEWLINK, link(), link(flags=DOWN), "link", "IPv4 routes over it go without an event"),
        (RTM_NEWLINK, link(flags=DOWN), link(), "link", "dead hops revive without an event"),
        (RTM_NEWLINK, link(), link("wan"), "link", "rules match names"),
        (RTM_NEWLINK, link(), link(master=7), "link", "it has joined a bridge"),
        (RTM_DELLINK, link(), link(), "link", "its routes go without an event"),
        (RTM_DELLINK, None, link(), None, "it was not known"),
        (RTM_NEWADDR, None, address(), "address", "dead hops revive without an event"),
        (RTM_NEWADDR, address(), address(), None, "a lifetime was renewed"),
        (
            RTM_DELADDR,
            address(),
            address(),
            "address",
            "routes with this source go, on older kernels silently",
        ),
        (RTM_NEWNEXTHOP, None, nexthop(7, *via(GATEWAY)), None, "no route uses it yet"),
        (
            RTM_NEWNEXTHOP,
            nexthop(7, *via(GATEWAY)),
            nexthop(7, *via(OTHER)),
            "nexthop",
            "routes change with it",
        ),
        (RTM_NEWNEXTHOP, nexthop(7, *via(GATEWAY)), nexthop(7, *via(GATEWAY)), None, "nothing changed"),
        (RTM_DELNEXTHOP, nexthop(7, *via(GATEWAY)), nexthop(7), "nexthop", "IPv4 routes by it go silently"),
    ],
)
def test_events_that_call_for_a_resync(
    kind: int, before: bytes | None, event: bytes, cause: str | None, why: str
) -> None:
    tables = LinkTables()
    if before is not None:
        tables.apply(ANNOUNCEMENT.get(kind, kind), before)
    assert tables.apply(kind, event) == cause, why


@pytest.mark.parametrize(("flags", "cause"), [(UP, None), (DOWN, "link")])
def test_a_message_without_a_name_changes_the_state_of_a_link_alone(flags: int, cause: str | None) -> None:
    """As wireless extensions send it: nothing but IFLA_WIRELESS."""
    nameless = struct.pack("=BxHiII", 0, 1, 2, flags, 0) + Attribute(11, bytes(8)).encode()
    tables = LinkTables()
    assert tables.apply(RTM_NEWLINK, message(nameless)) is None
    assert tables.links == {}
    tables.apply(RTM_NEWLINK, link("wlan0", mac=b"\2\xfc\0\0\0\1", master=7))
    assert tables.apply(RTM_NEWLINK, message(nameless)) == cause
    assert tables.links == {2: Link(2, "wlan0", flags, b"\2\xfc\0\0\0\1", 7)}


OWN6, PEERS6 = parse_address("2001:db8::1"), [parse_address(f"2001:db8::{it}") for it in "23"]


@pytest.mark.parametrize(
    ("first", "second", "networks"),
    [
        (address(), address(length=25), ["192.0.2.0/24", "192.0.2.0/25"]),
        (address(peer=GATEWAY, length=32), address(peer=OTHER, length=32), ["192.0.2.2/32", "192.0.2.3/32"]),
        (address(OWN6, 128, peer=PEERS6[0]), address(OWN6, 128, peer=PEERS6[1]), ["2001:db8::3/128"]),
    ],
    ids=["two masks", "two peers", "another peer of an IPv6 address"],
)
def test_an_ipv4_address_can_be_there_twice(first: bytes, second: bytes, networks: list[str]) -> None:
    tables = LinkTables()
    for message_ in (first, second):
        assert tables.apply(RTM_NEWADDR, message_) == "address"
    assert sorted(str(it.network) for it in tables.addresses.values()) == networks
    assert tables.apply(RTM_DELADDR, second) == "address"
    assert [str(it.network) for it in tables.addresses.values()] == networks[:-1]


def test_messages_of_other_types_are_no_matter() -> None:
    assert LinkTables().apply(28, b"") is None


# -- nexthop objects ---------------------------------------------------------------------------------------------------


def hops(*gateways: tuple[Address, int]) -> tuple[NextHop, ...]:
    return tuple(NextHop(gateway, 2, weight) for gateway, weight in gateways)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([nexthop(7, *via(GATEWAY))], hops((GATEWAY, 1))),
        ([nexthop(7, Attribute(4, b""))], ()),
        ([], None),
        (
            [nexthop(1, *via(GATEWAY)), nexthop(2, *via(OTHER)), nexthop(7, group((1, 3), (2, 1)))],
            hops((GATEWAY, 3), (OTHER, 1)),
        ),
        ([nexthop(1, *via(GATEWAY)), nexthop(7, group((1, 3)))], hops((GATEWAY, 1))),
        ([nexthop(1, *via(GATEWAY)), nexthop(7, group((1, 1), (2, 1)))], None),
    ],
    ids=["one hop", "a blackhole", "unknown", "a group", "a group of one has no weight", "an unknown member"],
)
def test_the_hops_of_a_nexthop_object(objects: list[bytes], expected: tuple[NextHop, ...] | None) -> None:
    tables = LinkTables()
    for raw in objects:
        tables.apply(RTM_NEWNEXTHOP, raw)
    assert tables.resolve(7) == (None if expected is None else Resolved(expected, encap=False))


@pytest.mark.parametrize(
    ("ifindex", "source", "nexthop_id", "explained"),
    [
        (2, None, 0, False),
        (3, None, 0, True),
        (9, None, 0, True),
        (0, None, 0, False),
        (2, OWN, 0, False),
        (2, OTHER, 0, True),
        (2, None, 7, False),
        (2, None, 8, True),
    ],
    ids=[
        "its link is up",
        "its link is down",
        "its link is gone",
        "a blackhole",
        "its source is ours",
        "its source is gone",
        "its nexthop object exists",
        "its nexthop object is gone",
    ],
)
def test_what_explains_that_a_dump_lacks_a_route(
    ifindex: int, source: Address | None, nexthop_id: int, *, explained: bool
) -> None:
    tables = LinkTables()
    for kind, raw in (
        (RTM_NEWLINK, link()),
        (RTM_NEWLINK, link("e1", DOWN, ifindex=3)),
        (RTM_NEWADDR, address()),
        (RTM_NEWNEXTHOP, nexthop(7, *via(GATEWAY))),
    ):
        tables.apply(kind, raw)
    assert tables.explains_absence((NextHop(None, ifindex),), source, nexthop_id) is explained
