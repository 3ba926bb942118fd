"""How values are written in the configuration: words, ranges, prefixes, addresses.

Each reader takes what TOML gave (a string, a number, anything) and returns the parsed value, or raises `NotationError`
with a message in the words of TOML and, where there is one, the remedy. Readers know nothing of where the value stands:
the loader adds file, line, table and key.
"""

from __future__ import annotations

import datetime as dt
import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from routesync.route import (
    Address,
    Family,
    HopFlag,
    Prefix,
    Rewrite,
    address_family,
    format_address,
    is_link_local,
    is_multicast,
)

MAX_U8: Final = 0xFF
MAX_U32: Final = 0xFFFF_FFFF
MAX_LENGTH: Final = 128
MAX_INTERFACE_NAME: Final = 15
"""IFNAMSIZ - 1 (linux/if.h)."""

_MAX_SHOWN: Final = 60
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class NotationError(ValueError):
    """A value that cannot be read: what is wrong with it, and what to write instead."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}; {remedy}" if remedy else message)


class Span(NamedTuple):
    """A range of numbers, both ends included."""

    low: int
    high: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.low <= number <= self.high


def kind_of(value: object) -> str:
    """Name a value's type as TOML does, with its article."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int():
            return "an integer"
        case float():
            return "a float"
        case dt.date() | dt.time():
            return "a date or time"
        case list() | tuple():
            return "an array"
        case dict():
            return "a table"
        case _:
            return type(value).__name__


def shown(text: str) -> str:
    """Quote a word for a message, cut where it is very long."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")


def suggest(word: str, known: Iterable[str]) -> str:
    """Propose the known word that was probably meant, as a remedy; empty where none is close."""
    if len(word) > _MAX_SHOWN:
        return ""
    words = list(known)
    close = difflib.get_close_matches(word.lower(), words, n=1) or [it for it in words if it.startswith(word)]
    return f"did you mean {close[0]!r}?" if close else ""


def read_text(value: object, expected: str = "a string") -> str:
    """Take a string.

    Raises:
        NotationError: it is none.
    """
    if not isinstance(value, str):
        raise NotationError(f"expected {expected}, got {kind_of(value)}")
    return value


def read_name(value: object) -> str:
    """Read a name that is fit for topics, file names and metrics labels."""
    text = read_text(value)
    if not NAME.fullmatch(text):
        raise NotationError(
            f"{shown(text)} is no valid name",
            "use letters, digits, '.', '_' and '-', at most 63, not '.', '_', '-' first",
        )
    return text


def read_number(value: object, kind: str, names: Mapping[str, int], highest: int) -> int:
    """Read a name that stands for a number (a protocol, scope, type, table), or the number itself.

    Raises:
        NotationError: an unknown name, with the nearest known one and the list; a number outside 0..highest.
    """
    if isinstance(value, str):
        if value in names:
            return names[value]
        if not (value.isascii() and value.isdigit()):
            known = ", ".join(sorted(names, key=lambda name: names[name]))
            remedy = " ".join(filter(None, (suggest(value, names), f"Known: {known}; or a number")))
            raise NotationError(f"unknown {kind} {shown(value)}", remedy)
        value = int(value[:20])
    if not isinstance(value, int) or isinstance(value, bool):
        raise NotationError(
            f"expected the name or number of a {kind}, or a list of them, got {kind_of(value)}"
        )
    if not 0 <= value <= highest:
        raise NotationError(f"a {kind} is a number between 0 and {highest}")
    return value


def read_flag(value: object) -> int:
    """Read the name of a hop's flag as its bit."""
    text = read_text(value, "the name of a flag, or a list of them")
    if text not in HopFlag.NAMES:
        known = f"Known: {', '.join(HopFlag.NAMES)}"
        raise NotationError(
            f"unknown flag {shown(text)}", " ".join(filter(None, (suggest(text, HopFlag.NAMES), known)))
        )
    return HopFlag.NAMES[text]


def read_span(value: object, kind: str, highest: int) -> Span:
    """Read a number or a range of numbers: 100, "100", "100-200", "1024-", "-50"."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str):
        parts = re.fullmatch(r"\s*([0-9]{0,20})\s*(-?)\s*([0-9]{0,20})\s*", value)
        if parts is None or not (parts[1] or parts[3]) or (parts[3] and not parts[2]):
            raise NotationError(
                f"{shown(value)} is no {kind}", 'write a number, or a range like "100-200", "1024-" or "-50"'
            )
        low = int(parts[1] or 0)
        high = int(parts[3]) if parts[3] else (highest if parts[2] else low)
    else:
        raise NotationError(
            f"expected a number, a range as a string, or a list of them, got {kind_of(value)}"
        )
    if not (0 <= low <= highest and 0 <= high <= highest):
        raise NotationError(f"a {kind} is between 0 and {highest}")
    if low > high:
        raise NotationError(f"the range {value!r} is empty", f'did you mean "{high}-{low}"?')
    return Span(low, high)


def read_prefix(value: object) -> Prefix:
    """Read a prefix in CIDR form; an address alone is a host prefix.

    Raises:
        NotationError: no prefix, or host bits are set (the message gives the prefix that was probably meant).
    """
    text = read_text(value, "a prefix as a string, or a list of them")
    if text == "default":
        raise NotationError(
            "'default' names no family", "write 0.0.0.0/0, ::/0, or match default_route = true"
        )
    if len(text) > _MAX_SHOWN:
        raise NotationError(f"{shown(text)} is not a prefix")
    if "%" in text:
        raise NotationError(f"there is an interface in {shown(text)}", "match it with the key 'interface'")
    try:
        return Prefix.parse(text)
    except ValueError as error:
        raise NotationError(str(error)) from None


def read_family(value: object) -> Family:
    """Read `ipv4` or `ipv6`."""
    labels = {family.label: family for family in Family}
    text = read_text(value, '"ipv4", "ipv6" or a list of them')
    if text not in labels:
        raise NotationError(f"unknown family {shown(text)}", 'write "ipv4" or "ipv6"')
    return labels[text]


def read_interface(value: object) -> str:
    """Read a glob of interface names."""
    text = read_text(value, "the name of an interface or a glob as a string, or a list of them")
    if not text or any(char.isspace() or char in "/\0" for char in text):
        raise NotationError(
            f"{shown(text)} is no interface name or glob", 'write something like "eth0" or "eth*"'
        )
    if len(text) > MAX_INTERFACE_NAME and not set("*?[") & set(text):
        raise NotationError(
            f"no interface has a name as long as {shown(text)}",
            f"use {MAX_INTERFACE_NAME} characters at most",
        )
    return text


SELF: Final = "self"
"""As `next_hop`: this host's address on the interface that reaches the target."""


def read_next_hop_word(value: object) -> str:
    """Read one member of a `next_hop` setting: "self", or an address, in its usual form."""
    return SELF if value == SELF else format_address(read_next_hop(value))


def read_next_hop(value: object) -> Address:
    """Read an address that can be told to loxilb as a gateway: unicast, with more than link scope."""
    text = read_text(value, "an address as a string, or a list of one for each family")
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        remedy = "leave out the prefix length" if "/" in text else 'write an IPv4 or IPv6 address, or "self"'
        raise NotationError(f"{shown(text)} is no address", remedy) from None
    address = Address(parsed.packed)
    if "%" in text or parsed.is_unspecified or parsed.is_loopback or text == "255.255.255.255":
        raise NotationError(
            f"{shown(text)} cannot be a next hop", "name an address of this host that loxilb can reach"
        )
    if is_link_local(address) or is_multicast(address):
        kind = "link-local" if is_link_local(address) else "multicast"
        raise NotationError(
            f"{shown(text)} is {kind}, and loxilb takes no such gateway", "name a wider unicast address"
        )
    return address


def read_allow_default(value: object) -> bool | Literal["override"]:
    """Read `allow_default` of a target."""
    if isinstance(value, bool):
        return value
    if value == "override":
        return "override"
    raise NotationError('expected true or false, or "override"')


def read_least_lengths(value: object) -> tuple[int, int]:
    """Read `min_prefix_length`: the least length of an IPv4 and of an IPv6 prefix."""
    items = value if isinstance(value, list | tuple) else ()
    lengths = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    if len(lengths) != 2 or len(items) != 2:
        raise NotationError("expected two integers, for IPv4 and IPv6", "write it like [8, 16]")
    if not (0 <= lengths[0] <= 32 and 0 <= lengths[1] <= 128):
        raise NotationError("a prefix length is between 0 and 32 for IPv4, and between 0 and 128 for IPv6")
    return lengths[0], lengths[1]


def read_rewrite(value: str | Iterable[str]) -> Rewrite:
    """Read a `next_hop` setting: "self", one address, or one of each family."""
    items = [value] if isinstance(value, str) else list(value)
    if SELF in items:
        if len(items) > 1:
            raise NotationError('"self" is for both families, and stands alone', 'write next_hop = "self"')
        return Rewrite(to_self=True)
    found: dict[Family, Address] = {}
    for item in items:
        address = read_next_hop(item)
        family = address_family(address)
        if family in found:
            raise NotationError(f"two {family.label} next hops", "give at most one address of each family")
        found[family] = address
    if not found:
        raise NotationError("the list is empty", "give an address, or leave the key out")
    return Rewrite(inet=found.get(Family.INET), inet6=found.get(Family.INET6))
