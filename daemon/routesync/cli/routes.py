"""`routesync routes`: the table, and the state of each prefix at each target."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from routesync.cli.output import Page, many
from routesync.cli.requests import EX_FAILED, explained, print_json
from routesync.cli.status import STYLES
from routesync.control.client import Client, url_of
from routesync.control.models import EvaluatedRoute, RouteRow, RoutesResponse, TargetRoute

_GOOD = ("accepted", "confirmed", "present")


class Filters(NamedTuple):
    """Which part of the table; None and empty: no restriction."""

    within: str | None = None
    covering: str | None = None
    family: str | None = None
    protocol: str | None = None
    rule: str | None = None
    target: str | None = None
    phases: tuple[str, ...] = ()
    limit: int | None = None

    def parameters(self) -> list[tuple[str, object]]:
        return [
            ("within", self.within),
            ("covering", self.covering),
            ("family", self.family),
            ("protocol", self.protocol),
            ("rule", self.rule),
            ("target", self.target),
            *(("phase", phase) for phase in self.phases),
            ("limit", self.limit),
        ]


def routes(socket: Path | None, filters: Filters, *, candidates: bool, as_json: bool) -> int:
    """Print the table; return the exit status, 1 if no prefix matches."""

    def work() -> int:
        client = Client(socket)
        body = client.raw("GET", url_of("/v1/routes", filters.parameters()))
        answer = client.read(body, RoutesResponse)
        if as_json:
            print_json(body)
        else:
            _show(answer, candidates=candidates)
        return 0 if answer.matched else EX_FAILED

    return explained(work)


def route_text(route: EvaluatedRoute) -> str:
    """A route in the words of ip(8), without its prefix."""
    kind = [] if route.type == "unicast" else [route.type]
    table = [] if route.table == "main" else [f"table {route.table}"]
    metric = [f"metric {route.metric}"] if route.metric else []
    return " ".join([*kind, way_text(route), f"proto {route.protocol}", *metric, *table]).strip()


def way_text(route: EvaluatedRoute) -> str:
    """The next hops in the words of ip(8), behind the source prefix of a source-specific route."""
    said = []
    for hop in route.hops:
        words = [f"via {hop.gateway}"] if hop.gateway else []
        words += [f"dev {hop.interface}"] if hop.interface else []
        said.append(" ".join([*words, *hop.flags]))
    source = f"from {route.source_prefix} " if route.source_prefix else ""
    return f"{source}{', '.join(said)}".strip()


def _show(answer: RoutesResponse, *, candidates: bool) -> None:
    page = Page()
    if answer.routes:
        page.rows(
            [
                ("PREFIX", "RULE", "ROUTE"),
                *(line for row in answer.routes for line in _lines(row, candidates=candidates)),
            ]
        )
    shown = len(answer.routes)
    left = f"; {answer.matched - shown} more are not shown" if answer.matched > shown else ""
    page.line(
        (f"{many(answer.matched, 'prefix', 'prefixes')}{left}" if answer.matched else "no such routes", "dim")
    )


Line = tuple[str | tuple[str, str], str | tuple[str, str], str | tuple[str, str]]


def _lines(row: RouteRow, *, candidates: bool) -> list[Line]:
    shown = row.candidates if candidates else row.candidates[:1]
    lines: list[Line] = []
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
    lines += [("", (f"  {it.target}", ""), (target_text(it), STYLES.get(it.phase, ""))) for it in row.targets]
    return lines


def target_text(it: TargetRoute) -> str:
    """The state of a prefix at a target, in one line."""
    via = f" via {it.owned or it.desired}" if it.owned or it.desired else ""
    if it.owned and it.desired and it.owned != it.desired:
        via = f" via {it.owned}, to become {it.desired}"
    code = f" {it.code}" if it.code else ""
    detail = f": {it.detail}" if it.detail and it.phase not in _GOOD else ""
    return f"{it.phase}{code}{via}{detail}{' (one hop of several)' if it.degraded else ''}"
