"""One-off dumps and look-ups, through pyroute2 or over the event socket. They need no privilege.

`dump_tables` opens a socket for the occasion, for `plan`, `doctor` and `guard`. `Lookup` picks the routes that are
asked for out of any dump; the daemon uses it over its event socket (`KernelSource.look_up`), because a socket that was
handed over may live in a namespace in which no other can be opened.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from pyroute2.iproute import AsyncIPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTI, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_NEWROUTE
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from routesync.kernel.decode import (
    DST_INET,
    DST_INET6,
    RTMSG_SIZE,
    RouteDecoder,
    RouteDetails,
    decode_details,
)
from routesync.kernel.errors import DecodeError, KernelError
from routesync.kernel.links import InterfaceAddress, Links, LinkTables
from routesync.kernel.netlink import (
    EMPTY_ERRORS,
    HEADER,
    HEADER_SIZE,
    LINK_REQUESTS,
    DumpRequest,
    RawMessage,
    Sysctls,
    Take,
    error_number,
    open_route_socket,
    prepare,
    read_sysctls,
    route_requests,
)
from routesync.route import Prefix, Route

_ATTEMPTS: Final = 5
PATIENCE_S: Final = 10.0
"""How long the kernel may take for an answer."""
_NO_DETAILS: Final = RouteDetails()

TakeRoute = Callable[[Route, Callable[[], RouteDetails]], None]
"""Takes a route, and what decodes its details, if that is called before it returns."""


class TableDump(NamedTuple):
    """What the kernel has: every route of the tables, dropped by no rule, in the kernel's order."""

    routes: tuple[Route, ...]
    links: Links
    addresses: tuple[InterfaceAddress, ...]
    sysctls: Sysctls
    details: Mapping[Route, RouteDetails]  # of routes that differ in nothing else, the last one's

    @property
    def valid(self) -> tuple[Route, ...]:
        """The routes whose lifetime is not over."""
        return tuple(
            route for route in self.routes if not self.details.get(route, _NO_DETAILS).expired(route)
        )


class Lookup:
    """Picks routes out of a dump, one by one: of a table of a million routes, only these are decoded.

    Args:
        decoder: decodes route messages.
        take: called with each route, in the kernel's order.
        covering: only routes whose prefix covers one of these; None: all.
    """

    def __init__(
        self, decoder: RouteDecoder, take: TakeRoute, covering: Iterable[Prefix] | None = None
    ) -> None:
        self.bad: list[DecodeError] = []
        """One for each message that could not be decoded."""
        self._decoder = decoder
        self._take = take
        self._networks: frozenset[tuple[bytes, int]] | None = None
        if covering is not None:
            self._networks = frozenset(
                prefix.cut(length) for prefix in covering for length in range(prefix.length + 1)
            )

    def concerns(self, request: DumpRequest) -> bool:
        """Whether a dump can have anything that is asked for."""
        size = 4 if request.family == socket.AF_INET else 16
        return self._networks is None or (bytes(size), 0) in self._networks

    def feed(self, data: bytes, position: int) -> int:
        """Take the routes of one datagram, from a position on.

        Returns:
            The position of the first message that is no route.

        Raises:
            DecodeError: the datagram's structure is broken.
        """
        end = len(data)
        while position + HEADER_SIZE <= end:
            length, kind, _, _, _ = HEADER.unpack_from(data, position)
            if length < HEADER_SIZE or position + length > end:
                raise DecodeError(f"message of length {length} exceeds its datagram")
            if kind != RTM_NEWROUTE:
                break
            if self._networks is None or self._may_be_wanted(self._networks, data, position + HEADER_SIZE):
                self._decode(data, position + HEADER_SIZE, position + length)
            position += length + 3 & ~3
        return position

    @staticmethod
    def _may_be_wanted(networks: frozenset[tuple[bytes, int]], data: bytes, start: int) -> bool:
        """Whether to decode a message, by its first bytes; one that begins in another way than usual is decoded."""
        at = start + RTMSG_SIZE + 12
        head = data[at - 4 : at]
        size = 4 if head == DST_INET else 16
        return head not in (DST_INET, DST_INET6) or (data[at : at + size], data[start + 1]) in networks

    def _decode(self, data: bytes, start: int, end: int) -> None:
        try:
            route = self._decoder.decode(data, start, end)
            if route is not None and (self._networks is None or route.prefix in self._networks):
                self._take(route, partial(decode_details, data, start, end))
        except DecodeError as error:
            self.bad.append(error)


@asynccontextmanager
async def route_api(netns: str | None = None) -> AsyncIterator[AsyncIPRoute]:
    """pyroute2's route API in a namespace, for a few requests.

    The socket is ours, because pyroute2's own `netns=` forks the process and creates a namespace that is missing.

    Raises:
        KernelError: no socket, no such namespace, or the kernel does not answer.
    """
    sock = open_route_socket(netns)
    try:
        async with AsyncIPRoute(use_socket=sock) as api:
            yield api
    except TimeoutError:
        raise KernelError("the kernel does not answer a request about its routes") from None
    except OSError as error:
        raise KernelError(f"netlink socket: {error.strerror}") from error
    finally:
        sock.close()


async def dump_tables(
    *, tables: Sequence[int], netns: str | None = None, covering: Iterable[Prefix] | None = None
) -> TableDump:
    """Dump the tables once.

    IPv6 dumps under churn can miss routes (see `dump`); a single dump cannot know.

    Args:
        tables: routing tables, preferred ones first.
        netns: name or path of another network namespace.
        covering: only routes whose prefix covers one of these prefixes, and only their families; the others are passed
            over by their first bytes, so that a full table costs neither memory nor much time.

    Raises:
        KernelError: no socket, no such namespace, or the kernel does not answer.
    """
    wanted = None if covering is None else tuple(covering)
    async with route_api(netns) as api:
        prepare(api)
        for _ in range(_ATTEMPTS):
            dump = await _dump_once(api, tuple(dict.fromkeys(tables)), wanted, read_sysctls(netns))
            if dump is not None:
                return dump
    raise KernelError("the kernel's tables change faster than they can be dumped")


def dump_tables_sync(*, tables: Sequence[int], netns: str | None = None) -> TableDump:
    """Dump the tables where no event loop runs: see `dump_tables`."""
    dumps: list[TableDump] = []

    async def collect() -> None:
        dumps.append(await dump_tables(tables=tables, netns=netns))

    # Not by its result: asyncio.run() makes the repr of that, which takes longer than the dump (signal.getsignal()).
    asyncio.run(collect())
    return dumps[0]


async def _dump_once(
    api: AsyncIPRoute, tables: tuple[int, ...], covering: Iterable[Prefix] | None, sysctls: Sysctls
) -> TableDump | None:
    """Dump everything; None: it is not consistent."""
    links = LinkTables()
    found: list[tuple[Route, RouteDetails]] = []

    def take_link(data: bytes, position: int) -> int:
        length: int
        length, kind, _, _, _ = HEADER.unpack_from(data, position)
        links.apply(kind, data[position : position + length])
        return position + (length + 3 & ~3)

    lookup = Lookup(
        RouteDecoder(links.resolve), lambda route, details: found.append((route, details())), covering
    )
    dumps = [(request, take_link) for request in LINK_REQUESTS]
    dumps += [(request, lookup.feed) for request in route_requests(tables) if lookup.concerns(request)]
    for request, take in dumps:
        if not await _dump(api, request, take):
            return None
    if lookup.bad:
        raise lookup.bad[0]
    routes = tuple(route for route, _ in found)
    return TableDump(routes, links.links, tuple(links.addresses.values()), sysctls, dict(found))


async def _dump(api: AsyncIPRoute, request: DumpRequest, take: Take) -> bool:
    """Request a dump and feed its messages to `take`; return whether it is consistent."""
    marshal = _DumpMarshal(request, take)
    api.set_marshal(marshal)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE_S) as limit:
        async for _ in await api.nlm_request(
            RawMessage(request.body()), request.message_type, NLM_F_REQUEST | NLM_F_DUMP
        ):
            limit.reschedule(loop.time() + PATIENCE_S)
    return marshal.consistent


class _DumpMarshal(MarshalRtnl):  # type: ignore[misc]
    """Hands datagrams on as they are: routes to our own decoder, without an object for each that nobody asked for.

    And it looks at what pyroute2's own leaves out: NLM_F_DUMP_INTR, and the error of an NLMSG_DONE.
    """

    def __init__(self, request: DumpRequest, take: Take) -> None:
        super().__init__()
        self.consistent = True
        self._request = request
        self._take = take

    def parse(self, data: bytes, *_: object) -> Iterator[dict[str, dict[str, Any]]]:
        """Give pyroute2 one message for each datagram; the type of the last one is NLMSG_DONE."""
        position = 0
        header: dict[str, Any] = {"type": RTM_NEWROUTE, "flags": NLM_F_MULTI}
        while position + HEADER_SIZE <= len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, position)
            if length < HEADER_SIZE or position + length > len(data):
                raise DecodeError(f"message of length {length} exceeds its datagram")
            if flags & NLM_F_DUMP_INTR:
                self.consistent = False
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                header["type"] = NLMSG_DONE
                code = error_number(data, position)
                if code and code not in EMPTY_ERRORS:
                    header["error"] = KernelError(f"the kernel refuses to list {self._request}: error {code}")
                break
            if (taken := self._take(data, position)) > position:
                position = taken
            else:  # not of the kind that was asked for: passed over
                position += length + 3 & ~3
        yield {"header": header}
