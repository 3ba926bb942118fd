"""The calls that ask."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from routesync.config import Loaded
from routesync.config.models import resolve_tables
from routesync.control import models
from routesync.control.calls import JSON
from routesync.control.explain import Explained, explain
from routesync.control.lookups import Lookups
from routesync.control.openapi import text as openapi_text
from routesync.control.present import Words, row_text, target_detail, target_fields, wall_clock
from routesync.control.problems import ProblemError
from routesync.control.requests import answer, read_query, stream_rows
from routesync.control.routes import (
    ExplainedPrefix,
    Explanation,
    Switches,
    TargetExplained,
    TargetState,
)
from routesync.control.stream import stream_events
from routesync.control.subject import Subject, chosen, in_force, require_ready
from routesync.control.tables import PlanRows, Seen, TableRows
from routesync.kernel.details import RouteDetails
from routesync.mirror.reconciler import Reconciler
from routesync.route import Prefix, Route, Verdict

FOLLOWERS: Final = 32
READERS: Final = 16
"""So many may follow the events, and ask for what takes long, at once."""


class Reads:
    """The calls that ask, by their names in the table of calls."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lookups = Lookups(subject.source)
        self._followers: set[asyncio.Task[object]] = set()
        self._readers = 0

    def end_streams(self) -> None:
        """The daemon ends: let those go who follow the events."""
        for task in self._followers:
            task.cancel()

    def _words(self) -> Words:
        return Words.of(self._subject.loaded().names, self._subject.source().links)

    def _evaluate(self, loaded: Loaded, words: Words) -> Callable[[Route], Verdict]:
        """The rules in force, by the gateways that the source knows now."""
        leads_to_gateway = self._subject.source().link_gateway
        return lambda route: loaded.policy.evaluate(
            route, words.interfaces, link_gateway=leads_to_gateway(route)
        )

    @contextmanager
    def _long_call(self) -> Iterator[None]:
        if self._readers >= READERS:
            raise ProblemError("busy", f"{READERS} ask at the moment; try again when they are served")
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """How the daemon fares."""
        subject, loaded = self._subject, self._subject.loaded()
        policy, verdicts = loaded.settings.policy, subject.verdicts()
        actions = [(rule.name, rule.action) for rule in policy.rules] + [("default", policy.default_action)]
        return answer(
            models.StatusAnswer(
                status=subject.status(),
                pid=os.getpid(),
                config=in_force(self._subject),
                rules=tuple(
                    models.RuleCount(rule=rule, action=action, routes=verdicts.get(rule, 0))
                    for rule, action in actions
                ),
                targets=tuple(target_detail(target.view()) for target in subject.targets()),
            )
        )

    async def routes(self, request: web.Request) -> web.StreamResponse:
        """The table."""
        query = read_query(request, models.RoutesQuery)
        if query.target is not None:
            chosen(self._subject, query.target)
        rows = TableRows(self._subject.table(), self._subject.targets(), self._words(), query)
        with self._long_call():
            return await stream_rows(request, "routes", iter(rows), rows.others)

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """What becomes of each route."""
        query = read_query(request, models.PlanQuery)
        subject, loaded, words = self._subject, self._subject.loaded(), self._words()
        with self._long_call():
            evaluate = self._evaluate(loaded, words)
            seen, _ = await self._lookups.read(lambda: Seen(evaluate, query.dropped), Seen.take, None)
            tables = resolve_tables(loaded.settings.kernel, loaded.names)
            rows = PlanRows(subject.table(), subject.targets(), words, tables, seen)
            switches = Switches.model_validate(subject.source().stats.sysctls._asdict())
            return await stream_rows(request, "routes", iter(rows), lambda: rows.others(switches))

    async def explain(self, request: web.Request) -> web.StreamResponse:
        """Why an address or prefix is known to the targets, or not."""
        query = read_query(request, models.ExplainQuery)
        loaded = self._subject.loaded()
        with self._long_call():
            found, complete = await self._lookups.read(dict[Route, RouteDetails], _note, query.of)
        words = self._words()
        tables = resolve_tables(loaded.settings.kernel, loaded.names)
        explained = explain(found, self._evaluate(loaded, words), tables, words)
        left = [_left_behind(prefix) for prefix in self._left_behind(query.of, explained)]
        both = sorted([*explained, *left], key=lambda it: -it.prefix.length)
        return answer(
            Explanation(
                query=str(query.of),
                time=datetime.fromtimestamp(time.time(), UTC),
                complete=complete,
                tables=tuple(map(loaded.names.table, tables)),
                prefixes=tuple(self._explained(each) for each in both),
                targets=tuple(
                    TargetState(name=view.name, state=view.state.value, paused=view.paused, error=view.error)
                    for view in (target.view() for target in self._subject.targets())
                ),
            )
        )

    def _left_behind(self, covered: Prefix, explained: Sequence[Explained]) -> set[Prefix]:
        """Prefixes that the kernel has no more, and a target may still have of us."""
        known = {it.prefix for it in explained}
        shorter = (covered.cut(length) for length in range(covered.length + 1))
        return {
            prefix
            for prefix in shorter
            if prefix not in known and any(target.route(prefix) for target in self._subject.targets())
        }

    def _explained(self, it: Explained) -> ExplainedPrefix:
        return ExplainedPrefix(
            prefix=str(it.prefix),
            candidates=it.routes,
            held=self._subject.table().elected(it.prefix) == it.elected,
            targets=tuple(
                _at_target(target, it.prefix)
                for target in self._subject.targets()
                if it.elected is not None or target.route(it.prefix) or _shown(target, it.prefix)
            ),
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Follow the events."""
        query = read_query(request, models.EventsQuery)
        if len(self._followers) >= FOLLOWERS:
            raise ProblemError("busy", f"{FOLLOWERS} follow the events already; end one of them")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aiohttp runs each request in one
        self._followers.add(task)
        try:
            return await stream_events(request, query, self._subject.hub(), self._subject.status)
        finally:
            self._followers.discard(task)

    async def live(self, _request: web.Request) -> web.StreamResponse:
        """Whether the daemon runs: it does, for it answers."""
        return answer(models.Health(status="live"))

    async def ready(self, _request: web.Request) -> web.StreamResponse:
        """Whether the daemon has begun its work."""
        require_ready(self._subject)
        return answer(models.Health(status="ready"))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Metrics for Prometheus."""
        if self._subject.metrics is None:
            raise ProblemError("unavailable", "this daemon keeps no metrics")
        body, content_type = self._subject.metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def openapi(self, _request: web.Request) -> web.StreamResponse:
        """The document of these calls."""
        return web.Response(body=openapi_text().encode(), content_type=JSON)


def _note(found: dict[Route, RouteDetails], route: Route, read_details: Callable[[], RouteDetails]) -> None:
    found[route] = read_details()


def _left_behind(prefix: Prefix) -> Explained:
    return Explained(prefix, (), None)


def _shown(target: Reconciler, prefix: Prefix) -> str | None:
    """What the target's own table had for a prefix when it was last read."""
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
