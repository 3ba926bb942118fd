"""Does a loxilb live in the namespace whose routes we read?

Then a mirror would write into the very table that it reads. Its ports tell: it lists the links of its namespace with
ifindex, name and MAC (`lo` is not listed, and pseudo ports carry -1). But a list can be half told (while it starts,
ports are missing), or a moment old (a pod's link that came or went, a link renamed), and a link elsewhere can equal one
of ours by chance (an ipvlan has its parent's MAC). So a list counts when it was settled, one link in common proves
nothing against others that are not ours, and a renamed link is still the same one.

Where it is unclear we do not mirror: a mirror that should run and does not is seen at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Final

from routesync.kernel import Link
from routesync.loxilb.wire import Port

AGREEING: Final = 5
"""Where ports come and go all the time, so many readings in a row that say the same settle it, too."""

_LOOPBACK: Final = 0x8  # IFF_LOOPBACK


class Sharing(Enum):
    """Whether a loxilb and we are in one network namespace."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


def sharing(ports: Iterable[Port], links: Mapping[int, Link]) -> Sharing:
    """Hold its real ports against our links, as they are at one moment.

    A port with ifindex and MAC of a link of ours is that link (it may have been renamed). One with ifindex and name
    only may be (its MAC may have been changed), and counts neither for nor against: every container has an `eth0`.

    - No ports, or no links of ours known yet: unknown.
    - None is a link of ours: no.
    - None is certainly not: yes. It may well list fewer than there are (it starts, or is told to leave some alone).
    - Some are, some not: yes if it has all of our links, and more than one for certain; else no.
    """
    real = [port for port in ports if port.ifindex > 0]
    if not real or not links:
        return Sharing.UNKNOWN
    found = [(port, link) for port in real if (link := links.get(port.ifindex)) is not None]
    certain = {link.ifindex for port, link in found if any(link.mac) and link.mac.hex(":") == port.mac}
    likely = certain | {link.ifindex for port, link in found if link.name == port.name}
    if not certain:
        return Sharing.NO
    if len(likely) == len(real):
        return Sharing.YES
    has_all = likely >= {link.ifindex for link in links.values() if not link.flags & _LOOPBACK}
    return Sharing.YES if has_all and len(certain) > 1 else Sharing.NO


class Settling:
    """Readings of a target's ports, until they can be believed. For one connection."""

    def __init__(self) -> None:
        self._ports: frozenset[Port] | None = None
        self._guess = Sharing.UNKNOWN
        self._agreeing = 0

    def note(self, ports: Iterable[Port], links: Mapping[int, Link]) -> tuple[Sharing, bool]:
        """Take a reading, and our links at that time; return what it says, and whether that is settled."""
        real = frozenset(port for port in ports if port.ifindex > 0)
        guess = sharing(real, links)
        same = real == self._ports and guess is self._guess
        self._agreeing = self._agreeing + 1 if guess is self._guess else 1
        self._ports, self._guess = real, guess
        return guess, guess is not Sharing.UNKNOWN and (same or self._agreeing >= AGREEING)

    @property
    def ports(self) -> frozenset[Port]:
        """The real ports of the last reading."""
        return self._ports or frozenset()
