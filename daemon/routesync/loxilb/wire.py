"""loxilb's JSON, as values: what it answers, and how an answer is judged."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from routesync.loxilb import errors
from routesync.route import Address, Prefix

SUCCESSES: Final = frozenset((200, body) for body in (b'{"result":"Success"}\n', b'{"result": "Success"}'))
"""Status and body of most answers to POST and DELETE, as Go writes them, or others: known without being parsed."""


class InventoryRow(NamedTuple):
    """One line of `GET /config/route/all`. `gateways` are as shown; ECMP has several, a connected network none."""

    prefix: Prefix
    gateways: tuple[Address, ...]
    flags: frozenset[str]
    protocol: str


class Inventory(NamedTuple):
    """loxilb's own table as it showed it; it may show ghosts and lack what is not ingested yet."""

    rows: dict[Prefix, InventoryRow]
    unreadable: int  # rows that could not be understood

    def shows(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether the prefix stands there with this gateway alone."""
        row = self.rows.get(prefix)
        return row is not None and row.gateways == (gateway,)


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


def decode(body: bytes, what: str) -> object:
    """Read a JSON body.

    Raises:
        OutcomeUnknown: it is no JSON; whoever answered may not be loxilb at all.
    """
    try:
        return json.loads(body)
    except ValueError as error:
        raise errors.OutcomeUnknown(f"{what}: the answer is no JSON ({error}): {body[:60]!r}") from None


def judge(request: str, status: int, body: bytes) -> None:
    """Return when the answer to a POST or DELETE means that it was done.

    Raises:
        Rejected: loxilb said no (one of its subclasses, by the kernel's words).
        OutcomeUnknown: the answer does not tell.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    fields: Mapping[str, object] = answer if isinstance(answer, dict) else {}
    result = fields.get("result")
    message = fields.get("message")
    if 200 <= status < 300:
        if result == "Success":
            return
        if not isinstance(result, str):
            raise errors.OutcomeUnknown(f"{request}: HTTP {status} without a result: {body[:60]!r}")
        if result == "fail":  # up to v0.9.8.4, and that is all it says
            raise errors.Unexplained(request, status, "it failed, and this version does not say why")
    words = " ".join(str(part) for part in (result, message) if part) or body[:60].decode("ascii", "replace")
    raise _rejection(request, status, words)


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


def _parse_row(value: object) -> InventoryRow:
    row = cast("Mapping[str, object]", value)
    gateway_text = row.get("gateway") or ""
    gateways = tuple(
        Address(socket.inet_pton(socket.AF_INET6 if ":" in part else socket.AF_INET, part.strip()))
        for part in str(gateway_text).split(",")
        if part.strip()
    )
    prefix = parse_prefix(str(row["destinationIPNet"]))
    if prefix.is_default and gateways and len(gateways[0]) != len(prefix.packed):
        prefix = Prefix(Address(bytes(len(gateways[0]))), 0)  # before v0.9.7, ::/0 is shown as 0.0.0.0/0
    return InventoryRow(
        prefix,
        gateways,
        frozenset(str(row.get("flags") or "").split()),
        str(row.get("protocol", "")),
    )


def parse_inventory(body: bytes, what: str) -> Inventory:
    """Read `GET /config/route/all`. Rows that make no sense are counted, not fatal: they are not ours.

    Raises:
        OutcomeUnknown: the body as a whole is something else.
    """
    rows: dict[Prefix, InventoryRow] = {}
    unreadable = 0
    for value in _list(_object(decode(body, what), what).get("routeAttr"), what):
        try:
            row = _parse_row(value)
        except (ValueError, OSError, KeyError, AttributeError, TypeError):
            unreadable += 1
        else:
            rows[row.prefix] = row
    return Inventory(rows, unreadable)


def parse_ports(body: bytes, what: str) -> tuple[Port, ...]:
    """Read `GET /config/port/all`.

    Raises:
        OutcomeUnknown: it is something else.
    """
    ports: list[Port] = []
    for value in _list(_object(decode(body, what), what).get("portAttr"), what):
        port = _object(value, what)
        software = port.get("portSoftwareInformation")
        hardware = port.get("portHardwareInformation")
        index = software.get("osId") if isinstance(software, dict) else None
        mac = hardware.get("macAddress") if isinstance(hardware, dict) else None
        ports.append(
            Port(
                str(port.get("portName", "")),
                index if isinstance(index, int) else -1,
                str(mac or "").lower(),
            )
        )
    return tuple(ports)
