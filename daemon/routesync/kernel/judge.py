"""Asks the rules: for whole routes, and, where they can tell, by the fixed part of a message alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from routesync.kernel.decode import RTM_F_CLONED, RTMSG
from routesync.kernel.replica import Rest
from routesync.kernel.surroundings import Links
from routesync.kernel.update import PLACEHOLDER, Sibling
from routesync.route import Candidate, Route, Verdict

Admit = Callable[[Route, Links], Verdict]
"""The rules: pure. They may look at all of the route and at the links, at nothing else."""

AdmitHeader = Callable[[int, int, int, int, int, int, int, int], Verdict | None]
"""The rules by family, dst_len, tos, table, protocol, scope, type and flags (struct rtmsg): the verdict that stands
whatever the attributes say; None where they matter. `flags` of a withdrawal may differ from those of the announcement
in the state of the hops, so a verdict by this road must not hang on those."""

_MEMO_SIZE: Final = 1 << 14
_new = tuple.__new__  # spares what a named tuple's constructor does with its arguments


def admit_header_unknown(*_header: int) -> Verdict | None:
    """Rules that want to see each route whole."""
    return None


class Judge:
    """Holds the rules in force, and remembers what they said of headers."""

    def __init__(
        self, tables: Sequence[int], admit: Admit, admit_header: AdmitHeader, links: Callable[[], Links]
    ) -> None:
        self.generation = 0
        self._ranks = {table: rank for rank, table in enumerate(tables)}
        self._rests: dict[tuple[int, int, int], Rest] = {}
        self._links = links
        self._admit = admit
        self._admit_header = admit_header
        self._memo: dict[tuple[bytes, int], str | None] = {}

    def replace(self, admit: Admit, admit_header: AdmitHeader) -> None:
        """Put other rules in force."""
        self._admit, self._admit_header = admit, admit_header
        self._memo.clear()
        self.generation += 1

    def rest(self, route: Route) -> Rest | None:
        """The route's key beside its prefix; None for a table that is not read."""
        rank = self._ranks.get(route.table)
        if rank is None:
            return None
        known = self._rests.get((route.tos, rank, route.metric))
        if known is not None:
            return known
        if len(self._rests) >= _MEMO_SIZE:
            self._rests.clear()
        made = Rest(route.tos, rank, route.metric)
        self._rests[made] = made
        return made

    def route(self, route: Route) -> tuple[Sibling, Verdict]:
        """What the rules leave of a route, and why."""
        verdict = self._admit(route, self._links())
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
        if not flags & RTM_F_CLONED and not src_len:
            verdict = self._admit_header(family, dst_len, tos, table, protocol, scope, kind, flags)
        rule = None if verdict is None or verdict.keep or verdict.followed else verdict.rule
        if len(self._memo) >= _MEMO_SIZE:
            self._memo.clear()
        self._memo[key] = rule
        return rule
