"""What routes are understood by: links, own addresses, nexthop objects; and their messages.

Links are known by ifindex; names come and go and are reused. Addresses and nexthops are kept only as far as routes
can depend on them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from routesync.kernel.errors import DecodeError
from routesync.kernel.netlink import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEXTHOP,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEXTHOP,
)
from routesync.route import Address, NextHop, Prefix

IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
IFF_LOWER_UP: Final = 0x10000
_STATE: Final = IFF_UP | IFF_RUNNING | IFF_LOWER_UP

_AF_BRIDGE: Final = 7
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER = 1, 3, 10
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NHA_ID, _NHA_GROUP, _NHA_BLACKHOLE, _NHA_OIF, _NHA_GATEWAY = 1, 2, 4, 5, 6
_NHA_ENCAP_TYPE: Final = 7

_IFINFO: Final = struct.Struct("=BxHiII")
_IFADDR: Final = struct.Struct("=4BI")
_NHMSG: Final = struct.Struct("=4BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_U32: Final = struct.Struct("=I")
_GROUP_ENTRY: Final = struct.Struct("=IBBH")


class Link(NamedTuple):
    """A network interface."""

    ifindex: int
    name: str
    flags: int  # IFF_… of netdevice(7)
    mac: bytes  # link-layer address; empty where the kind has none
    master: int = 0  # ifindex of the bridge, bond or VRF that it is part of; 0: none

    @property
    def up(self) -> bool:
        """Whether it is switched on."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether it is switched on and has a carrier."""
        return self.flags & _STATE == _STATE


Links = Mapping[int, Link]


class InterfaceAddress(NamedTuple):
    """One of this host's own addresses, with the network that it is connected to by it."""

    ifindex: int
    address: Address
    network: Prefix


class Nexthop(NamedTuple):
    """A nexthop object (ip-nexthop(8)): one hop, or a group of others with their weights."""

    id: int
    hop: NextHop | None  # None: a group, or a blackhole
    group: tuple[tuple[int, int], ...] = ()  # (id, weight)
    blackhole: bool = False
    encap: bool = False


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Read a run of attributes (rtnetlink(7), struct rtattr); of equal kinds the last wins.

    Raises:
        DecodeError: a length that leads out of the message.
    """
    found: dict[int, bytes] = {}
    position = start
    while position + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, position)
        if size < 4 or position + size > end:
            raise DecodeError(f"attribute {kind & 0x3FFF} of length {size} leads out of its message")
        found[kind & 0x3FFF] = data[position + 4 : position + size]
        position += size + 3 & ~3
    return found


def _u32(value: bytes) -> int:
    if len(value) != 4:
        raise DecodeError(f"a number of {len(value)} bytes, not 4")
    number: int = _U32.unpack(value)[0]
    return number


def _address(value: bytes) -> Address:
    if len(value) not in (4, 16):
        raise DecodeError(f"an address of {len(value)} bytes")
    return Address(value)


def _check_header(data: bytes, start: int, end: int, size: int, what: str) -> None:
    if end - start < size or end > len(data):
        raise DecodeError(f"{what} message of {end - start} bytes")


def decode_link(data: bytes, start: int, end: int) -> Link | None:
    """Read the body of an RTM_NEWLINK or RTM_DELLINK; None for the bridge's own messages about its ports."""
    _check_header(data, start, end, _IFINFO.size, "link")
    family, _, ifindex, flags, _ = _IFINFO.unpack_from(data, start)
    if family == _AF_BRIDGE:
        return None
    found = attributes(data, start + _IFINFO.size, end)
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "backslashreplace")
    master = _u32(found[_IFLA_MASTER]) if _IFLA_MASTER in found else 0
    return Link(ifindex, name, flags, found.get(_IFLA_ADDRESS, b""), master)


def decode_address(data: bytes, start: int, end: int) -> InterfaceAddress | None:
    """Read the body of an RTM_NEWADDR or RTM_DELADDR; None where it carries no address of IPv4 or IPv6."""
    _check_header(data, start, end, _IFADDR.size, "address")
    _, length, _, _, ifindex = _IFADDR.unpack_from(data, start)
    found = attributes(data, start + _IFADDR.size, end)
    own = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if not own:
        return None
    address = _address(own)
    # On a point-to-point link IFA_ADDRESS is the peer's, and the network is the peer's too (linux/if_addr.h).
    peer = _address(found.get(_IFA_ADDRESS) or own)
    bits = len(peer) * 8
    if length > bits:
        raise DecodeError(f"an address with a mask of {length} bits")
    number = int.from_bytes(peer, "big") >> (bits - length) << (bits - length)
    return InterfaceAddress(ifindex, address, Prefix(Address(number.to_bytes(len(peer), "big")), length))


def decode_nexthop(data: bytes, start: int, end: int) -> Nexthop:
    """Read the body of an RTM_NEWNEXTHOP or RTM_DELNEXTHOP (linux/nexthop.h)."""
    _check_header(data, start, end, _NHMSG.size, "nexthop")
    _, _, _, _, flags = _NHMSG.unpack_from(data, start)
    found = attributes(data, start + _NHMSG.size, end)
    if _NHA_ID not in found:
        raise DecodeError("a nexthop without its id")
    number = _u32(found[_NHA_ID])
    if _NHA_GROUP in found:
        body = found[_NHA_GROUP]
        if len(body) % _GROUP_ENTRY.size:
            raise DecodeError(f"a nexthop group of {len(body)} bytes")
        members = _GROUP_ENTRY.iter_unpack(body)
        return Nexthop(
            number, None, tuple((member, (high << 8 | low) + 1) for member, low, high, _ in members)
        )
    if _NHA_BLACKHOLE in found:
        return Nexthop(number, None, blackhole=True)
    gateway = _address(found[_NHA_GATEWAY]) if _NHA_GATEWAY in found else None
    ifindex = _u32(found[_NHA_OIF]) if _NHA_OIF in found else 0
    return Nexthop(number, NextHop(gateway, ifindex, 1, flags & 0x7F), encap=_NHA_ENCAP_TYPE in found)


class Resolved(NamedTuple):
    """What a nexthop object stands for."""

    hops: tuple[NextHop, ...]
    encap: bool


class Surroundings:
    """The tables of links, own addresses and nexthop objects.

    Messages are applied in the order in which the socket gave them, answers to a dump and events alike: the kernel
    queues both in the order in which they became true.
    """

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.addresses: dict[tuple[int, Address], InterfaceAddress] = {}
        self.nexthops: dict[int, Nexthop] = {}

    def apply(self, message_type: int, data: bytes, start: int, end: int) -> str | None:
        """Take in one message; return the cause for reading routes again, where it is one.

        A link matters when its state or its name changes (rules match names), and when it goes: IPv4 routes over it go
        without a word (fib_sync_down_dev() of net/ipv4/fib_semantics.c). An address matters when it comes (dead hops
        revive silently, fib_sync_up()) or goes (routes with that source go, on older kernels silently). A nexthop
        matters when its content changes or it goes; a new one is used by no route yet.

        Raises:
            DecodeError: not a message of its type.
        """
        if message_type in (RTM_NEWLINK, RTM_DELLINK):
            return self._apply_link(message_type, decode_link(data, start, end))
        if message_type in (RTM_NEWADDR, RTM_DELADDR):
            return self._apply_address(message_type, decode_address(data, start, end))
        if message_type in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
            return self._apply_nexthop(message_type, decode_nexthop(data, start, end))
        return None

    def _apply_link(self, message_type: int, link: Link | None) -> str | None:
        if link is None:
            return None
        if message_type == RTM_DELLINK:
            return "link" if self.links.pop(link.ifindex, None) else None
        before = self.links.get(link.ifindex)
        self.links[link.ifindex] = link
        if before is None:
            return None
        same = (
            before.flags & _STATE == link.flags & _STATE
            and before.name == link.name
            and before.master == link.master
        )
        return None if same else "link"

    def _apply_address(self, message_type: int, address: InterfaceAddress | None) -> str | None:
        if address is None:
            return None
        key = (address.ifindex, address.address)
        if message_type == RTM_DELADDR:
            return "address" if self.addresses.pop(key, None) else None
        before = self.addresses.get(key)
        self.addresses[key] = address
        return None if before == address else "address"

    def _apply_nexthop(self, message_type: int, nexthop: Nexthop) -> str | None:
        if message_type == RTM_DELNEXTHOP:
            return "nexthop" if self.nexthops.pop(nexthop.id, None) else None
        before = self.nexthops.get(nexthop.id)
        self.nexthops[nexthop.id] = nexthop
        return None if before in (None, nexthop) else "nexthop"

    def adopt(self, message_type: int, other: Surroundings) -> None:
        """Take over the one table that an RTM_GET… message asked for."""
        if message_type == RTM_GETLINK:
            self.links = other.links
        elif message_type == RTM_GETADDR:
            self.addresses = other.addresses
        else:
            self.nexthops = other.nexthops

    def resolve(self, number: int) -> Resolved | None:
        """The hops of a nexthop object; none for a blackhole; None while it, or a member of it, is unknown."""
        nexthop = self.nexthops.get(number)
        if nexthop is None:
            return None
        if not nexthop.group:
            return Resolved(() if nexthop.hop is None else (nexthop.hop,), nexthop.encap)
        members = [(self.nexthops.get(member), weight) for member, weight in nexthop.group]
        if len(members) == 1:  # the kernel, too, writes a group of one as a plain hop, without its weight
            members = [(members[0][0], 1)]
        hops: list[NextHop] = []
        encap = False
        for member, weight in members:
            if member is None:
                return None
            encap = encap or member.encap
            if member.hop is not None:
                hops.append(member.hop._replace(weight=weight))
        return Resolved(tuple(hops), encap)

    def explains_absence(self, hops: tuple[NextHop, ...], source: Address | None, nexthop_id: int) -> bool:
        """Whether a route of this shape must have gone, or has changed, by what is known of its surroundings."""
        if nexthop_id and nexthop_id not in self.nexthops:
            return True
        for hop in hops:
            link = self.links.get(hop.ifindex)
            if hop.ifindex and (link is None or not link.carrier):
                return True
        return source is not None and all(own.address != source for own in self.addresses.values())
