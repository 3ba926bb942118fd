"""The API that the contract suite speaks to: the stand-in, or a real loxilb named by the environment.

Against a real one the suite is careful: it has links with names of its own, waits until loxilb has attached its eBPF
programs to them and detached them again, and removes what it made, also when it is interrupted.

| variable | meaning | example |
|---|---|---|
| ROUTESYNC_LOXILB_URL | base of its API; without it the stand-in is tested | http://192.168.10.20:11111 |
| ROUTESYNC_LOXILB_GATEWAY | an on-link address with its network; the next two are free | 192.168.10.1/24 |
| ROUTESYNC_LOXILB_GATEWAY6 | the same for IPv6; without it those tests are skipped | fd00:10::1/64 |
| ROUTESYNC_LOXILB_NETNS | its namespace, below /run/netns; without it what needs its kernel is skipped | loxilb |
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from support.netns import Namespace, namespace, segment
from support.standin import running_standin

URL_VARIABLE = "ROUTESYNC_LOXILB_URL"
GATEWAY_VARIABLE = "ROUTESYNC_LOXILB_GATEWAY"
GATEWAY6_VARIABLE = "ROUTESYNC_LOXILB_GATEWAY6"
NETNS_VARIABLE = "ROUTESYNC_LOXILB_NETNS"

LINK_PREFIX = "rsct"
"""Links of the suite begin so, and no others."""
ATTACH_S = 7.0
"""A real loxilb needs seconds to attach eBPF to a new link, and exits when the link is gone by then."""
DETACH_S = 3.0

WITHIN_S = 15

Row = dict[str, Any]


class Reply(NamedTuple):
    """What came back: the status, and the body as JSON."""

    status: int
    body: Any

    @property
    def words(self) -> str:
        """The kernel's words in an error."""
        return str(self.body.get("result", ""))


class Place(NamedTuple):
    """Where the API is and what surrounds it."""

    url: URL
    socket: Path | None  # a Unix socket in place of the URL's host
    gateway: ipaddress.IPv4Interface
    gateway6: ipaddress.IPv6Interface | None
    kernel: Namespace | None
    poll_s: float = 0.25  # between two looks at the table: reading while it changes can kill the original
    idle_s: float = 10  # after which it closes a connection that asks nothing
    read_s: float = 30  # in which a request must be whole
    attach_s: float = ATTACH_S  # to wait after a link was made
    detach_s: float = DETACH_S  # to wait after it was deleted


class Target:
    """A client in its plainest form, so that the contract is not read through the program's own eyes."""

    def __init__(self, place: Place, session: aiohttp.ClientSession, posted: set[str]) -> None:
        self.place = place
        self.posted = posted
        """Prefixes that were accepted and not deleted since."""
        self._session = session

    @property
    def gateway(self) -> str:
        """An on-link IPv4 next hop."""
        return str(self.place.gateway.ip)

    @property
    def other_gateway(self) -> str:
        """Another on-link IPv4 next hop; nobody need be there."""
        return str(self.place.gateway.ip + 1)

    @property
    def neighbour(self) -> str:
        """An on-link address that nobody has, and so nobody reaches the API from."""
        return str(self.place.gateway.ip + 2)

    @property
    def broadcast(self) -> str:
        return str(self.place.gateway.network.broadcast_address)

    @property
    def connected(self) -> str:
        """The network that the gateway is in."""
        return str(self.place.gateway.network)

    async def ask(self, method: str, path: str, **arguments: Any) -> Reply:
        url = self.place.url.join(URL(f"/netlox/v1{path}", encoded=True))
        async with self._session.request(method, url, **arguments) as response:
            return Reply(response.status, await response.json(content_type=None))

    async def post(self, destination: str, gateway: str, **more: str) -> Reply:
        body = {"destinationIPNet": destination, "gateway": gateway} | more
        reply = await self.ask("POST", "/config/route", json=body)
        if reply.status == 200:
            self.posted.add(destination)
        return reply

    async def delete(self, prefix: str) -> Reply:
        reply = await self.ask("DELETE", f"/config/route/destinationIPNet/{prefix}")
        if reply.status == 200:
            self.posted.discard(prefix)
        return reply

    async def rows(self) -> list[Row]:
        """Read the table, which on the original is only done when nothing much is being ingested."""
        reply = await self.ask("GET", "/config/route/all")
        assert reply.status == 200
        rows: list[Row] = reply.body["routeAttr"]
        return rows

    async def row(self, prefix: str) -> Row | None:
        found = [row for row in await self.rows() if row["destinationIPNet"] == prefix]
        assert len(found) <= 1, "more than one entry for a prefix"
        return found[0] if found else None

    async def shown(self, prefix: str, **expected: object) -> Row:
        """Wait until GET shows the prefix, with these values."""
        return (
            await self._watch(prefix, lambda row: row is not None and expected.items() <= row.items()) or {}
        )

    async def not_shown(self, prefix: str) -> None:
        """Wait until GET no longer shows the prefix."""
        await self._watch(prefix, lambda row: row is None)

    async def _watch(self, prefix: str, satisfied: Callable[[Row | None], bool]) -> Row | None:
        deadline = time.monotonic() + WITHIN_S
        while not satisfied(row := await self.row(prefix)):
            assert time.monotonic() < deadline, f"{prefix} stayed {row}"
            await asyncio.sleep(self.place.poll_s)
        return row

    async def settled(self, prefix: str) -> None:
        """Wait until all that happened so far was ingested: a route that is posted now, and shown, comes after it."""
        assert (await self.post(prefix, self.gateway)).status == 200
        await self.shown(prefix)
        assert (await self.delete(prefix)).status == 200
        await self.not_shown(prefix)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a bare connection for the length of a `with` block."""
        if self.place.socket is not None:
            reader, writer = await asyncio.open_unix_connection(self.place.socket)
        else:
            reader, writer = await asyncio.open_connection(self.place.url.host, self.place.url.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


class Kernel:
    """The kernel of loxilb's namespace, read and changed behind its back."""

    def __init__(self, space: Namespace, gateway: str) -> None:
        self.ip = space.ip
        self.device: str = json.loads(space.ip(f"-j route get {gateway}"))[0]["dev"]

    def routes(self, prefix: str) -> list[Row]:
        """The main table's routes of exactly this prefix, lowest metric first."""
        family = "-6" if ":" in prefix else "-4"
        routes: list[Row] = json.loads(self.ip(f"-j {family} route show exact {prefix}") or "[]")
        return routes

    @contextmanager
    def link(
        self, place: Place, *, up: bool = True, sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[str]:
        """Make a link of the suite's own for the length of a `with` block; its network is 198.51.100.0/24."""
        name = f"{LINK_PREFIX}{secrets.token_hex(4)}"
        try:
            self.ip(f"link add {name} type veth peer name {name}p")
            self.ip(f"addr add 198.51.100.1/24 brd + dev {name}")
            for link in (f"{name}p", name) if up else ():
                self.ip(f"link set {link} up")
            sleep(place.attach_s)
            yield name
        finally:
            self.ip(f"link del {name}", check=False)
            sleep(place.detach_s)

    def remove_links(self) -> list[str]:
        """Remove the links that an earlier run left, and name them."""
        links = json.loads(self.ip("-j link show type veth"))
        left = [link["ifname"] for link in links if link["ifname"].startswith(LINK_PREFIX)]
        for name in left:
            self.ip(f"link del {name}", check=False)  # with its peer
        return left


def real_place() -> Place | None:
    """The loxilb that the environment names; None: it names none.

    Raises:
        ValueError: one variable needs another, or says something else than an address.
    """
    url, gateway = os.environ.get(URL_VARIABLE), os.environ.get(GATEWAY_VARIABLE)
    if url is None:
        return None
    if gateway is None:
        raise ValueError(f"{URL_VARIABLE} needs {GATEWAY_VARIABLE} beside it, such as 192.168.10.1/24")
    gateway6, netns = os.environ.get(GATEWAY6_VARIABLE), os.environ.get(NETNS_VARIABLE)
    return Place(
        url=URL(url),
        socket=None,
        gateway=ipaddress.IPv4Interface(gateway),
        gateway6=None if gateway6 is None else ipaddress.IPv6Interface(gateway6),
        kernel=None if netns is None else Namespace(netns),
    )


def delete_routes(place: Place, prefixes: Collection[str]) -> None:
    """Delete what the suite posted and did not delete; without an event loop, for the way out.

    Raises:
        RuntimeError: the API does not answer; the message names what is left.
    """
    if place.kernel is not None:
        for prefix in prefixes:
            place.kernel.ip(f"route del {prefix}", check=False)
        return
    connection = http.client.HTTPConnection(place.url.host or "", place.url.port or 80, timeout=10)
    left = sorted(prefixes)
    with closing(connection):
        try:
            while left:
                connection.request("DELETE", f"/netlox/v1/config/route/destinationIPNet/{left[-1]}")
                connection.getresponse().read()
                left.pop()
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeError(f"{place.url}: {error}; these routes are left there: {left}") from error


@contextmanager
def standin_place(*arguments: str, idle_s: float = 10, read_s: float = 30) -> Iterator[Place]:
    """A stand-in in a namespace of its own, with one neighbour on the other end of a link."""
    with ExitStack() as stack:
        space = stack.enter_context(namespace("loxilb"))
        stack.enter_context(segment((space, "ens3", 20)))
        timeouts = ("--idle-timeout", str(idle_s), "--read-timeout", str(read_s))
        standin = stack.enter_context(
            running_standin(space, "--listen", "none", "--fragile", "off", *timeouts, *arguments)
        )
        yield Place(
            url=URL("http://loxilb"),
            socket=standin.socket,
            gateway=ipaddress.IPv4Interface("192.168.10.1/24"),
            gateway6=ipaddress.IPv6Interface("fd00:10::1/64"),
            kernel=space,
            poll_s=0.02,
            idle_s=idle_s,
            read_s=read_s,
            attach_s=0,
            detach_s=0,
        )
