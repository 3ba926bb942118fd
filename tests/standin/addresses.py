"""Addresses and prefixes, packed as the kernel sends them.

They repeat a little of `routesync.route` on purpose: the stand-in shares no code with the program that it tests.
"""

from __future__ import annotations

import socket
from typing import NamedTuple, NewType, Self

Address = NewType("Address", bytes)
"""A packed IP address: 4 bytes for IPv4, 16 for IPv6."""


class Prefix(NamedTuple):
    """A destination: a network address without host bits, and the length of its mask."""

    packed: Address
    length: int

    @classmethod
    def of(cls, address: Address, length: int) -> Self:
        """The network of this length that contains the address."""
        host_bits = len(address) * 8 - length
        number = int.from_bytes(address, "big") >> host_bits << host_bits
        return cls(Address(number.to_bytes(len(address), "big")), length)

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return _family(self.packed)

    @property
    def is_host(self) -> bool:
        """Whether the prefix has full length (/32, /128)."""
        return self.length == len(self.packed) * 8

    @property
    def is_default(self) -> bool:
        """Whether this is 0.0.0.0/0 or ::/0."""
        return self.length == 0

    def __str__(self) -> str:
        return f"{format_address(self.packed)}/{self.length}"


def format_address(address: Address) -> str:
    """Write an address as Go's net.IP does (RFC 5952 for IPv6)."""
    return socket.inet_ntop(_family(address), address)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6
