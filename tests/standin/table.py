"""loxilb's own route table, with everything that it puts there besides routes.

It follows the original (pkg/loxinet: RtAdd, RtDelete, NeighAdd, IfaAdd) step by step, because what GET shows is
a product of those steps: own addresses (`Self`), each gateway as a neighbour (`Ind Host`), device routes of full length
(`Ind Host Interface`), and bogus rows such as `fd00:10::/32` for an own IPv6 address, which comes of writing `/32`
behind any address. One entry per prefix, no metric, and the last event wins: nothing is looked up in the kernel again,
hence the stale entries.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from standin.addresses import Address, Prefix
from standin.releases import MAIN, Release
from standin.rtnl import Hop

MARKS: Final = (32 + 8) * 1024
"""Route marks there are (MaxSysRoutes); an entry beyond them carries -1."""

CAPACITY: Final = {socket.AF_INET: 32 * 1024, socket.AF_INET6: 8 * 1024}
"""Entries that the eBPF tables hold; what comes beyond is listed and not programmed, and nothing says so."""

_NO_MARK: Final = -1
_IPV4_DEFAULT: Final = Prefix(Address(bytes(4)), 0)
_SELF_LENGTH: Final = 32  # of an own address, whatever its family: the original's own mistake


@dataclass(slots=True)
class Entry:
    """A row of the table."""

    prefix: Prefix
    protocol: int
    hops: tuple[Hop, ...]
    host: bool  # it stands for a neighbour
    interface: bool  # it stands for a device route of full length
    mark: int
    programmed: bool  # the eBPF table had room for it

    @property
    def flags(self) -> str:
        """As GET spells them."""
        if not self.hops:
            return "Self"
        return "Ind" + (" Host" if self.host else "") + (" Interface" if self.interface else "")

    @property
    def gateways(self) -> tuple[Address, ...]:
        """The gateways, in the order in which the kernel named them."""
        return tuple(hop.gateway for hop in self.hops if hop.gateway is not None)


class RouteTable:
    """loxilb's map of routes, changed by what its ears hear and by nothing else."""

    def __init__(
        self,
        release: Release = MAIN,
        *,
        marks: int = MARKS,
        capacity: Mapping[socket.AddressFamily, int] = CAPACITY,
    ) -> None:
        self._release = release
        self._room = dict(capacity)
        self._entries: dict[Prefix, Entry] = {}
        self._neighbours: set[Hop] = set()
        self._networks: dict[tuple[int, Address], int] = {}
        self._marks = deque(range(1, marks + 1))

    def __len__(self) -> int:
        return len(self._entries)

    def unprogrammed(self) -> int:
        """Entries that found no room in the eBPF tables."""
        return sum(not entry.programmed for entry in self._entries.values())

    def entries(self) -> Iterable[Entry]:
        """All rows, in no order that means anything."""
        return self._entries.values()

    def add_route(self, prefix: Prefix, protocol: int, hops: tuple[Hop, ...]) -> None:
        """Take in a RTM_NEWROUTE."""
        if len(hops) > 1 and not self._release.knows_ecmp:
            return
        prefix = self._known_as(prefix)
        interface = hops[0].gateway is None and prefix.is_host and self._release.knows_interface_routes
        if interface:
            hops = (Hop(prefix.packed, hops[0].ifindex), *hops[1:])
        if hops[0].gateway is None:
            hops = ()
        self._add(prefix, protocol, hops, host=False, interface=interface)

    def remove_route(self, prefix: Prefix) -> None:
        """Take in a RTM_DELROUTE: the entry goes, whichever of several routes it stood for."""
        entry = self._entries.get(self._known_as(prefix))
        if entry is None:
            return
        if entry.host and entry.interface:
            entry.interface = False
            return
        self._drop(entry)

    def add_neighbour(self, address: Address, ifindex: int) -> None:
        """Take in a neighbour: a host route to itself."""
        hop = Hop(address, ifindex)
        self._neighbours.add(hop)
        self._add(_host_prefix(address), 0, (hop,), host=True, interface=False)

    def remove_neighbour(self, address: Address, ifindex: int) -> None:
        """Take in the loss of a neighbour."""
        self._neighbours.discard(Hop(address, ifindex))
        entry = self._entries.get(_host_prefix(address))
        if entry is None or not entry.host:
            return
        if entry.interface:
            entry.host = False
            return
        self._drop(entry)

    def add_address(self, ifindex: int, address: Address, length: int) -> None:
        """Take in an own address: its network and itself become `Self`, unless the network is there already."""
        if (ifindex, address) in self._networks:
            return
        self._networks[ifindex, address] = length
        if self._add(Prefix.of(address, length), 0, (), host=False, interface=False) and length not in (
            32,
            128,
        ):
            self._add(Prefix.of(address, _SELF_LENGTH), 0, (), host=False, interface=False)

    def remove_address(self, ifindex: int, address: Address, length: int) -> None:
        """Take in the loss of an own address. Routes that needed it stay: stale entries."""
        if self._networks.get((ifindex, address)) != length:
            return
        del self._networks[ifindex, address]
        self.remove_route(Prefix.of(address, length))
        if length not in (32, 128):
            self.remove_route(Prefix.of(address, _SELF_LENGTH))

    def remove_link(self, ifindex: int) -> None:
        """Take in the removal of an interface: its routes, neighbours and addresses go."""
        for entry in list(self._entries.values()):
            if not entry.host and any(hop.ifindex == ifindex for hop in entry.hops):
                self._drop(entry)
        for gateway, index in [hop for hop in self._neighbours if hop.ifindex == ifindex]:
            if gateway is not None:
                self.remove_neighbour(gateway, index)
        for (index, address), length in list(self._networks.items()):
            if index == ifindex:
                self.remove_address(index, address, length)

    def _add(
        self, prefix: Prefix, protocol: int, hops: tuple[Hop, ...], *, host: bool, interface: bool
    ) -> bool:
        """The original's RtAdd: False where it says `rt exists`, which it also does for an equal set of gateways."""
        entry = self._entries.get(prefix)
        if entry is not None and self._same_hops(entry.hops, hops):
            if interface and entry.host and not entry.interface:
                entry.interface = True
                return True
            if host and entry.interface and not entry.host:
                entry.host = True
                return True
            return False
        if entry is not None:
            self._drop(entry)
        mark = self._marks.popleft() if self._marks else _NO_MARK
        programmed = self._room[prefix.family] > 0
        self._room[prefix.family] -= programmed
        self._entries[prefix] = Entry(prefix, protocol, hops, host, interface, mark, programmed)
        for hop in hops:
            if hop.gateway is not None and hop not in self._neighbours:
                self.add_neighbour(hop.gateway, hop.ifindex)
        return True

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.prefix]
        if entry.mark != _NO_MARK:
            self._marks.append(entry.mark)
        self._room[entry.prefix.family] += entry.programmed

    def _same_hops(self, old: tuple[Hop, ...], new: tuple[Hop, ...]) -> bool:
        if len(old) != len(new):
            return False
        return not self._release.notices_new_gateway or all(
            a.gateway == b.gateway for a, b in zip(old, new, strict=True)
        )

    def _known_as(self, prefix: Prefix) -> Prefix:
        return _IPV4_DEFAULT if prefix.is_default and not self._release.knows_ipv6_default else prefix


def _host_prefix(address: Address) -> Prefix:
    return Prefix(address, len(address) * 8)
