"""Why a route is mirrored or not: every candidate, and a sentence that says what happened to it.

Pure: for routes that the daemon has looked up, and for routes that a command has read without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from routesync.control.models import ExplainedRoute
from routesync.control.views import RouteNames, details_fields
from routesync.kernel.details import RouteDetails
from routesync.plan import Choice
from routesync.route import RTN_THROW, Rewrite, Route, Verdict, format_address


def explain(
    choice: Choice, details: Mapping[Route, RouteDetails], names: RouteNames
) -> tuple[ExplainedRoute, ...]:
    """Explain all routes of a prefix, in order of preference; `details` has each of them."""
    explained: list[ExplainedRoute] = []
    best = choice.elected.route if choice.elected else None
    before_best = True
    for route, verdict in choice.routes:
        wins = route is best
        before_best = before_best and not wins
        why = _why(route, verdict, details[route], best, before_best=before_best)
        explained.append(
            ExplainedRoute.model_validate(
                {
                    **names.fields(route, verdict, elected=wins),
                    **details_fields(details[route]),
                    "next_hop": _rewritten(verdict.rewrite),
                    "why": why,
                }
            )
        )
    return tuple(explained)


def in_order(choices: Iterable[Choice]) -> list[Choice]:
    """The longest prefix first: the order in which the kernel prefers them."""
    return sorted(choices, key=lambda it: -it.prefix.length)


def _why(
    route: Route, verdict: Verdict, details: RouteDetails, best: Route | None, *, before_best: bool
) -> str:
    action = "keeps" if verdict.keep else "drops"
    decision = (
        f"no rule matches; default_action {action} it"
        if verdict.rule == "default"
        else f"rule {verdict.rule} {action} it"
    )
    if not verdict.keep:
        return decision
    if details.expired(route):
        return f"{decision}; it has expired, and the kernel no longer uses it"
    if best is None or route is best:
        return f"{decision}; elected"
    if before_best:  # by tables and metrics; only a throw route explains that another one is elected
        which = "it" if route.type == RTN_THROW else "a throw route"
        return (
            f"{decision}; not elected: {which} ends the search in its table, and the next table has a route"
        )
    return f"{decision}; not elected: {_reason(route, best)}"


def _reason(route: Route, winner: Route) -> str:
    """Why the winner, which comes earlier, is preferred."""
    if route.source is not None and winner.source is None:
        return f"it applies only to packets from {route.source}"
    if (route.tos != 0) != (winner.tos != 0):
        return f"it applies only to TOS {route.tos:#04x}"
    if route.table != winner.table:
        return "its table comes later in [kernel] tables"
    if route.metric != winner.metric:
        return f"its metric {route.metric} is above {winner.metric}"
    return "the kernel lists the elected route first"


def _rewritten(rewrite: Rewrite | None) -> tuple[str, ...]:
    if rewrite is None:
        return ()
    if rewrite.to_self:
        return ("self",)
    return tuple(format_address(hop) for hop in (rewrite.inet, rewrite.inet6) if hop is not None)
