"""The tripwire: a route that we posted to a loxilb and that comes up in our own kernel shows that it lives here.

Its ports should have told (`topology`); this is for when they did not. A loxilb adds our route with CREATE and EXCL,
so our kernel announces it as made where none had its key. If the wished route itself looks just so, the wire is not
set: in our own namespace the POST would have been answered 409, and an announcement may be its author's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from routesync.loxilb import errors
from routesync.names import PROTOCOLS, TABLES
from routesync.route import Address, Candidate, Prefix, Route, format_address

LAG_S: Final = 2.0
"""So long after the answer, the announcement may still be under way to us: our own socket may have much to read."""
_FOREVER: Final = float("inf")
_MAIN: Final = TABLES["main"]
_INET6_METRIC: Final = 1024
"""What an IPv6 route has that is posted without a metric; IPv4: 0."""


class OwnRouteSeenError(errors.LoxilbError):
    """What we posted came up in our own kernel."""


class Wire:
    """One POST that is watched.

    Attributes:
        until: monotonic seconds; while the answer is out, forever.
    """

    __slots__ = ("gateway", "heard", "until")

    def __init__(self, gateway: Address) -> None:
        self.gateway = gateway
        self.heard = False
        self.until = _FOREVER


class Tripwire:
    """Knows what is being posted to one target, and hears what our kernel says was made.

    Attributes:
        seen: the routes that tripped it, by prefix; to be emptied by whoever dealt with them.
        protocols: those that its loxilb makes our routes with.
    """

    def __init__(self, tripped: Callable[[], None], now: Callable[[], float]) -> None:
        self.seen: dict[Prefix, Address] = {}
        self.protocols = frozenset({PROTOCOLS["static"]})
        self._tripped = tripped
        self._now = now
        self._wires: dict[Prefix, Wire] = {}
        self._answers: deque[tuple[float, Prefix, Wire]] = deque()

    def set(self, prefix: Prefix, gateway: Address, candidate: Candidate | None) -> Wire:
        """Watch out for this route: it is about to be posted. `candidate` is the wished route, if there is one."""
        wire = self._wires.get(prefix)
        if wire is not None and wire.gateway == gateway and wire.until > self._now():
            return wire  # posted a moment ago, and now again as a check: the first one may still come up
        wire = Wire(gateway)
        if candidate is None or not self._as_posted(candidate.route, gateway):
            self._wires[prefix] = wire
        return wire

    def refused(self, prefix: Prefix, wire: Wire) -> None:
        """It was not made now: what is heard of it is somebody else's, unless it was made just before."""
        if wire.until == _FOREVER:
            self._take_down(prefix, wire)

    def _take_down(self, prefix: Prefix, wire: Wire) -> None:
        if self._wires.get(prefix) is wire:
            del self._wires[prefix]

    def answered(self, prefix: Prefix, wire: Wire) -> None:
        """It was made, or perhaps."""
        now = self._now()
        wire.until = now + LAG_S
        self._answers.append((wire.until, prefix, wire))
        while self._answers and self._answers[0][0] <= now:
            _, other, old = self._answers.popleft()
            if old.until <= now:  # else it was answered again meanwhile
                self._take_down(other, old)
        if wire.heard:
            self._trip(prefix, wire)

    def heard(self, route: Route) -> None:
        """Our kernel says that a route was made where none had its key. Cheap: it is called for many."""
        wire = self._wires.get(route.prefix)
        if wire is None or not self._as_posted(route, wire.gateway):
            return
        wire.heard = True
        if self._now() < wire.until < _FOREVER:
            self._trip(route.prefix, wire)

    def _as_posted(self, route: Route, gateway: Address) -> bool:
        """Whether a route looks as one that loxilb makes of our POST with this gateway."""
        return (
            route.metric == (0 if len(route.prefix.packed) == 4 else _INET6_METRIC)
            and route.protocol in self.protocols
            and len(route.hops) == 1
            and route.hops[0].gateway == gateway
            and route.table == _MAIN
            and not route.tos
        )

    def _trip(self, prefix: Prefix, wire: Wire) -> None:
        self._take_down(prefix, wire)
        self.seen[prefix] = wire.gateway
        self._tripped()

    @property
    def error(self) -> OwnRouteSeenError | None:
        """What it says when it has tripped."""
        if not self.seen:
            return None
        prefix, gateway = next(iter(self.seen.items()))
        more = f" (and {len(self.seen) - 1} more)" if len(self.seen) > 1 else ""
        return OwnRouteSeenError(
            f"the route to {prefix} via {format_address(gateway)}{more} that we told it came up in this host's own "
            "kernel: it shares this host's network namespace; nothing more is mirrored into it"
        )
