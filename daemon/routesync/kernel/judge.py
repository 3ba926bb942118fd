"""Asks the rules: for whole routes, and, where they can tell, by the fixed part of a message alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from routesync.kernel.decode import RTM_F_CLONED, RTMSG
from routesync.kernel.replica import Rest
from routesync.kernel.surroundings import Links
from routesync.kernel.update import PLACEHOLDER, Sibling
from routesync.route import Attributes, Judged, LinkAddress, Prefix, Route, Verdict, link_host

Admit = Callable[[Route, Links], Verdict]
"""The rules: pure. They may look at all of the route and at the links, at nothing else. (`link_gateway`, the one fact
about other routes, is which of two such functions is asked.)"""

AdmitHeader = Callable[[int, int, int, int, int, int, int, int], Verdict | None]
"""The rules by family, dst_len, tos, table, protocol, scope, type and flags (struct rtmsg): the verdict that stands
whatever the attributes say; None where they matter. `flags` of a withdrawal may differ from those of the announcement
in the state of the hops, so a verdict by this road must not hang on those."""

_MEMO_SIZE: Final = 1 << 14
_AF_INET: Final = 2


def admit_header_unknown(*_header: int) -> Verdict | None:
    """Rules that want to see each route whole."""
    return None


class Judge:
    """Holds the active rules, and remembers what they said of headers."""

    def __init__(
        self,
        tables: Sequence[int],
        admit: Admit,
        admit_header: AdmitHeader,
        links: Callable[[], Links],
        admit_link_gateway: Admit | None = None,
    ) -> None:
        self.generation = 0
        self._ranks = {table: rank for rank, table in enumerate(tables)}
        self._rests: dict[tuple[bytes, int, int, int], Rest] = {}
        self._links = links
        self._admit = admit
        self._admit_header = admit_header
        self._admit_link_gateway = admit_link_gateway
        self._by_header: dict[tuple[bytes, int], Verdict | None] = {}
        self._judged: dict[tuple[int, int], Judged] = {}  # by id(): the values keep alive what is meant

    def replace(
        self, admit: Admit, admit_header: AdmitHeader, admit_link_gateway: Admit | None = None
    ) -> None:
        """Apply other rules."""
        self._admit, self._admit_header = admit, admit_header
        self._admit_link_gateway = admit_link_gateway
        self._by_header.clear()
        self.generation += 1

    def rest(self, attributes: Attributes) -> Rest | None:
        """What a route's key has beside its prefix; None for a table that is not read."""
        rank = self._ranks.get(attributes.table)
        if rank is None:
            return None
        source = attributes.source
        key = (
            b"" if source is None else bytes((source.length,)) + source.packed,
            attributes.tos,
            rank,
            attributes.metric,
        )
        known = self._rests.get(key)
        if known is not None:
            return known
        if len(self._rests) >= _MEMO_SIZE:
            self._rests.clear()
        made = Rest(*key)
        self._rests[made] = made
        return made

    def judged(self, attributes: Attributes, verdict: Verdict) -> Judged:
        """A verdict on attributes; the same object for the same two."""
        key = (id(attributes), id(verdict))
        known = self._judged.get(key)
        if known is None:
            if len(self._judged) >= _MEMO_SIZE:
                self._judged.clear()
            known = self._judged[key] = Judged(attributes, verdict)
        return known

    def route(
        self, prefix: Prefix, attributes: Attributes, by_header: Verdict | None = None
    ) -> tuple[Sibling, Verdict]:
        """What the rules leave of a route, and why; `by_header` is what `header` said of it."""
        verdict = by_header or self._admit(attributes.at(prefix), self._links())
        return (self.judged(attributes, verdict) if verdict.keep else PLACEHOLDER), verdict

    def host(self, prefix: Prefix, attributes: Attributes) -> LinkAddress | None:
        """The address that the route leads to, if it is a host route on a link and the rules distinguish those."""
        return None if self._admit_link_gateway is None else link_host(attributes.at(prefix))

    def to_link_gateway(self, prefix: Prefix, attributes: Attributes) -> tuple[Sibling, Verdict]:
        """What the rules leave of a host route to the gateway of its link, and why."""
        verdict = (self._admit_link_gateway or self._admit)(attributes.at(prefix), self._links())
        return (self.judged(attributes, verdict) if verdict.keep else PLACEHOLDER), verdict

    def header(self, header: bytes, table: int) -> Verdict | None:
        """The verdict on every route with this header; None: the rules want to see more, or follow the drop."""
        key = (header, table)
        try:
            return self._by_header[key]
        except KeyError:
            pass
        family, dst_len, src_len, tos, _, protocol, scope, kind, flags = RTMSG.unpack(header)
        verdict = None
        if not flags & RTM_F_CLONED and not (src_len and family == _AF_INET):
            verdict = self._admit_header(family, dst_len, tos, table, protocol, scope, kind, flags)
        if verdict is not None and verdict.followed:
            verdict = None
        if len(self._by_header) >= _MEMO_SIZE:
            self._by_header.clear()
        self._by_header[key] = verdict
        return verdict
