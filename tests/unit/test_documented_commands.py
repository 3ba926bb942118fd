"""Each command that a document shows or mentions exists, with its options; tests/system runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from routesync.cli.app import app
from support.documented import ROOT, Shown, mentions

GROUP: Any = typer.main.get_command(app)


def test_each_command_of_routesync_exists_with_its_options() -> None:
    commands = [shown for shown in mentions() if re.search(r"\broutesync [a-z-]", shown.command)]
    assert len(commands) > 30
    assert [found for shown in commands for found in faults(shown)] == []


def faults(shown: Shown) -> Iterator[str]:
    for name, rest in re.findall(r"(?<![/\w-])routesync ([a-z-]+)((?: [^&|;]*)?)", shown.command):
        if any(it in shown.command for it in ("systemctl", "journalctl", "helm ", "podman ", "apt-get ")):
            continue  # the name of a unit, a release, a container or a package
        command = GROUP.commands.get(name.strip("-")) if not name.startswith("--") else GROUP
        if command is None:
            yield f"{shown.place}: there is no routesync {name}"
            continue
        known = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for option in set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", rest)) - known - {"--help"}:
            yield f"{shown.place}: routesync {name} has no {option}"


def test_each_target_of_make_exists() -> None:
    targets = re.findall(
        r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    commands = [shown for shown in mentions() if re.match(r"(\w+=\S+ )*make ", shown.command)]
    assert len(commands) > 8
    for shown in commands:
        assert set(re.findall(r"\bmake ([a-z-]+)", shown.command)) <= set(targets), shown
