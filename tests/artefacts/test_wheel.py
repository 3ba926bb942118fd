"""The wheel, installed into an environment of its own by the commands of docs/install.md."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.artefacts import artefact, run
from support.booted import REPOSITORY, machine
from support.documented import block
from support.netns import namespace
from support.waiting import eventually_sync

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the locked dependencies; few of their modules are imported."""
    path = tmp_path_factory.mktemp("opt") / "routesync"
    run(sys.executable, "-m", "venv", path)
    pip = (path / "bin/pip", "--quiet", "--no-input", "--disable-pip-version-check", "install")
    run(*pip, "--no-compile", "--require-hashes", "-r", REPOSITORY / "packaging/requirements/runtime.txt")
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


@pytest.mark.artefacts
def test_the_documented_commands_bring_a_service(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    locks = REPOSITORY / "packaging/requirements/runtime.txt"
    run(sys.executable, "-m", "pip", "--quiet", "download", "--require-hashes", "--dest", wheels, "-r", locks)
    with (
        namespace("wheel") as space,
        machine(tmp_path / "machine", space.name, installed=False, more=("python3-venv",)) as node,
    ):
        place = node.root / "root"
        shutil.copytree(wheels, place / "wheels")
        shutil.copy(artefact("wheel"), place)
        shutil.copy(locks, place / "requirements.txt")
        for command in block("docs/install.md", "A virtual environment"):
            # the network has no package index
            node.run("sh", "-c", f"cd /root && PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels {command}")
        eventually_sync(lambda: node.state() == "active", what="the service")
        assert "online" in node.run("/usr/local/bin/routesync", "status").stdout
        assert "ExecStart=/opt/routesync/bin/routesync run" in node.systemctl("cat", "routesync")
        assert node.process_status()["CapEff"].strip("0") == ""
        for name in ("man/man1/routesync.1", "bash-completion/completions/routesync"):
            assert (node.root / "usr/local/share" / name).exists()
        node.systemctl("stop", "routesync")
        node.run("/usr/local/bin/routesync", "install-units", "--remove")
        assert not (node.root / "etc/systemd/system/routesync.service").exists()
        assert (node.root / "etc/routesync/routesync.toml").exists(), "it is the operator's"
