"""The commands in the documents run as they stand there, on a node where all is well; or a reason is given here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.topology import MIRRORED_TABLE
from support.documented import Shown, commands
from support.waiting import eventually_sync
from support.world import World, world

NOT_RUN = {
    r"routesync fleet --page": "needs mqtt.js from npm; tests/page/test_fleet.py writes the page with it",
    r"make deb && apt-get install|apt install|apt-get ": "test_booted.py builds the package and installs it in Debian",
    r"python3 -m venv|/opt/routesync/": "tests/artefacts/test_wheel.py runs them in a booted Debian",
    r"dnf ": "needs RHEL; tests/artefacts/test_packages.py installs the package by rpm(8)",
    r"podman |install -d": "tests/artefacts/test_image.py runs the image with these options",
    r"helm |kubectl ": "needs a cluster; tests/artefacts/test_chart.py renders the chart, and plays its nodes",
    r"routesync withdraw": "would take all from the node that the others need: test_ownership.py runs it",
    r"make ": "the target is known to exist (tests/unit/test_documented_commands.py); CI and tests run its parts",
    r"systemctl |journalctl ": "needs a booted host: test_booted.py has one",
    r"routesync init": "the node has a configuration already: test_booted.py runs it on a clean Debian",
    r"routesync doctor \[": "a synopsis",
}
"""Which commands are not run, by how they begin, and why."""

INSTALLED = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
mkdir -p /etc/routesync
cp "$2" /etc/routesync/routesync.toml
exec sh -c "$3"
"""
"""Runs a command where the configuration is at its place, in a mount namespace of its own."""


def reason(shown: Shown) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, shown.command)), None)


RUN = [
    shown for shown in commands() if re.match(r"routesync |curl ", shown.command) and reason(shown) is None
]
"""No other programs: what a document shows by mistake must not be run by a test."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("documented")) as made:
        made.start()
        made.mirror_holds(MIRRORED_TABLE)
        eventually_sync(lambda: made.run("status").returncode == 0, what="a healthy daemon")
        yield made


def test_every_command_is_run_or_has_a_reason_and_every_reason_a_command() -> None:
    assert [shown for shown in commands() if shown not in RUN and reason(shown) is None] == []
    assert [
        begin for begin in NOT_RUN if not any(re.match(begin, shown.command) for shown in commands())
    ] == []
    assert len(RUN) >= 6


@pytest.mark.parametrize("shown", RUN, ids=lambda shown: f"{shown.place} {shown.command}")
def test_a_command_in_the_documents_runs(shown: Shown, node: World, tmp_path: Path) -> None:
    command = shown.command.replace("/run/routesync/control.sock", str(node.socket))
    command = re.sub(r"\bFILE\b", "/etc/routesync/routesync.toml", command)
    path = f"PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    places = [f"STATE_DIRECTORY={node.state}", path]
    inside = ["unshare", "--mount", "sh", "-ec", INSTALLED, "-", str(tmp_path), str(node.config), command]
    done = subprocess.run(
        node.command(*places, *inside), capture_output=True, text=True, check=False, timeout=60
    )
    # doctor checks the host, too, which may have its faults
    expected = (0, 1) if command == "routesync doctor" else (0,)
    assert done.returncode in expected, done.stdout + done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr
