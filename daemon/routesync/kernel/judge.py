"""Asks the rules: for whole routes, and, where they can tell, by the fixed part of a message alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from routesync.kernel.decode import RTM_F_CLONED, RTMSG
from routesync.kernel.replica import Rest
from routesync.kernel.surroundings import Links
from routesync.kernel.update import PLACEHOLDER, Sibling
from routesync.route import Candidate, LinkAddress, Route, Verdict, link_host

Admit = Callable[[Route, Links], Verdict]
"""The rules: pure. They may look at all of the route and at the links, at nothing else. (`link_gateway`, the one fact
about other routes, is which of two such functions is asked.)"""

AdmitHeader = Callable[[int, int, int, int, int, int, int, int], Verdict | None]
"""The rules by family, dst_len, tos, table, protocol, scope, type and flags (struct rtmsg): the verdict that stands
whatever the attributes say; None where they matter. `flags` of a withdrawal may differ from those of the announcement
in the state of the hops, so a verdict by this road must not hang on those."""

_MEMO_SIZE: Final = 1 << 14
_AF_INET: Final = 2
_new = tuple.__new__  # spares what a named tuple's constructor does with its arguments


def admit_header_unknown(*_header: int) -> Verdict | None:
    """Rules that want to see each route whole."""
    return None


class Judge:
    """Holds the rules in force, and remembers what they said of headers."""

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
        self._memo: dict[tuple[bytes, int], str | None] = {}

    def replace(
        self, admit: Admit, admit_header: AdmitHeader, admit_link_gateway: Admit | None = None
    ) -> None:
        """Put other rules in force."""
        self._admit, self._admit_header = admit, admit_header
        self._admit_link_gateway = admit_link_gateway
        self._memo.clear()
        self.generation += 1

    def rest(self, route: Route) -> Rest | None:
        """The route's key beside its prefix; None for a table that is not read."""
        rank = self._ranks.get(route.table)
        if rank is None:
            return None
        source = route.source
        key = (
            b"" if source is None else bytes((source.length,)) + source.packed,
            route.tos,
            rank,
            route.metric,
        )
        known = self._rests.get(key)
        if known is not None:
            return known
        if len(self._rests) >= _MEMO_SIZE:
            self._rests.clear()
        made = Rest(*key)
        self._rests[made] = made
        return made

    def route(self, route: Route) -> tuple[Sibling, Verdict]:
        """What the rules leave of a route, and why."""
        verdict = self._admit(route, self._links())
        return (_new(Candidate, (route, verdict)) if verdict.keep else PLACEHOLDER), verdict

    def host(self, route: Route) -> LinkAddress | None:
        """The address that the route leads to, if it is a host route on a link and the rules distinguish those."""
        return None if self._admit_link_gateway is None else link_host(route)

    def to_link_gateway(self, route: Route) -> tuple[Sibling, Verdict]:
        """What the rules leave of a host route to the gateway of its link, and why."""
        verdict = (self._admit_link_gateway or self._admit)(route, self._links())
        return (_new(Candidate, (route, verdict)) if verdict.keep else PLACEHOLDER), verdict

    def header(self, header: bytes, table: int) -> str | None:
        """Name the rule that drops every route of this header and does not follow it; None: look at the route."""
        key = (header, table)
        try:
            return self._memo[key]
        except KeyError:
            pass
        family, dst_len, src_len, tos, _, protocol, scope, kind, flags = RTMSG.unpack(header)
        verdict = None
        if not flags & RTM_F_CLONED and not (src_len and family == _AF_INET):
            verdict = self._admit_header(family, dst_len, tos, table, protocol, scope, kind, flags)
        rule = None if verdict is None or verdict.keep or verdict.followed else verdict.rule
        if len(self._memo) >= _MEMO_SIZE:
            self._memo.clear()
        self._memo[key] = rule
        return rule
