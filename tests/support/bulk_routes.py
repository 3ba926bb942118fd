"""Many routes into a kernel, fast: raw RTM_NEWROUTE messages, a datagram full at a time, no acknowledgement awaited."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from itertools import islice

from routesync.kernel import open_route_socket

_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")
_NLM_F_REQUEST, _NLM_F_EXCL, _NLM_F_CREATE = 1, 0x200, 0x400
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_DATAGRAM = 400  # messages; below the default send buffer


def prefixes(count: int, *, first: int = 0x0B000000) -> Iterator[bytes]:
    """The first `count` /24 networks from 11.0.0.0 on."""
    for number in range(count):
        yield (first + (number << 8)).to_bytes(4, "big")


def message(kind: int, prefix: bytes, gateway: bytes, protocol: int) -> bytes:
    """One request for a /24 in the main table."""
    body = _RTMSG.pack(socket.AF_INET, 24, 0, 0, 254, protocol, 0, 1, 0)
    body += struct.pack("=HH", 8, 1) + prefix + struct.pack("=HH", 8, 5) + gateway
    flags = _NLM_F_REQUEST | (_NLM_F_CREATE | _NLM_F_EXCL if kind == _RTM_NEWROUTE else 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _send(netns: str, kind: int, routes: Iterator[bytes], gateway: str, protocol: int) -> None:
    packed = socket.inet_aton(gateway)
    with open_route_socket(netns) as sock:
        while batch := list(islice(routes, _DATAGRAM)):
            sock.send(b"".join(message(kind, prefix, packed, protocol) for prefix in batch))


def add_routes(netns: str, routes: Iterator[bytes], gateway: str, *, protocol: int = 186) -> None:
    """Add routes; the kernel works them off within the call."""
    _send(netns, _RTM_NEWROUTE, routes, gateway, protocol)


def delete_routes(netns: str, routes: Iterator[bytes], gateway: str, *, protocol: int = 186) -> None:
    """Delete them again."""
    _send(netns, _RTM_DELROUTE, routes, gateway, protocol)
