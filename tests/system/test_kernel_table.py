"""What mode observe publishes: the kernel's routes that the rules keep, as events and as a retained table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.waiting import eventually_sync
from support.world import NODE, World, world
from table_follower import Copy

CONFIG = f"""mode = "observe"
{NODE}
[policy]
default_action = "drop"

[[policy.rules]]
name = "static"
action = "keep"
match = {{ protocol = ["static"] }}
"""
ROUTE = {
    "prefix": "10.7.0.0/16",
    "gateway": "192.168.10.1",
    "protocol": "static",
    "metric": 7,
    "interface": "ens3",
    "table": "main",
}


def received(file: Path) -> dict[str, dict[str, Any]]:
    """Topic to its last message; cleared topics are left out."""
    last = {topic.removeprefix("routesync/v1/node/"): payload for topic, payload in messages(file)}
    return {topic: json.loads(payload) for topic, payload in last.items() if payload}


def messages(file: Path) -> Iterator[tuple[str, bytes]]:
    """Topic and payload of each whole line; mosquitto_sub writes (null) for an empty payload."""
    for line in file.read_bytes().split(b"\n")[:-1]:
        topic, _, payload = line.partition(b" ")
        yield topic.decode(), payload if payload != b"(null)" else b""


def rows(file: Path) -> list[dict[str, Any]]:
    """The table of the kernel, where the manifest agrees with each bucket; else nothing."""
    found = received(file)
    if "kernel-table/manifest" not in found:
        return []
    manifest = found["kernel-table/manifest"]["data"]
    buckets = [found.get(f"kernel-table/{number:02x}", {}) for number in range(2 ** manifest["depth"])]
    sequences = [bucket["data"]["sequence"] if bucket else None for bucket in buckets]
    if sequences != manifest["sequences"]:
        return []
    return [row for bucket in buckets for row in bucket["data"]["routes"]]


def change(scene: World, verb: str) -> None:
    scene.node.batch([f"route {verb} 10.7.0.0/16 via 192.168.10.1 metric 7 proto static"])


def test_mode_observe_publishes_what_the_rules_keep(tmp_path: Path) -> None:
    file = tmp_path / "received"
    with world(tmp_path, CONFIG) as scene, scene.listening("#", file, "-v"):
        change(scene, "add")
        scene.start()
        eventually_sync(lambda: ROUTE in rows(file), what="the table")
        assert not scene.named("kernel.kept"), "what the first dump finds is in the table alone"
        change(scene, "del")
        eventually_sync(lambda: bool(scene.named("kernel.gone")), what="the event that it is gone")
        eventually_sync(lambda: "kernel-table/manifest" in received(file) and ROUTE not in rows(file))
        change(scene, "add")
        eventually_sync(lambda: ROUTE in rows(file), what="the route in the table again")
        assert scene.named("kernel.kept") == [{**ROUTE, "family": "ipv4", "rule": "static"}]

        copy = Copy()
        for topic, payload in messages(file):
            copy.apply(topic, payload)
        assert copy.targets == {}, "a follower of targets' tables takes no other"

        scene.config.write_text(CONFIG + "\n[events]\nkernel_table = false\n")
        scene.reload()
        eventually_sync(
            lambda: not any(topic.startswith("kernel-table/") for topic in received(file)),
            what="a table that is cleared",
        )
