"""The calls there are: one table that the server serves by and the OpenAPI document is made from."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from routesync.control import models, routes

NDJSON: Final = "application/x-ndjson"
OPENMETRICS: Final = "application/openmetrics-text"
JSON: Final = "application/json"

Method = Literal["GET", "POST"]


class Call(NamedTuple):
    """One call.

    `answer` is a model, or the media type of what is no JSON. `changes`: only root and the daemon's user may. `open`:
    served over TCP, too. `failures` are the names of the problems it can end in, beside those that all calls have.
    """

    method: Method
    path: str
    name: str
    summary: str
    description: str
    answer: type[BaseModel] | str
    query: type[models.Order] | None = None
    order: type[models.Order] | None = None
    changes: bool = False
    open: bool = False
    failures: tuple[str, ...] = ()


CALLS: Final = (
    Call(
        "GET",
        "/v1/status",
        "status",
        "How the daemon fares",
        "Kernel, rules, targets, broker, and why it is degraded, if it is.",
        models.StatusAnswer,
    ),
    Call(
        "GET",
        "/v1/routes",
        "routes",
        "The table",
        "Each prefix that the rules keep, in order, with its candidates and how it stands at each target.",
        routes.RoutesAnswer,
        query=models.RoutesQuery,
        failures=("bad-request", "unknown-target", "busy"),
    ),
    Call(
        "GET",
        "/v1/explain",
        "explain",
        "Why an address or prefix is known to the targets, or not",
        "Reads the kernel anew: every route that covers it, those that the rules drop too; the rule that decided; what "
        "was elected; what each target has, and since when.",
        routes.Explanation,
        query=models.ExplainQuery,
        failures=("bad-request", "busy", "unavailable"),
    ),
    Call(
        "GET",
        "/v1/plan",
        "plan",
        "What becomes of each route, and why",
        "By the rules in force and by what is known of the targets; they are not asked. Reads the kernel anew.",
        routes.PlanAnswer,
        query=models.PlanQuery,
        failures=("bad-request", "busy", "unavailable"),
    ),
    Call(
        "GET",
        "/v1/events",
        "events",
        "Follow the events",
        "One CloudEvent a line, the same as over MQTT (docs/events.md): first the status, then each event, and the "
        "status again when it changes. A reader that is too slow loses events, and is told by a line of the type "
        "`io.routesync.stream.lost.v1` with `count` in its data; the numbers that are missing say which.",
        NDJSON,
        query=models.EventsQuery,
        failures=("bad-request", "busy"),
    ),
    Call(
        "POST",
        "/v1/resync",
        "resync",
        "Dump the kernel's table again and verify every route",
        "Orders a full dump of the kernel's table and, at the target or at all, a verification of every route that is "
        "owned. With `force` also sends again what is held back since a target fell silent when it was posted.",
        models.Done,
        order=models.ResyncOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "too-large"),
    ),
    Call(
        "POST",
        "/v1/release",
        "release",
        "Let a mass withdrawal go",
        "What the mass-withdrawal limit holds back is withdrawn without waiting for a second dump of the kernel.",
        models.Released,
        order=models.TargetOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "too-large"),
    ),
    Call(
        "POST",
        "/v1/pause",
        "pause",
        "Leave a target as it is",
        "Nothing is sent to it until `resume`, over restarts too; then the difference is made.",
        models.Done,
        order=models.TargetOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "too-large"),
    ),
    Call(
        "POST",
        "/v1/resume",
        "resume",
        "End a pause",
        "Connects to the target and makes the difference that has come up.",
        models.Done,
        order=models.TargetOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "too-large"),
    ),
    Call(
        "POST",
        "/v1/adopt",
        "adopt",
        "Take ownership of routes",
        "Of those in the target that equal desired ones and are not owned (phase `present`): from then on they are "
        "withdrawn when they are no longer desired. With `prefixes` also of routes in phase `left-behind`: by the "
        "operator's word they are owned, and are removed or replaced.",
        models.OwnRoutes,
        order=models.AdoptOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "too-large", "unavailable"),
    ),
    Call(
        "POST",
        "/v1/repair",
        "repair",
        "Delete and add again what a target does not forward",
        "For routes in phase `not-forwarded`: the target's kernel has them, its table does not. Another writer's route "
        "to the same prefix may be removed, if there is one: the operator knows that there is none.",
        models.OwnRoutes,
        order=models.RepairOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "too-large"),
    ),
    Call(
        "POST",
        "/v1/forget",
        "forget",
        "Give up ownership of routes",
        "The routes stay and are not owned any more: all in a target that the daemon does not mirror into, or with "
        "`prefixes` these; in one that it does, only those in phase `left-behind`.",
        models.OwnRoutes,
        order=models.ForgetOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "conflict", "too-large", "unavailable"),
    ),
    Call(
        "POST",
        "/v1/withdraw",
        "withdraw",
        "Take all of our routes out of a target",
        "Answers when they are out. For a target that the daemon does not mirror into.",
        models.OwnRoutes,
        order=models.WithdrawOrder,
        changes=True,
        failures=("bad-request", "unknown-target", "conflict", "too-large", "unavailable"),
    ),
    Call(
        "POST",
        "/v1/reload",
        "reload",
        "Take up the configuration file anew",
        "The same as SIGHUP, and tells what came of it: a file that does not hold changes nothing.",
        models.Reloaded,
        changes=True,
        failures=("rejected", "not-ready"),
    ),
    Call(
        "GET",
        "/health/live",
        "live",
        "Whether the daemon runs",
        "Answers as long as its loop turns, whatever its peers do: a broken broker is no reason to restart it.",
        models.Health,
        open=True,
    ),
    Call(
        "GET",
        "/health/ready",
        "ready",
        "Whether the daemon has begun its work",
        "The kernel's table was read and evaluated, and each target was contacted once, with whatever success.",
        models.Health,
        open=True,
        failures=("not-ready",),
    ),
    Call(
        "GET",
        "/metrics",
        "metrics",
        "Metrics for Prometheus",
        "As OpenMetrics or in Prometheus' own text format, as the Accept header wants it.",
        OPENMETRICS,
        open=True,
    ),
    Call(
        "GET",
        "/v1/openapi.json",
        "openapi",
        "This document",
        "The OpenAPI document of these calls.",
        JSON,
    ),
)
