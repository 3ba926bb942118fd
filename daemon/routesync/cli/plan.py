"""`routesync plan` and `routesync explain`: what happens to each route, or to one address or prefix, and why.

Both ask the running daemon. Without it they work by a configuration file; they need no root and no loxilb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import typer

from routesync.characters import many
from routesync.cli.offline import explanation, plan_response, read_offline
from routesync.cli.output import EX_FAILED, Page, Part, moment, print_object, styled
from routesync.cli.requests import ask
from routesync.cli.routes import route_text, target_text, way_text
from routesync.control.client import url_of
from routesync.control.models import (
    ExplainedPrefix,
    ExplainedRoute,
    Explanation,
    PlanOutcome,
    PlanResponse,
    PlanRow,
    TargetExplained,
    TargetPlan,
)
from routesync.mirror.status import TargetState
from routesync.route import Prefix

HINT: Final = "; `routesync plan --offline` works without the daemon"
COLOURS: Final[Mapping[str, str]] = {
    "keep": "green",
    "drop": "red",
    "behind": "dim",
    "post": "green",
    "replace": "yellow",
    "present": "cyan",
    "conflict": "bold yellow",
    "refused": "magenta",
    "unrepresentable": "magenta",
}


def plan_by_daemon(socket: Path | None, covered: Prefix | None, *, summary: bool, as_json: bool) -> None:
    """Print the daemon's plan, or what it explains."""
    call = "/v1/plan" if covered is None else url_of("/v1/explain", [("of", covered)])
    model: type[PlanResponse | Explanation] = PlanResponse if covered is None else Explanation
    show = partial(_show, by="the running daemon", summary=summary)
    _end(ask(socket, f"GET {call}", model, show, as_json=as_json, hint=HINT))


def plan_offline(
    file: Path, state: Path, covered: Prefix | None, *, summary: bool, as_json: bool, contact: bool
) -> None:
    """Print the plan by a file, or what it means for an address or prefix."""
    context = read_offline(file, state, contact=contact)
    answer = plan_response(context) if covered is None else explanation(context, covered)
    if as_json:
        print_object(answer.model_dump(mode="json"))
    else:
        _show(answer, f"the rules of {file}", summary=summary)
    _end(answer)


def _end(answer: PlanResponse | Explanation) -> None:
    """Exit status 1 if no route in the tables that are read covers what was asked for."""
    if isinstance(answer, Explanation) and not answer.prefixes:
        raise typer.Exit(EX_FAILED)


def _show(answer: PlanResponse | Explanation, by: str, *, summary: bool) -> None:
    with Page.paged() as page:
        if isinstance(answer, Explanation):
            _show_explanation(page, answer, by)
        else:
            page.line((f"{many(len(answer.routes), 'route')} by {by}", "bold"))
            _show_counts(page, answer) if summary else _show_routes(page, answer)
            _show_targets(page, answer, summary=summary)


# -- the plan ------------------------------------------------------------------------------------------------


def _show_counts(page: Page, answer: PlanResponse) -> None:
    """How many routes each rule keeps (as the best route, or behind it) or drops."""
    counts = Counter((it.rule, _word(it)) for it in answer.routes)
    counts.update({(rule, "drop"): count for rule, count in answer.left_out.items()})
    page.rows(
        [
            (f"{count:>7,}", (word, COLOURS[word]), f"rule {rule}")
            for (rule, word), count in counts.most_common()
        ]
    )


def _show_routes(page: Page, answer: PlanResponse) -> None:
    page.rows(
        [
            (
                it.prefix,
                (_word(it), COLOURS[_word(it)]),
                (f"{way_text(it) or '-'} proto {it.protocol} metric {it.metric}", "dim"),
                f"rule {it.rule}",
            )
            for it in answer.routes
        ],
        [[part for outcome in it.targets for part in _outcome(outcome)] for it in answer.routes],
    )
    for rule, count in sorted(answer.left_out.items()):
        page.line((f"{many(count, 'more route')} dropped by rule {rule}: not listed", "dim"))


def _show_targets(page: Page, answer: PlanResponse, *, summary: bool) -> None:
    for target in answer.targets:
        _show_target(page, answer, target, summary=summary)
    if answer.mode != "mirror":
        page.line((f"mode {answer.mode}: no target is written to", "bold"))
    sysctls = ", ".join(
        f"{name} {'unknown' if value is None else int(value)}"
        for name, value in answer.sysctls.model_dump().items()
    )
    page.line((f"kernel: {sysctls}", "dim"))


def _word(planned: PlanRow) -> str:
    if planned.verdict == "drop":
        return "drop"
    return "keep" if planned.elected else "behind"


def _outcome(outcome: PlanOutcome) -> Iterator[Part]:
    yield f"  -> {outcome.target}: "
    yield outcome.fate, COLOURS[outcome.fate]
    if outcome.gateway:
        yield f" via {outcome.gateway}"
    if outcome.fate in {"refused", "unrepresentable"}:
        yield f" {outcome.code}: {outcome.detail}"
    elif outcome.detail:
        yield f" ({outcome.detail})"
    if outcome.degraded:
        yield " (one hop of several)"


def _show_target(page: Page, answer: PlanResponse, target: TargetPlan, *, summary: bool) -> None:
    fates = [it.fate for planned in answer.routes for it in planned.targets if it.target == target.name]
    posts, replaces, present = (fates.count(fate) for fate in ("post", "replace", "present"))
    page.line(
        (f"{target.name} ({target.url}): ", "bold"),
        f"{posts:,} to post, {replaces:,} to replace, {len(target.delete):,} to delete, {present:,} present already",
        hang=2,
    )
    others = Counter(
        f"{it.fate} {it.code}" if it.fate != "conflict" else it.fate
        for planned in answer.routes
        for it in planned.targets
        if it.target == target.name and it.fate not in {"post", "replace", "present"}
    )
    for fate, count in others.most_common() if summary else ():
        page.line("  ", (f"{count:,} {fate}", COLOURS[fate.partition(" ")[0]]), hang=2)
    for deletion in () if summary else target.delete:
        page.line((f"  delete {deletion.prefix} via {deletion.gateway}", "red"))
    if target.error:
        is_shared = target.state == TargetState.SHARED_NAMESPACE
        unknown = "" if target.read or is_shared else "what it has already is not known: "
        page.line("  ", (f"{unknown}{target.error}", "yellow"), hang=2)


# -- an explanation ------------------------------------------------------------------------------------------


def _show_explanation(page: Page, answer: Explanation, by: str) -> None:
    """Print a summary for each target, then each prefix, the longest first."""
    if answer.source == "files":
        page.line(f"without the daemon, by {by}", hang=2)
    if not answer.prefixes:
        page.line(
            (answer.query, "bold"),
            f": no route covers it in the tables that are read ({', '.join(answer.tables)}), "
            "not even a default route",
        )
    for target in answer.targets:
        page.line((answer.query, "bold"), f" at {target.name}: ", *_at(answer, target.name), hang=2)
        if target.state not in ("synced", "read"):
            error = f": {target.error}" if target.error else ""
            page.line("  ", styled(target.state, f"{target.name} is {target.state}"), error, hang=4)
    if not answer.targets:
        page.line("no target is mirrored into; this is what the rules decide", hang=2)
    if not answer.complete:
        page.line(("the kernel's table changed during the dump: routes may be missing; try again", "yellow"))
    for prefix in answer.prefixes:
        _prefix(page, prefix)


def _at(answer: Explanation, name: str) -> list[Part]:
    """By which route the target sends to what was asked for, as far as is known: the longest owned or shown one."""
    for prefix in answer.prefixes:
        for it in prefix.targets:
            if it.target == name and it.owned is not None:
                return [f"by {prefix.prefix} via {it.owned}, ", styled(it.phase)]
            if it.target == name and it.shown is not None:
                return [f"by {prefix.prefix} {it.shown}; not owned"]
    return [("no owned route covers it", "yellow")]


def _prefix(page: Page, prefix: ExplainedPrefix) -> None:
    page.line("")
    page.line((prefix.prefix, "bold"))
    if not prefix.candidates:
        page.line("  the tables that are read have no route to it any more")
    for route in prefix.candidates:
        _route(page, route)
    if not prefix.held:
        text = "the daemon has another route: it is processing a change, or `routesync resync` corrects it"
        page.line("  ", (text, "yellow"), hang=4)
    for target in prefix.targets:
        _target(page, target)


def _route(page: Page, route: ExplainedRoute) -> None:
    style = "green" if route.elected else "" if route.verdict == "keep" else "red"
    page.line("  ", route_text(route), hang=4)
    rewritten = f"; next hop for the targets: {', '.join(route.next_hop)}" if route.next_hop else ""
    page.line("    ", (route.why, style), rewritten, hang=6)


def _target(page: Page, it: TargetExplained) -> None:
    since = f", since {moment(it.since)}" if it.since else ""
    page.line(f"  {it.target}: ", styled(it.phase, target_text(it)), since, hang=4)
    if it.witnessed is not None:
        page.line(
            "    its kernel ", "has it now" if it.witnessed else ("does not have it now", "red"), hang=6
        )
    if it.read is not None:
        shown = it.shown or "nothing for this prefix"
        early = ", before that" if it.since is not None and it.read < it.since else ""
        page.line("    its table, read ", moment(it.read), f"{early}: {shown}", hang=6)
    else:
        page.line("    its table was not read", hang=6)
