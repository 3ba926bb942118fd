"""Damaged datagrams, as answers to dumps and as events: none hangs or ends the follower, and a sound dump heals all."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroute2.netlink import NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)

from routesync.kernel import DecodeError, KernelError
from routesync.kernel.decode import RouteDecoder, decode_details
from routesync.kernel.evaluate import Rules, needs_attributes
from routesync.kernel.netlink import (
    HEADER,
    HEADER_SIZE,
    RTM_DELNEXTHOP,
    RTM_GETNEXTHOP,
    RTM_NEWNEXTHOP,
    DumpRequest,
    NetlinkSocket,
)
from routesync.kernel.query import _DumpMarshal
from routesync.kernel.source import KernelSource
from routesync.names import PROTOCOLS
from routesync.route import Family, Route, Verdict
from support.damage import damaged_bytes, each
from support.route_messages import Attribute, route_body
from support.routes import ip_route

PORT: Final = 4711
MAIN: Final = 254
KEEP, DROP = Verdict(keep=True, rule="default"), Verdict(keep=False, rule="dropped")
ROUTES: Final = [
    ip_route("default via 192.0.2.1 dev ens3 proto dhcp"),
    ip_route("192.0.2.0/24 dev ens3 proto kernel scope link src 192.0.2.9"),
    ip_route("192.0.2.1 dev ens3 proto dhcp scope link src 192.0.2.9"),
    ip_route("10.9.0.0/16 via 192.0.2.2 dev ens3"),
    ip_route("10.9.0.0/16 via 192.0.2.3 dev ens3 metric 50"),
    ip_route(
        "10.8.0.0/16 proto bgp nexthop via 192.0.2.2 dev ens3 weight 1 nexthop via 192.0.2.3 dev cni0 weight 2"
    ),
    ip_route("unreachable 10.7.0.0/16"),
    ip_route("2001:db8::/64 dev ens3 proto kernel", Family.INET6),
    ip_route("2001:db8:9::/64 via fe80::1 dev ens3 metric 20", Family.INET6),
    ip_route("2001:db8:9::/64 via fe80::2 dev cni0 metric 20", Family.INET6),
]


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _message(kind: int, body: bytes, *, sequence: int = 0, port: int = 0) -> bytes:
    return HEADER.pack(HEADER_SIZE + len(body), kind, 0, sequence, port) + body + bytes(-len(body) % 4)


def _with(header: bytes, *attributes: tuple[int, bytes]) -> bytes:
    return header + b"".join(Attribute(*it).encode() for it in attributes)


LINKS: Final = [
    _with(struct.pack("=BxHiII", 0, 1, index, 0x10043, 0), (3, name + b"\0"), (1, bytes(6)))
    for index, name in ((2, b"ens3"), (3, b"cni0"))
]
ADDRESSES: Final = [_with(struct.pack("=4BI", 2, 24, 0, 0, 2), (1, b"\xc0\0\2\x09"), (2, b"\xc0\0\2\x09"))]
NEXTHOPS: Final = [
    _with(struct.pack("=4BI", 2, 0, 0, 0, 0), (1, _number(7)), (5, _number(2)), (6, b"\xc0\0\2\2")),
    _with(struct.pack("=4BI", 2, 0, 0, 0, 0), (1, _number(8)), (2, struct.pack("=IBBH", 7, 0, 0, 0))),
]


def _route_bodies(family: int, routes: Sequence[Route] = ROUTES) -> list[bytes]:
    return [route_body(route) for route in routes if route.prefix.family == family]


BODIES: Final[dict[tuple[int, int], list[bytes]]] = {
    (RTM_NEWLINK, RTM_DELLINK): LINKS,
    (RTM_NEWADDR, RTM_DELADDR): ADDRESSES,
    (RTM_NEWNEXTHOP, RTM_DELNEXTHOP): NEXTHOPS,
    (RTM_NEWROUTE, RTM_DELROUTE): [*_route_bodies(2), *_route_bodies(10)],
}
ALL: Final = [body for bodies in BODIES.values() for body in bodies]
ANSWERS: Final = {RTM_GETLINK: RTM_NEWLINK, RTM_GETADDR: RTM_NEWADDR, RTM_GETNEXTHOP: RTM_NEWNEXTHOP}


class _Named(socket.socket):
    """Stands for a netlink socket: a pair of them, for only root may write to a netlink socket of another."""

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0


class Kernel:
    """The other end: answers each request, soundly or not, and sends events between."""

    def __init__(self, chance: random.Random) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near = _Named(fileno=near.detach())
        self.far = far
        self.far.setblocking(False)
        self.sound = False
        self._chance = chance
        asyncio.get_running_loop().add_reader(self.far, self._answer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.far)
        self.near.close()
        self.far.close()

    def _answer(self) -> None:
        request = self.far.recv(4096)
        _, kind, _, sequence, _ = HEADER.unpack_from(request)
        if kind == RTM_GETROUTE:
            kind, bodies = RTM_NEWROUTE, _route_bodies(request[HEADER_SIZE])
        else:
            kind = ANSWERS[kind]
            bodies = next(found for kinds, found in BODIES.items() if kinds[0] == kind)
        messages = [_message(kind, body, sequence=sequence, port=PORT) for body in bodies]
        datagrams = [b"".join(messages)] if self.sound else [*self._damaged(messages, sequence)]
        done = _message(NLMSG_DONE, _number(0), sequence=sequence, port=PORT)
        for datagram in (*datagrams, done):
            self.far.send(datagram)

    def _damaged(self, messages: list[bytes], sequence: int) -> Iterator[bytes]:
        chance = self._chance
        for message in messages:
            it = message
            if chance.random() < 0.3:
                kind = chance.choice((*sum(BODIES, ()), NLMSG_ERROR, 2, 77))
                it = _message(kind, chance.choice(ALL), sequence=sequence, port=PORT)
            yield damaged_bytes(it, chance, ALL) if chance.random() < 0.5 else it
            while chance.random() < 0.5:
                (new, gone), bodies = chance.choice([*BODIES.items()])
                event = _message(chance.choice((new, gone)), chance.choice(bodies))
                yield damaged_bytes(event, chance, ALL) if chance.random() < 0.5 else event


def _reader(kernel: Kernel, source: KernelSource) -> NetlinkSocket:
    return NetlinkSocket(
        kernel.near,
        on_event=source._event,
        on_overrun=source._overrun,
        on_bad=source._bad,
        on_slice=source._wake_consumer,
    )


def _rules() -> Rules:
    def no_bgp(route: Route, _links: object) -> Verdict:
        return DROP if route.protocol == PROTOCOLS["bgp"] else KEEP

    return Rules(no_bgp, needs_attributes, no_bgp)


async def _follow(chance: random.Random, damaged: int) -> list[Any]:
    """Some damaged dumps, then sound ones; return what is held then."""
    kernel = Kernel(chance)
    source = KernelSource(tables=(MAIN,), rules=_rules(), receive_buffer=2**20, resync_interval_s=3600)
    followed = _reader(kernel, source)
    followed.start()
    try:
        async with asyncio.timeout(20):
            for number in range(damaged + 4):
                kernel.sound = number >= damaged
                source._fib.distrust()
                try:
                    await source._resync(followed, ("start",))
                except KernelError:
                    assert not kernel.sound
                await followed.catch_up()
        return sorted(source._fib.replica.candidates())
    finally:
        followed.stop()
        if source._review is not None:
            source._review.cancel()
        kernel.close()


@cache
def _truth() -> list[Any]:
    return asyncio.run(_follow(random.Random(0), 0))


def attempt_to_follow(chance: random.Random) -> None:
    assert asyncio.run(_follow(chance, 2)) == _truth()


def attempt_to_decode(chance: random.Random) -> None:
    """What was decoded before makes no difference, and nothing but `DecodeError` is raised."""
    used = RouteDecoder(lambda _number: None)
    bodies = _route_bodies(chance.choice((2, 10)))
    for _ in range(4):
        body = damaged_bytes(chance.choice(bodies), chance, bodies)
        found: list[object] = []
        for decoder in (used, RouteDecoder(lambda _number: None)):
            try:
                found.append(decoder.decode(body, 0, len(body)))
            except DecodeError as error:
                found.append(str(error))
        assert found[0] == found[1]
        try:
            decode_details(body, 0, len(body))
        except DecodeError:
            continue


def attempt_to_list(chance: random.Random) -> None:
    """One-off dumps, which pyroute2 reads."""
    kind = chance.choice((RTM_NEWROUTE, RTM_NEWLINK))
    datagram = damaged_bytes(b"".join(_message(kind, body) for body in chance.sample(ALL, 3)), chance, ALL)

    def take(data: bytes, position: int) -> int:
        length, found, *_ = HEADER.unpack_from(data, position)
        return position + (length + 3 & ~3) if found == RTM_NEWROUTE else position

    try:
        assert len([*_DumpMarshal(DumpRequest(RTM_GETROUTE, 2, MAIN), take).parse(datagram)]) == 1
    except DecodeError:
        return


def test_the_sound_dumps_hold_what_the_rules_keep() -> None:
    assert {str(prefix) for prefix, _ in _truth()} == {
        str(route.prefix) for route in ROUTES if route.protocol != PROTOCOLS["bgp"]
    }


quick = settings(suppress_health_check=[HealthCheck.too_slow])


@given(st.integers(0, 2**32))
@quick
@pytest.mark.timeout(60)
def test_no_datagram_hangs_or_ends_the_follower_or_is_believed_for_good(seed: int) -> None:
    each(seed, 1, attempt_to_follow)


@given(st.integers(0, 2**32))
@quick
def test_a_damaged_message_means_the_same_whatever_was_decoded_before(seed: int) -> None:
    each(seed, 20, attempt_to_decode)


@given(st.integers(0, 2**32))
@quick
def test_no_datagram_hangs_a_one_off_dump(seed: int) -> None:
    each(seed, 20, attempt_to_list)


def test_a_dump_passes_over_messages_of_another_kind() -> None:
    """`take` says that it takes no more: what would repeat it for ever goes on behind the message."""
    datagram = _message(RTM_NEWLINK, LINKS[0]) + _message(NLMSG_DONE, _number(0))
    marshal = _DumpMarshal(DumpRequest(RTM_GETROUTE, 2, MAIN), lambda _data, position: position)
    assert [it["header"]["type"] for it in marshal.parse(datagram)] == [NLMSG_DONE]


@pytest.mark.parametrize("end", ["stop", "fail"])
async def test_dumps_under_way_and_in_the_queue_end_with_the_reading(end: str) -> None:
    kernel = Kernel(random.Random(1))
    asyncio.get_running_loop().remove_reader(kernel.far)  # it never answers
    source = KernelSource(tables=(MAIN,), rules=_rules(), receive_buffer=2**20, resync_interval_s=3600)
    followed = _reader(kernel, source)
    followed.start()
    request = DumpRequest(RTM_GETLINK)
    try:
        dumps = [asyncio.create_task(followed.dump(request, lambda _data, at: at)) for _ in range(3)]
        await asyncio.sleep(0)
        if end == "stop":
            followed.stop()
        else:
            followed.failed.set_exception(KernelError("netlink socket: broken"))
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*dumps, return_exceptions=True)
    finally:
        followed.stop()
        kernel.close()
    said = "followed no longer" if end == "stop" else "netlink socket: broken"
    assert [type(it) for it in outcomes] == [KernelError] * 3
    assert all(said in str(it) for it in outcomes)
