"""Bytes that are no messages, sent to the source's own socket: they cost a resync, and nothing else."""

from __future__ import annotations

import random
import socket
import struct

from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_NEWLINK, RTM_NEWROUTE

from routesync.kernel import BadMessage
from routesync.kernel.netlink import (
    HEADER,
    RTM_NEWNEXTHOP,
    open_route_socket,
)
from support.following import following
from support.netns import Namespace
from support.waiting import eventually

ROUTES = [f"10.9.{i}.0/24" for i in range(20)]


def message(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    size = HEADER.size + len(body) if length is None else length
    return HEADER.pack(size, kind, 0, 0, 0) + body


def announcement() -> bytes:
    """10.9.3.0/24 via 192.0.2.2, as the kernel would write it, but for its gateway."""
    header = struct.pack("=8BI", socket.AF_INET, 24, 0, 0, 254, 3, 0, 1, 0)
    attributes = struct.pack("=HHI", 8, 15, 254) + struct.pack("=HH4B", 8, 1, 10, 9, 3, 0)
    return header + attributes + struct.pack("=HH", 6, 5) + b"\xc0\0\0\0"


async def test_a_message_that_cannot_be_read_costs_one_resync_and_is_logged_once(node: Namespace) -> None:
    node.batch([f"route add {prefix} via 192.0.2.2" for prefix in ROUTES])
    with open_route_socket(node.name) as sock, open_route_socket(node.name) as forger:
        async with following(node, sock=sock) as follower:
            stats = follower.source.stats
            for _ in range(3):
                forger.sendto(message(RTM_NEWROUTE, announcement()), (sock.getsockname()[0], 0))
            await eventually(lambda: stats.resyncs["bad message"] == 1)
            assert stats.bad_messages == 3
            assert [report for report in follower.reports if isinstance(report, BadMessage)] == [
                BadMessage("gateway of 2 bytes in family 2")
            ]
            assert [len(follower.routes(prefix)) for prefix in ROUTES] == [1] * len(ROUTES)


async def test_no_bytes_at_all_end_the_source_or_its_truth(node: Namespace) -> None:
    node.batch([f"route add {prefix} via 192.0.2.2" for prefix in ROUTES])
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kinds = (RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWLINK, RTM_NEWNEXTHOP, 2, 3, 77)
    with open_route_socket(node.name) as sock, open_route_socket(node.name) as forger:
        async with following(node, sock=sock) as follower:
            stats = follower.source.stats
            for _ in range(2000):
                body = bytearray(announcement()) if chance.random() < 0.5 else bytearray(chance.randbytes(60))
                for _ in range(chance.randrange(4)):
                    body[chance.randrange(len(body))] = chance.randrange(256)
                length = chance.choice((None, None, 0, 15, 17, 4096, 0xFFFFFFFF))
                datagram = message(chance.choice(kinds), bytes(body), length=length)
                forger.sendto(datagram[: chance.randrange(1, len(datagram) + 1)], (sock.getsockname()[0], 0))
                if chance.random() < 0.05:
                    await eventually(lambda: True)  # a turn of the loop
            await eventually(lambda: stats.bad_messages > 500)
            for _ in range(2):  # what a dump lacks is believed the second time
                before = stats.resyncs["asked for"]
                follower.source.request_resync("asked for")
                await eventually(lambda: stats.resyncs["asked for"] > before)  # noqa: B023
            wanted = {*ROUTES, "192.0.2.0/24", "198.51.100.0/24"}

            def held() -> set[str]:
                return {str(route.prefix) for route in follower.routes() if len(route.prefix.packed) == 4}

            await eventually(lambda: held() == wanted)
            node.ip("route del 10.9.7.0/24")
            await eventually(lambda: held() == wanted - {"10.9.7.0/24"})
