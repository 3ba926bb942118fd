"""Each command describes itself; what its help says of URLs is no markup."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from routesync.cli.app import GROUPS, app


def test_every_command_has_its_place_in_a_group() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    named = [command for names in GROUPS.values() for command in names.split()]
    assert set(typer.main.get_command(app).commands) <= set(named)  # type: ignore[attr-defined]
    titles = [title for title in ("Commands", *GROUPS) if f"─ {title} ─" in shown]
    assert titles == list(GROUPS)


def commands(group: object, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(
    ("path", "option"), [*((path, "--help") for path in ALL), ((), "-h"), (("routes",), "-h")]
)
def test_help_is_shown(path: tuple[str, ...], option: str) -> None:
    done = CliRunner().invoke(app, [*path, option], env={"COLUMNS": "80", "FORCE_COLOR": "1"})
    assert done.exit_code == 0, done.output
    assert done.exception is None
    assert "Usage" in done.output
