"""Links, our own addresses and nexthop objects: what routes refer to, and how each is decoded, by pyroute2.

Links are identified by ifindex; names come and go and are reused. Addresses and nexthop objects are kept only as far as
routes can depend on them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkDecodeError
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from routesync.kernel.errors import DecodeError
from routesync.kernel.netlink import RTM_DELNEXTHOP, RTM_NEWNEXTHOP
from routesync.route import Address, NextHop, Prefix

IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
IFF_LOWER_UP: Final = 0x10000
_STATE: Final = IFF_UP | IFF_RUNNING | IFF_LOWER_UP

_AF_BRIDGE: Final = 7
_HOP_FLAGS: Final = 0x7F  # of nh_flags; RTM_F_… begin above
_GROUP_ENTRY: Final = struct.Struct("=IBBH")  # struct nexthop_grp: id, weight - 1, its high byte, reserved


# These take the layout of pyroute2's messages, and of their attributes only those that are needed: a link has fifty.
# They do not inherit from its messages, whose table of attributes is compiled once and then inherited as well.
# Addresses stay packed (`cdata`): pyroute2's `l2addr` takes each for six bytes, and a tunnel's has 4 or 16.


class _LinkMessage(nlmsg):  # type: ignore[misc]
    fields = ifinfmsg.fields
    nla_map = ((1, "IFLA_ADDRESS", "cdata"), (3, "IFLA_IFNAME", "cdata"), (10, "IFLA_MASTER", "uint32"))


class _AddressMessage(nlmsg):  # type: ignore[misc]
    fields = ifaddrmsg.fields
    nla_map = ((1, "IFA_ADDRESS", "cdata"), (2, "IFA_LOCAL", "cdata"))


class _NexthopMessage(nlmsg):  # type: ignore[misc]
    """RTM_NEWNEXTHOP, which pyroute2 does not know: struct nhmsg and NHA_… of linux/nexthop.h."""

    fields = (("family", "B"), ("scope", "B"), ("protocol", "B"), ("resvd", "B"), ("flags", "I"))
    nla_map = (
        (1, "NHA_ID", "uint32"),
        (2, "NHA_GROUP", "cdata"),
        (4, "NHA_BLACKHOLE", "flag"),
        (5, "NHA_OIF", "uint32"),
        (6, "NHA_GATEWAY", "cdata"),
        (7, "NHA_ENCAP_TYPE", "uint16"),
    )


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

    @property
    def routing_state(self) -> tuple[int, str, int]:
        """What routes, and rules about them, depend on."""
        return self.flags & _STATE, self.name, self.master


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


def _decode(message_class: type[nlmsg], message: bytes) -> tuple[Mapping[str, int], dict[str, Any]]:
    """Decode a message; return the fields of its header, and its attributes by name; of equal ones the first wins.

    pyroute2 decodes attributes when they are asked for, and logs a traceback where one is malformed. Bad input is to be
    an error instead, so they are decoded here.

    Raises:
        DecodeError: not a message of this class.
    """
    decoded = message_class(message)
    found: dict[str, Any] = {}
    try:
        decoded.decode()
        for slot in decoded["attrs"]:
            name, attribute = slot.cell
            if name != "UNKNOWN":
                attribute.decode()
                found.setdefault(name, attribute.getvalue())
    except (struct.error, NetlinkDecodeError) as error:
        raise DecodeError(
            f"message of {len(message)} bytes is no {message_class.__name__}: {error}"
        ) from error
    return decoded, found


def _address(value: bytes) -> Address:
    if len(value) not in (4, 16):
        raise DecodeError(f"an address of {len(value)} bytes")
    return Address(value)


def decode_link(message: bytes) -> Link | None:
    """Decode an RTM_NEWLINK or RTM_DELLINK; None for a bridge's own messages about its ports."""
    header, found = _decode(_LinkMessage, message)
    if header["family"] == _AF_BRIDGE:
        return None
    return Link(
        header["index"],
        found.get("IFLA_IFNAME", b"").rstrip(b"\0").decode("utf-8", "backslashreplace"),
        header["flags"],
        found.get("IFLA_ADDRESS", b""),
        found.get("IFLA_MASTER", 0),
    )


def decode_address(message: bytes) -> InterfaceAddress | None:
    """Decode an RTM_NEWADDR or RTM_DELADDR; None where it carries no address."""
    header, found = _decode(_AddressMessage, message)
    own = found.get("IFA_LOCAL") or found.get("IFA_ADDRESS")
    if not own:
        return None
    # On a point-to-point link IFA_ADDRESS is the peer's, and the network is the peer's too (linux/if_addr.h).
    peer = _address(found.get("IFA_ADDRESS") or own)
    length = header["prefixlen"]
    if length > len(peer) * 8:
        raise DecodeError(f"an address with a mask of {length} bits")
    return InterfaceAddress(header["index"], _address(own), Prefix.of(peer, length))


def decode_nexthop(message: bytes) -> Nexthop:
    """Decode an RTM_NEWNEXTHOP or RTM_DELNEXTHOP."""
    header, found = _decode(_NexthopMessage, message)
    if "NHA_ID" not in found:
        raise DecodeError("a nexthop object without its id")
    number = found["NHA_ID"]
    if "NHA_GROUP" in found:
        members = found["NHA_GROUP"]
        if len(members) % _GROUP_ENTRY.size:
            raise DecodeError(f"a nexthop group of {len(members)} bytes")
        return Nexthop(
            number,
            None,
            tuple(
                (member, (low | high << 8) + 1) for member, low, high, _ in _GROUP_ENTRY.iter_unpack(members)
            ),
        )
    if "NHA_BLACKHOLE" in found:
        return Nexthop(number, None, blackhole=True)
    gateway = _address(found["NHA_GATEWAY"]) if "NHA_GATEWAY" in found else None
    hop = NextHop(gateway, found.get("NHA_OIF", 0), 1, header["flags"] & _HOP_FLAGS)
    return Nexthop(number, hop, encap="NHA_ENCAP_TYPE" in found)


class Resolved(NamedTuple):
    """The hops of a nexthop object."""

    hops: tuple[NextHop, ...]
    encap: bool


class LinkTables:
    """The tables of links, own addresses and nexthop objects.

    Messages are applied in the order in which the socket gave them, answers to a dump and events alike: the kernel
    queues both in the order in which they became true.
    """

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.addresses: dict[tuple[int, Address, Prefix | None], InterfaceAddress] = {}
        self.nexthops: dict[int, Nexthop] = {}

    def apply(self, message_type: int, message: bytes) -> str | None:
        """Apply one message, header included; return the cause for a resync of the routes, where it is one.

        A link matters when its state or its name changes (rules match names), and when it goes: IPv4 routes over it go
        without an event (fib_sync_down_dev() of net/ipv4/fib_semantics.c). An address matters when it comes (dead hops
        revive silently, fib_sync_up()) or goes (routes with that source go, on older kernels silently). A nexthop
        object matters when its content changes or it goes; a new one is used by no route yet.

        Raises:
            DecodeError: not a message of its type.
        """
        if message_type in (RTM_NEWLINK, RTM_DELLINK):
            link = decode_link(message)
            return None if link is None else self._apply_link(message_type, link)
        if message_type in (RTM_NEWADDR, RTM_DELADDR):
            address = decode_address(message)
            return None if address is None else self._apply_address(message_type, address)
        if message_type in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
            return self._apply_nexthop(message_type, decode_nexthop(message))
        return None

    def _apply_link(self, message_type: int, link: Link) -> str | None:
        if message_type == RTM_DELLINK:
            return "link" if self.links.pop(link.ifindex, None) else None
        before = self.links.get(link.ifindex)
        if (
            not link.name
        ):  # not the link whole: wireless extensions announce themselves so (rtnetlink_ifinfo_prep())
            if before is None:
                return None
            link = before._replace(flags=link.flags)
        self.links[link.ifindex] = link
        return "link" if before is not None and before.routing_state != link.routing_state else None

    def _apply_address(self, message_type: int, address: InterfaceAddress) -> str | None:
        # A link can have an IPv4 address several times, with other networks; an IPv6 one can change its peer in place.
        key = (address.ifindex, address.address, address.network if len(address.address) == 4 else None)
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

    def adopt(self, other: LinkTables) -> None:
        """Take over all tables of another one."""
        self.links, self.addresses, self.nexthops = other.links, other.addresses, other.nexthops

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
        """Whether a route with these attributes must have gone, or has changed, by what is known of its links."""
        if nexthop_id and nexthop_id not in self.nexthops:
            return True
        for hop in hops:
            link = self.links.get(hop.ifindex)
            if hop.ifindex and (link is None or not link.carrier):
                return True
        return source is not None and all(own.address != source for own in self.addresses.values())
