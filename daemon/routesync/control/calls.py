"""The table of calls: the server routes requests by it, and the OpenAPI document is made from it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from routesync.control import models

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
OPENMETRICS: Final = "application/openmetrics-text"
PROBLEM_JSON: Final = "application/problem+json"


class Call(NamedTuple):
    """One call.

    `answer` is a model, or a media type. `changes`: only root and the daemon's user may make it. `open`: served over
    TCP, too. `problems` are names in `PROBLEMS`, in addition to those that follow from the rest (see `failures`).
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    description: str
    answer: type[BaseModel] | str
    query: type[models.RequestModel] | None = None
    body: type[models.RequestModel] | None = None
    changes: bool = False
    open: bool = False
    problems: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """Names of all problems that the call can end in."""
        return [
            *(["bad-request"] if self.query or self.body else []),
            *(["too-large"] if self.body else []),
            *(["not-permitted"] if self.changes else []),
            *self.problems,
            "internal",
        ]


def _read(
    path: str,
    name: str,
    summary: str,
    description: str,
    answer: type[BaseModel] | str,
    *problems: str,
    query: type[models.RequestModel] | None = None,
    open_: bool = False,
) -> Call:
    return Call("GET", path, name, summary, description, answer, query=query, open=open_, problems=problems)


def _change(
    name: str,
    summary: str,
    description: str,
    answer: type[BaseModel],
    body: type[models.RequestModel] | None,
    *problems: str,
) -> Call:
    return Call(
        "POST",
        f"/v1/{name}",
        name,
        summary,
        description,
        answer,
        body=body,
        changes=True,
        problems=problems,
    )


CALLS: Final = (
    _read(
        "/v1/status",
        "status",
        "State of the daemon",
        "Kernel, rules, targets and broker; what is degraded, and why.",
        models.StatusResponse,
    ),
    _read(
        "/v1/routes",
        "routes",
        "The table",
        "Each prefix that the rules keep, in order, with its candidates and its state at each target.",
        models.RoutesResponse,
        "unknown-target",
        "busy",
        query=models.RoutesQuery,
    ),
    _read(
        "/v1/explain",
        "explain",
        "Why an address or prefix is mirrored or not",
        "Dumps the kernel's table: every route that covers it, those that the rules drop too; the rule that decided; "
        "which one was elected; what each target has, and since when.",
        models.Explanation,
        "busy",
        "unavailable",
        query=models.ExplainQuery,
    ),
    _read(
        "/v1/plan",
        "plan",
        "What happens to each route, and why",
        "By the rules of the running configuration and by what is known of the targets, which are not asked. Dumps the "
        "kernel's table.",
        models.PlanResponse,
        "busy",
        "unavailable",
        query=models.PlanQuery,
    ),
    _read(
        "/v1/events",
        "events",
        "Follow the events",
        "One CloudEvent a line, the same as over MQTT (docs/events.md): first the status, then each event, and the "
        "status again when it changes. A client that is too slow loses events; in their place is a line "
        "of the type `io.routesync.stream.lost.v1` with `count` in its data, and the missing sequence numbers show "
        "which.",
        NDJSON,
        "busy",
        query=models.EventsQuery,
    ),
    _change(
        "resync",
        "Dump the kernel's table again and verify every route",
        "Requests a full dump of the kernel's table and, at the target or at all, a verification of every owned route. "
        "With `force` also sends routes again that are suppressed because a target fell silent after them.",
        models.Done,
        models.ResyncRequest,
        "unknown-target",
    ),
    _change(
        "release",
        "Release a suppressed mass withdrawal",
        "Sends withdrawals that the mass-withdrawal limit suppresses, without waiting for a second dump of the "
        "kernel's table.",
        models.Released,
        models.TargetRequest,
        "unknown-target",
    ),
    _change(
        "pause",
        "Leave a target as it is",
        "Nothing is sent to it until `resume`, over restarts too; then the difference is made.",
        models.Done,
        models.TargetRequest,
        "unknown-target",
    ),
    _change(
        "resume",
        "End a pause",
        "Connects to the target and makes the difference that has come up.",
        models.Done,
        models.TargetRequest,
        "unknown-target",
    ),
    _change(
        "adopt",
        "Take ownership of routes",
        "Of those in the target that equal desired ones and are not owned (phase `present`): from then on they are "
        "withdrawn when they are no longer desired. With `prefixes` also of routes in phase `left-behind`: by the "
        "operator's word they are owned, and are removed or replaced.",
        models.OwnedRoutes,
        models.AdoptRequest,
        "unknown-target",
        "unavailable",
    ),
    _change(
        "repair",
        "Delete and add again what a target does not forward",
        "For routes in phase `not-forwarded`: the target's kernel has them, its table does not. If another "
        "writer has a route to the same prefix, that route may be removed; the operator knows that there is none.",
        models.OwnedRoutes,
        models.RepairRequest,
        "unknown-target",
    ),
    _change(
        "forget",
        "Give up ownership of routes",
        "The routes stay and are not owned any more: all in a target that the daemon does not mirror into, or with "
        "`prefixes` these; in one that it does, only those in phase `left-behind`.",
        models.OwnedRoutes,
        models.ForgetRequest,
        "unknown-target",
        "conflict",
        "unavailable",
    ),
    _change(
        "withdraw",
        "Withdraw all owned routes from a target",
        "For a target that the daemon does not mirror into. Responds when they are removed.",
        models.OwnedRoutes,
        models.WithdrawRequest,
        "unknown-target",
        "conflict",
        "unavailable",
    ),
    _change(
        "reload",
        "Reload the configuration file",
        "The same as SIGHUP, and returns the result: an invalid file is rejected, and the running configuration stays.",
        models.Reloaded,
        None,
        "rejected",
        "not-ready",
    ),
    _read(
        "/health/live",
        "live",
        "Whether the daemon runs",
        "Succeeds as long as its event loop runs, whatever its peers do: a broker that is down is no reason to restart "
        "the daemon.",
        models.Health,
        open_=True,
    ),
    _read(
        "/health/ready",
        "ready",
        "Whether the daemon has started its work",
        "The kernel's table was dumped and evaluated, and each target was contacted once, successfully or not.",
        models.Health,
        "not-ready",
        open_=True,
    ),
    _read(
        "/metrics",
        "metrics",
        "Metrics for Prometheus",
        "As OpenMetrics or in the text format of Prometheus, by the Accept header.",
        OPENMETRICS,
        open_=True,
    ),
    _read("/v1/openapi.json", "openapi", "This document", "The OpenAPI document of these calls.", JSON),
)
