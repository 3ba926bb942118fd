"""`routesync routes`: the table, and the state of each prefix at each target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from routesync.characters import many
from routesync.cli.output import EX_FAILED, Page, Part, styled
from routesync.cli.requests import ask
from routesync.control.client import url_of
from routesync.control.models import EvaluatedRoute, RouteRow, RoutesResponse, TargetRoute

_GOOD = ("accepted", "confirmed", "present")


def routes(
    socket: Path | None, filters: Sequence[tuple[str, object]], *, candidates: bool, as_json: bool
) -> None:
    """Print the table; exit status 1 if no prefix matches. `filters` are parameters of GET /v1/routes."""
    answer = ask(
        socket,
        f"GET {url_of('/v1/routes', filters)}",
        RoutesResponse,
        lambda answer: _show(answer, candidates=candidates),
        as_json=as_json,
    )
    if not answer.matched:
        raise typer.Exit(EX_FAILED)


def route_text(route: EvaluatedRoute) -> str:
    """A route in the words of ip(8), without its prefix."""
    kind = [] if route.type == "unicast" else [route.type]
    table = [] if route.table == "main" else [f"table {route.table}"]
    metric = [f"metric {route.metric}"] if route.metric else []
    return " ".join([*kind, way_text(route), f"proto {route.protocol}", *metric, *table]).strip()


def way_text(route: EvaluatedRoute) -> str:
    """The next hops in the words of ip(8), behind what the route applies to alone: a source prefix, a TOS."""
    said = []
    for hop in route.hops:
        words = [f"via {hop.gateway}"] if hop.gateway else []
        words += [f"dev {hop.interface}"] if hop.interface else []
        said.append(" ".join([*words, *hop.flags]))
    source = f"from {route.source_prefix} " if route.source_prefix else ""
    tos = f"tos {route.tos:#04x} " if route.tos else ""
    return f"{source}{tos}{', '.join(said)}".strip()


def _show(answer: RoutesResponse, *, candidates: bool) -> None:
    with Page.paged() as page:
        if answer.routes:
            page.rows(
                [
                    ("PREFIX", "RULE", "ROUTE"),
                    *(line for row in answer.routes for line in _lines(row, candidates=candidates)),
                ]
            )
        shown = len(answer.routes)
        left = f"; {answer.matched - shown:,} more not shown" if answer.matched > shown else ""
        found = f"{many(answer.matched, 'prefix', 'prefixes')}{left}" if answer.matched else "no such routes"
        page.line((found, "dim"))


def _lines(row: RouteRow, *, candidates: bool) -> list[tuple[Part, Part, Part]]:
    shown = row.candidates if candidates else row.candidates[:1]
    lines: list[tuple[Part, Part, Part]] = []
    for route in shown:
        text = route_text(route)
        lines.append(
            (
                (row.prefix, "bold" if route.elected else "dim"),
                route.rule,
                text if route.elected else (text, "dim"),
            )
        )
    if not shown:
        lines.append(((row.prefix, "bold"), "", ("gone from the kernel", "dim")))
    lines += [("", (f"  {it.target}", ""), styled(it.phase, target_text(it))) for it in row.targets]
    return lines


def target_text(it: TargetRoute) -> str:
    """The state of a prefix at a target, in one line."""
    via = f" via {it.owned or it.desired}" if it.owned or it.desired else ""
    if it.owned and it.desired and it.owned != it.desired:
        via = f" via {it.owned}, to become {it.desired}"
    code = f" {it.code}" if it.code else ""
    detail = f": {it.detail}" if it.detail and it.phase not in _GOOD else ""
    return f"{it.phase}{code}{via}{detail}{' (one hop of several)' if it.degraded else ''}"
