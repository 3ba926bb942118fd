"""The calls that only read: status, table, plan, explain, events, health, metrics."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from aiohttp import web

from routesync.config.models import resolve_tables
from routesync.control import models
from routesync.control.calls import JSON
from routesync.control.context import Context
from routesync.control.events import stream_events
from routesync.control.explain import explain, in_order
from routesync.control.models import (
    ExplainedPrefix,
    PlanDeletion,
    PlanOutcome,
    PlanResponse,
    PlanRow,
    ProblemError,
    RouteRow,
    RoutesQuery,
    RoutesResponse,
    TargetExplained,
    TargetPlan,
)
from routesync.control.openapi import text as openapi_text
from routesync.control.requests import read_query, respond, stream_rows
from routesync.control.views import (
    RouteNames,
    next_outcome,
    row_text,
    target_detail,
    target_fields,
    target_route,
    wall_clock,
)
from routesync.kernel import KernelError, KernelSource
from routesync.kernel.details import RouteDetails
from routesync.mirror.eligibility import Desired
from routesync.mirror.reconciler import Reconciler
from routesync.plan import Choice, Evaluate, candidate_order, choose
from routesync.route import Family, Prefix, Route, Verdict, format_address
from routesync.table import Table

FOLLOWERS: Final = 32
"""Clients that may follow the events at once."""
LONG_CALLS: Final = 16
"""Calls with long answers that may run at once."""
DUMPS: Final = 3
"""How often a dump is tried that changes of the table interrupt."""

Targets = Sequence[Reconciler]
T = TypeVar("T")


class Reads:
    """The calls that only read, by their names in `CALLS`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lookups = Lookups(context.source)
        self._followers: set[asyncio.Task[object]] = set()
        self._long_calls = 0

    def end_streams(self) -> None:
        """Disconnect all who follow the events: the daemon stops."""
        for task in self._followers:
            task.cancel()

    @contextmanager
    def _long_call(self) -> Iterator[None]:
        if self._long_calls >= LONG_CALLS:
            raise ProblemError("busy", f"{LONG_CALLS} such calls run at the moment; try again later")
        self._long_calls += 1
        try:
            yield
        finally:
            self._long_calls -= 1

    def _names(self) -> RouteNames:
        return RouteNames.of(self._context.loaded().names, self._context.source().links)

    def _evaluator(self, names: RouteNames) -> Evaluate:
        """The rules of the running configuration, with the link gateways that the source knows now."""
        policy, leads_to_gateway = self._context.loaded().policy, self._context.source().link_gateway
        return lambda route: policy.evaluate(route, names.interfaces, link_gateway=leads_to_gateway(route))

    def _tables(self) -> Sequence[int]:
        loaded = self._context.loaded()
        return resolve_tables(loaded.settings.kernel, loaded.names)

    async def status(self, _request: web.Request) -> web.StreamResponse:
        context = self._context
        policy, verdicts = context.loaded().settings.policy, context.verdicts()
        actions = [(rule.name, rule.action) for rule in policy.rules] + [("default", policy.default_action)]
        return respond(
            models.StatusResponse(
                status=context.status(),
                pid=os.getpid(),
                config=context.active_config(),
                rules=tuple(
                    models.RuleCount(rule=rule, action=action, routes=verdicts.get(rule, 0))
                    for rule, action in actions
                ),
                targets=tuple(target_detail(target.view()) for target in context.targets()),
            )
        )

    async def routes(self, request: web.Request) -> web.StreamResponse:
        query = read_query(request, RoutesQuery)
        targets = self._context.chosen(query.target)
        rows = TableRows(self._context.table(), targets, self._names(), query)
        with self._long_call():
            return await stream_rows(request, "routes", iter(rows), rows.others)

    async def plan(self, request: web.Request) -> web.StreamResponse:
        query = read_query(request, models.PlanQuery)
        context, names = self._context, self._names()
        with self._long_call():
            evaluate = self._evaluator(names)
            dump, _ = await self._lookups.read(
                lambda: PlanDump(evaluate, query.dropped), PlanDump.take, covering=None
            )
            rows = PlanRows(context.table(), context.targets(), names, self._tables(), dump)
            sysctls = models.Sysctls.model_validate(context.source().stats.sysctls._asdict())
            return await stream_rows(request, "routes", iter(rows), lambda: rows.others(sysctls))

    async def explain(self, request: web.Request) -> web.StreamResponse:
        query = read_query(request, models.ExplainQuery)
        with self._long_call():
            found, complete = await self._lookups.read(dict[Route, RouteDetails], _take, query.of)
        names, tables = self._names(), self._tables()
        choices = list(choose(found, self._evaluator(names), tables, found))
        gone = self._gone(query.of, {it.prefix for it in choices})
        return respond(
            models.Explanation(
                query=str(query.of),
                time=datetime.fromtimestamp(time.time(), UTC),
                complete=complete,
                tables=tuple(map(names.names.table, tables)),
                prefixes=tuple(self._explained(it, found, names) for it in in_order([*choices, *gone])),
                targets=tuple(
                    models.TargetSummary(
                        name=view.name, state=view.state.value, paused=view.paused, error=view.error
                    )
                    for view in (target.view() for target in self._context.targets())
                ),
            )
        )

    def _gone(self, covered: Prefix, known: Collection[Prefix]) -> list[Choice]:
        """Prefixes that the kernel no longer has, and a target may still have from routesync."""
        shorter = (covered.cut(length) for length in range(covered.length + 1))
        return [
            Choice(prefix, (), None)
            for prefix in shorter
            if prefix not in known and any(target.route(prefix) for target in self._context.targets())
        ]

    def _explained(
        self, choice: Choice, details: dict[Route, RouteDetails], names: RouteNames
    ) -> ExplainedPrefix:
        prefix = choice.prefix
        return ExplainedPrefix(
            prefix=str(prefix),
            candidates=explain(choice, details, names),
            held=self._context.table().elected(prefix) == choice.elected,
            targets=tuple(
                _at_target(target, prefix)
                for target in self._context.targets()
                if choice.elected is not None or target.route(prefix) or _shown(target, prefix)
            ),
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        query = read_query(request, models.EventsQuery)
        if len(self._followers) >= FOLLOWERS:
            raise ProblemError("busy", f"{FOLLOWERS} clients follow the events already; end one of them")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aiohttp runs each request in one
        self._followers.add(task)
        try:
            return await stream_events(request, query, self._context.hub(), self._context.status)
        finally:
            self._followers.discard(task)

    async def live(self, _request: web.Request) -> web.StreamResponse:
        return respond(models.Health(status="live"))

    async def ready(self, _request: web.Request) -> web.StreamResponse:
        self._context.require_ready()
        return respond(models.Health(status="ready"))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        if self._context.metrics is None:
            raise ProblemError("unavailable", "this daemon keeps no metrics")
        body, content_type = self._context.metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=openapi_text().encode(), content_type=JSON)


def _take(found: dict[Route, RouteDetails], route: Route, read_details: Callable[[], RouteDetails]) -> None:
    found[route] = read_details()


def _shown(target: Reconciler, prefix: Prefix) -> str | None:
    """What the target's last inventory had for a prefix."""
    row = target.inventory.rows.get(prefix) if target.inventory is not None else None
    return None if row is None else row_text(row)


def _at_target(target: Reconciler, prefix: Prefix) -> TargetExplained:
    view = target.route(prefix)
    fields = {"target": target.name, "phase": "none"} if view is None else target_fields(target.name, view)
    return TargetExplained.model_validate(
        {
            **fields,
            "shown": _shown(target, prefix),
            "read": wall_clock(target.inventory_at) if target.inventory is not None else None,
            "witnessed": target.witness_shows(prefix),
        }
    )


class Lookups:
    """Dumps of the kernel's table for calls: one at a time, and at most half of the time."""

    def __init__(self, source: Callable[[], KernelSource]) -> None:
        self._source = source
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def read(
        self,
        begin: Callable[[], T],
        take: Callable[[T, Route, Callable[[], RouteDetails]], None],
        covering: Prefix | None,
    ) -> tuple[T, bool]:
        """Dump the table into something that takes its routes; return also whether the dump is complete.

        After a dump the next one waits for as long as it took: clients that call without end get half of the time.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._free_at - loop.time()))
            started = loop.time()
            try:
                for _ in range(DUMPS - 1):
                    into = begin()
                    if await self._source().look_up(partial(take, into), covering):
                        return into, True
                into = begin()
                return into, await self._source().look_up(partial(take, into), covering)
            except KernelError as error:
                raise ProblemError("unavailable", str(error)) from None
            finally:
                self._free_at = 2 * loop.time() - started


# -- long answers, made row by row, so that none blocks the daemon -------------------------------------------


def _sorted(prefixes: Collection[Prefix]) -> Iterator[Prefix]:
    """The prefixes in the order for people. By family, so that tuples compare natively: 40,000 take 20 ms, not 100."""
    for family in Family:
        yield from sorted(prefix for prefix in prefixes if prefix.family is family)


class TableRows:
    """The rows of the table that match a query."""

    def __init__(self, table: Table, targets: Targets, names: RouteNames, query: RoutesQuery) -> None:
        self.matched = 0
        self._table = table
        self._targets = targets
        self._names = names
        self._query = query

    def __iter__(self) -> Iterator[RouteRow | None]:
        for prefix in self._prefixes():
            row = self._row(prefix)
            self.matched += row is not None
            yield row if self.matched <= self._query.limit else None

    def _prefixes(self) -> Iterator[Prefix]:
        if self._query.covering is not None:  # these are few: no need to look at all prefixes
            covered = self._query.covering
            return (covered.cut(length) for length in range(covered.length + 1))
        known = set(self._table.prefixes())
        for target in self._targets:
            known |= target.prefixes()
        return _sorted(known)

    def others(self) -> RoutesResponse:
        return RoutesResponse(routes=(), matched=self.matched)

    def _row(self, prefix: Prefix) -> RouteRow | None:
        query = self._query
        if (query.family is not None and prefix.family.label != query.family) or (
            query.within is not None and not query.within.covers(prefix)
        ):
            return None
        candidates = self._table.candidates(prefix)
        if query.rule is not None and all(it.verdict.rule != query.rule for it in candidates):
            return None
        protocol, names = query.protocol, self._names.names
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
                self._names.evaluated(route, verdict, elected=not number)
                for number, (route, verdict) in enumerate(candidates)
            ),
            targets=tuple(target_route(name, view) for name, view in views),
        )


NO_DETAILS: Final = RouteDetails()


class PlanDump:
    """What a plan needs of a dump: details, and the first routes that the rules drop (the daemon keeps none)."""

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self.dropped: dict[Prefix, list[tuple[Route, Verdict]]] = {}
        self.left_out: Counter[str] = Counter()
        self._details: dict[Route, RouteDetails] = {}
        self._evaluate = evaluate
        self._room = limit

    def take(self, route: Route, read_details: Callable[[], RouteDetails]) -> None:
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
        return self._details.get(route, NO_DETAILS)


class PlanRows:
    """The rows of the plan: what the daemon has decided already, and the routes that its rules drop."""

    def __init__(
        self, table: Table, targets: Targets, names: RouteNames, tables: Sequence[int], dump: PlanDump
    ) -> None:
        self._table = table
        self._targets = targets
        self._names = names
        self._tables = tables
        self._dump = dump
        self._deletions: dict[str, list[PlanDeletion]] = {target.name: [] for target in targets}

    def __iter__(self) -> Iterator[PlanRow | None]:
        known = {*self._table.prefixes(), *self._dump.dropped}
        for target in self._targets:
            known |= target.prefixes()
        for prefix in _sorted(known):
            self._note_deletions(prefix)
            yield None  # a prefix may have no row, and has taken time
            yield from self._rows(prefix)

    def _note_deletions(self, prefix: Prefix) -> None:
        for target in self._targets:
            view = target.route(prefix)
            if view is not None and view.owned is not None and not isinstance(view.evaluation, Desired):
                deletion = PlanDeletion(prefix=str(prefix), gateway=format_address(view.owned))
                self._deletions[target.name].append(deletion)

    def _rows(self, prefix: Prefix) -> Iterator[PlanRow]:
        kept = self._table.candidates(prefix)
        routes = [
            *((route, verdict, not number) for number, (route, verdict) in enumerate(kept)),
            *((route, verdict, False) for route, verdict in self._dump.dropped.get(prefix, ())),
        ]
        if len(routes) > 1:
            routes.sort(key=lambda row: candidate_order(row[0], self._tables))
        for route, verdict, elected in routes:
            outcomes = self._outcomes(prefix) if elected else ()
            details = self._dump.details(route)
            yield self._names.planned(route, verdict, elected=elected, details=details, outcomes=outcomes)

    def _outcomes(self, prefix: Prefix) -> Iterator[PlanOutcome]:
        for target in self._targets:
            view = target.route(prefix)
            if view is not None and (outcome := next_outcome(target.name, view)) is not None:
                yield outcome

    def others(self, sysctls: models.Sysctls) -> PlanResponse:
        return PlanResponse(
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
            left_out=dict(self._dump.left_out),
        )
