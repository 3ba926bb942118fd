"""The followers of examples/ beside a real daemon: what they have is what loxilb has, whatever fails in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.topology import MIRRORED_TABLE
from support.npm import NODE as NPM
from support.npm import installed
from support.waiting import eventually_sync
from support.world import World, world

pytestmark = pytest.mark.timeout(300)

EXAMPLES = Path(__file__).parents[2] / "examples"
GATEWAY = "192.168.10.1"


def python_follower(_directory: Path, node: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / "table_follower.py"), "127.0.0.1", node]


def javascript_follower(directory: Path, node: str) -> list[str]:
    installed("mqtt")
    copied = shutil.copy(
        EXAMPLES / "table_follower.mjs", directory
    )  # node looks for packages beside the file
    if not (modules := directory / "node_modules").exists():
        modules.symlink_to(NPM / "node_modules")
    return ["node", str(copied), "mqtt://127.0.0.1", node]


class Follower:
    """A follower that runs; it prints its copy once a second."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def copy(self) -> dict[str, Any]:
        """The last copy that it printed."""
        assert self.process.poll() is None, self._output.read_text()
        lines = [line for line in self._output.read_text().splitlines() if line.endswith("}")]
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {"targets": {}}
        return found

    def has(self, routes: list[str]) -> bool:
        """Whether its copy is whole and has exactly these routes."""
        edge = self.copy["targets"].get("edge", {"whole": False, "routes": {}})
        rows = [
            f"{'default' if prefix == '0.0.0.0/0' else prefix} via {gateway}"
            for prefix, (gateway, _) in edge["routes"].items()
        ]
        return edge["whole"] and sorted(rows) == sorted(routes)


@contextmanager
def running(scene: World, command: list[str], name: str) -> Iterator[Follower]:
    output = scene.directory / name
    with output.open("wb") as file:
        process = subprocess.Popen(scene.command(*command), stdout=file, stderr=file)
    try:
        yield Follower(process, output)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("follower", [python_follower, javascript_follower], ids=["python", "javascript"])
def test_a_follower_has_what_loxilb_has_whatever_fails(tmp_path: Path, follower: Any) -> None:
    def changed(block: int) -> list[str]:
        scene.node.batch([f"route add 10.{block}.{number}.0/24 via {GATEWAY}" for number in range(30)])
        expected.extend(f"10.{block}.{number}.0/24 via {GATEWAY}" for number in range(30))
        scene.mirror_holds(expected)
        return expected

    def follows(which: Follower, routes: list[str], when: str) -> None:
        eventually_sync(lambda: which.has(routes), within_s=40, what=f"a whole copy {when}")

    expected = list(MIRRORED_TABLE)
    with world(tmp_path) as scene:
        scene.start()
        with running(scene, follower(tmp_path, "node"), "first") as first:
            follows(first, changed(1), "of the beginning")
            scene.broker.kill()
            changed(2)
            scene.broker.start()  # and it has lost what it retained
            follows(first, changed(3), "after a restart of the broker")
            scene.kill()
            scene.start()
            follows(first, changed(4), "after a kill of the daemon")
            assert scene.stop() == 0
            eventually_sync(lambda: first.copy["state"] == "offline", what="the node offline")
            assert first.has(expected), "what is retained is whole when the node has stopped"
            scene.config.write_text(scene.config.read_text().replace('name = "node"', 'name = "renamed"'))
            scene.start()
            with running(scene, follower(tmp_path, "renamed"), "second") as second:
                follows(second, changed(5), "of the new name")
            eventually_sync(
                lambda: first.copy["targets"] == {}, within_s=30, what="nothing of the former name"
            )
            assert scene.stop() == 0
