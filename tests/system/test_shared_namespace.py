"""Mode mirror where loxilb lives in the very namespace whose table is read: nothing is written, and that is said."""

from __future__ import annotations

import json
from pathlib import Path

from routesync.demo.topology import FOUNDING_TABLE
from support.netns import needs_root
from support.shared_scene import PLACE, TARGET, shared_scene
from support.standin import Fault
from support.waiting import eventually_sync

pytestmark = needs_root

MIRROR = PLACE + TARGET + "allow_default = true\n"
ELSEWHERE = {
    "portName": "eth0",
    "portSoftwareInformation": {"osId": 2},
    "portHardwareInformation": {"macAddress": "02:00:00:00:00:01"},
}


def test_it_is_refused_in_one_line_in_the_status_and_as_an_event(tmp_path: Path) -> None:
    with shared_scene(tmp_path, MIRROR) as scene:
        scene.start()
        eventually_sync(lambda: bool(scene.named("target.refused")), what="the event")
        (refused,) = scene.named("target.refused")
        assert (refused["target"], refused["reason"]) == ("here", "shared-namespace")
        (line,) = scene.logged("target_not_mirrored")
        assert "shares this host's network namespace" in line["reason"]

        def seen() -> bool:
            status = scene.status()
            return (
                status["state"] == "degraded"
                and status["targets"][0]["state"] == "shared-namespace"
                and "shares this host's network namespace" in str(status["reasons"])
            )

        eventually_sync(seen, what="the status")
        assert scene.table() == list(FOUNDING_TABLE)
        state = scene.standin.state()
        assert (state.posts, state.deletes, state.route_reads) == (0, 0, 0)


def test_when_its_ports_lie_the_first_route_that_comes_up_here_ends_it(tmp_path: Path) -> None:
    with shared_scene(tmp_path, MIRROR) as scene:
        body = json.dumps({"portAttr": [ELSEWHERE]})
        scene.standin.inject(Fault("answer", path="/config/port/all", status=200, body=body))
        scene.node.batch(
            [f"route add 10.9.{number}.0/24 via 192.168.10.1 proto bgp metric 20" for number in range(40)]
        )
        before = scene.table()
        scene.start()
        eventually_sync(lambda: bool(scene.named("target.refused")), within_s=20, what="the event")
        (refused,) = scene.named("target.refused")
        assert refused["reason"] == "own-route-seen"
        eventually_sync(lambda: scene.table() == before, what="the table as it was")
        state = scene.standin.state()
        assert 1 <= state.posts <= 60, "it stopped at once"
        (line,) = scene.logged("target_refused")
        assert line["left"] == []
        eventually_sync(
            lambda: scene.status()["targets"][0]["state"] == "shared-namespace", what="the status"
        )
        assert "came up in this host's own kernel" in str(scene.status()["reasons"])
        assert scene.standin.state().posts == state.posts
