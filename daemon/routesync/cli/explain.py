"""`routesync explain`: why an address or a prefix is known to the targets, or is not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.live import EX_FAILED, explained_if_running, print_json
from routesync.cli.output import Page, complain, moment
from routesync.cli.routes import route_text, target_text
from routesync.cli.status import STYLES
from routesync.control.client import Client, url_of
from routesync.control.explain import explain as explain_routes
from routesync.control.models import read_covering
from routesync.control.present import Words
from routesync.control.routes import ExplainedPrefix, ExplainedRoute, Explanation, TargetExplained
from routesync.kernel import KernelError, read_table
from routesync.route import Prefix, Route, Verdict, leads_to_gateway, link_gateways
from routesync.settings import resolve_tables


def explain(socket: Path | None, prefix: Prefix, *, as_json: bool) -> int | None:
    """Have the daemon explain; return the exit status, 1 where the tables that are read have no route that covers it.

    None: no daemon runs, and no socket was named.
    """

    def work() -> int:
        client = Client(socket)
        body = client.raw("GET", url_of("/v1/explain", [("of", prefix)]))
        answer = client.read(body, Explanation)
        if as_json:
            print_json(body)
        else:
            show(answer, "there is no target; this is what the rules say")
        return 0 if answer.prefixes else EX_FAILED

    return explained_if_running(socket, work)


def explain_offline(file: Path, prefix: Prefix, *, as_json: bool) -> int:
    """Explain by the rules of a file, without the daemon; return the exit status."""
    loaded = load_or_explain(file)
    if loaded is None:
        return EX_CONFIG
    tables = resolve_tables(loaded.settings.kernel, loaded.names)
    try:
        reading = read_table(tables=tables, netns=loaded.settings.kernel.netns)
    except KernelError as error:
        complain(str(error))
        return EX_FAILED
    covering = {route: reading.details[route] for route in reading.routes if route.prefix.covers(prefix)}
    words = Words.of(loaded.names, reading.links)
    gateways = link_gateways(reading.valid)

    def evaluate(route: Route) -> Verdict:
        return loaded.policy.evaluate(route, words.interfaces, link_gateway=leads_to_gateway(route, gateways))

    answer = Explanation(
        query=str(prefix),
        time=datetime.now(UTC),
        source="files",
        complete=True,
        tables=tuple(map(loaded.names.table, tables)),
        prefixes=tuple(
            ExplainedPrefix(prefix=str(it.prefix), candidates=it.routes)
            for it in explain_routes(covering, evaluate, tables, words)
        ),
    )
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        show(answer, f"without the daemon, by the rules of {file}: what targets have is not known")
    return 0 if answer.prefixes else EX_FAILED


def read_address(text: str) -> Prefix | None:
    """Read the address or prefix of the command line; complain and return None where it is none."""
    try:
        return read_covering(text)
    except ValueError as error:
        complain(str(error))
        return None


def show(answer: Explanation, without_targets: str) -> None:
    """Print it: a summary, or this in its place where there are no targets; then each prefix, the longest first."""
    page = Page()
    if not answer.prefixes:
        page.line(
            (answer.query, "bold"),
            f": the tables that are read ({', '.join(answer.tables)}) have no route that covers it, "
            "not even a default route",
        )
    for target in answer.targets:
        page.line((answer.query, "bold"), f" at {target.name}: ", *_at(answer, target.name), hang=2)
        if target.state != "synced":
            error = f": {target.error}" if target.error else ""
            page.line("  ", (f"{target.name} is {target.state}", STYLES.get(target.state, "")), error, hang=4)
    if not answer.targets:
        page.line(without_targets, hang=2)
    if not answer.complete:
        page.line(
            ("the kernel's table changed while it was read: something may be missing; ask again", "yellow")
        )
    for prefix in answer.prefixes:
        _prefix(page, prefix)


def _at(answer: Explanation, name: str) -> list[str | tuple[str, str]]:
    """By which route the target sends what was asked for, as far as we know: the longest of ours, or one it shows."""
    for prefix in answer.prefixes:
        for it in prefix.targets:
            if it.target == name and it.ours is not None:
                return [f"by {prefix.prefix} via {it.ours}, ", (it.phase, STYLES.get(it.phase, ""))]
            if it.target == name and it.shown is not None:
                return [f"by {prefix.prefix} {it.shown}; not ours"]
    return [("no route of ours leads there", "yellow")]


def _prefix(page: Page, prefix: ExplainedPrefix) -> None:
    page.line("")
    page.line((prefix.prefix, "bold"))
    if not prefix.candidates:
        page.line("  no route to it is left in the tables that are read")
    for route in prefix.candidates:
        _route(page, route)
    if not prefix.held:
        told = "the daemon holds it otherwise: it is taking this in, or `routesync resync` lets it read anew"
        page.line("  ", (told, "yellow"), hang=4)
    for target in prefix.targets:
        _target(page, target)


def _route(page: Page, route: ExplainedRoute) -> None:
    style = "green" if route.elected else "" if route.verdict == "keep" else "red"
    page.line("  ", route_text(route), hang=4)
    told = f"; targets are told {', '.join(route.next_hop)} as its next hop" if route.next_hop else ""
    page.line("    ", (route.why, style), told, hang=6)


def _target(page: Page, it: TargetExplained) -> None:
    since = f", since {moment(it.since)}" if it.since else ""
    page.line(f"  {it.target}: ", (target_text(it), STYLES.get(it.phase, "")), since, hang=4)
    if it.witnessed is not None:
        page.line(
            "    its kernel ", "has it now" if it.witnessed else ("does not have it now", "red"), hang=6
        )
    if it.read is not None:
        shown = it.shown or "nothing for this prefix"
        early = ", before that" if it.since is not None and it.read < it.since else ""
        page.line("    its table, read ", moment(it.read), f"{early}: {shown}", hang=6)
    else:
        page.line("    its table was not read yet", hang=6)
