"""The long answers: the table, and the plan; made row by row, so that none holds the daemon up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from routesync.control.models import RoutesQuery
from routesync.control.present import Words, end_of, target_route
from routesync.control.routes import (
    AtTarget,
    Deletion,
    PlanAnswer,
    PlannedRoute,
    RouteRow,
    RoutesAnswer,
    Switches,
    TargetPlan,
)
from routesync.kernel.details import RouteDetails
from routesync.mirror.eligibility import Desired
from routesync.mirror.reconciler import Reconciler
from routesync.plan import candidate_order
from routesync.route import Family, Prefix, Route, Verdict, format_address
from routesync.table import Table

Targets = Sequence[Reconciler]
NO_DETAILS: Final = RouteDetails()


def in_order(prefixes: Collection[Prefix]) -> Iterator[Prefix]:
    """The prefixes in the order for people, by their own order as tuples: 40,000 take some 20 ms so, not 100."""
    for family in Family:
        yield from sorted(prefix for prefix in prefixes if prefix.family is family)


class TableRows:
    """The rows of the table that are asked for."""

    def __init__(self, table: Table, targets: Targets, words: Words, query: RoutesQuery) -> None:
        self.matched = 0
        self._table = table
        self._targets = [target for target in targets if query.target in (None, target.name)]
        self._words = words
        self._query = query

    def __iter__(self) -> Iterator[RouteRow | None]:
        for prefix in self._prefixes():
            row = self._row(prefix)
            self.matched += row is not None
            yield row if self.matched <= self._query.limit else None

    def _prefixes(self) -> Iterator[Prefix]:
        if self._query.covering is not None:  # these are few: no need to look at all that there are
            covered = self._query.covering
            return (covered.cut(length) for length in range(covered.length + 1))
        known = set(self._table.prefixes())
        for target in self._targets:
            known |= target.prefixes()
        return in_order(known)

    def others(self) -> RoutesAnswer:
        """What is answered beside the rows."""
        return RoutesAnswer(routes=(), matched=self.matched)

    def _row(self, prefix: Prefix) -> RouteRow | None:
        query = self._query
        if (query.family is not None and prefix.family.label != query.family) or (
            query.within is not None and not query.within.covers(prefix)
        ):
            return None
        candidates = self._table.candidates(prefix)
        if query.rule is not None and all(it.verdict.rule != query.rule for it in candidates):
            return None
        protocol, names = query.protocol, self._words.names
        if protocol is not None and all(names.protocol(it.route.protocol) != protocol for it in candidates):
            return None
        views = [
            (target.name, view)
            for target in self._targets
            if (view := target.route(prefix)) is not None
            and (not query.phase or view.phase.value in query.phase)
        ]
        if not views and (query.phase or query.target is not None or not candidates):
            return None
        return RouteRow(
            prefix=str(prefix),
            family=prefix.family.label,
            candidates=tuple(
                self._words.judged(route, verdict, elected=not number)
                for number, (route, verdict) in enumerate(candidates)
            ),
            targets=tuple(target_route(name, view) for name, view in views),
        )


class Seen:
    """What a look-up sees, as far as a plan needs it: the first routes that the rules drop, and details of all."""

    def __init__(self, evaluate: Callable[[Route], Verdict], limit: int) -> None:
        self.dropped: dict[Prefix, list[tuple[Route, Verdict]]] = {}
        self.left_out: Counter[str] = Counter()
        self._details: dict[Route, RouteDetails] = {}
        self._evaluate = evaluate
        self._room = limit

    def take(self, route: Route, read_details: Callable[[], RouteDetails]) -> None:
        """Take a route."""
        verdict = self._evaluate(route)
        if not verdict.keep:
            if not self._room:
                self.left_out[verdict.rule] += 1
                return
            self._room -= 1
            self.dropped.setdefault(route.prefix, []).append((route, verdict))
        details = read_details()
        if details != NO_DETAILS:
            self._details[route] = details

    def details(self, route: Route) -> RouteDetails:
        """What a route carries besides."""
        return self._details.get(route, NO_DETAILS)


class PlanRows:
    """The rows of the plan."""

    def __init__(
        self, table: Table, targets: Targets, words: Words, tables: Sequence[int], seen: Seen
    ) -> None:
        self._table = table
        self._targets = targets
        self._words = words
        self._tables = tables
        self._seen = seen
        self._deletions: dict[str, list[Deletion]] = {target.name: [] for target in targets}

    def __iter__(self) -> Iterator[PlannedRoute | None]:
        known = {*self._table.prefixes(), *self._seen.dropped}
        for target in self._targets:
            known |= target.prefixes()
        for prefix in in_order(known):
            self._note_deletions(prefix)
            yield None  # one prefix less, of which there may be no row
            yield from self._rows(prefix)

    def _note_deletions(self, prefix: Prefix) -> None:
        for target in self._targets:
            view = target.route(prefix)
            if view is not None and view.owned is not None and not isinstance(view.evaluation, Desired):
                deletion = Deletion(prefix=str(prefix), gateway=format_address(view.owned))
                self._deletions[target.name].append(deletion)

    def _rows(self, prefix: Prefix) -> Iterator[PlannedRoute]:
        kept = self._table.candidates(prefix)
        routes = [
            *((route, verdict, not number) for number, (route, verdict) in enumerate(kept)),
            *((route, verdict, False) for route, verdict in self._seen.dropped.get(prefix, ())),
        ]
        if len(routes) > 1:
            routes.sort(key=lambda row: candidate_order(row[0], self._tables))
        for route, verdict, elected in routes:
            ends = self._ends(prefix) if elected else ()
            details = self._seen.details(route)
            yield self._words.planned(route, verdict, elected=elected, details=details, ends=ends)

    def _ends(self, prefix: Prefix) -> Iterable[AtTarget]:
        for target in self._targets:
            view = target.route(prefix)
            if view is not None and (end := end_of(target.name, view)) is not None:
                yield end

    def others(self, sysctls: Switches) -> PlanAnswer:
        """What is answered beside the rows."""
        return PlanAnswer(
            sysctls=sysctls,
            routes=(),
            targets=tuple(
                TargetPlan(
                    name=(view := target.view()).name,
                    url=view.url,
                    read=target.inventory is not None,
                    error=view.error,
                    delete=tuple(self._deletions[target.name]),
                )
                for target in self._targets
            ),
            left_out=dict(self._seen.left_out),
        )
