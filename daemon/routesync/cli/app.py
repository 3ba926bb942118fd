"""The sub-commands. Each imports what it needs when it runs, so that `--help` and `--version` answer at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from routesync import __version__

DEFAULT_CONFIG: Final = Path("/etc/routesync/routesync.toml")

app = typer.Typer(
    name="routesync",
    help="Mirror the kernel routes that are fit for it into loxilb, and report every change over MQTT.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help=f"Configuration file; {DEFAULT_CONFIG} by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"routesync {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigOption = None,
    state: Annotated[
        Path | None, typer.Option(help="State directory; $STATE_DIRECTORY or /var/lib/routesync by default.")
    ] = None,
) -> None:
    """Run the daemon."""
    from routesync.cli import run as command

    raise typer.Exit(command.run(config or DEFAULT_CONFIG, state or _state_directory()))


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The configuration file.")] = DEFAULT_CONFIG) -> None:
    """Check a configuration file; exit status 78 if it is wrong."""
    from routesync.cli import check as command

    raise typer.Exit(command.check(file))


@app.command()
def plan(
    config: ConfigOption = None,
    state: Annotated[
        Path | None, typer.Option(help="State directory, to know which routes are ours.")
    ] = None,
    json: JsonOption = False,
    contact: Annotated[
        bool, typer.Option(help="Read each target's table, to tell what stands there already.")
    ] = True,
) -> None:
    """Show what becomes of each of the kernel's routes, and why; change nothing."""
    from routesync.cli import plan as command

    raise typer.Exit(
        command.plan(config, DEFAULT_CONFIG, state or _state_directory(), as_json=json, contact=contact)
    )


@app.command()
def demo() -> None:
    """Play the founding story in network namespaces of its own; needs root."""
    from routesync.demo.story import run_demo

    raise typer.Exit(run_demo())


@app.command(
    hidden=True,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def standin(context: typer.Context) -> None:
    """Run the loxilb stand-in of demo and tests."""
    from routesync.standin import parse_options, run_standin

    raise typer.Exit(run_standin(parse_options(context.args)))


def _state_directory() -> Path:
    # systemd lists several, separated by colons, where the unit names several
    return Path(os.environ.get("STATE_DIRECTORY", "/var/lib/routesync").split(":")[0])


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except BrokenPipeError:  # `routesync plan | head`
        sys.stderr.close()
        raise SystemExit(141) from None
