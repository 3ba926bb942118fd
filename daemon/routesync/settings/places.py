"""How places are written in the configuration: hosts, URLs, namespaces, topics.

The readers are of the kind that `routesync.settings.notation` describes.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from routesync.settings.notation import NotationError, read_text, shown
from routesync.url import BaseUrl

_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def read_host(value: object) -> str:
    """Read a host name or an address."""
    text = read_text(value)
    if "://" in text:
        raise NotationError(
            "expected a host's name or address, got a URL",
            "leave out the scheme, and give the port by 'port'",
        )
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if len(text) > 253 or not _HOST.fullmatch(text):
            raise NotationError(f"{shown(text)} is no host name or address") from None
    return text


def read_url(value: object) -> str:
    """Read the base URL of an HTTP API; a slash at the end is dropped, a zone is written as in RFC 6874.

    Raises:
        NotationError: no http or https URL with a host; credentials, query or fragment in it (these are not echoed).
    """
    text = read_text(value, "a URL as a string")
    example = "write it like http://192.168.10.20:11111"
    if any(char.isspace() or not char.isprintable() for char in text):
        raise NotationError("there is white space or a control character in the URL", example)
    scheme, _, rest = text.partition("://")
    if "@" in re.split("[/?#]", rest)[0]:
        raise NotationError(
            "there are credentials in the URL", "leave them out, and use 'token' or 'token_file'"
        )
    if scheme.lower() not in ("http", "https") or not rest:
        raise NotationError(f"{shown(text)} is no http or https URL", example)
    if "?" in text or "#" in text:
        raise NotationError("there is a query or fragment in the URL", example)
    try:
        url = BaseUrl.parse(text)
    except ValueError as error:
        raise NotationError(f"this is no URL: {error}", example) from None
    if url.port == 0:
        raise NotationError("port 0 cannot be connected to", example)
    try:
        read_host(url.host)
    except NotationError as error:
        raise NotationError(error.message, example) from None
    return str(url) if url.zone else text.rstrip("/")


def read_netns(value: object) -> str:
    """Read a network namespace: a name below /run/netns, or an absolute path."""
    text = read_text(value)
    if "\0" in text or not text or (not text.startswith("/") and ("/" in text or text in (".", ".."))):
        raise NotationError(
            f"{shown(text)} names no network namespace", "write a name below /run/netns, or a path"
        )
    return text


def read_topic(value: object) -> str:
    """Read a root topic: no wildcards, no empty level (MQTT 5.0, section 4.7)."""
    text = read_text(value)
    if (
        set("#+\0") & set(text)
        or not all(text.split("/"))
        or text.startswith("$")
        or len(text.encode()) > 1024
    ):
        raise NotationError(
            f"{shown(text)} is no topic to publish below",
            "write levels joined by '/', without '+', '#' and a leading '$'",
        )
    return text


class Listen(NamedTuple):
    """An address of ours and a port, to listen at."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def read_listen(value: object) -> Listen:
    """Read `ADDRESS:PORT`, IPv6 addresses in brackets."""
    example = "write it like 127.0.0.1:9469 or [::1]:9469"
    text = read_text(value, "ADDRESS:PORT as a string")
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 1 << 16:
        raise NotationError(f"{shown(text)} has no port to listen at", example)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise NotationError(f"{shown(text)} has no address of this host", example) from None
    if bracketed != (address.version == 6):
        raise NotationError(f"in {shown(text)} an IPv6 address stands in brackets, and no other", example)
    return Listen(str(address), int(port))
