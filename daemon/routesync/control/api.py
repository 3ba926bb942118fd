"""The calls, carried out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

import structlog
from aiohttp import web

from routesync.control import models
from routesync.control.calls import CALLS, JSON, Call
from routesync.control.explain import Explained, explain
from routesync.control.openapi import text as openapi_text
from routesync.control.peers import may_change, peer_of, who_may
from routesync.control.present import Words, row_text, target_detail, target_fields, wall_clock
from routesync.control.problems import ProblemError, make
from routesync.control.requests import answer, problem_answer, read_order, read_query, stream_rows
from routesync.control.routes import (
    ExplainedPrefix,
    Explanation,
    Switches,
    TargetExplained,
    TargetState,
)
from routesync.control.stream import stream_events
from routesync.control.subject import Subject
from routesync.control.tables import PlanRows, Seen, TableRows
from routesync.kernel import KernelError
from routesync.kernel.details import RouteDetails
from routesync.mirror.reconciler import Reconciler
from routesync.route import Prefix, Route
from routesync.settings import resolve_tables

log = structlog.get_logger(__name__)

LARGEST_ORDER: Final = 64 * 1024
"""Bytes of a request's body."""
FOLLOWERS: Final = 32
READERS: Final = 16
"""So many may follow the events, and ask for what takes long, at once."""
READINGS: Final = 3
"""So often a reading that the kernel's changes interrupt is tried."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """All calls on one daemon. Everything happens in its event loop."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._followers: set[asyncio.Task[object]] = set()
        self._readers = 0
        self._kernel_turn = asyncio.Lock()
        self._kernel_free_at = 0.0

    def application(self, *, over_tcp: bool) -> web.Application:
        """The calls as an application: all of them, or those that are open to whoever reaches a TCP port."""
        app = web.Application(
            middlewares=[_problems_over_tcp if over_tcp else _problems], client_max_size=LARGEST_ORDER
        )
        app.on_shutdown.append(self._end_streams)
        for call in CALLS:
            if call.open or not over_tcp:
                app.router.add_route(call.method, call.path, self._handler(call))
        return app

    def _handler(self, call: Call) -> Handler:
        carry_out: Handler = getattr(self, call.name)
        return self._guarded(call, carry_out) if call.changes else carry_out

    @staticmethod
    def _guarded(call: Call, carry_out: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            peer = peer_of(request.transport)
            if not may_change(peer, os.geteuid()):
                log.warning("control refused", call=call.name, peer=str(peer))
                raise ProblemError("not-permitted", f"only {who_may()} may {call.name}; you are {peer}")
            log.info("control", call=call.name, peer=str(peer))
            return await carry_out(request)

        return guarded

    # -- asked for --------------------------------------------------------------------------------------------------

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """How the daemon fares."""
        subject, loaded = self._subject, self._subject.loaded()
        policy, verdicts = loaded.settings.policy, subject.verdicts()
        actions = [(rule.name, rule.action) for rule in policy.rules] + [("default", policy.default_action)]
        return answer(
            models.StatusAnswer(
                status=subject.status(),
                pid=os.getpid(),
                config=self._in_force(),
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
            self._target(query.target)
        rows = TableRows(self._subject.table(), self._subject.targets(), self._words(), query)
        with self._long_call():
            return await stream_rows(request, "routes", iter(rows), rows.others)

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """What becomes of each route."""
        query = read_query(request, models.PlanQuery)
        subject, loaded, words = self._subject, self._subject.loaded(), self._words()
        with self._long_call():
            seen, _ = await self._look_up(
                lambda: Seen(loaded.policy, words.interfaces, query.dropped), Seen.take, None
            )
            tables = resolve_tables(loaded.settings.kernel, loaded.names)
            rows = PlanRows(subject.table(), subject.targets(), words, tables, seen)
            switches = Switches.model_validate(subject.source().stats.sysctls._asdict())
            return await stream_rows(request, "routes", iter(rows), lambda: rows.others(switches))

    async def explain(self, request: web.Request) -> web.StreamResponse:
        """Why an address or prefix is known to the targets, or not."""
        query = read_query(request, models.ExplainQuery)
        loaded = self._subject.loaded()
        with self._long_call():
            found, complete = await self._look_up(dict[Route, RouteDetails], _note, query.of)
        explained = explain(
            found, loaded.policy, resolve_tables(loaded.settings.kernel, loaded.names), self._words()
        )
        left = [_left_behind(prefix) for prefix in self._left_behind(query.of, explained)]
        both = sorted([*explained, *left], key=lambda it: -it.prefix.length)
        return answer(
            Explanation(
                query=str(query.of),
                time=datetime.fromtimestamp(time.time(), UTC),
                complete=complete,
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
            if prefix not in known and any(prefix in target.entries for target in self._subject.targets())
        }

    def _explained(self, it: Explained) -> ExplainedPrefix:
        return ExplainedPrefix(
            prefix=str(it.prefix),
            candidates=it.routes,
            held=self._subject.table().elected(it.prefix) == it.elected,
            targets=tuple(
                _at_target(target, it.prefix)
                for target in self._subject.targets()
                if it.elected is not None or it.prefix in target.entries or _shown(target, it.prefix)
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

    async def _end_streams(self, _app: web.Application) -> None:
        for task in self._followers:
            task.cancel()

    async def live(self, _request: web.Request) -> web.StreamResponse:
        """Whether the daemon runs: it does, for it answers."""
        return answer(models.Health(status="live"))

    async def ready(self, _request: web.Request) -> web.StreamResponse:
        """Whether the daemon has begun its work."""
        self._require_ready()
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

    # -- told -------------------------------------------------------------------------------------------------------

    async def resync(self, request: web.Request) -> web.StreamResponse:
        """Read and prove everything anew."""
        chosen = self._chosen(await read_order(request, models.TargetOrder))
        self._subject.source().request_resync("command")
        for target in chosen:
            target.order_sweep()
        said = {it.name: "paused, proved after that" if it.paused else "sweep ordered" for it in chosen}
        return answer(models.Done(targets=said))

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Let a mass withdrawal go."""
        chosen = self._chosen(await read_order(request, models.TargetOrder))
        return answer(models.Released(released={target.name: target.release() for target in chosen}))

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Hold targets as they are."""
        chosen = self._chosen(await read_order(request, models.TargetOrder))
        return answer(models.Done(targets={it.name: _said("paused", it.paused, it.pause()) for it in chosen}))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """End a pause."""
        chosen = self._chosen(await read_order(request, models.TargetOrder))
        return answer(
            models.Done(targets={it.name: _said("resumed", not it.paused, it.resume()) for it in chosen})
        )

    async def reload(self, _request: web.Request) -> web.StreamResponse:
        """Take up the configuration file anew."""
        self._require_ready()
        problems = await self._subject.reload()
        if problems:
            raise ProblemError("rejected", "\n".join(problems))
        return answer(models.Reloaded(config=self._in_force()))

    # -- what they share --------------------------------------------------------------------------------------------

    def _in_force(self) -> models.ConfigInForce:
        loaded = self._subject.loaded()
        return models.ConfigInForce(path=str(loaded.path), digest=loaded.digest)

    def _require_ready(self) -> None:
        if not self._subject.source().synced.is_set():
            raise ProblemError("not-ready", "the kernel's routes are being read for the first time")
        waiting = [target.name for target in self._subject.targets() if not target.contacted.is_set()]
        if waiting:
            raise ProblemError("not-ready", f"not contacted yet: {', '.join(waiting)}")

    def _words(self) -> Words:
        return Words.of(self._subject.loaded().names, self._subject.source().links)

    def _target(self, name: str) -> Reconciler:
        targets = self._subject.targets()
        for target in targets:
            if target.name == name:
                return target
        known = ", ".join(target.name for target in targets) or "none"
        raise ProblemError("unknown-target", f"there is no target {name}; there are: {known}")

    def _chosen(self, order: models.TargetOrder) -> Sequence[Reconciler]:
        return self._subject.targets() if order.target is None else [self._target(order.target)]

    @contextmanager
    def _long_call(self) -> Iterator[None]:
        if self._readers >= READERS:
            raise ProblemError("busy", f"{READERS} ask at the moment; try again when they are served")
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def _look_up(
        self,
        begin: Callable[[], T],
        take: Callable[[T, Route, Callable[[], RouteDetails]], None],
        covering: Prefix | None,
    ) -> tuple[T, bool]:
        """Read the kernel anew into something that takes its routes; tell also whether the reading was whole.

        One at a time, and then for as long nobody: whoever asks without end gets half of the time at most.
        """
        loop = asyncio.get_running_loop()
        async with self._kernel_turn:
            await asyncio.sleep(max(0.0, self._kernel_free_at - loop.time()))
            started = loop.time()
            try:
                for _ in range(READINGS - 1):
                    into = begin()
                    if await self._subject.source().look_up(partial(take, into), covering):
                        return into, True
                into = begin()
                return into, await self._subject.source().look_up(partial(take, into), covering)
            except KernelError as error:
                raise ProblemError("unavailable", str(error)) from None
            finally:
                self._kernel_free_at = 2 * loop.time() - started


def _note(found: dict[Route, RouteDetails], route: Route, read_details: Callable[[], RouteDetails]) -> None:
    found[route] = read_details()


def _said(done: str, already: bool, trouble: str | None) -> str:  # noqa: FBT001
    if already:
        return f"{done} already"
    return f"{done}, but not over a restart: {trouble}" if trouble else done


def _left_behind(prefix: Prefix) -> Explained:
    return Explained(prefix, (), None)


def _shown(target: Reconciler, prefix: Prefix) -> str | None:
    """What the target's own table had for a prefix when it was last read."""
    row = target.reading.inventory.rows.get(prefix) if target.reading is not None else None
    return None if row is None else row_text(row)


def _at_target(target: Reconciler, prefix: Prefix) -> TargetExplained:
    entry = target.entries.get(prefix)
    fields = {"target": target.name, "phase": "none"} if entry is None else target_fields(target.name, entry)
    return TargetExplained.model_validate(
        {
            **fields,
            "shown": _shown(target, prefix),
            "read": wall_clock(target.reading.started) if target.reading is not None else None,
            "witnessed": target.witness_shows(prefix),
        }
    )


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _in_words(
        request,
        handler,
        "GET /v1/openapi.json tells what there is, and `routesync --help` the commands for it",
    )


@web.middleware
async def _problems_over_tcp(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _in_words(
        request,
        handler,
        "over TCP there are /metrics, /health/live and /health/ready; the rest is asked at the control socket",
    )


async def _in_words(request: web.Request, handler: Handler, elsewhere: str) -> web.StreamResponse:
    """Whatever fails, say it as a problem."""
    try:
        return await handler(request)
    except ProblemError as error:
        return problem_answer(error.problem)
    except web.HTTPNotFound:
        return problem_answer(make("not-found", f"there is no {request.path}; {elsewhere}"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}, not {request.method}"
        return problem_answer(make("wrong-method", detail), {"Allow": allowed})
    except web.HTTPRequestEntityTooLarge:
        return problem_answer(make("too-large", f"at most {LARGEST_ORDER} bytes are taken"))
    except web.HTTPException as error:
        return problem_answer(make("bad-request", error.reason))
    except (ConnectionError, TimeoutError):  # who asked is gone, or takes nothing
        raise
    except Exception as error:
        log.exception("control call failed", path=request.path)
        return problem_answer(make("internal", f"{type(error).__name__}; the log says more"))
