"""Does a loxilb live in the namespace whose routes we read?

Then a mirror would write into the very table that it reads. Its ports tell: it lists the links of its namespace with
ifindex, name and MAC (`lo` is not listed, and pseudo ports carry -1). While it starts, ports are missing: that is not
known, and not the same as no.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto

from routesync.kernel import Link
from routesync.loxilb.wire import Port


class Sharing(Enum):
    """Whether a loxilb and we are in one network namespace."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


def sharing(ports: Iterable[Port], links: Mapping[int, Link]) -> Sharing:
    """Hold its real ports against our links: all equal by ifindex, name and MAC means one namespace."""
    real = [port for port in ports if port.ifindex > 0]
    if not real:
        return Sharing.UNKNOWN
    return Sharing.YES if all(_same(port, links.get(port.ifindex)) for port in real) else Sharing.NO


def _same(port: Port, link: Link | None) -> bool:
    return link is not None and link.name == port.name and link.mac.hex(":") == port.mac
