"""The sub-commands that ask or tell the running daemon, over its control socket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from routesync.cli.app import DEFAULT_CONFIG, JsonOption, SocketOption, app, present_config

OneTargetOption = Annotated[
    str | None, typer.Option("--target", "-t", help="Name of the target; all of them without it.")
]


@app.command()
def status(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Show the state of the daemon and its targets.

    The exit status is 0 if all is well, 1 if the daemon is degraded, 3 if it does not run, 4 if you may not ask it.
    """
    from routesync.cli import status as command

    raise typer.Exit(command.status(socket, as_json=json))


@app.command()
def routes(
    *,
    within: Annotated[str | None, typer.Option(help="Only prefixes inside this one.")] = None,
    covering: Annotated[
        str | None, typer.Option(help="Only prefixes that cover this address or prefix.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="Only ipv4, or only ipv6.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only routes of this protocol.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only what this rule keeps.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Only how it stands at this target.")
    ] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(help='Only what is in this phase at a target, e.g. "refused"; may be repeated.'),
    ] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Also the routes that stand behind the elected ones.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many prefixes.", min=1)] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show the routes that the rules keep, and how each stands at each target."""
    from routesync.cli import routes as command

    filters = command.Filters(within, covering, family, protocol, rule, target, tuple(phase or ()), limit)
    raise typer.Exit(command.routes(socket, filters, candidates=candidates, as_json=json))


@app.command()
def explain(
    of: Annotated[str, typer.Argument(metavar="PREFIX|ADDRESS", help="10.1.2.3, 10.0.0.0/8, 2001:db8::1 …")],
    *,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Explain by this file's rules, without the daemon.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help=f"Do not ask the daemon; explain by {DEFAULT_CONFIG}.")
    ] = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show why an address or prefix is known to the targets, or not: routes, rules, what they have.

    The running daemon is asked. Where none runs, or a file is named, only kernel and rules speak.
    """
    from routesync.cli import explain as command

    prefix = command.read_address(of)
    if prefix is None:
        raise typer.Exit(2)
    done = None if config is not None or offline else command.explain(socket, prefix, as_json=json)
    if done is None:
        done = command.explain_offline(config or present_config(), prefix, as_json=json)
    raise typer.Exit(done)


@app.command()
def resync(
    target: OneTargetOption = None,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also send prefixes again that are held back because the target fell silent when they were posted.",
        ),
    ] = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Dump the kernel's table again, and verify that the targets have all routes that they should."""
    from routesync.cli import orders as command

    raise typer.Exit(command.order("resync", socket, target, as_json=json, force=force))


@app.command()
def pause(target: OneTargetOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Leave targets exactly as they are until `resume`, over restarts too."""
    from routesync.cli import orders as command

    raise typer.Exit(command.order("pause", socket, target, as_json=json))


@app.command()
def resume(target: OneTargetOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """End a pause: the target gets what has changed meanwhile."""
    from routesync.cli import orders as command

    raise typer.Exit(command.order("resume", socket, target, as_json=json))


@app.command()
def release(target: OneTargetOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Release a mass withdrawal that is held back, without waiting for a second dump of the kernel."""
    from routesync.cli import orders as command

    raise typer.Exit(command.order("release", socket, target, as_json=json))


@app.command()
def reload(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Apply the configuration file again; an invalid file is rejected and changes nothing (exit status 78)."""
    from routesync.cli import orders as command

    raise typer.Exit(command.reload(socket, as_json=json))
