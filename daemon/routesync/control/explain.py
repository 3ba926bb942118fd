"""Why a route is told to the targets, or not: every candidate, and the sentence that says what became of it.

Pure: it is handed what was read, with the daemon or without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from routesync.control.present import Words, details_fields
from routesync.control.routes import ExplainedRoute
from routesync.kernel.details import RouteDetails
from routesync.plan import candidate_order
from routesync.route import (
    RTN_THROW,
    Candidate,
    Prefix,
    Rewrite,
    Route,
    Verdict,
    format_address,
    past_throws,
)


class Explained(NamedTuple):
    """One prefix: its routes, each with its reason, and the one that is elected."""

    prefix: Prefix
    routes: tuple[ExplainedRoute, ...]
    elected: Candidate | None


def explain(
    routes: Mapping[Route, RouteDetails],
    evaluate: Callable[[Route], Verdict],
    tables: Sequence[int],
    words: Words,
) -> list[Explained]:
    """Explain the routes of some prefixes, the longest prefix first.

    Args:
        routes: all that the tables have of these prefixes, with details, those of one table in the kernel's order.
        evaluate: the rules.
        tables: numbers of the tables, preferred ones first.
        words: names for numbers.
    """
    ordered = sorted(
        routes,
        key=lambda route: (-route.prefix.length, route.prefix, candidate_order(route, tables)),
    )
    return [
        _explain(prefix, {route: routes[route] for route in group}, evaluate, words)
        for prefix, group in groupby(ordered, key=lambda route: route.prefix)
    ]


def _explain(
    prefix: Prefix,
    routes: Mapping[Route, RouteDetails],
    evaluate: Callable[[Route], Verdict],
    words: Words,
) -> Explained:
    judged = {route: evaluate(route) for route in routes}
    kept = [
        Candidate(route, verdict)
        for route, verdict in judged.items()
        if verdict.keep and not routes[route].expired(route)
    ]
    elected = next(iter(past_throws(kept)), None)
    explained: list[ExplainedRoute] = []
    passed = False  # the best route
    for route, verdict in judged.items():
        details = routes[route]
        wins = elected is not None and route is elected.route
        passed = passed or wins
        explained.append(
            ExplainedRoute.model_validate(
                {
                    **words.fields(route, verdict, elected=wins),
                    **details_fields(details),
                    "next_hop": _rewritten(verdict.rewrite),
                    "why": _why(
                        route, verdict, details, elected.route if elected else None, before_best=not passed
                    ),
                }
            )
        )
    return Explained(prefix, tuple(explained), elected)


def _why(
    route: Route, verdict: Verdict, details: RouteDetails, best: Route | None, *, before_best: bool
) -> str:
    action = "keeps" if verdict.keep else "drops"
    judged = (
        f"no rule matches; default_action {action} it"
        if verdict.rule == "default"
        else f"rule {verdict.rule} {action} it"
    )
    if not verdict.keep:
        return judged
    if details.expired(route):
        return f"{judged}; its lifetime is over, and the kernel uses it no longer"
    if best is None or route is best:
        return f"{judged}; elected"
    if before_best:  # in the order of tables and metrics
        which = "it" if route.type == RTN_THROW else "a throw route"
        return f"{judged}; stands behind, for {which} ends the search in its table, and the next table has a route"
    return f"{judged}; {_behind(route, best)}"


def _behind(route: Route, winner: Route) -> str:
    if route.source is not None and winner.source is None:
        return f"stands behind, for it is for packets from {route.source} only"
    if (route.tos != 0) != (winner.tos != 0):
        return f"stands behind, for it holds for TOS {route.tos:#04x} only"
    if route.table != winner.table:
        return "stands behind, for its table comes later in [kernel] tables"
    if route.metric != winner.metric:
        return f"stands behind, for its metric {route.metric} is above {winner.metric}"
    return "stands behind, for the kernel has the other one first"


def _rewritten(rewrite: Rewrite | None) -> tuple[str, ...]:
    if rewrite is None:
        return ()
    if rewrite.to_self:
        return ("self",)
    return tuple(format_address(hop) for hop in (rewrite.inet, rewrite.inet6) if hop is not None)
