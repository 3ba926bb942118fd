"""`routesync status`: the state of the daemon, on one screen and as the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import typer

from routesync.characters import many
from routesync.cli.output import EX_FAILED, MARGIN, Page, head, moment, print_json, span, styled, work_left
from routesync.control.client import ANSWER_WITHIN_S, Client, ControlError
from routesync.control.models import StatusResponse, TargetDetail
from routesync.events.node_status import GuardStatus, TargetStatus

_MIB: Final = 2**20


def status(socket: Path | None, state: Path, *, as_json: bool) -> None:
    """Print the status. Exit status: 0 if the daemon is healthy, 1 if it is degraded or does not answer."""
    client = Client(socket, timeout_s=ANSWER_WITHIN_S)
    try:
        content = client.raw("GET", "/v1/status")
        answer = client.read(content, StatusResponse)
    except ControlError as error:
        from routesync.cli.unanswered import show_host

        raise typer.Exit(show_host(error, client.path, state, as_json=as_json)) from None
    if as_json:
        print_json(content)
    else:
        _show(answer)
    if answer.status.state != "online":
        raise typer.Exit(EX_FAILED)


def _show(answer: StatusResponse) -> None:
    page, now = Page(), answer.status
    up = f", up {span(datetime.now(UTC) - now.started)}" if now.started else ""
    page.line(
        (now.node, "bold"),
        "  ",
        (now.state, f"bold {styled(now.state)[1]}"),
        f"  routesync {now.version}, mode {now.mode}, pid {answer.pid}{up}",
        hang=MARGIN,
    )
    page.line(head("config"), answer.config.path, hang=MARGIN)
    for warning in answer.config.warnings:
        page.line(head(""), (warning, "yellow"), hang=MARGIN)
    _kernel(page, answer)
    _rules(page, answer)
    for target in answer.targets:
        _target(page, target)
    if now.guard is not None:
        _guard(page, now.guard, now.targets)
    elif not answer.targets:
        page.line(head("target"), "none is mirrored into")
    page.line(head("broker"), styled(now.broker or "none is configured"), hang=MARGIN)
    for topic in now.held:
        waiting = f"{many(topic.count, 'event')} of {topic.topic}, which the broker denies"
        page.line(head(""), (waiting, "yellow"), hang=MARGIN)
    for number, reason in enumerate(now.reasons):
        page.line(head("alarms" if not number else ""), (reason, "red"), hang=MARGIN)
    if not now.reasons:
        page.line(head("alarms"), "none")


def _kernel(page: Page, answer: StatusResponse) -> None:
    kernel = answer.status.kernel
    if kernel is None:
        return
    buffer = f"receive buffer {kernel.receive_buffer / _MIB:.4g} MiB"
    page.line(
        head("kernel"),
        styled(kernel.state),
        f": {many(kernel.routes, 'prefix', 'prefixes')} kept, {many(kernel.dropped, 'route')} dropped; "
        f"{many(kernel.resyncs, 'resync')}, {many(kernel.overruns, 'overrun')}, {buffer}, lag {kernel.lag_ms:.3g} ms",
        hang=MARGIN,
    )


def _rules(page: Page, answer: StatusResponse) -> None:
    used = [rule for rule in answer.rules if rule.routes or rule.rule == "default"]
    width = max(len(rule.rule) for rule in used)
    for number, rule in enumerate(used):
        page.line(
            head("rules" if not number else ""),
            f"{rule.rule:{width}}  ",
            styled(rule.action),
            f"  {rule.routes}",
        )
    idle = len(answer.rules) - len(used)
    if idle:
        page.line(head(""), (f"{idle} more {'rule matches' if idle == 1 else 'rules match'} nothing", "dim"))


def _guard(page: Page, guard: GuardStatus, targets: Sequence[TargetStatus]) -> None:
    how = "dry run" if guard.dry_run else "removes" if guard.permitted is not False else "may not remove"
    redundant = "would be removed" if guard.dry_run else "to be removed"
    page.line(
        head("guard"),
        styled(how),
        f": {many(guard.present, 'route')} present, {guard.redundant} {redundant}, {guard.contended} contended; "
        f"{guard.removed} removed, {guard.returned} came back, {guard.failed} failed",
        hang=MARGIN,
    )
    for target in targets:
        page.line(
            head("target"),
            (target.name, "bold"),
            "  ",
            styled(target.state),
            f"  {target.url}",
            hang=MARGIN,
        )


def _target(page: Page, target: TargetDetail) -> None:
    version = f", loxilb {target.version}" if target.version else ""
    page.line(
        head("target"),
        (target.name, "bold"),
        "  ",
        styled(target.state),
        f"  {target.url}{version}",
        hang=MARGIN,
    )
    parts: list[str | tuple[str, str]] = [head(""), f"{target.desired} desired"]
    separator = ": "
    for phase, count in target.phases.items():
        parts += (f"{separator}{count} ", styled(phase))
        separator = ", "
    if target.waiting:
        left = work_left(target.waiting, target.rate, target.remaining_s)
        parts.append(f"; {left}, the oldest for {span(timedelta(seconds=target.oldest_s))}")
    page.line(*parts, hang=MARGIN)
    complete = ("complete", "green") if target.complete else ("not complete", "yellow")
    proved = (
        "nothing was compared with the target yet"
        if target.proved_s is None
        else f"last compared with the target {span(timedelta(seconds=target.proved_s))} ago"
    )
    page.line(head(""), complete, f"; {proved}", hang=MARGIN)
    if target.reasons:
        words = ", ".join(f"{count} {reason}" for reason, count in target.reasons.items())
        page.line(head(""), f"ineligible: {words}", hang=MARGIN)
    if target.holes:
        more = ", …" if target.holes > len(target.first_holes) else ""
        names = ", ".join(target.first_holes) + more
        text = f"{many(target.holes, 'more specific route')} inside mirrored prefixes not in loxilb: {names}"
        page.line(head(""), (text, "yellow"), hang=MARGIN)
    if target.paused_since is not None:
        since = f"paused since {moment(target.paused_since)}: routesync resume --target {target.name}"
        page.line(head(""), (since, "yellow"), hang=MARGIN)
