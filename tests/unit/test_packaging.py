"""The repository as a package: one version, locks that match, a release that checks before it builds."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sqlite3
import subprocess
import tomllib
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any, cast

import pytest
from packaging.requirements import Requirement

import routesync
from licences import licence_of

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RELEASE = "packaging/release"
VERSION_FILE = "daemon/routesync/__init__.py"


def test_the_version_has_one_source() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == VERSION_FILE
    assert importlib.metadata.version("loxilb-routesync") == routesync.__version__


def test_each_python_that_is_named_is_tested() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8") + (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(
        r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"])
    )
    assert named[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert [version for version in named[1:] if version not in ci] == []


@pytest.mark.parametrize("lock", ["runtime.txt", "build.txt", "dev.txt"])
def test_the_locks_hold_what_is_declared_with_hashes_and_without_hosts(lock: str) -> None:
    text = (ROOT / "packaging/requirements" / lock).read_text(encoding="utf-8")
    groups = PROJECT["dependency-groups"]
    declared = list(PROJECT["project"]["dependencies"])
    if lock != "runtime.txt":
        declared += groups["build"]
    if lock == "dev.txt":
        assert {"include-group": "build"} in groups["dev"]
        declared += [it for it in groups["dev"] if isinstance(it, str)]
    locked = {}
    for entry in re.split(r"\n(?=\w)", text):
        if match := re.match(r"([\w.-]+)==(\S+)", entry):
            assert "--hash=sha256:" in entry, match[0]
            locked[match[1]] = match[2]
    for requirement in map(Requirement, declared):
        assert requirement.name in locked, "run: make lock"
        assert requirement.specifier.contains(locked[requirement.name]), f"{requirement}: run: make lock"
    assert "://" not in text


def test_everything_from_a_registry_is_fetched_by_its_hash() -> None:
    for file in (ROOT / "packaging/requirements").glob("*.txt"):
        entries = re.split(r"\n(?=[\w-])", file.read_text(encoding="utf-8"))
        wanted = [entry for entry in entries if not entry.startswith("#")]
        assert [entry for entry in wanted if "==" not in entry or "--hash=sha256:" not in entry] == [], file
    for file in (*ROOT.glob("packaging/*/package-lock.json"), ROOT / "tests/node/package-lock.json"):
        packages = json.loads(file.read_text(encoding="utf-8"))["packages"]
        assert [name for name, it in packages.items() if name and "integrity" not in it] == [], file
    installs = re.findall(
        r"pip\[@\]}\" (?:install|download) .*", (ROOT / "packaging/bootstrap").read_text("utf-8")
    )
    assert len(installs) >= 4
    ours = "--no-deps --no-build-isolation -e ."
    assert [it for it in installs if "--require-hashes" not in it and ours not in it] == []


def test_every_library_that_is_shipped_names_its_licence() -> None:
    locked = (ROOT / "packaging/requirements/runtime.txt").read_text(encoding="utf-8")
    names = re.findall(r"^([\w.-]+)==[^;\n]*$", locked, re.MULTILINE)
    assert len(names) > 20
    permissive = re.compile(r"Apache|MIT|BSD|PSF|ISC")
    licences = {name: licence_of(cast("Message", importlib.metadata.metadata(name))) for name in names}
    assert {name: it for name, it in licences.items() if it is None or not permissive.search(it)} == {}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what `packaging/release` looks at, of version 9.8.7, ready to be released."""
    for name in (RELEASE, VERSION_FILE):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    file = tmp_path / VERSION_FILE
    file.write_text(re.sub(r"(?m)^__version__ = .*$", '__version__ = "9.8.7"', file.read_text()))
    (tmp_path / "CHANGELOG.md").write_text(
        "## [Unreleased]\n\n## [9.8.7] - 2030-01-02\n\n- News.\n\n## [9.8.6] - 2029-01-02\n"
    )
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(checkout: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost")
    subprocess.run(["git", *author, *arguments], cwd=checkout, check=True, capture_output=True)


def commit(checkout: Path) -> None:
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "Change")


def check(checkout: Path) -> tuple[int, str]:
    done = subprocess.run([checkout / RELEASE, "--check"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_release_that_is_ready_passes_its_checks(checkout: Path) -> None:
    assert check(checkout) == (0, "v9.8.7 is fit to be built\n")


def test_a_release_needs_a_clean_tree(checkout: Path) -> None:
    (checkout / "new").touch()
    status, said = check(checkout)
    assert status == 1
    assert "the tree is not clean" in said


def test_a_release_needs_a_new_version(checkout: Path) -> None:
    git(checkout, "tag", "v9.8.7")
    status, said = check(checkout)
    assert status == 1
    assert f"v9.8.7 exists already; raise __version__ in {VERSION_FILE}" in said


@pytest.mark.parametrize(
    ("changelog", "complaint"),
    [
        ("## [Unreleased]\n\n- News.\n", "has no heading '## [9.8.7] - YYYY-MM-DD'"),
        ("## [9.8.7]\n\n- News.\n", "has no heading"),
        ("## [9.8.7] - 2030-01-02\n\n## [9.8.6] - 2029-01-02\n\n- Old.\n", "says nothing below"),
    ],
)
def test_a_release_needs_its_entry_in_the_changelog(checkout: Path, changelog: str, complaint: str) -> None:
    (checkout / "CHANGELOG.md").write_text(changelog)
    commit(checkout)
    status, said = check(checkout)
    assert status == 1
    assert f"CHANGELOG.md {complaint}" in said


def test_a_release_needs_a_version_that_is_one(checkout: Path) -> None:
    file = checkout / VERSION_FILE
    file.write_text(file.read_text().replace("9.8.7", "9.8.7-dev"))
    commit(checkout)
    status, said = check(checkout)
    assert status == 1
    assert "'9.8.7-dev' is no version to release" in said


def test_hooks_and_lint_use_the_locked_tools() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert "://" not in hooks, "hooks are local"
    tools = set(re.findall(r"entry: \.venv/bin/(\w+)", hooks))
    assert tools == {"ruff", "codespell"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"$(BIN)/{tool}" in makefile for tool in tools)
    locks = (ROOT / "packaging/requirements/dev.txt").read_text(encoding="utf-8")
    assert all(f"\n{tool}==" in locks for tool in tools)


EDGE = '[[targets]]\nname = "edge"\nurl = "http://192.168.10.20:11111"\n'


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"routesync.toml": EDGE}, " at http://192.168.10.20:11111"),
        ({"routesync.toml": "", "routesync.toml.d/site.toml": EDGE}, " at http://192.168.10.20:11111"),
        (
            {"routesync.toml.d/site.toml": EDGE},
            " at http://192.168.10.20:11111",
        ),  # dpkg --purge removed the first
        (
            {"routesync.toml": EDGE.replace("edge", "b"), "routesync.toml.d/x.toml": EDGE},
            " at http://192.168.10.20:11111",
        ),
        ({"routesync.toml": "=", "routesync.toml.d/site.toml": EDGE}, " at http://192.168.10.20:11111"),
        ({"routesync.toml": EDGE, "routesync.toml.d/site.toml": "="}, " at http://192.168.10.20:11111"),
        ({"routesync.toml": "", "routesync.toml.d/.site.toml": EDGE}, ""),
        ({"routesync.toml": "targets = [1]", "routesync.toml.d/site.txt": EDGE}, ""),
        ({}, ""),
    ],
)
def test_a_removed_package_says_where_its_routes_remain(
    tmp_path: Path, files: dict[str, str], shown: str
) -> None:
    (tmp_path / "etc/routesync.toml.d").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "etc" / name).write_text(text)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("CREATE TABLE route (target, prefix, gateway)")
        ledger.execute("INSERT INTO route VALUES ('edge', '10.244.1.0/24', '192.168.10.10')")
    script = (ROOT / "packaging/left-routes.sh").read_text(encoding="utf-8")
    for place, here in (("/etc/routesync", tmp_path / "etc"), ("/var/lib/routesync", tmp_path)):
        assert f'"{place}/' in script
        script = script.replace(f'"{place}/', f'"{here}/')
    for arguments, expected in (
        ("", "  routesync withdraw --target edge"),
        (" list", "  edge: 10.244.1.0/24 via 192.168.10.10"),
    ):
        done = subprocess.run(
            ["sh", "-ec", f"{script}\nsay_what_is_left{arguments}"],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert f"  target edge{shown}: 1" in lines
        assert expected in lines
        assert done.stderr == ""
