"""loxilb's words: the bodies of its answers, byte for byte as the original writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from standin.addresses import format_address
from standin.ears import Port
from standin.releases import Release
from standin.table import Entry

JSON: TypeAlias = "str | int | bool | list[JSON] | dict[str, JSON] | None"

_PROTOCOL_WORDS: Final = ("unspec", "redirect", "kernel", "boot", "static")
_FIRST_BRIDGE_DOMAIN: Final = 3800  # RealPortIDB: every port has a pseudo port vlan38xx of its own
_PSEUDO_PORT_MAC: Final = "aa:bb:cc:dd:ee:ff"


class Answer(NamedTuple):
    """A status and the JSON that goes with it."""

    status: int
    body: JSON


SUCCESS: Final = Answer(200, {"result": "Success"})

_MEANINGS: Final = (
    (404, "Resource not found", ("no such", "not found")),
    (409, "Resource conflict: Resource already exists OR dependency not found", (" exists",)),
    (400, "Malformed arguments for API call", ("invalid ",)),
)


OLD_FAILURE: Final = Answer(200, {"result": "fail"})
"""What every error was before 0.9.8.5."""


def failure(words: str) -> Answer:
    """Wrap an error's words: loxilb finds the status by looking for pieces of text in them; 500 where it finds none."""
    found = (
        (status, message) for status, message, pieces in _MEANINGS if any(piece in words for piece in pieces)
    )
    status, message = next(found, (500, words))
    return Answer(status, {"code": status, "fields": None, "message": message, "result": words})


def kernel_words(number: int) -> str:
    """The kernel's words for an errno, in lower case as Go has them."""
    return os.strerror(number).lower()


def refusal(status: int, code: int, message: str) -> Answer:
    """What go-openapi says before loxilb's own code is asked."""
    return Answer(status, {"code": code, "message": message})


def route_rows(entries: Iterable[Entry], release: Release) -> JSON:
    """The body of GET /config/route/all."""
    return {"routeAttr": [_route_row(entry, release) for entry in entries]}


def _route_row(entry: Entry, release: Release) -> JSON:
    row: dict[str, JSON] = {"destinationIPNet": str(entry.prefix), "flags": entry.flags}
    if entry.hops:
        row["gateway"] = ",".join(map(format_address, entry.gateways))
    row["hardwareMark"] = entry.mark
    if release.names_protocols:
        known = entry.protocol < len(_PROTOCOL_WORDS)
        row["protocol"] = _PROTOCOL_WORDS[entry.protocol] if known else str(entry.protocol)
    elif entry.protocol:
        row["protocol"] = entry.protocol
    row["statistic"] = {"bytes": 0, "packets": 0}
    return row


def port_rows(ports: Iterable[Port]) -> JSON:
    """The body of GET /config/port/all: each port, and the pseudo port that loxilb makes for it."""
    rows: list[JSON] = []
    for number, port in enumerate(ports, start=1):
        rows.append(_port_row(port.name, port.ifindex, port.mac.hex(":"), number))
        domain = _FIRST_BRIDGE_DOMAIN + number
        rows.append(_port_row(f"vlan{domain}", -1, _PSEUDO_PORT_MAC, domain))
    return {"portAttr": rows}


def _port_row(name: str, ifindex: int, mac: str, number: int) -> JSON:
    raw: list[JSON] = [int(byte, 16) for byte in mac.split(":") if byte]
    return {
        "portHardwareInformation": {"link": True, "macAddress": mac, "rawMacAddress": raw, "state": True},
        "portName": name,
        "portNo": number,
        "portSoftwareInformation": {"osId": ifindex, "portActive": True},
        "zone": "root",
    }


def encode(body: JSON) -> bytes:
    """Write a body as Go's encoder does: no blanks, a newline at the end."""
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"
