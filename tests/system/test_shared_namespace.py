"""Mode mirror where loxilb lives in the very namespace whose table is read: nothing is written, and that is said."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from demo.topology import FOUNDING_TABLE
from support.standin import Fault
from support.waiting import eventually_sync
from support.world import EXAMPLE, NODE, TARGET, world

MIRROR = NODE + TARGET + "allow_default = true\n"
ELSEWHERE = {
    "portName": "eth0",
    "portSoftwareInformation": {"osId": 2},
    "portHardwareInformation": {"macAddress": "02:00:00:00:00:01"},
}


def test_it_is_refused_in_one_line_in_the_status_and_as_an_event(tmp_path: Path) -> None:
    with world(tmp_path, MIRROR, shared=True) as scene:
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


def test_a_plan_without_the_daemon_says_it_before_the_first_start(tmp_path: Path) -> None:
    with world(tmp_path, MIRROR, shared=True) as scene:
        (target,) = scene.plan()["targets"]
        assert (target["state"], target["read"]) == ("shared-namespace", False)
        said = scene.run(
            "plan", "--config", str(scene.config), "--state", str(scene.state), "--summary"
        ).stdout
        assert "\n  it shares this host's network namespace and reads its routes by itself" in said
        assert scene.standin.state().route_reads == 0


def test_when_its_ports_lie_the_first_route_that_comes_up_here_ends_it(tmp_path: Path) -> None:
    with world(tmp_path, MIRROR, shared=True) as scene:
        body = json.dumps({"portAttr": [ELSEWHERE]})
        scene.standin.inject(Fault("answer", path="/config/port/all", status=200, body=body))
        scene.node.batch(
            [f"route add 10.9.{number}.0/24 via 192.168.10.1 proto bgp metric 20" for number in range(40)]
        )
        scene.start()
        eventually_sync(lambda: bool(scene.logged("target_up")), within_s=60, what="the first inventory")
        assert scene.standin.state().posts == 0, "its table shows them all: they are another writer's"
        scene.node.batch(
            [f"route add 10.8.{number}.0/24 via 192.168.10.1 proto bgp metric 20" for number in range(40)]
        )
        eventually_sync(lambda: bool(scene.named("target.refused")), within_s=20, what="the event")
        (refused,) = scene.named("target.refused")
        assert refused["reason"] == "own-route-seen"
        eventually_sync(lambda: not scene.node.ip("route show proto static"), what="the table as it was")
        state = scene.standin.state()
        assert state.posts == 1, "it stopped at once"
        (line,) = scene.logged("target_refused")
        assert line["left"] == []
        eventually_sync(
            lambda: scene.status()["targets"][0]["state"] == "shared-namespace", what="the status"
        )
        assert "came up in this host's own kernel" in str(scene.status()["reasons"])
        assert scene.standin.state().posts == state.posts


ORIGINALS = {
    "metric 0": ("10.8.0.0/24", "route add 10.8.0.0/24 via 192.168.10.1 proto bgp"),
    "metric 100": ("10.8.0.0/24", "route add 10.8.0.0/24 via 192.168.10.1 proto bgp metric 100"),
    "metric 0, static": ("10.8.0.0/24", "route add 10.8.0.0/24 via 192.168.10.1 proto static"),
    "several hops": (
        "10.8.0.0/24",
        "route add 10.8.0.0/24 proto bgp nexthop via 192.168.10.1 nexthop via 192.168.10.3",
    ),
    "IPv6, metric 1024": ("fd08::/48", "-6 route add fd08::/48 via fd00:10::1 proto bgp metric 1024"),
    "IPv6, metric 20": ("fd08::/48", "-6 route add fd08::/48 via fd00:10::1 proto bgp metric 20"),
}


@pytest.mark.parametrize(("prefix", "command"), ORIGINALS.values(), ids=ORIGINALS)
def test_whatever_the_original_route_it_is_never_harmed_and_ours_does_not_stay(
    tmp_path: Path, prefix: str, command: str
) -> None:
    """A route of the same key answers 409; any other lets ours in, and that is noticed by its own event."""
    with world(tmp_path, MIRROR, shared=True) as scene:
        body = json.dumps({"portAttr": [ELSEWHERE]})
        scene.standin.inject(Fault("answer", path="/config/port/all", status=200, body=body))
        enable_ipv6 = [
            "ip",
            "netns",
            "exec",
            scene.node.name,
            "sysctl",
            "-qw",
            "net.ipv6.conf.ens3.disable_ipv6=0",
        ]
        subprocess.run(enable_ipv6, check=True)
        scene.node.ip("-6 addr add fd00:10::10/64 dev ens3 nodad")
        family = "-6" if ":" in prefix else "-4"
        scene.node.ip(command)  # how it looks alone, before the daemon can post
        original = scene.node.ip(f"{family} route show {prefix}")
        scene.node.ip(command.replace("route add", "route del"))
        scene.start()
        eventually_sync(lambda: bool(scene.logged("target_up")), within_s=60, what="the first inventory")
        scene.node.ip(command)
        same_key = command.endswith(("proto bgp", "proto static", "metric 1024")) or "nexthop" in command
        if same_key:
            eventually_sync(lambda: scene.standin.state().posts >= 1, within_s=20, what="the POST")
            time.sleep(1)  # nothing shall happen, so nothing tells when to look
            assert not scene.named("target.refused")
        else:
            eventually_sync(lambda: bool(scene.named("target.refused")), within_s=20, what="the event")
            assert scene.named("target.refused")[0]["reason"] == "own-route-seen"
        if family == "-4":
            eventually_sync(
                lambda: scene.node.ip(f"{family} route show {prefix}") == original, what="the table as it was"
            )
        else:  # a DELETE could take the original, which has the lower metric: ours is named instead
            assert original.strip().splitlines()[0] in scene.node.ip(f"{family} route show {prefix}")
            if not same_key:
                eventually_sync(lambda: bool(scene.logged("target_refused")), what="the log line")
                assert scene.logged("target_refused")[0]["left"] == [prefix]


def test_a_static_route_that_a_rule_drops_is_no_proof_of_a_shared_namespace(tmp_path: Path) -> None:
    """Its event looks like one of a POST, but comes before: only what comes up after the POST began counts."""
    rule = '\n[[policy.rules]]\nname = "static"\nmatch = { protocol = "static" }\naction = "drop"\n'
    with world(tmp_path, MIRROR.replace("\n[[targets]]", rule + "\n[[targets]]"), shared=True) as scene:
        body = json.dumps({"portAttr": [ELSEWHERE]})
        scene.standin.inject(Fault("answer", path="/config/port/all", status=200, body=body))
        scene.start()
        eventually_sync(lambda: bool(scene.logged("target_up")), within_s=60, what="the first inventory")
        scene.node.ip("route add 10.8.0.0/24 via 192.168.10.1 proto static")
        scene.node.ip("route add 10.8.0.0/24 via 192.168.10.1 proto bgp metric 20")
        eventually_sync(lambda: scene.standin.state().posts >= 1, within_s=20, what="the POST")
        time.sleep(1)  # nothing shall happen, so nothing tells when to look
        assert not scene.named("target.refused"), "the POST is answered 409: it proves nothing"
        assert "proto static" in scene.node.ip("route show 10.8.0.0/24")


def test_two_targets_that_are_one_loxilb_are_reported(tmp_path: Path) -> None:
    second = '\n[[targets]]\nname = "again"\nurl = "http://192.168.10.21:11111"\n'
    with world(tmp_path, EXAMPLE.read_text() + NODE + second) as scene:
        scene.loxilb.ip("address add 192.168.10.21/24 dev eth0")
        scene.start()
        eventually_sync(
            lambda: any(
                "edge and again seem to be one loxilb" in it
                for it in scene.get("/v1/status")["status"]["reasons"]
            ),
            what="the report",
        )
