"""After `catch_up` everything is known that the kernel had announced before, also after a loss."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from routesync.kernel import KernelError, KernelSource, Links, Rules
from routesync.kernel.netlink import open_route_socket
from routesync.route import Family, Route, Verdict
from support.following import MAIN, following, keep_all
from support.netns import Namespace

FAR = "10.9.0.0/24"
DROP = Verdict(keep=False, rule="all")


def drop_all(_route: Route, _links: Links) -> Verdict:
    return DROP


def drop_header(*_header: int) -> Verdict | None:
    return DROP


async def test_what_was_announced_before_is_seen_after_it(node: Namespace) -> None:
    async with following(node) as follower:
        for number in range(50):
            node.ip(f"route add 10.9.{number}.0/24 via 192.0.2.2")  # the loop is blocked meanwhile
            assert not follower.routes(f"10.9.{number}.0/24")
            await follower.source.catch_up()
            assert follower.routes(f"10.9.{number}.0/24")


async def test_a_long_queue_is_read_to_its_end(node: Namespace) -> None:
    async with following(node, receive_buffer=1 << 24) as follower:
        node.batch([f"route add 10.{9 + (i >> 8)}.{i & 255}.0/24 via 192.0.2.2" for i in range(3000)])
        await follower.source.catch_up()
        assert len([it for it in follower.routes() if it.hops[0].gateway]) == 3000
        assert follower.source.stats.overruns == 0


async def test_after_a_loss_it_waits_for_the_resync(node: Namespace) -> None:
    with open_route_socket(node.name) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with following(node, sock=sock, receive_buffer=2048) as follower:
            node.batch([f"route add 10.9.{i}.0/24 via 192.0.2.2" for i in range(200)])
            await follower.source.catch_up()
            assert follower.source.stats.lost > 0
            assert len([it for it in follower.routes() if it.hops[0].gateway]) == 200


def queued(sock: socket.socket) -> int:
    """Bytes of the socket's receive queue (SO_MEMINFO, SK_MEMINFO_RMEM_ALLOC)."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 55, 36)[:4], sys.byteorder)


async def test_a_handed_over_socket_that_is_no_longer_read_queues_nothing_and_can_be_read_again(
    node: Namespace,
) -> None:
    with open_route_socket(node.name) as sock:
        for number in range(2):
            async with following(node, sock=sock) as follower:
                node.ip(f"route replace {FAR} via 192.0.2.{number + 2}")
                await follower.source.catch_up()
                assert follower.routes(FAR)[0].hops[0].gateway == bytes((192, 0, 2, number + 2))
                node.batch([f"route add 10.9.{number + 1}.{i} via 192.0.2.2" for i in range(50)])  # unread
            node.batch([f"route add 10.8.{number}.{i} via 192.0.2.2" for i in range(50)])
            assert queued(sock) == 0


async def test_it_waits_for_the_first_dump(node: Namespace) -> None:
    node.ip(f"route add {FAR} via 192.0.2.2")
    source = KernelSource(
        tables=(MAIN,), rules=Rules(keep_all), receive_buffer=1 << 20, resync_interval_s=600, netns=node.name
    )
    with pytest.raises(KernelError, match="not followed now"):
        await source.catch_up()
    running = asyncio.create_task(source.run())
    await asyncio.sleep(0)
    await source.catch_up()
    assert source.synced.is_set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_fails_when_the_source_ends_meanwhile(node: Namespace) -> None:
    source = KernelSource(
        tables=(MAIN,), rules=Rules(keep_all), receive_buffer=1 << 20, resync_interval_s=600, netns=node.name
    )
    running = asyncio.create_task(source.run())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(source.catch_up())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(KernelError, match="no longer"):
        await waiting
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("tables", [(MAIN,), (77,)], ids=["main is read", "main is not read"])
async def test_a_route_that_was_made_in_the_main_table_is_shown_whatever_the_rules(
    node: Namespace, tables: tuple[int, ...]
) -> None:
    async with following(node, evaluate=drop_all, evaluate_header=drop_header, tables=tables) as follower:

        def made() -> list[str]:
            """Those of this test: IPv6 makes routes of its own when a link comes up, some time later."""
            return [str(it.prefix) for it in follower.created if it.prefix.family is Family.INET]

        for number in range(50):
            node.ip(f"route add 10.9.{number}.0/24 via 192.0.2.2 proto static")
            await follower.source.catch_up()
            assert made() == [f"10.9.{at}.0/24" for at in range(number + 1)]
        node.ip(f"route replace {FAR} via 192.0.2.3 proto static")
        node.ip("route add 10.8.0.0/24 via 192.0.2.2 table 99")
        await follower.source.catch_up()
        assert len(made()) == 50


async def test_another_table_can_be_looked_up(node: Namespace) -> None:
    node.ip(f"route add {FAR} via 192.0.2.2")
    async with following(node, tables=(77,)) as follower:
        found: list[Route] = []
        assert await follower.source.look_up(lambda route, _: found.append(route), tables=(MAIN,))
        assert FAR in [str(it.prefix) for it in found]
