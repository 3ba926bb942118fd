"""Routes looked up in the kernel itself, dropped ones too, over the socket that the events come by.

Nothing is kept: of a table of a million routes, those that are asked for are decoded and handed on, one by one. So a
look-up costs time, never memory; and it sees the same namespace as the readings do, also where a socket was handed
over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from routesync.kernel.decode import RouteDecoder
from routesync.kernel.details import RouteDetails, decode_details
from routesync.kernel.errors import DecodeError
from routesync.kernel.netlink import HEADER, HEADER_SIZE, RTM_NEWROUTE, DumpRequest
from routesync.route import Family, Prefix, Route

_ATTRIBUTE: Final = struct.Struct("=HH")
_RTA_DST: Final = 1


Take = Callable[[Route, Callable[[], RouteDetails]], None]
"""Takes a route, and what reads its details, if that is called before it returns."""


class Lookup:
    """Takes a dump, and hands on the routes that are asked for.

    Args:
        decoder: reads messages.
        take: called with each route, in the kernel's order.
        covering: only routes whose prefix covers this one; None: all.
    """

    def __init__(self, decoder: RouteDecoder, take: Take, covering: Prefix | None = None) -> None:
        self.bad = 0
        """Messages that could not be read."""
        self._decoder = decoder
        self._take = take
        self._covering = covering
        self._networks = () if covering is None else _networks(covering)

    def wants(self, request: DumpRequest) -> bool:
        """Whether a dump can have anything that is asked for."""
        return self._covering is None or request.family == self._covering.family

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
                raise DecodeError(f"message of length {length} leads out of its datagram")
            if kind != RTM_NEWROUTE:
                break
            if self._may_be_wanted(data, position + HEADER_SIZE, position + length):
                self._decode(data, position + HEADER_SIZE, position + length)
            position += length + 3 & ~3
        return position

    def _decode(self, data: bytes, start: int, end: int) -> None:
        try:
            route = self._decoder.decode(data, start, end)
            if route is not None and (self._covering is None or route.prefix.covers(self._covering)):
                self._take(route, partial(decode_details, data, start, end))
        except DecodeError:
            self.bad += 1

    def _may_be_wanted(self, data: bytes, start: int, end: int) -> bool:
        """A cheap look that lets some by that are not wanted, and never keeps out one that is."""
        if self._covering is None:
            return True
        if end - start < 2 or (length := data[start + 1]) >= len(self._networks):
            return False
        return not length or data.find(self._networks[length], start, end) >= 0


def _networks(prefix: Prefix) -> tuple[bytes, ...]:
    """By length, the RTA_DST of the network of that length which covers the prefix, as it stands in a message."""
    size = 4 if prefix.family is Family.INET else 16
    bits, number = size * 8, int.from_bytes(prefix.packed, "big")
    header = _ATTRIBUTE.pack(size + 4, _RTA_DST)
    return tuple(
        header + (number >> bits - length << bits - length).to_bytes(size, "big")
        for length in range(prefix.length + 1)
    )
