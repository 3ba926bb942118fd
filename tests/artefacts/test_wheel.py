"""The wheel, installed into an environment of its own by the commands of docs/install.md."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.artefacts import artefact, run
from support.booted import REPOSITORY

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the locked dependencies."""
    path = tmp_path_factory.mktemp("opt") / "routesync"
    run(sys.executable, "-m", "venv", path)
    pip = (path / "bin/pip", "--quiet", "--no-input", "--disable-pip-version-check", "install")
    run(*pip, "--require-hashes", "-r", REPOSITORY / "packaging/requirements/runtime.txt")
    run(*pip, "--no-deps", artefact("wheel"))
    return path


def test_it_has_all_that_belongs_to_a_host() -> None:
    with zipfile.ZipFile(artefact("wheel")) as wheel:
        names = set(wheel.namelist())
    for name in (
        "man/man1/routesync.1",
        "man/man5/routesync.toml.5",
        "bash-completion/completions/routesync",
        "systemd/routesync.service",
        "systemd/routesync.sysusers",
    ):
        assert f"routesync/share/{name}" in names


def test_it_runs_from_a_clean_environment(environment: Path, tmp_path: Path) -> None:
    routesync = environment / "bin/routesync"
    assert run(routesync, "--version").startswith("routesync ")
    assert '"asyncapi"' in run(routesync, "schema", "asyncapi")
    file = tmp_path / "routesync.toml"
    file.write_text((REPOSITORY / "config/installed.toml").read_text())
    assert f"{file}: ok" in run(routesync, "check", file)
    done = subprocess.run([environment / "bin/pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
