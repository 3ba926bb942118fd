"""The base URL of a loxilb's API: the one place that takes such a URL apart.

A link-local IPv6 address needs the interface that it is reached by, its zone: `http://[fe80::1%25eth0]:11111` as
RFC 6874 writes it, or `%eth0`, as ip(8) and people do. Both are accepted. A zone means something on this host only:
it is for connecting, and neither for the Host header nor for a certificate.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from routesync.route import Address, is_link_local, parse_address

_INTERFACE: Final = re.compile(r"[^\s/%\]]{1,15}")  # IFNAMSIZ - 1 (linux/if.h)
_ZONE: Final = re.compile(
    r"(?P<before>[A-Za-z]+://\[[0-9A-Fa-f:.]+)%(?P<zone>[^\]/?#]*)(?P<after>\].*)", re.DOTALL
)


class BaseUrl(NamedTuple):
    """An http or https URL, taken apart."""

    scheme: str
    host: str  # a name, or an address without brackets and zone
    zone: str  # the interface, by name or index; empty: none
    port: int | None  # as written
    path: str  # without a slash at the end

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a URL apart.

        Raises:
            ValueError: it is no such URL; the message says why, in words that follow "this is no URL: ".
        """
        zone = ""
        if match := _ZONE.fullmatch(text):
            zone = match["zone"]
            zone = unquote(zone[2:]) if len(zone) > 2 and zone.startswith("25") else zone
            text = match["before"] + match["after"]
            if not _INTERFACE.fullmatch(zone):
                raise ValueError("its zone, the part behind %, is no name of an interface")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("its host or port cannot be read") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("it has no host, or another scheme than http and https")
        url = cls(parts.scheme, host, zone, port, parts.path.rstrip("/"))
        if zone and (url.address is None or not is_link_local(url.address)):
            raise ValueError("only a link-local address (fe80::/10) has a zone")
        return url

    @property
    def address(self) -> Address | None:
        """The host's address, if it is one and no name."""
        try:
            return parse_address(self.host)
        except ValueError:
            return None

    @property
    def place(self) -> str:
        """The host to connect to: with its zone, as getaddrinfo(3) reads it."""
        return f"{self.host}%{self.zone}" if self.zone else self.host

    @property
    def with_port(self) -> Self:
        """The same with the port that is used where none is written (RFC 9110, section 4.2)."""
        return self._replace(port=self.port or (443 if self.scheme == "https" else 80))

    @property
    def authority(self) -> str:
        """Host and port for the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def __str__(self) -> str:
        """The URL in the one form in which it is shown, with the zone as in RFC 6874."""
        zone = f"%25{self.zone}]" if self.zone else "]"
        return f"{self.scheme}://{self.authority.replace(']', zone)}{self.path}"


def url_address(url: str) -> Address | None:
    """The address in a URL; None: a name, or no URL."""
    try:
        return BaseUrl.parse(url).address
    except ValueError:
        return None
