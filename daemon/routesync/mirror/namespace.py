"""Does a loxilb share the network namespace whose routes we read?

Then a mirror would write into the very table that it reads. Two checks tell.

Its ports (`sharing`, `Settling`): loxilb lists the links of its namespace with ifindex, name and MAC (`lo` is not
listed, and pseudo ports have -1). But a list can be incomplete (while it starts, ports are missing) or a moment old (a
pod's link that came or went, a link renamed), and a link elsewhere can equal one of ours by chance (an ipvlan has its
parent's MAC). So a list counts when it is settled, one link in common proves nothing against others that are not ours,
and a renamed link is still the same one. Where it is unclear nothing is mirrored.

Then our first POST that is answered with 2xx (`PostedRoutes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import Final

from routesync.best_routes import OwnNode
from routesync.kernel import Link
from routesync.loxilb.schema import Port
from routesync.mirror.state import Request
from routesync.mirror.witness import posted_metric
from routesync.names import PROTOCOLS, TABLES
from routesync.route import Address, Candidate, Prefix, Route

AGREEING: Final = 5
"""Where ports come and go all the time, so many lists in a row that lead to the same answer settle it, too."""

SHARED: Final = (
    "it shares this host's network namespace and reads its routes by itself; nothing is mirrored into it"
)

_LOOPBACK: Final = 0x8  # IFF_LOOPBACK
_MAIN: Final = TABLES["main"]
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


class Sharing(Enum):
    """Whether a loxilb and we are in one network namespace."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


def sharing(ports: Iterable[Port], links: Mapping[int, Link]) -> Sharing:
    """Compare its real ports with our links, as both are at one moment.

    A port with ifindex and MAC of a link of ours is that link (it may have been renamed). One with ifindex and name
    only may be (its MAC may have been changed), and counts neither for nor against: every container has an `eth0`.

    - No ports, or no links of ours known yet: unknown.
    - None is a link of ours: no.
    - None is certainly not: yes. It may list fewer than there are: it starts, or is configured to leave some alone.
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
    """A target's ports, listed again until they can be believed. For one connection."""

    def __init__(self) -> None:
        self._ports: frozenset[Port] | None = None
        self._guess = Sharing.UNKNOWN
        self._agreeing = 0

    def note(self, ports: Iterable[Port], links: Mapping[int, Link]) -> tuple[Sharing, bool]:
        """Take a list, and our links at that time; return what it says, and whether that is settled."""
        real = frozenset(port for port in ports if port.ifindex > 0)
        guess = sharing(real, links)
        same = real == self._ports and guess is self._guess
        self._agreeing = self._agreeing + 1 if guess is self._guess else 1
        self._ports, self._guess = real, guess
        return guess, guess is not Sharing.UNKNOWN and (same or self._agreeing >= AGREEING)

    @property
    def ports(self) -> frozenset[Port]:
        """The real ports of the last list."""
        return self._ports or frozenset()


class PostedRoutes:
    """The proof that a target has a network namespace of its own, by what becomes of a POST.

    loxilb adds a route with CREATE and EXCL, and the kernel queues the event before loxilb answers 2xx (600 of 600 on a
    real one). So when all queued events were read after the 2xx and none shows the route as created, another kernel
    table took it. If our own table had a route with the same key all the while, the 2xx alone is the proof: in our
    namespace the answer would have been 409. A 409, 5xx or silence proves nothing.
    """

    def __init__(self, node: OwnNode, protocols: Callable[[], frozenset[str]]) -> None:
        self._node = node
        self._protocols = protocols
        self._posting: tuple[Prefix, Address] | None = None
        self._came_up = False
        self._held_before: Candidate | None = None
        self._overruns = 0

    def on_route_created(self, route: Route) -> None:
        """Our kernel announced a route where none had its key. Cheap: called for many, before the rules."""
        if self._posting is not None and self._as_posted(route, *self._posting):
            self._came_up = True

    def begin(self, request: Request) -> None:
        """A POST is about to be sent; no other is on its way."""
        self._posting, self._came_up = (request.prefix, request.gateway), False
        self._held_before, self._overruns = self._holds_key(request.prefix), self._node.overruns

    async def shared(self, request: Request) -> bool | None:
        """After its 2xx: whether the target shares our namespace; None: events were lost, so this one did not tell."""
        caught_up = await self._node.catch_up()
        self._posting = None
        if self._held_before is not None and self._held_before == self._holds_key(request.prefix):
            return False
        if self._came_up:
            return True
        return False if caught_up and self._node.overruns == self._overruns else None

    def _holds_key(self, prefix: Prefix) -> Candidate | None:
        candidate = self._node.elected(prefix)
        if candidate is None:
            return None
        route = candidate.route
        same_key = route.table == _MAIN and not route.tos and route.metric == posted_metric(prefix)
        return candidate if same_key else None

    def _as_posted(self, route: Route, prefix: Prefix, gateway: Address) -> bool:
        """Whether a route looks as one that loxilb makes of our POST."""
        return (
            route.prefix == prefix
            and route.metric == posted_metric(prefix)
            and PROTOCOL_NAMES.get(route.protocol) in self._protocols()
            and len(route.hops) == 1
            and route.hops[0].gateway == gateway
            and route.table == _MAIN
            and not route.tos
        )
