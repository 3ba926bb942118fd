"""The packages for Debian and Red Hat. How the .deb behaves when it is installed is in tests/system/test_booted.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.artefacts import artefact, run
from support.booted import REPOSITORY, base_root, overlay, package

pytestmark = pytest.mark.timeout(900)

MOST_BYTES = 9_000_000
USED = "aiohttp, aiomqtt, httptools, pydantic, pyroute2, routesync.service.daemon, rich, structlog"
"""All that has compiled parts, and all of the daemon."""


def test_the_package_is_small_and_has_no_bytecode(tmp_path: Path) -> None:
    assert package().stat().st_size <= MOST_BYTES
    names = run("dpkg-deb", "--contents", package())
    assert ".pyc" not in names
    assert "./etc/routesync/routesync.toml" in names
    assert "./usr/share/doc/routesync/examples/routesync.toml" in names
    run("dpkg-deb", "--extract", package(), tmp_path)
    sbom = json.loads((tmp_path / "usr/share/doc/routesync/sbom.cdx.json").read_text())
    locked = (REPOSITORY / "packaging/requirements/runtime.txt").read_text()
    here = set(re.findall(r"^([a-z0-9-]+)==\S+ \\$", locked, re.MULTILINE))
    assert {it["name"] for it in sbom["components"]} == here, "all that is locked, for this platform"


def test_it_runs_on_every_python_that_it_says(tmp_path: Path) -> None:
    """Debian 12 has 3.11, Ubuntu 24.04 3.12, Debian 13 3.13; those that this machine has are tried."""
    run("dpkg-deb", "--extract", package(), tmp_path)
    library = tmp_path / "usr/lib/routesync"
    tried = []
    for version in ("3.11", "3.12", "3.13"):
        tags = {path.name.split(".")[1] for path in library.rglob("*.so")}
        assert any(tag.startswith(f"cpython-{version.replace('.', '')}-") for tag in tags)
        found = subprocess.run(
            [REPOSITORY / "packaging/find-python", version], capture_output=True, text=True, check=False
        )
        if found.returncode == 0:
            code = f"import sys; sys.path.insert(0, {str(library)!r}); import {USED}"
            run(found.stdout.strip(), "-ISB", "-c", code)
            tried.append(version)
    assert "3.11" in tried


@pytest.mark.artefacts
def test_lintian_finds_nothing() -> None:
    said = run("lintian", "--allow-root", "--fail-on", "none", package())
    assert [line for line in said.splitlines() if line.startswith(("E:", "W:"))] == []


@pytest.mark.artefacts
@pytest.mark.parametrize("target", ["deb", "rpm", "wheel"])
def test_the_same_commit_gives_the_same_bytes(target: str) -> None:
    before = artefact(target).read_bytes()
    again = REPOSITORY / run("make", "--no-print-directory", target).splitlines()[-1]
    assert again.read_bytes() == before


@pytest.mark.artefacts
def test_rpmlint_finds_no_errors() -> None:
    said = run("rpmlint", artefact("rpm"), check=False)
    errors = [line for line in said.splitlines() if " E: " in line]
    assert [line for line in errors if "no-signature" not in line] == [], "the publisher signs it"
    assert "1 packages and" in said


@pytest.mark.artefacts
def test_the_rpm_installs_and_runs_with_any_of_its_pythons(tmp_path: Path) -> None:
    rpm = artefact("rpm")
    assert "python3.12 or" in run("rpm", "-qp", "--requires", rpm)
    root = tmp_path / "root"
    root.mkdir()
    run("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--initdb")
    run("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--install", "--nodeps", "--noscripts", rpm)
    (tmp_path / "layer").mkdir()
    with overlay(tmp_path / "layer", [root, base_root()]) as system:
        (system / "post").write_text(run("rpm", "-qp", "--queryformat", "%{POSTIN}", rpm))
        run("chroot", system, "sh", "/post", "1")
        assert "uid=" in run("chroot", system, "id", "routesync")
        assert list((system / "usr/lib/routesync").rglob("*.pyc")), "/usr is read-only to the service"
        assert "/etc/routesync/routesync.toml: ok" in run("chroot", system, "routesync", "check")
        (system / "usr/bin/python3").unlink()  # as RHEL 9, whose python3 is too old: python3.11 is beside it
        assert run("chroot", system, "routesync", "--version").startswith("routesync ")
        (system / "preun").write_text(run("rpm", "-qp", "--queryformat", "%{PREUN}", rpm))
        run("chroot", system, "sh", "/preun", "0")
        assert not list((system / "usr/lib/routesync").rglob("*.pyc"))


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    assert run(Path(sys.executable).parent / "hadolint", "packaging/oci/Containerfile") == ""
