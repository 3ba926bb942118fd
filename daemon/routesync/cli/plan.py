"""`routesync plan`: what would be done, and for each route why. Changes nothing, needs no root and no loxilb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.text import Text

from routesync.cli.live import exit_of, print_json
from routesync.cli.output import clean, complain, console
from routesync.cli.routes import way_text
from routesync.cli.situation import Situation, read_situation
from routesync.control.client import Client, ControlError, NotRunning
from routesync.control.present import Words, planned_end
from routesync.control.routes import AtTarget, Deletion, PlanAnswer, PlannedRoute, Switches, TargetPlan
from routesync.route import format_address

COLOURS: Final[Mapping[str, str]] = {
    "keep": "green",
    "drop": "red",
    "behind": "dim",
    "post": "green",
    "replace": "yellow",
    "stands": "cyan",
    "conflict": "bold yellow",
    "refused": "magenta",
    "unrepresentable": "magenta",
}


def ask_daemon(socket: Path | None, *, as_json: bool) -> int | None:
    """Print the plan of the running daemon; return the exit status, or None where none runs."""
    client = Client(socket)
    try:
        body = client.raw("GET", "/v1/plan")
        answer = client.read(body, PlanAnswer)
    except NotRunning as error:
        if socket is None:
            return None
        complain(str(error))
        return exit_of(error)
    except ControlError as error:
        complain(f"{error}; or plan without the daemon, by --offline")
        return exit_of(error)
    if as_json:
        print_json(body)
    else:
        _show(answer, "the running daemon")
    return 0


def plan(config: Path, state: Path, *, as_json: bool, contact: bool) -> int:
    """Print the plan by a file; return the exit status."""
    situation = read_situation(config, state, contact=contact)
    if isinstance(situation, int):
        return situation
    answer = _answer(situation)
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        _show(answer, f"the rules of {situation.file}")
    return 0


def _answer(situation: Situation) -> PlanAnswer:
    made, reading = situation.plan, situation.reading
    words = Words.of(situation.names, reading.links)
    return PlanAnswer(
        source="files",
        sysctls=Switches.model_validate(reading.sysctls._asdict()),
        routes=tuple(
            words.planned(
                it.route,
                it.verdict,
                elected=it.elected,
                details=reading.details[it.route],
                ends=map(planned_end, it.targets),
            )
            for it in made.routes
        ),
        targets=tuple(
            TargetPlan(
                name=target.name,
                url=target.url,
                read=target.inventory is not None,
                error=target.error,
                delete=tuple(
                    Deletion(prefix=str(it.prefix), gateway=format_address(it.gateway))
                    for it in made.deletions
                    if it.target == target.name
                ),
            )
            for target in made.targets
        ),
    )


def _show(answer: PlanAnswer, by: str) -> None:
    out = console()
    rows = [
        (
            it.prefix,
            _word(it),
            clean(f"{way_text(it) or '-'} proto {it.protocol} metric {it.metric}"),
            it.rule,
        )
        for it in answer.routes
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    out.print(Text(f"{len(rows)} routes by {by}", style="bold"))
    for planned, row in zip(answer.routes, rows, strict=True):
        line = Text()
        line.append(f"{row[0]:{widths[0]}}  ")
        line.append(f"{row[1]:{widths[1]}}", style=COLOURS[row[1]])
        line.append(f"  {row[2]:{widths[2]}}  ", style="dim")
        line.append(f"rule {row[3]}")
        for end in planned.targets:
            line.append(_end_text(end))
        out.print(line)
    for rule, count in sorted(answer.left_out.items()):
        out.print(Text(f"{count} more routes that rule {rule} drops are not listed", style="dim"))
    for target in answer.targets:
        out.print(_target_text(answer, target))
    switches = ", ".join(
        f"{name} {'unknown' if value is None else int(value)}"
        for name, value in answer.sysctls.model_dump().items()
    )
    out.print(Text(f"kernel: {switches}", style="dim"))


def _word(planned: PlannedRoute) -> str:
    if planned.verdict == "drop":
        return "drop"
    return "keep" if planned.elected else "behind"


def _end_text(end: AtTarget) -> Text:
    text = Text(f"  -> {end.target}: ")
    text.append(end.fate, style=COLOURS[end.fate])
    if end.gateway:
        text.append(f" via {end.gateway}")
    if end.fate in {"refused", "unrepresentable"}:
        text.append(clean(f" {end.code}: {end.detail}"))
    elif end.detail:
        text.append(clean(f" ({end.detail})"))
    if end.degraded:
        text.append(" (one hop of several)")
    return text


def _target_text(answer: PlanAnswer, target: TargetPlan) -> Text:
    fates = [end.fate for planned in answer.routes for end in planned.targets if end.target == target.name]
    posts, replaces, stand = (fates.count(fate) for fate in ("post", "replace", "stands"))
    text = Text(f"{target.name} ({target.url}): ", style="bold")
    text.append(
        f"{posts} to post, {replaces} to replace, {len(target.delete)} to delete, {stand} stand already"
    )
    for deletion in target.delete:
        text.append(f"\n  delete {deletion.prefix} via {deletion.gateway}", style="red")
    if target.error:
        told = "" if target.read else "what stands there is not known: "
        text.append(f"\n  {told}{clean(target.error)}", style="yellow")
    return text
