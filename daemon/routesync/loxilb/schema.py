"""loxilb's JSON as values, and what its answers to changes mean.

Anything that a peer sends, however deeply nested or long, is parsed or is an error of `routesync.loxilb.errors`.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Generator, Iterator, Mapping
from typing import Final, NamedTuple, cast

from routesync.loxilb import errors
from routesync.route import Address, Prefix

SUCCESSES: Final = frozenset((200, body) for body in (b'{"result":"Success"}\n', b'{"result": "Success"}'))
"""Status and body of most answers to POST and DELETE, as Go writes them, or others: known without being parsed."""

ROWS_A_SLICE: Final = 500
"""Rows of a table that are read in one step: some milliseconds."""

_UNREADABLE: Final = (ValueError, IndexError, RecursionError)
"""What `json` raises of bytes that it cannot read; the last for deep nesting."""
_SHOWN: Final = 100


class InventoryRow(NamedTuple):
    """What a line of `GET /config/route/all` says of its prefix; thousands of prefixes share one.

    `gateways` are as shown; ECMP has several, a connected network none.
    """

    gateways: tuple[Address, ...]
    flags: frozenset[str]
    protocol: str


class Inventory(NamedTuple):
    """loxilb's own table as it showed it; it may show stale entries and lack what is not ingested yet."""

    rows: dict[Prefix, InventoryRow]
    unreadable: int  # rows that could not be understood
    first_unreadable: str = ""  # the first of them, as it was written, cut where it is long


class Port(NamedTuple):
    """A link in loxilb's namespace; `ifindex` is -1 for its pseudo ports."""

    name: str
    ifindex: int
    mac: str  # lower case, colons


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise errors.OutcomeUnknown(f"{what}: expected a JSON object, got {type(value).__name__}")
    return cast("Mapping[str, object]", value)


def _list(value: object, what: str) -> list[object]:
    if value is None:  # Go writes an empty slice as null
        return []
    if not isinstance(value, list):
        raise errors.OutcomeUnknown(f"{what}: expected a JSON array, got {type(value).__name__}")
    return cast("list[object]", value)


def excerpt(text: str | bytes) -> str:
    """The beginning of what a peer sent, on one line and without anything that a terminal acts on."""
    if isinstance(text, bytes):
        text = text[: 4 * _SHOWN].decode("utf-8", "backslashreplace")
    words = " ".join(text[: 4 * _SHOWN].split())
    safe = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in words)
    return safe if len(safe) <= _SHOWN else f"{safe[:_SHOWN]}…"


def decode(body: bytes, what: str) -> object:
    """Read a JSON body.

    Raises:
        OutcomeUnknown: it is no JSON; perhaps the peer is not loxilb at all.
    """
    try:
        return json.loads(body)
    except _UNREADABLE as error:
        raise _no_json(what, error, body) from None


def _no_json(what: str, error: Exception, body: bytes) -> errors.OutcomeUnknown:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else excerpt(str(error))
    return errors.OutcomeUnknown(f"{what}: the answer is not loxilb's JSON ({why}): {excerpt(body)!r}")


def require_success(request: str, status: int, body: bytes) -> None:
    """Return if the answer to a POST or DELETE means that it was done.

    Raises:
        Rejected: loxilb rejected it (one of its subclasses, by the kernel's error text).
        OutcomeUnknown: the answer does not show it.
    """
    try:
        answer = json.loads(body)
    except _UNREADABLE:
        answer = None
    fields: Mapping[str, object] = answer if isinstance(answer, dict) else {}
    result = fields.get("result")
    message = fields.get("message")
    if 200 <= status < 300:
        if result == "Success":
            return
        if not isinstance(result, str):
            raise errors.OutcomeUnknown(f"{request}: HTTP {status} without a result: {excerpt(body)!r}")
        if result == "fail":  # up to v0.9.8.4, and that is all it says
            raise errors.Unexplained(request, status, "it failed, and this version does not say why")
    words = " ".join(part for part in (result, message) if isinstance(part, str) and part)
    raise _rejection(request, status, excerpt(words or body))


def _rejection(request: str, status: int, words: str) -> errors.LoxilbError:
    said = words.lower()
    kind: type[errors.Rejected]
    if status in {401, 403} or "invalid token" in said:
        kind = errors.AccessDenied
    elif "file exists" in said or status == 409:
        kind = errors.AlreadyExists
    elif "no such process" in said:
        kind = errors.NoSuchRoute
    elif "network is unreachable" in said or "no route to host" in said or "network is down" in said:
        kind = errors.NextHopUnreachable
    elif "same ip family" in said or status in {400, 404, 405, 413, 415, 422}:
        kind = errors.InvalidRequest
    elif status >= 500:
        return errors.OutcomeUnknown(f"{request}: HTTP {status}: {words}")
    else:
        kind = errors.Rejected
    return kind(request, status, words)


def parse_prefix(text: str) -> Prefix:
    """Read a prefix as loxilb writes it, host bits dropped; several times faster than `ipaddress`.

    Raises:
        ValueError, OSError: it is none.
    """
    address, _, length_text = text.partition("/")
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    length = int(length_text)
    bits = len(packed) * 8
    if not 0 <= length <= bits:
        raise ValueError(text)
    host_bits = bits - length
    number = int.from_bytes(packed, "big") >> host_bits << host_bits
    return Prefix(Address(number.to_bytes(len(packed), "big")), length)


class _Reader:
    """Reads rows, and makes those that say the same of many prefixes once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, object, object], InventoryRow] = {}

    def read(self, value: object) -> tuple[Prefix, InventoryRow]:
        """Read one.

        Raises:
            ValueError, OSError, KeyError, AttributeError, TypeError: it makes no sense.
        """
        fields = cast("dict[str, object]", value)
        key = fields.get("gateway"), fields.get("flags"), fields.get("protocol")
        row = self._known.get(key)
        if row is None:
            row = self._known[key] = _make_row(*key)
        prefix = parse_prefix(cast("str", fields["destinationIPNet"]))
        if not prefix.length and row.gateways and len(row.gateways[0]) != len(prefix.packed):
            prefix = Prefix(Address(bytes(len(row.gateways[0]))), 0)  # before v0.9.7: ::/0 shown as 0.0.0.0/0
        return prefix, row


def _make_row(gateway: object, flags: object, protocol: object) -> InventoryRow:
    if not (isinstance(gateway, str | None) and isinstance(flags, str | None)):
        raise TypeError
    if not isinstance(protocol, str | int | None):
        raise TypeError
    return InventoryRow(
        _parse_gateways(gateway or ""),
        frozenset((flags or "").split()),
        "" if protocol is None else str(protocol),
    )


def _parse_gateways(text: str) -> tuple[Address, ...]:
    return tuple(
        Address(socket.inet_pton(socket.AF_INET6 if ":" in part else socket.AF_INET, part.strip()))
        for part in text.split(",")
        if part.strip()
    )


def _skip(
    text: str, at: int, expected: str = "", *, space: re.Pattern[str] = re.compile(r"[ \t\r\n]*")
) -> int:
    """Go over white space, after a character that must be there, if one is given."""
    if expected and text[at] not in expected:
        raise ValueError(f"expected {' or '.join(expected)} at character {at}")
    match = space.match(text, at + bool(expected))
    return match.end() if match else at


def _elements(text: str, name: str) -> Iterator[tuple[object, int, int]]:
    """The elements of one array in a JSON object, each when it is asked for, with the places where it begins and ends.

    The whole could be read at once, and would hold the event loop for as long.

    Raises:
        ValueError, IndexError, RecursionError: this is no JSON, no object, or there is something else of that name.
    """
    decode_at = json.JSONDecoder().raw_decode
    at = _skip(text, _skip(text, 0), "{")
    while text[at] != "}":
        key, at = decode_at(text, at)
        if not isinstance(key, str):
            raise ValueError("a key is no string")  # noqa: TRY004 (it is about the text)
        at = _skip(text, _skip(text, at), ":")
        if key == name and text[at] == "[":
            at = _skip(text, at, "[")
            while text[at] != "]":
                value, end = decode_at(text, at)
                yield value, at, end
                at = end
                if text[at : at + 2] == ",{":  # as Go writes it
                    at += 1
                elif text[at := _skip(text, at)] != "]":
                    at = _skip(text, at, ",")
            at += 1
        else:
            value, at = decode_at(text, at)
            if key == name and value is not None:  # Go writes an empty slice as null
                raise ValueError(f"{name} is no array")
        if text[at := _skip(text, at)] != "}":
            at = _skip(text, at, ",")
    if _skip(text, at, "}") != len(text):
        raise ValueError("there is something behind the object")


def read_inventory(body: bytes, what: str) -> Generator[None, None, Inventory]:
    """Read `GET /config/route/all` in steps. Rows that make no sense are counted, not fatal: they are not ours.

    Raises:
        OutcomeUnknown: the body as a whole is something else.
    """
    rows: dict[Prefix, InventoryRow] = {}
    unreadable, first = 0, ""
    read = _Reader().read
    try:
        text = body.decode()
        for number, (value, begin, end) in enumerate(_elements(text, "routeAttr"), start=1):
            try:
                prefix, row = read(value)
            except (ValueError, OSError, KeyError, AttributeError, TypeError):
                unreadable += 1
                first = first or excerpt(text[begin:end])
            else:
                rows[prefix] = row
            if not number % ROWS_A_SLICE:
                yield
    except _UNREADABLE as error:
        raise _no_json(what, error, body) from None
    return Inventory(rows, unreadable, first)


def parse_ports(body: bytes, what: str) -> tuple[Port, ...]:
    """Read `GET /config/port/all`.

    Raises:
        OutcomeUnknown: it is something else.
    """
    ports: list[Port] = []
    for value in _list(_object(decode(body, what), what).get("portAttr"), what):
        port = _object(value, what)
        name = port.get("portName")
        software = port.get("portSoftwareInformation")
        hardware = port.get("portHardwareInformation")
        index = software.get("osId") if isinstance(software, dict) else None
        mac = hardware.get("macAddress") if isinstance(hardware, dict) else None
        ports.append(
            Port(
                name if isinstance(name, str) else "",
                index if isinstance(index, int) else -1,
                mac.lower() if isinstance(mac, str) else "",
            )
        )
    return tuple(ports)


def parse_version(body: bytes, what: str) -> str:
    """Read `GET /version`; "unknown" where the answer names none.

    Raises:
        OutcomeUnknown: it is something else.
    """
    answer = decode(body, what)
    version = answer.get("version") if isinstance(answer, dict) else None
    return excerpt(version) if isinstance(version, str) and version else "unknown"
