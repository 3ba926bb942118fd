"""One full reading, synchronous and complete: what `plan` explains, and `guard` decides by. Needs no privilege."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from routesync.kernel.decode import RTMSG_SIZE, RouteDecoder
from routesync.kernel.details import RouteDetails, decode_details
from routesync.kernel.errors import DecodeError, KernelError
from routesync.kernel.netlink import (
    EMPTY_ERRORS,
    HEADER,
    HEADER_SIZE,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    READ_SIZE,
    SURROUNDINGS,
    DumpRequest,
    Sysctls,
    error_number,
    open_route_socket,
    prepare,
    read_sysctls,
    route_requests,
)
from routesync.kernel.reading import message_build
from routesync.kernel.surroundings import InterfaceAddress, Links, Surroundings
from routesync.route import Address, Prefix, Route

_ATTEMPTS: Final = 5
_PATIENCE_S: Final = 10
_NO_DETAILS: Final = RouteDetails()

_Message: TypeAlias = tuple[int, bytes, int, int]  # type, datagram, where the body starts and ends
_Wanted: TypeAlias = Callable[[bytes, int], bool]


class TableReading(NamedTuple):
    """What the kernel holds: every route of the tables, dropped by no rule, in the kernel's order."""

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


def read_table(
    *,
    tables: Sequence[int],
    netns: str | None = None,
    sock: socket.socket | None = None,
    covering: Iterable[Address] | None = None,
) -> TableReading:
    """Read the tables once.

    IPv6 dumps under churn can miss routes (see `reading`); a single reading cannot know.

    Args:
        tables: routing tables, preferred ones first.
        netns: name or path of another network namespace.
        sock: a bound socket to ask over, instead of opening one; it must not be subscribed to anything.
        covering: only routes whose prefix contains one of these addresses, and only their families; the others are
            passed over by their first bytes, so that a full table costs neither memory nor much time.

    Raises:
        KernelError: no socket, no such namespace, or the kernel does not answer.
    """
    own = sock or open_route_socket(netns)
    try:
        prepare(own)
        surroundings = Surroundings()
        for request in SURROUNDINGS:
            for kind, data, start, end in _dump(own, request):
                surroundings.apply(kind, data, start, end)
        decoder = RouteDecoder(surroundings.resolve)
        wanted = None if covering is None else frozenset(covering)
        found = [
            (route, decode_details(data, start, end))
            for request in route_requests(tuple(dict.fromkeys(tables)))
            for _, data, start, end in _dump_routes(own, request, wanted)
            if (route := decoder.decode(data, start, end)) is not None
            and (wanted is None or any(route.prefix.contains(address) for address in wanted))
        ]
    finally:
        if sock is None:
            own.close()
    addresses = tuple(surroundings.addresses.values())
    return TableReading(
        tuple(route for route, _ in found),
        surroundings.links,
        addresses,
        read_sysctls(netns),
        dict(found),
    )


def _dump_routes(
    sock: socket.socket, request: DumpRequest, covering: frozenset[Address] | None
) -> list[_Message]:
    if covering is None:
        return _dump(sock, request)
    size = 4 if request.family == socket.AF_INET else 16
    addresses = [address for address in covering if len(address) == size]
    return _dump(sock, request, _covering_one_of(addresses, request)) if addresses else []


def _covering_one_of(addresses: Sequence[Address], request: DumpRequest) -> _Wanted:
    """Tell by the first bytes of a route message whether its prefix may contain one of these addresses.

    Where the message is built otherwise than usual (`message_build`) it is let through, to be decoded.
    """
    size = len(addresses[0])
    build = message_build(request.family, request.table)
    networks = {Prefix.of(address, length) for address in addresses for length in range(1, size * 8 + 1)}
    wanted = {(prefix.packed, prefix.length) for prefix in networks}
    first = RTMSG_SIZE + len(build)

    def test(data: bytes, start: int) -> bool:
        length = data[start + 1]
        if not length or data[start + RTMSG_SIZE : start + first] != build:
            return True
        return (data[start + first : start + first + size], length) in wanted

    return test


def _dump(sock: socket.socket, request: DumpRequest, wanted: _Wanted | None = None) -> list[_Message]:
    for attempt in range(_ATTEMPTS):
        whole, messages = _dump_once(sock, request, attempt + 1, wanted)
        if whole:
            return messages
    raise KernelError(f"the kernel's tables change faster than they can be read ({request})")


def _dump_once(
    sock: socket.socket, request: DumpRequest, sequence: int, wanted: _Wanted | None
) -> tuple[bool, list[_Message]]:
    """Ask once; tell whether the answer is consistent, and its messages."""
    messages: list[_Message] = []
    whole = True
    sock.send(request.encode(sequence))
    while True:
        if not select.select([sock], [], [], _PATIENCE_S)[0]:
            raise KernelError(f"the kernel does not answer {request}")
        data = sock.recv(READ_SIZE)
        position = 0
        while position + HEADER_SIZE <= len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, position)
            if length < HEADER_SIZE or position + length > len(data):
                raise DecodeError(f"message of length {length} leads out of its datagram")
            whole = whole and not flags & NLM_F_DUMP_INTR
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                code = error_number(data, position)
                if code and code not in EMPTY_ERRORS:
                    raise KernelError(f"the kernel refuses to list {request}: error {code}")
                return whole, messages
            if wanted is None or wanted(data, position + HEADER_SIZE):
                messages.append((kind, data, position + HEADER_SIZE, position + length))
            position += length + 3 & ~3
