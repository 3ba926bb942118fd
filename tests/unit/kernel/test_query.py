"""Routes picked out of a dump, by messages as the kernel writes them, without a kernel."""

from __future__ import annotations

import struct

import pytest
from pyroute2.netlink import NLM_F_DUMP_INTR, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETROUTE

from routesync.kernel import DecodeError, KernelError
from routesync.kernel.decode import RouteDecoder
from routesync.kernel.netlink import HEADER, DumpRequest
from routesync.kernel.query import Lookup, _DumpMarshal
from routesync.route import Family, Prefix, Route
from support.route_messages import message, route_body
from support.routes import ip_route

TABLE = [
    "default via 192.0.2.1 dev ens3",
    "10.0.0.0/8 via 192.0.2.2 dev ens3",
    "10.9.0.0/16 via 192.0.2.2 dev ens3 metric 10",
    "10.9.0.0/16 via 192.0.2.3 dev ens3 metric 20",
    "10.9.1.0/24 via 192.0.2.2 dev ens3",
    "10.9.1.7 dev ens3 scope link",
    "10.8.0.0/16 via 192.0.2.2 dev ens3",
]
DUMP = b"".join(message(route_body(ip_route(line))) for line in TABLE)
REQUEST = DumpRequest(RTM_GETROUTE, Family.INET, 254)


def looked_up(data: bytes, *covering: str) -> list[tuple[str, int]]:
    found: list[Route] = []
    prefixes = tuple(map(Prefix.parse, covering)) or None
    lookup = Lookup(RouteDecoder(lambda _: None), lambda route, _details: found.append(route), prefixes)
    assert lookup.feed(data, 0) == len(data)
    assert not lookup.bad
    return [(str(route.prefix), route.metric) for route in found]


@pytest.mark.parametrize(
    ("covering", "expected"),
    [
        (
            ["10.9.1.0/24"],
            ["0.0.0.0/0 0", "10.0.0.0/8 0", "10.9.0.0/16 10", "10.9.0.0/16 20", "10.9.1.0/24 0"],
        ),
        (["10.8.0.0/16"], ["0.0.0.0/0 0", "10.0.0.0/8 0", "10.8.0.0/16 0"]),
        (["10.8.1.1", "11.0.0.0/8"], ["0.0.0.0/0 0", "10.0.0.0/8 0", "10.8.0.0/16 0"]),
        (["default"], ["0.0.0.0/0 0"]),
        (["2001:db8::/32"], []),
    ],
)
def test_only_what_covers_a_prefix_is_found(covering: list[str], expected: list[str]) -> None:
    assert [f"{prefix} {metric}" for prefix, metric in looked_up(DUMP, *covering)] == expected


def test_without_a_prefix_everything_is_found() -> None:
    assert len(looked_up(DUMP)) == len(TABLE)


def test_a_message_that_begins_in_another_way_is_decoded_to_find_out() -> None:
    body = struct.pack("=8BI", 2, 8, 0, 0, 254, 4, 0, 1, 0) + struct.pack("=HH4B", 8, 1, 10, 0, 0, 0)
    assert looked_up(message(body), "10.9.1.0/24") == [("10.0.0.0/8", 0)]
    assert looked_up(message(body), "11.9.1.0/24") == []


def test_a_dump_of_the_other_family_is_not_requested() -> None:
    lookup = Lookup(RouteDecoder(lambda _: None), lambda _route, _details: None, [Prefix.parse("10.0.0.0/8")])
    assert lookup.concerns(REQUEST)
    assert not lookup.concerns(DumpRequest(RTM_GETROUTE, Family.INET6, 254))


def test_what_cannot_be_decoded_is_counted_and_the_rest_found() -> None:
    found: list[Route] = []
    lookup = Lookup(RouteDecoder(lambda _: None), lambda route, _details: found.append(route))
    data = message(b"\2" + bytes(3)) + DUMP
    assert lookup.feed(data, 0) == len(data)
    assert len(lookup.bad) == 1
    assert len(found) == len(TABLE)
    with pytest.raises(DecodeError):
        lookup.feed(DUMP[:-4], 0)


# -- pyroute2's part ---------------------------------------------------------------------------------------------------


def done(kind: int = NLMSG_DONE, code: int = 0, flags: int = NLM_F_MULTI) -> bytes:
    return HEADER.pack(HEADER.size + 4, kind, flags, 1, 1) + struct.pack("=i", -code)


def parsed(*datagrams: bytes) -> tuple[_DumpMarshal, list[dict[str, object]], list[int]]:
    taken: list[int] = []

    def take(data: bytes, position: int) -> int:
        taken.append(position)
        length: int = HEADER.unpack_from(data, position)[0]
        return position + (length + 3 & ~3)

    marshal = _DumpMarshal(REQUEST, take)
    return marshal, [it["header"] for data in datagrams for it in marshal.parse(data)], taken


def test_pyroute2_gets_one_message_for_each_datagram_and_knows_the_last() -> None:
    marshal, headers, taken = parsed(DUMP, DUMP, done())
    assert [header["type"] == NLMSG_DONE for header in headers] == [False, False, True]
    assert len(taken) == 2 * len(TABLE)
    assert marshal.consistent


@pytest.mark.parametrize("flags", [NLM_F_MULTI | NLM_F_DUMP_INTR])
def test_an_interrupted_dump_is_not_consistent(flags: int) -> None:
    assert not parsed(done(flags=flags))[0].consistent
    row = HEADER.pack(HEADER.size, 24, flags, 1, 1)
    assert not parsed(row, done())[0].consistent


@pytest.mark.parametrize("kind", [NLMSG_ERROR, NLMSG_DONE])
@pytest.mark.parametrize(("code", "refused"), [(2, False), (95, False), (22, True), (1, True)])
def test_an_error_that_means_there_are_none_is_none(kind: int, code: int, *, refused: bool) -> None:
    _, (header,), _ = parsed(done(kind, code))
    assert isinstance(header.get("error"), KernelError) is refused


def test_a_broken_datagram_is_one_typed_error() -> None:
    with pytest.raises(DecodeError):
        parsed(DUMP[:-4])
