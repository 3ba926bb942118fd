"""`install-units` writes what a package would have brought, with the paths of this program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from routesync.cli import units
from routesync.cli.app import app


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> Path:
    """This environment may be where a service could not run it."""
    monkeypatch.setattr(units, "_check_program", lambda program: None)  # noqa: ARG005
    return Path(sys.executable).parent / "routesync"


def run(root: Path, *more: str) -> str:
    result = CliRunner().invoke(app, ["install-units", "--root", str(root), *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def files(root: Path) -> set[str]:
    return {str(it.relative_to(root)) for it in root.rglob("*") if not it.is_dir() or it.is_symlink()}


def test_it_writes_units_with_the_programs_path_and_says_each_file(tmp_path: Path, program: Path) -> None:
    said = run(tmp_path)
    unit = (tmp_path / "etc/systemd/system/routesync.service").read_text()
    assert f"ExecStart={program} run" in unit
    assert "/usr/bin/routesync" not in unit
    assert (tmp_path / "usr/local/bin/routesync").readlink() == program
    assert set(said.split()) == {str(tmp_path / name) for name in files(tmp_path)}


def test_it_keeps_a_configuration_and_another_program(tmp_path: Path) -> None:
    config, other = tmp_path / "etc/routesync/routesync.toml", tmp_path / "opt/x/bin/routesync"
    for file in (config, other):
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    said = run(tmp_path, "--prefix", "/opt/x")
    assert (config.read_text(), other.read_text()) == ("mine", "mine")
    assert said.count(": kept") == 2


def test_it_removes_all_but_the_configuration(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, "--remove")
    assert files(tmp_path) == {"etc/routesync/routesync.toml"}


def test_without_the_right_to_write_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no directory")
    result = CliRunner().invoke(app, ["install-units", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "run this as root" in result.stderr


def test_a_program_that_the_service_cannot_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(units, "_program", lambda: Path("/root/venv/bin/routesync"))
    result = CliRunner().invoke(app, ["install-units", "--root", str(tmp_path)])
    assert "its user cannot look into /root" in result.stderr
    assert files(tmp_path) == set()
