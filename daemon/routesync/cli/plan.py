"""`routesync plan`: what would be done, and for each route why. Changes nothing, needs no root and no loxilb."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.text import Text

from routesync.cli.output import console
from routesync.cli.situation import read_situation
from routesync.kernel import TableReading
from routesync.names import Names
from routesync.plan import AtTarget, Fate, Plan, PlannedRoute, TargetInput
from routesync.route import Route, flag_names, format_address

COLOURS: Final[Mapping[str, str]] = {
    "keep": "green",
    "drop": "red",
    "behind": "dim",
    Fate.POST: "green",
    Fate.REPLACE: "yellow",
    Fate.STANDS: "cyan",
    Fate.CONFLICT: "bold yellow",
    Fate.REFUSED: "magenta",
    Fate.UNREPRESENTABLE: "magenta",
}


def plan(config: Path, state: Path, *, as_json: bool, contact: bool) -> int:
    """Print the plan; return the exit status."""
    situation = read_situation(config, state, contact=contact)
    if isinstance(situation, int):
        return situation
    if as_json:
        print(json.dumps(_as_json(situation.plan, situation.reading, situation.names), indent=2))
    else:
        _show(situation.plan, situation.reading, situation.names, situation.file)
    return 0


def _hops(route: Route, reading: TableReading) -> str:
    parts = []
    for hop in route.hops:
        link = reading.links.get(hop.ifindex)
        words = [f"via {format_address(hop.gateway)}"] if hop.gateway else []
        if hop.ifindex:
            words.append(f"dev {link.name if link else hop.ifindex}")
        parts.append(" ".join([*words, *flag_names(hop.flags)]))
    return ", ".join(parts) or "-"


def _show(made: Plan, reading: TableReading, names: Names, file: Path) -> None:
    out = console()
    rows: list[tuple[str, str, str, str]] = []
    for planned in made.routes:
        route = planned.route
        rows.append(
            (
                str(route.prefix),
                f"{_hops(route, reading)} proto {names.protocol(route.protocol)} metric {route.metric}",
                _word(planned),
                planned.verdict.rule,
            )
        )
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    out.print(Text(f"{len(rows)} routes by the rules of {file}", style="bold"))
    for planned, row in zip(made.routes, rows, strict=True):
        line = Text()
        line.append(f"{row[0]:{widths[0]}}  ")
        line.append(f"{row[2]:{widths[2]}}", style=COLOURS[row[2]])
        line.append(f"  {row[1]:{widths[1]}}  ", style="dim")
        line.append(f"rule {row[3]}")
        for end in planned.targets:
            line.append(_end_text(end))
        out.print(line)
    for target in made.targets:
        out.print(_target_text(made, target))
    switches = ", ".join(
        f"{name} {'unknown' if value is None else int(value)}"
        for name, value in reading.sysctls._asdict().items()
    )
    out.print(Text(f"kernel: {switches}", style="dim"))


def _word(planned: PlannedRoute) -> str:
    if not planned.verdict.keep:
        return "drop"
    return "keep" if planned.elected else "behind"


def _end_text(end: AtTarget) -> Text:
    text = Text(f"  -> {end.target}: ")
    text.append(end.fate.value, style=COLOURS[end.fate])
    if end.gateway:
        text.append(f" via {format_address(end.gateway)}")
    if end.fate in {Fate.REFUSED, Fate.UNREPRESENTABLE}:
        text.append(f" {end.code}: {end.detail}")
    elif end.detail:
        text.append(f" ({end.detail})")
    if end.degraded:
        text.append(" (one hop of several)")
    return text


def _target_text(made: Plan, target: TargetInput) -> Text:
    ends = [end for planned in made.routes for end in planned.targets if end.target == target.name]
    posts = sum(1 for end in ends if end.fate is Fate.POST)
    replaces = sum(1 for end in ends if end.fate is Fate.REPLACE)
    stand = sum(1 for end in ends if end.fate is Fate.STANDS)
    deletions = [deletion for deletion in made.deletions if deletion.target == target.name]
    text = Text(f"{target.name} ({target.url}): ", style="bold")
    text.append(f"{posts} to post, {replaces} to replace, {len(deletions)} to delete, {stand} stand already")
    for deletion in deletions:
        text.append(f"\n  delete {deletion.prefix} via {format_address(deletion.gateway)}", style="red")
    if target.error:
        text.append(f"\n  what stands there is not known: {target.error}", style="yellow")
    return text


def _as_json(made: Plan, reading: TableReading, names: Names) -> dict[str, object]:
    return {
        "sysctls": reading.sysctls._asdict(),
        "routes": [_route_json(planned, reading, names) for planned in made.routes],
        "targets": [
            {
                "name": target.name,
                "url": target.url,
                "read": target.inventory is not None,
                "error": target.error,
                "delete": [
                    {"prefix": str(deletion.prefix), "gateway": format_address(deletion.gateway)}
                    for deletion in made.deletions
                    if deletion.target == target.name
                ],
            }
            for target in made.targets
        ],
    }


def _route_json(planned: PlannedRoute, reading: TableReading, names: Names) -> dict[str, object]:
    route = planned.route
    details = reading.details[route]
    return {
        "prefix": str(route.prefix),
        "family": route.prefix.family.label,
        "table": names.table(route.table),
        "protocol": names.protocol(route.protocol),
        "metric": route.metric,
        "metrics": dict(details.metrics),
        "preference": details.preference,
        "expires_s": details.expires_s,
        "hops": [
            {
                "gateway": format_address(hop.gateway) if hop.gateway else None,
                "interface": link.name if (link := reading.links.get(hop.ifindex)) else None,
                "weight": hop.weight,
                "flags": flag_names(hop.flags),
            }
            for hop in route.hops
        ],
        "verdict": "keep" if planned.verdict.keep else "drop",
        "rule": planned.verdict.rule,
        "elected": planned.elected,
        "targets": [
            {
                "target": end.target,
                "fate": end.fate.value,
                "gateway": format_address(end.gateway) if end.gateway else None,
                "code": end.code,
                "detail": end.detail,
                "degraded": end.degraded,
            }
            for end in planned.targets
        ],
    }
