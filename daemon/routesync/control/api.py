"""All calls of the control API, and what carries them out."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Final, TypeVar

from aiohttp import web

from routesync.best_routes import BestRoutes
from routesync.config import ConfigError, unconfigured_target
from routesync.config.models import TargetSettings
from routesync.control import openapi, page
from routesync.control.context import Context
from routesync.control.events import stream_events
from routesync.control.models import (
    Done,
    EventsQuery,
    ExplainQuery,
    Explanation,
    Health,
    OwnedRoutes,
    OwnershipRequest,
    PlanQuery,
    PlanResponse,
    ProblemError,
    Released,
    Reloaded,
    ResyncRequest,
    RoutesQuery,
    RoutesResponse,
    RuleCount,
    StatusResponse,
    Sysctls,
    TakeoverRequest,
    TakeoverResponse,
    TargetRequest,
    WithdrawRequest,
)
from routesync.control.plan import NO_DETAILS, Choice, Evaluate, PlanRows, choose, explain
from routesync.control.requests import (
    JSON,
    LARGEST_BODY,
    NDJSON,
    OPENMETRICS,
    CallTable,
    Handler,
    may_change,
    peer_of,
    stream_rows,
    with_problems,
)
from routesync.control.views import RouteNames, TableRows, sorted_prefixes, target_detail
from routesync.kernel import KernelError, KernelSource
from routesync.kernel.decode import RouteDetails
from routesync.route import Candidate, Prefix, Route, parse_address, preference

FOLLOWERS: Final = 32
"""Clients that may follow the events at once, over the control socket."""
LONG_CALLS: Final = 16
"""Calls with long answers that may run at once, over the control socket."""
RESERVED_CALLS: Final = 4
"""Such calls beyond these for those who may change something: readers cannot lock them out."""
PAGES: Final = 16
"""Pages that may follow the events at once. They have places of their own, so that they cannot lock commands out."""
LONG_PAGE_CALLS: Final = 4
"""Calls of pages with long answers that may run at once."""
DUMPS: Final = 3
"""How often a dump is tried that changes of the table interrupt."""

_ELSEWHERE: Final = "GET /v1/openapi.json lists the calls, and `routesync --help` the commands for them"
_ELSEWHERE_TCP: Final = (
    "over TCP there are /metrics, /health/live and /health/ready; use the control socket for the rest"
)

CALLS: Final = CallTable()
T = TypeVar("T")


class Api:
    """All calls on one daemon, for one of its listeners. Everything runs in its event loop.

    Args:
        context: the daemon.
        lookups: dumps of the kernel's table, one after the other for all listeners.
        over_tcp: only the calls that are open to any client that reaches the TCP port, and the page.
    """

    def __init__(self, context: Context, lookups: Lookups, *, over_tcp: bool) -> None:
        self._context = context
        self._lookups = lookups
        self._over_tcp = over_tcp
        self._followers: set[asyncio.Task[object]] = set()
        self._most_followers = PAGES if over_tcp else FOLLOWERS
        self._long_calls = 0
        self._most_long_calls = LONG_PAGE_CALLS if over_tcp else LONG_CALLS

    def application(self) -> web.Application:
        """What the listener serves."""

        @web.middleware
        async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await with_problems(request, handler, _ELSEWHERE_TCP if self._over_tcp else _ELSEWHERE)

        app = web.Application(middlewares=[problems], client_max_size=LARGEST_BODY)
        app.on_shutdown.append(self._end_streams)
        for call in CALLS:
            handle = partial(call.handle, self)
            if call.over_tcp == "always":
                app.router.add_get(call.path, handle)  # and HEAD, which probes and proxies use
            elif not self._over_tcp:
                app.router.add_route(call.method, call.path, handle)
            elif call.over_tcp == "page":
                app.router.add_route(call.method, call.path, partial(self._for_page, handle))
        if self._over_tcp:
            for path in ("/", "/page/{name}"):
                app.router.add_get(path, partial(self._for_page, page.serve_file))
        return app

    async def _for_page(self, handle: Handler, request: web.Request) -> web.StreamResponse:
        page.admit(request, self._context.loaded().settings.control)
        return await handle(request)

    async def _end_streams(self, _app: web.Application) -> None:
        for task in self._followers:
            task.cancel()

    # -- what the daemon knows -------------------------------------------------------------------------------

    @CALLS.read("/v1/status", over_tcp="page")
    async def status(self) -> StatusResponse:
        """State of the daemon.

        Kernel, rules, targets and broker; what is degraded, and why.
        """
        context, status = self._context, self._context.status()
        policy, verdicts = context.loaded().settings.policy, status.verdicts
        actions = [(rule.name, rule.action) for rule in policy.rules] + [("default", policy.default_action)]
        by_name = {target.name: target for target in status.targets}
        return StatusResponse(
            status=status,
            pid=os.getpid(),
            config=context.active_config(),
            rules=tuple(
                RuleCount(rule=rule, action=action, routes=verdicts.get(rule, 0)) for rule, action in actions
            ),
            targets=tuple(target_detail(it.view(), by_name[it.name]) for it in context.targets.reconcilers),
        )

    @CALLS.read("/v1/routes", "unknown-target", "busy", answer=RoutesResponse, over_tcp="page")
    async def routes(self, request: web.Request, query: RoutesQuery) -> web.StreamResponse:
        """The table.

        Each prefix that the rules keep, in order, with its candidates and its state at each target.
        """
        targets = self._context.chosen(query.target)
        with self._long_call(request):
            rows = await TableRows.of(self._context.best_routes.table, targets, self._names(), query)
            return await stream_rows(request, "routes", rows, rows.response)

    @CALLS.read("/v1/explain", "busy", "unavailable", over_tcp="page")
    async def explain(self, request: web.Request, query: ExplainQuery) -> Explanation:
        """Why an address or prefix is mirrored or not.

        Dumps the kernel's table: every route that covers it, those that the rules drop too; the rule that decided;
        which one was elected; what each target has, and since when.
        """
        with self._long_call(request):
            found, complete, source = await self._lookups.read(dict[Route, RouteDetails], _take, query.of)
        table = self._context.best_routes.table
        return explain(
            query.of,
            choose(found, self._evaluator(), source.tables, found),
            found,
            self._context.targets.reconcilers,
            self._names(),
            tables=source.tables,
            complete=complete,
            held=lambda choice: table.elected(choice.prefix) == choice.elected,
        )

    @CALLS.read("/v1/plan", "busy", "unavailable", answer=PlanResponse)
    async def plan(self, request: web.Request, query: PlanQuery) -> web.StreamResponse:
        """What happens to each route, and why.

        By the rules of the running configuration and by what is known of the targets, which are not asked. Dumps the
        kernel's table.
        """
        context, names = self._context, self._names()
        with self._long_call(request):
            evaluate = self._evaluator()
            dump, _, source = await self._lookups.read(
                lambda: PlanDump(evaluate, query.dropped), PlanDump.take, covering=None
            )
            choices = await self._choices(dump, source.tables)
            rows = PlanRows(choices, dump.details, context.targets.reconcilers, names)
            sysctls = Sysctls.model_validate(source.stats.sysctls, from_attributes=True)
            return await stream_rows(
                request,
                "routes",
                rows,
                lambda: PlanResponse(
                    mode=context.loaded().settings.mode,
                    sysctls=sysctls,
                    routes=(),
                    targets=rows.targets(),
                    left_out=dict(dump.left_out),
                ),
            )

    async def _choices(self, dump: PlanDump, tables: Sequence[int]) -> Iterator[Choice]:
        """What the daemon has elected already, and beside it the routes of these tables that its rules drop."""
        table = self._context.best_routes.table
        ranks = {number: rank for rank, number in enumerate(tables)}
        held = (it.prefixes() for it in self._context.targets.reconcilers)
        prefixes = await sorted_prefixes(table.prefixes(), dump.dropped, *held)

        def choice(prefix: Prefix) -> Choice:
            kept = table.candidates(prefix)
            routes = [*kept, *dump.dropped.get(prefix, ())]
            if len(routes) > 1:
                # What was elected of a table that a reload has taken out stays until the first dump of the others.
                routes.sort(key=lambda it: preference(it.route, ranks.get(it.route.table, len(ranks))))
            return Choice(prefix, tuple(routes), kept[0] if kept else None)

        return map(choice, prefixes)

    @CALLS.read("/v1/events", "busy", answer=NDJSON, over_tcp="page")
    async def events(self, request: web.Request, query: EventsQuery) -> web.StreamResponse:
        """Follow the events.

        One CloudEvent a line, the same as over MQTT (docs/events.md): first the status, then each event, and the
        status again when it changes. A client that is too slow loses events; in their place is a line of the type
        `io.routesync.stream.lost.v1` with `count` in its data, and the missing sequence numbers show which. With
        `Accept: text/event-stream` they come as server-sent events, and `Last-Event-ID` is the same as `after`.
        """
        if len(self._followers) >= self._most_followers:
            raise ProblemError(
                "busy", f"{self._most_followers} clients follow the events already; end one of them"
            )
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aiohttp runs each request in one
        self._followers.add(task)
        try:
            return await stream_events(request, query, self._context.hub, self._context.status)
        finally:
            self._followers.discard(task)

    @contextmanager
    def _long_call(self, request: web.Request) -> Iterator[None]:
        trusted = may_change(peer_of(request.transport), os.geteuid())
        if self._long_calls >= self._most_long_calls + (RESERVED_CALLS if trusted else 0):
            raise ProblemError("busy", f"{self._long_calls} such calls run at the moment; try again later")
        self._long_calls += 1
        try:
            yield
        finally:
            self._long_calls -= 1

    def _names(self) -> RouteNames:
        return RouteNames.of(self._context.loaded().names, self._context.best_routes.source.links)

    def _evaluator(self) -> Evaluate:
        """The rules of the running configuration, with the link gateways that the source knows now."""
        best_routes = self._context.best_routes
        return partial(best_routes.evaluate, links=best_routes.source.links)

    # -- what operators request ------------------------------------------------------------------------------

    @CALLS.change("/v1/resync", "unknown-target")
    async def resync(self, body: ResyncRequest) -> Done:
        """Dump the kernel's table again and verify every route.

        Requests a full dump of the kernel's table and, at the target or at all, a verification of every owned route.
        With `force` also sends routes again that are suppressed because a target fell silent after them.
        """
        targets = self._context.chosen(body.target)
        self._context.best_routes.source.request_resync("command")
        for target in targets:
            target.verify(force=body.force)
        return Done(
            targets={
                it.name: "paused: verified after that" if it.paused else "verification ordered"
                for it in targets
            }
        )

    @CALLS.change("/v1/release", "unknown-target")
    async def release(self, body: TargetRequest) -> Released:
        """Release a suppressed mass withdrawal.

        Sends withdrawals that the mass-withdrawal limit suppresses, without waiting for a second dump of the kernel's
        table.
        """
        return Released(released={it.name: it.release() for it in self._context.chosen(body.target)})

    @CALLS.change("/v1/pause", "unknown-target")
    async def pause(self, body: TargetRequest) -> Done:
        """Leave a target as it is.

        Nothing is sent to it until `resume`, over restarts too; then the difference is made.
        """
        targets = self._context.chosen(body.target)
        return Done(
            targets={it.name: _result("paused", already=it.paused, trouble=it.pause()) for it in targets}
        )

    @CALLS.change("/v1/resume", "unknown-target")
    async def resume(self, body: TargetRequest) -> Done:
        """End a pause.

        Connects to the target and makes the difference that has come up.
        """
        targets = self._context.chosen(body.target)
        return Done(
            targets={
                it.name: _result("resumed", already=not it.paused, trouble=it.resume()) for it in targets
            }
        )

    @CALLS.change("/v1/adopt", "unknown-target", "unavailable")
    async def adopt(self, body: OwnershipRequest) -> OwnedRoutes:
        """Take ownership of routes.

        Of those in the target that equal desired ones and are not owned (phase `present`): from then on they are
        withdrawn when they are no longer desired. With `prefixes` also of routes in phase `left-behind`: by the
        operator's word they are owned, and are removed or replaced.
        """
        (target,) = self._context.chosen(body.target)
        return OwnedRoutes(target=body.target, routes=target.adopt(body.prefixes))

    @CALLS.change("/v1/takeover", "unknown-target", "unavailable")
    async def takeover(self, body: TakeoverRequest) -> TakeoverResponse:
        """Take over routes of a node that is gone.

        Only those that a fresh inventory of the target shows with that gateway and protocol `static`. They are removed,
        or replaced by what this node wants, by the rules of every `DELETE`. If the other node adds one again, the rest
        stays.
        """
        (target,) = self._context.chosen(body.target)
        try:
            routes = {it.prefix: parse_address(it.gateway) for it in body.routes}
        except ValueError as error:
            raise ProblemError("bad-request", str(error)) from None
        done = await target.take_over(body.node, routes)
        if done is None:
            raise ProblemError(
                "unavailable",
                f"target {body.target} does not answer, is paused, or another takeover is at work",
            )
        return TakeoverResponse(
            target=body.target,
            taken=tuple(map(str, done.taken)),
            left=done.left,
            came_back=tuple(map(str, done.came_back)),
            unproved=tuple(map(str, done.unproved)),
        )

    @CALLS.change("/v1/repair", "unknown-target")
    async def repair(self, body: OwnershipRequest) -> OwnedRoutes:
        """Delete and add again what a target does not forward.

        For routes in phase `not-forwarded`: the target's kernel has them, its table does not. If another writer has a
        route to the same prefix, that route may be removed; the operator knows that there is none.
        """
        (target,) = self._context.chosen(body.target)
        return OwnedRoutes(target=body.target, routes=target.repair(body.prefixes))

    @CALLS.change("/v1/forget", "unknown-target", "conflict", "unavailable")
    async def forget(self, body: OwnershipRequest) -> OwnedRoutes:
        """Give up ownership of routes.

        The routes stay and are not owned any more: all in a target that the daemon does not mirror into, or with
        `prefixes` these; in one that it does, only those in phase `left-behind`, by their `prefixes`.
        """
        for target in self._context.targets.reconcilers:
            if target.name == body.target and body.prefixes:
                return OwnedRoutes(target=body.target, routes=target.forget(body.prefixes))
        self._require_not_mirrored(body.target, "forget")
        forgotten = await self._context.ownership.forget(body.target, body.prefixes)
        return OwnedRoutes(target=body.target, routes=forgotten)

    @CALLS.change("/v1/withdraw", "unknown-target", "conflict", "unavailable")
    async def withdraw(self, body: WithdrawRequest) -> OwnedRoutes:
        """Withdraw all owned routes from a target.

        For a target that the daemon does not mirror into. Responds when they are removed.
        """
        self._require_not_mirrored(body.target, "withdraw from")
        done = await self._context.ownership.withdraw(await self._settings(body))
        if done.left:
            left = f"{done.left} route{'s' if done.left > 1 else ''} left, and still owned"
            detail = f"target {body.target}: {done.error}; {left}"
            raise ProblemError("unavailable", detail)
        return OwnedRoutes(target=body.target, routes=done.withdrawn)

    @CALLS.change("/v1/reload", "rejected", "not-ready")
    async def reload(self) -> Reloaded:
        """Reload the configuration file.

        The same as SIGHUP, and returns the result: an invalid file is rejected, and the running configuration stays.
        """
        self._context.require_ready()
        problems = await self._context.reload()
        if problems:
            raise ProblemError("rejected", "\n".join(problems))
        return Reloaded(config=self._context.active_config())

    def _require_not_mirrored(self, target: str, action: str) -> None:
        """Go on only with a target that has owned routes and that the daemon does not mirror into."""
        if any(it.name == target for it in self._context.targets.reconcilers):
            detail = (
                f"target {target} is mirrored into: its routes would be added again at once; to {action} it, take it "
                "out of the configuration and `routesync reload` first"
            )
            if action == "forget":
                detail += "; routes that are left behind can be forgotten one by one, with --prefix"
            raise ProblemError("conflict", detail)
        owned = self._context.ownership.owned()
        if target not in owned:
            known = ", ".join(f"{name} ({count})" for name, count in sorted(owned.items())) or "none"
            raise ProblemError(
                "unknown-target", f"no route in {target} is owned; targets with owned routes: {known}"
            )

    async def _settings(self, body: WithdrawRequest) -> TargetSettings:
        """How to reach the target: as configured, or at the URL of the request."""
        loaded = self._context.loaded()
        for settings in loaded.settings.targets:
            if settings.name == body.target:
                return settings
        if body.url is None:
            detail = f"target {body.target} is not configured; give its URL: --url http://…:11111"
            raise ProblemError("bad-request", detail)
        try:
            return await asyncio.to_thread(unconfigured_target, loaded, body.target, body.url)
        except ConfigError as error:
            raise ProblemError("bad-request", str(error)) from None

    # -- what monitoring asks --------------------------------------------------------------------------------

    @CALLS.read("/health/live", over_tcp="always")
    async def live(self) -> Health:
        """Whether the daemon runs.

        Succeeds as long as its event loop runs, whatever its peers do: a broker that is down is no reason to restart
        the daemon.
        """
        return Health(status="live")

    @CALLS.read("/health/ready", "not-ready", over_tcp="always")
    async def ready(self) -> Health:
        """Whether the daemon has started its work.

        The kernel's table was dumped and evaluated, and each target was contacted once, successfully or not.
        """
        self._context.require_ready()
        return Health(status="ready")

    @CALLS.read("/metrics", answer=OPENMETRICS, over_tcp="always")
    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Metrics for Prometheus.

        As OpenMetrics or in the text format of Prometheus, by the Accept header.
        """
        body, content_type = self._context.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    @CALLS.read("/v1/openapi.json", answer=JSON)
    async def openapi(self) -> web.StreamResponse:
        """This document.

        The OpenAPI document of these calls.
        """
        return web.Response(body=_document(), content_type=JSON)


@cache
def _document() -> bytes:
    """The OpenAPI document. To make it takes 50 ms, in which the event loop does nothing else."""
    return openapi.text(CALLS).encode()


def _result(done: str, *, already: bool, trouble: str | None) -> str:
    """What was done; `trouble`: why it does not last over a restart."""
    if already:
        return f"{done} already"
    return f"{done}, but not over a restart: {trouble}" if trouble else done


# -- dumps of the kernel's table -----------------------------------------------------------------------------


def _take(found: dict[Route, RouteDetails], route: Route, read_details: Callable[[], RouteDetails]) -> None:
    found[route] = read_details()


class PlanDump:
    """What a plan needs of a dump: details, and the first routes that the rules drop (the daemon keeps none)."""

    def __init__(self, evaluate: Evaluate, limit: int) -> None:
        self.dropped: dict[Prefix, list[Candidate]] = {}
        self.left_out: Counter[str] = Counter()
        self.details: dict[Route, RouteDetails] = {}
        self._evaluate = evaluate
        self._room = limit

    def take(self, route: Route, read_details: Callable[[], RouteDetails]) -> None:
        verdict = self._evaluate(route)
        if not verdict.keep:
            if not self._room:
                self.left_out[verdict.rule] += 1
                return
            self._room -= 1
            self.dropped.setdefault(route.prefix, []).append(Candidate(route, verdict))
        details = read_details()
        if details != NO_DETAILS:
            self.details[route] = details


class Lookups:
    """Dumps of the kernel's table for calls: one at a time, and at most half of the time."""

    def __init__(self, best_routes: BestRoutes) -> None:
        self._best_routes = best_routes
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def read(
        self,
        begin: Callable[[], T],
        take: Callable[[T, Route, Callable[[], RouteDetails]], None],
        covering: Prefix | None,
    ) -> tuple[T, bool, KernelSource]:
        """Dump the table into something that takes its routes.

        After a dump the next one waits for as long as it took: clients that call without end get half of the time.

        Returns:
            That; whether the dump is complete; and the source whose tables were dumped: a reload may replace it.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._free_at - loop.time()))
            started = loop.time()
            try:
                attempts = 0
                while True:
                    into, source = begin(), self._best_routes.source
                    complete = await source.look_up(partial(take, into), covering)
                    attempts += 1
                    if complete or attempts == DUMPS:
                        return into, complete, source
            except KernelError as error:
                raise ProblemError("unavailable", str(error)) from None
            finally:
                self._free_at = 2 * loop.time() - started
