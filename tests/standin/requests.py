"""Reads what a request asks for, with the mistakes that go-openapi and Go's parsers find, in their words."""

from __future__ import annotations

import json
import socket
from typing import Final, NamedTuple

from standin.addresses import Address, Prefix
from standin.wire import Answer, refusal

_JSON_TYPES: Final = {
    str: "string",
    bool: "bool",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
}
_REQUIRED: Final = 602  # go-openapi's code of a missing value; the status is 422
_WRONG_TYPE: Final = 601
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class RefusedError(Exception):
    """go-openapi refuses the request before loxilb's own code sees it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


class FailedError(Exception):
    """loxilb's own code, or the kernel, has an error; the message is in their words."""


class RouteWish(NamedTuple):
    """The body of a POST."""

    destination: str
    gateway: str
    protocol: str


def parse_body(raw: bytes, *, complete: bool) -> RouteWish:
    """Read the body of a POST; what need not be there is empty when it is missing.

    Raises:
        RefusedError: with 400 for what is no JSON or of a wrong type, 422 where a part is missing.
    """
    if not raw.strip():
        raise RefusedError(refusal(422, _REQUIRED, "attr in body is required"))
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise RefusedError(_unparsable(str(error))) from None
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise RefusedError(
            _unparsable(f"json: cannot unmarshal {_JSON_TYPES[type(body)]} into models.RouteEntry")
        )
    texts: dict[str, str | None] = {}
    for name in ("destinationIPNet", "gateway", "protocol"):
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            found = _JSON_TYPES[type(value)]
            raise RefusedError(
                _unparsable(
                    f"json: cannot unmarshal {found} into Go struct field RouteEntry.{name} of type string"
                )
            )
        texts[name] = value
    for name in ("destinationIPNet", "gateway"):
        if complete and texts[name] is None:
            raise RefusedError(refusal(422, _REQUIRED, f"{name} in body is required"))
    return RouteWish(texts["destinationIPNet"] or "", texts["gateway"] or "", texts["protocol"] or "")


def _unparsable(why: str) -> Answer:
    return refusal(400, 400, f'parsing attr body from "" failed, because {why}')


def body_timeout() -> RefusedError:
    """The refusal of a request that did not become whole in time."""
    return RefusedError(_unparsable("read tcp: i/o timeout"))


def parse_cidr(text: str) -> Prefix:
    """Read a prefix as Go's net.ParseCIDR does: host bits are masked away, a bare address is none.

    Raises:
        FailedError: `invalid CIDR address: …`.
    """
    address_text, slash, length_text = text.partition("/")
    address = _address(address_text)
    if not slash or address is None or not (length_text.isascii() and length_text.isdecimal()):
        raise FailedError(f"invalid CIDR address: {text}")
    bits, length = len(address) * 8, int(length_text)
    if length > bits:
        raise FailedError(f"invalid CIDR address: {text}")
    return Prefix.of(address, length)


def parse_gateway(text: str, prefix: Prefix) -> Address | None:
    """Read a gateway as Go's net.ParseIP does: None, and so none in the route, for anything that is no address.

    Raises:
        FailedError: its family is not the prefix's.
    """
    address = _address(text)
    if address is not None and address.startswith(_V4_MAPPED):
        address = Address(address[len(_V4_MAPPED) :])
    if address is not None and len(address) != len(prefix.packed):
        raise FailedError("gateway, source, and destination ip are not the same IP family")
    return address


def parse_path_prefix(address: str, length: str) -> Prefix:
    """Read the prefix out of the path of a DELETE.

    Raises:
        RefusedError: 422 for a length that is no integer.
        FailedError: the prefix is malformed.
    """
    try:
        number = int(length)
    except ValueError:
        raise RefusedError(
            refusal(422, _WRONG_TYPE, f'mask in path must be of type int64: "{length}"')
        ) from None
    return parse_cidr(f"{address}/{number}")


def _address(text: str) -> Address | None:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return Address(socket.inet_pton(family, text))
    except (OSError, ValueError):  # ValueError: a NUL within
        return None
