"""The little RTNL that the stand-in needs: pack requests, take messages apart.

Written by hand because the stand-in must send exactly the fields that loxilb sends (Go, vishvananda/netlink): what a
RTM_DELROUTE leaves at zero decides which route the kernel takes away. Layouts: netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from standin.addresses import Address, Prefix

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

GROUPS: Final = 0x1 | 0x4 | 0x10 | 0x100 | 0x40 | 0x400
"""RTMGRP_: link, neighbour, IPv4 and IPv6 address, IPv4 and IPv6 route."""

RT_TABLE_MAIN: Final = 254
RTPROT_BOOT: Final = 3
RTPROT_STATIC: Final = 4

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_MULTIPATH: Final = 9
_RTA_TABLE: Final = 15
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_AF_BRIDGE: Final = 7
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h; the socket module does not name it

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTMSG: Final = struct.Struct("=8BI")
_HOP: Final = struct.Struct("=HBBi")
_INT: Final = struct.Struct("=i")
_UNSIGNED: Final = struct.Struct("=I")
_IFINFO: Final = struct.Struct("=BxHiII")
_IFADDR: Final = struct.Struct("=BBBBi")
_NDMSG: Final = struct.Struct("=BxxxiHBB")


class Message(NamedTuple):
    """One netlink message: its type, the port of the socket whose request caused it (0: none), what follows."""

    type: int
    requester: int
    payload: bytes


class Hop(NamedTuple):
    """A next hop as loxilb sees it: a gateway or none, and the interface it leaves by."""

    gateway: Address | None
    ifindex: int


class RouteNews(NamedTuple):
    """What a route message says to loxilb; metric, scope and type are not asked for."""

    prefix: Prefix
    table: int
    protocol: int
    hops: tuple[Hop, ...]


class LinkNews(NamedTuple):
    """An interface: index, name, hardware address."""

    ifindex: int
    name: str
    mac: bytes


class AddressNews(NamedTuple):
    """An address of an interface, with the length of its network."""

    ifindex: int
    address: Address
    length: int


class NeighbourNews(NamedTuple):
    """A neighbour; `resolved` tells whether it has a hardware address."""

    ifindex: int
    address: Address
    resolved: bool


def open_socket(groups: int, receive_buffer: int) -> socket.socket:
    """Open a NETLINK_ROUTE socket in this process's network namespace.

    Args:
        groups: RTMGRP_ bits to subscribe to; 0 for a socket that only asks.
        receive_buffer: bytes; needs CAP_NET_ADMIN to go past net.core.rmem_max, and is capped by that without it.
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    opened.bind((0, groups))
    return opened


def messages(datagram: bytes) -> Iterator[Message]:
    """Take a datagram apart into its messages."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, _, requester = _HEADER.unpack_from(datagram, offset)
        yield Message(kind, requester, datagram[offset + _HEADER.size : offset + length])
        offset += length + 3 & ~3


def _attributes(payload: bytes, offset: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3
    return found


def _gateway(attributes: dict[int, bytes]) -> Address | None:
    packed = attributes.get(_RTA_GATEWAY)
    return Address(packed) if packed is not None else None


def _multipath(payload: bytes) -> Iterator[Hop]:
    offset = 0
    while offset + _HOP.size <= len(payload):
        length, _, _, ifindex = _HOP.unpack_from(payload, offset)
        yield Hop(_gateway(_attributes(payload[: offset + length], offset + _HOP.size)), ifindex)
        offset += length + 3 & ~3


def parse_route(payload: bytes) -> RouteNews | None:
    """Read a route message; None for another family's (MPLS, multicast)."""
    family, length, _, _, table, protocol, _, _, _ = _RTMSG.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = _attributes(payload, _RTMSG.size)
    destination = attributes.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
    if _RTA_TABLE in attributes:
        (table,) = _UNSIGNED.unpack(attributes[_RTA_TABLE])
    if _RTA_MULTIPATH in attributes:
        hops = tuple(_multipath(attributes[_RTA_MULTIPATH]))
    else:
        ifindex = _INT.unpack(attributes[_RTA_OIF])[0] if _RTA_OIF in attributes else 0
        hops = (Hop(_gateway(attributes), ifindex),)
    return RouteNews(Prefix(Address(destination), length), table, protocol, hops)


def parse_link(payload: bytes) -> LinkNews | None:
    """Read a link message; None for a bridge's word about its ports, which comes in the same type."""
    family, _, ifindex, _, _ = _IFINFO.unpack_from(payload)
    if family == _AF_BRIDGE:
        return None
    attributes = _attributes(payload, _IFINFO.size)
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return LinkNews(ifindex, name, attributes.get(_IFLA_ADDRESS, b""))


def parse_address(payload: bytes) -> AddressNews | None:
    """Read an address message; None when it names no IP address."""
    _, length, _, _, ifindex = _IFADDR.unpack_from(payload)
    attributes = _attributes(payload, _IFADDR.size)
    packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    return AddressNews(ifindex, Address(packed), length) if len(packed) in (4, 16) else None


def parse_neighbour(payload: bytes) -> NeighbourNews | None:
    """Read a neighbour message; None for a bridge's forwarding entry."""
    family, ifindex, _, _, _ = _NDMSG.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = _attributes(payload, _NDMSG.size)
    packed = attributes.get(_NDA_DST, b"")
    return NeighbourNews(ifindex, Address(packed), bool(attributes.get(_NDA_LLADDR)))


def _request(kind: int, flags: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, NLM_F_REQUEST | flags, 1, 0) + payload


def dump(kind: int) -> Iterator[Message]:
    """Ask the kernel for all links, addresses, neighbours or routes.

    Raises:
        OSError: the kernel refused.
    """
    with open_socket(0, 4 << 20) as asking:
        asking.send(_request(kind, NLM_F_DUMP, bytes(_RTMSG.size if kind == RTM_GETROUTE else _IFINFO.size)))
        while True:
            for message in messages(asking.recv(1 << 18)):
                if message.type == _NLMSG_DONE:
                    return
                if message.type == _NLMSG_ERROR:
                    number = -_INT.unpack_from(message.payload)[0]
                    raise OSError(number, os.strerror(number))
                yield message


def route_request(
    kind: int, flags: int, prefix: Prefix, gateway: Address | None, *, protocol: int, route_type: int
) -> bytes:
    """Pack a RTM_NEWROUTE or RTM_DELROUTE as vishvananda/netlink does: main table, scope universe, no metric."""
    payload = _RTMSG.pack(prefix.family, prefix.length, 0, 0, RT_TABLE_MAIN, protocol, 0, route_type, 0)
    payload += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(prefix.packed), _RTA_DST) + prefix.packed
    if gateway is not None:
        payload += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(gateway), _RTA_GATEWAY) + gateway
    return _request(kind, flags | NLM_F_ACK, payload)


def acknowledge(datagram: bytes) -> int:
    """Read the answer to a request: 0, or the errno."""
    message = next(messages(datagram))
    return -int(_INT.unpack_from(message.payload)[0]) if message.type == _NLMSG_ERROR else 0
