"""The values that everything else speaks of: prefixes, next hops, routes, verdicts.

They are named tuples: frozen, hashable, comparable, and about four times cheaper to make than frozen dataclasses, which
counts when a kernel announces a full BGP table. Addresses are kept packed (network byte order), as the kernel sends
them; text is made at the edges only.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Container, Iterable, Sequence
from enum import IntEnum
from itertools import groupby
from typing import Final, Literal, NamedTuple, NewType, Self, TypeVar

_new = tuple.__new__  # spares what a named tuple's constructor does with its arguments

Address = NewType("Address", bytes)
"""A packed IP address: 4 bytes for IPv4, 16 for IPv6."""


class Family(IntEnum):
    """Address family, with the kernel's numbers (AF_INET, AF_INET6)."""

    INET = socket.AF_INET
    INET6 = socket.AF_INET6

    @property
    def bits(self) -> int:
        """Length of an address of this family, in bits."""
        return 32 if self is Family.INET else 128

    @property
    def label(self) -> Literal["ipv4", "ipv6"]:
        """`ipv4` or `ipv6`, as written in configuration, events and output."""
        return "ipv4" if self is Family.INET else "ipv6"


def parse_address(text: str) -> Address:
    """Pack an IPv4 or IPv6 address.

    Raises:
        ValueError: the text is no address; the message says so.
    """
    return Address(ipaddress.ip_address(text).packed)


def format_address(address: Address) -> str:
    """Write an address as people write it (RFC 5952 for IPv6)."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def address_family(address: Address) -> Family:
    """Tell the family of a packed address by its length."""
    return Family.INET if len(address) == 4 else Family.INET6


def is_link_local(address: Address) -> bool:
    """Whether the address is of 169.254.0.0/16 (RFC 3927) or fe80::/10 (RFC 4291)."""
    if len(address) == 4:
        return address[:2] == b"\xa9\xfe"
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_multicast(address: Address) -> bool:
    """Whether the address is of 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291)."""
    return address[0] & 0xF0 == 0xE0 if len(address) == 4 else address[0] == 0xFF


class Prefix(NamedTuple):
    """A destination: a network address without host bits, and the length of its mask."""

    packed: Address
    length: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a prefix in CIDR form; a bare address is a host prefix, `default` is 0.0.0.0/0.

        Raises:
            ValueError: not a prefix, or host bits are set; the message says which and what was probably meant.
        """
        if text == "default":
            return cls(Address(b"\0\0\0\0"), 0)
        if "." in text.partition("/")[2]:  # which may be a netmask or a wildcard
            raise ValueError(f"{text!r} has a mask in place of a prefix length; write it like 10.0.0.0/8")
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            if "host bits" in str(error):
                meant = ipaddress.ip_network(text, strict=False)
                raise ValueError(f"{text!r} has host bits set; did you mean {meant}?") from None
            raise ValueError(f"{text!r} is not a prefix like 10.0.0.0/8 or 2001:db8::/32") from None
        return cls(Address(network.network_address.packed), network.prefixlen)

    @classmethod
    def of(cls, address: Address, length: int) -> Self:
        """The network of this length that the address lies in."""
        bits = len(address) * 8 - length
        return cls(
            Address((int.from_bytes(address, "big") >> bits << bits).to_bytes(len(address), "big")), length
        )

    @property
    def family(self) -> Family:
        """The address family."""
        return Family.INET if len(self.packed) == 4 else Family.INET6

    @property
    def is_host(self) -> bool:
        """Whether the prefix has full length (/32, /128)."""
        return self.length == len(self.packed) * 8

    @property
    def is_default(self) -> bool:
        """Whether this is 0.0.0.0/0 or ::/0."""
        return self.length == 0

    def contains(self, address: Address) -> bool:
        """Whether the address lies in this prefix (never across families)."""
        packed, length = self
        if len(address) != len(packed) or (length >= 8 and address[0] != packed[0]):  # nearly always
            return False
        shift = len(address) * 8 - length
        return int.from_bytes(address, "big") >> shift == int.from_bytes(packed, "big") >> shift

    def covers(self, other: Prefix) -> bool:
        """Whether every address of `other` lies in this prefix; a prefix covers itself."""
        return other.length >= self.length and self.contains(other.packed)

    def cut(self, length: int) -> Prefix:
        """The prefix of this length, at most its own, that covers it."""
        shift = len(self.packed) * 8 - length
        number = int.from_bytes(self.packed, "big") >> shift << shift
        return Prefix(Address(number.to_bytes(len(self.packed), "big")), length)

    @property
    def sort_key(self) -> tuple[int, bytes, int]:
        """Order for people: IPv4 before IPv6, then by address, then short before long."""
        return (len(self.packed), self.packed, self.length)

    def __str__(self) -> str:
        return f"{format_address(self.packed)}/{self.length}"


class HopFlag:
    """`rtnh_flags` bits (linux/rtnetlink.h). Plain integers: IntFlag costs microseconds an operation."""

    DEAD: Final = 1
    PERVASIVE: Final = 2
    ONLINK: Final = 4
    OFFLOAD: Final = 8
    LINKDOWN: Final = 16
    UNRESOLVED: Final = 32
    TRAP: Final = 64

    NAMES: Final = {
        "dead": DEAD,
        "pervasive": PERVASIVE,
        "onlink": ONLINK,
        "offload": OFFLOAD,
        "linkdown": LINKDOWN,
        "unresolved": UNRESOLVED,
        "trap": TRAP,
    }


def flag_names(flags: int) -> list[str]:
    """Name the hop flags that are set, in the order of their bits."""
    return [name for name, bit in HopFlag.NAMES.items() if flags & bit]


class NextHop(NamedTuple):
    """One way out: a gateway, or a device alone, or both."""

    gateway: Address | None
    ifindex: int  # 0: none (blackhole and its like)
    weight: int = 1  # rtnh_hops + 1
    flags: int = 0  # HopFlag bits

    @property
    def usable(self) -> bool:
        """Whether the kernel forwards over this hop: neither dead nor without carrier."""
        return not self.flags & (HopFlag.DEAD | HopFlag.LINKDOWN)


class Attributes(NamedTuple):
    """All of a route but its prefix, as in `Route`. A full table has few distinct ones, so each is kept once."""

    table: int
    tos: int
    metric: int
    protocol: int
    scope: int
    type: int
    hops: tuple[NextHop, ...]
    prefsrc: Address | None = None
    nexthop_id: int = 0
    encap: bool = False
    source: Prefix | None = None

    def at(self, prefix: Prefix) -> Route:
        """The route to this prefix that has them."""
        return _new(Route, (prefix, *self))


class Route(NamedTuple):
    """A route as the kernel holds it, normalised.

    Next hops are sorted, so that equal multipath sets compare equal. Numbers are the kernel's; `routesync.names`
    gives them words.
    """

    prefix: Prefix
    table: int
    tos: int
    metric: int  # RTA_PRIORITY; IPv6 0 is never seen, the kernel makes 1024 of it
    protocol: int
    scope: int
    type: int
    hops: tuple[NextHop, ...]
    prefsrc: Address | None = None
    nexthop_id: int = 0  # RTA_NH_ID; 0: none
    encap: bool = False  # RTA_ENCAP present: a tunnel encapsulation that loxilb's API cannot express
    source: Prefix | None = None  # RTA_SRC: an IPv6 route for packets from these sources only; None: from any

    @property
    def attributes(self) -> Attributes:
        """All of it but the prefix."""
        return Attributes(*self[1:])

    @property
    def live_hops(self) -> tuple[NextHop, ...]:
        """The hops that count: an ECMP route without its dead and linkdown hops.

        A route all of whose hops are down keeps them all: it is a route that is down, not one without hops.
        """
        if len(self.hops) < 2:
            return self.hops
        return tuple(hop for hop in self.hops if hop.usable) or self.hops


RTN_UNICAST: Final = 1
RTN_THROW: Final = 9
_RT_SCOPE_LINK: Final = 253

LinkAddress = tuple[int, Address]
"""An address on a link: the link's ifindex, and the address."""


def link_host(route: Route) -> LinkAddress | None:
    """The one address that a host route on a link leads to; None for a route of any other shape.

    The shape is that of a DHCP client's route to the gateway of its lease: unicast, full length, no gateway, a device,
    and for IPv4 scope link (the scope of IPv6 routes is always global).
    """
    prefix, hops = route.prefix, route.hops
    if prefix.length != len(prefix.packed) * 8 or len(hops) != 1 or route.type != RTN_UNICAST:
        return None
    hop = hops[0]
    if hop.gateway is not None or not hop.ifindex or route.source is not None:
        return None
    if len(prefix.packed) == 4 and route.scope != _RT_SCOPE_LINK:
        return None
    return (hop.ifindex, prefix.packed)


def link_gateways(routes: Iterable[Route | Attributes]) -> frozenset[LinkAddress]:
    """The gateways of these routes, each with the link that it is on."""
    return frozenset(
        (hop.ifindex, hop.gateway) for route in routes for hop in route.hops if hop.gateway is not None
    )


def leads_to_gateway(route: Route, gateways: Container[LinkAddress]) -> bool:
    """Whether a route is a host route on a link to one of these gateways of the same link (`link_gateway`)."""
    host = link_host(route)
    return host is not None and host in gateways


class Rewrite(NamedTuple):
    """Next hops to put in place of the kernel's own, by family; None leaves that family alone."""

    inet: Address | None = None
    inet6: Address | None = None
    to_self: bool = False
    """`next_hop = "self"`: our address on the interface that reaches the target, of either family."""
    interface: str | None = None
    """`next_hop = { interface = "ens3" }`: our address on that interface, of either family."""

    def for_family(self, family: Family) -> Address | None:
        """The next hop for routes of this family."""
        return self.inet if family is Family.INET else self.inet6


class Verdict(NamedTuple):
    """What the rules say of a route, and which of them said it."""

    keep: bool
    rule: str  # the deciding rule's name; "default" where none matched
    rewrite: Rewrite | None = None
    report: bool = False  # a drop that is worth an event of its own
    guard: bool = False  # a drop that is to be taken out of the kernel, where that is safe

    @property
    def followed(self) -> bool:
        """Whether each route so dropped is reported, when it appears and when it goes."""
        return self.report or self.guard


class Candidate(NamedTuple):
    """A route that the rules keep, with the verdict that kept it."""

    route: Route
    verdict: Verdict


class Evaluated(NamedTuple):
    """A candidate without its prefix, shared by all prefixes whose routes differ in nothing else."""

    attributes: Attributes
    verdict: Verdict

    def at(self, prefix: Prefix) -> Candidate:
        """The candidate for this prefix."""
        return _new(Candidate, (self.attributes.at(prefix), self.verdict))


def preference(route: Route | Attributes, rank: int) -> tuple[bytes, int, int, int]:
    """The order of preference among the routes of one prefix, but for throw routes (`past_throws`).

    Plain routes before source-specific ones, TOS 0 before others, then by table and metric. What is equal in all of it
    shares one key of the kernel, which has an order of its own among them.

    Args:
        route: one of them.
        rank: position of its table in the list of tables.
    """
    source = route.source
    return (
        b"" if source is None else bytes((source.length,)) + source.packed,
        route.tos,
        rank,
        route.metric,
    )


T = TypeVar("T", Candidate, Evaluated)


def past_throws(candidates: Sequence[T]) -> tuple[T, ...]:
    """Put the candidates of one prefix in the order in which the kernel uses them: the first is the best route.

    A `throw` route ends the search in its own table only. So the routes of later tables come before it, and before
    what its table has behind it.

    Args:
        candidates: in the order of `preference`.
    """
    if all(candidate[0].type != RTN_THROW for candidate in candidates):
        return tuple(candidates)
    ordered: list[T] = []
    for _, group in groupby(candidates, key=lambda it: (it[0].source, it[0].tos)):
        behind: list[T] = []
        thrown: int | None = None  # the table that the last throw route ended
        for candidate in group:
            if candidate[0].type == RTN_THROW:
                thrown = candidate[0].table
            (behind if candidate[0].table == thrown else ordered).append(candidate)
        ordered += behind
    return tuple(ordered)
