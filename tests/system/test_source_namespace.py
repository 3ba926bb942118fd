"""The kernel of another namespace as the source: while it is gone what it had stays, and its successor is followed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.netns import Namespace, namespace
from support.waiting import eventually_sync
from support.world import world

BEFORE, AFTER = "10.50.0.0/16 via 192.168.10.1", "10.60.0.0/16 via 192.168.10.1"


def furnish(space: Namespace, route: str) -> None:
    space.batch(
        [
            "link add e0 type veth peer name p0",
            "link set p0 up",
            "link set e0 up",
            "addr add 192.168.10.11/24 dev e0",
            f"route add {route} proto bgp",
        ]
    )


def test_a_source_that_vanishes_keeps_its_routes_and_its_successor_is_followed(tmp_path: Path) -> None:
    with world(tmp_path) as scene, namespace("source") as source:
        furnish(source, BEFORE)
        scene.config.write_text(scene.config.read_text() + f'\n[kernel]\nnetns = "{source.name}"\n')
        scene.start()
        scene.mirror_holds([BEFORE])
        subprocess.run(["ip", "netns", "del", source.name], check=True)
        eventually_sync(lambda: "the routes held stay" in scene.log(), what="the loss in the log")
        assert scene.call("GET", "/v1/status").json["status"]["kernel"]["state"] == "unreadable"
        assert scene.run("status").stdout.splitlines()[2].startswith("kernel   unreadable: ")
        explained = scene.call("GET", "/v1/explain?of=10.50.0.1")
        assert explained.json["detail"] == "the kernel's routes are not followed now"
        scene.mirror_holds([BEFORE])
        subprocess.run(["ip", "netns", "add", source.name], check=True)
        furnish(source, AFTER)
        scene.mirror_holds([AFTER])
        assert '"kernel_readable"' in scene.log()
        assert scene.call("GET", "/v1/status").json["status"]["kernel"]["state"] == "synced"
        assert scene.stop() == 0
