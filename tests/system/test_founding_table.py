"""The founding table, both ways: as it stands when the daemon starts, and route by route while it runs.

Everything is real but loxilb, whose stand-in dies of any misuse: two kernels' namespaces, a broker, the daemon as a
process of its own with the shipped example configuration.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from routesync.demo.topology import FOUNDING_TABLE, HOST_ROUTE, MIRRORED_TABLE, FoundingTopology
from support.broker import broker
from support.netns import Namespace, needs_root
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

pytestmark = needs_root

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "kubernetes-external-loxilb.toml"
ROUTESYNC = [sys.executable, "-m", "routesync"]


class Scene:
    """The founding topology with everything running in it, and what came of it."""

    def __init__(self, topology: FoundingTopology, standin: StandinProcess, directory: Path) -> None:
        self.topology = topology
        self.standin = standin
        self.directory = directory
        self.config = directory / "routesync.toml"
        self.config.write_text(
            EXAMPLE.read_text() + '\n[node]\nname = "node"\n\n[mqtt]\nhost = "127.0.0.1"\n'
        )
        self.daemon: subprocess.Popen[bytes] | None = None

    def in_node(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.topology.node, *command]

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self.in_node(
                    *ROUTESYNC, "run", "--config", str(self.config), "--state", str(self.directory / "state")
                ),
                stderr=log,
                stdout=log,
            )
        eventually_sync(lambda: '"event": "ready"' in self.log(), within_s=20, what="readiness of the daemon")

    def stop(self) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(15)

    def log(self) -> str:
        return (self.directory / "daemon.log").read_text()

    def events(self) -> list[dict[str, Any]]:
        """All events that have come over MQTT so far."""
        lines = (self.directory / "events").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def of(self, kind: str, prefix: str) -> list[dict[str, Any]]:
        wanted = f"io.routesync.{kind}.v1"
        return [
            event for event in self.events() if event["type"] == wanted and event.get("subject") == prefix
        ]

    def mirrored(self) -> list[str]:
        return self.topology.gateway_routes()

    def mirror_holds(self, routes: tuple[str, ...] | list[str]) -> None:
        eventually_sync(
            lambda: self.mirrored() == sorted(routes, key=lambda line: line.replace("default", "0")),
            within_s=15,
            what=f"{routes} in loxilb's kernel, which has {self.mirrored()}",
        )

    def plan(self) -> dict[str, Any]:
        done = subprocess.run(
            self.in_node(
                *ROUTESYNC,
                "plan",
                "--json",
                "--config",
                str(self.config),
                "--state",
                str(self.directory / "state"),
            ),
            capture_output=True,
            text=True,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        topology = stack.enter_context(FoundingTopology())
        standin = stack.enter_context(running_standin(Namespace(topology.loxilb)))
        stack.enter_context(broker(namespace=Namespace(topology.node)))
        made = Scene(topology, standin, tmp_path)
        events = stack.enter_context((tmp_path / "events").open("wb"))
        listener = subprocess.Popen(
            made.in_node("mosquitto_sub", "-t", "routesync/v1/node/event/#", "-q", "1"), stdout=events
        )
        stack.callback(listener.wait)
        stack.callback(listener.kill)
        try:
            yield made
        finally:
            if made.daemon is not None and made.daemon.poll() is None:
                made.daemon.kill()
                made.daemon.wait()
            print(made.log() if (tmp_path / "daemon.log").exists() else "")


def test_the_table_that_stands_at_the_start_is_mirrored_as_each_route_deserves(scene: Scene) -> None:
    assert scene.topology.table(scene.topology.node) == list(FOUNDING_TABLE)
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    eventually_sync(lambda: bool(scene.of("sync.completed", "edge")), what="the sync's event")

    (dropped,) = scene.of("route.dropped", "192.168.10.1/32")
    assert dropped["data"]["rule"] == "dhcp-host-routes"
    assert dropped["data"]["interface"] == "ens3"
    accepted = {
        event["subject"]: event["data"]["gateway"]
        for event in scene.events()
        if ".accepted." in event["type"]
    }
    assert accepted == {
        "0.0.0.0/0": "192.168.10.1",
        **{f"10.244.{number}.0/24": "192.168.10.10" for number in range(4)},
    }
    assert scene.stop() == 0
    scene.mirror_holds(MIRRORED_TABLE)  # on stop, routes stay
    assert scene.standin.alive


def test_each_route_has_its_verdict_in_the_plan(scene: Scene) -> None:
    verdicts = {
        route["prefix"]: (route["verdict"], route["rule"], [end["fate"] for end in route["targets"]])
        for route in scene.plan()["routes"]
    }
    assert verdicts == {
        "0.0.0.0/0": ("keep", "default", ["post"]),
        "10.244.0.0/24": ("keep", "pod-networks", ["post"]),
        "10.244.1.0/24": ("keep", "pod-networks", ["post"]),
        "10.244.2.0/24": ("keep", "pod-networks", ["post"]),
        "10.244.3.0/24": ("keep", "pod-networks", ["post"]),
        "172.17.0.0/16": ("drop", "linkdown", []),
        "192.168.10.0/24": ("drop", "connected", []),
        "192.168.10.1/32": ("drop", "dhcp-host-routes", []),
    }
    assert scene.mirrored() == [], "a plan changes nothing"


def test_route_by_route_while_the_daemon_runs(scene: Scene) -> None:
    node = Namespace(scene.topology.node)
    others = [line for line in FOUNDING_TABLE if "proto kernel" not in line]
    for line in others:
        node.ip(f"route del {line}")
    scene.start()
    own_pods = [
        line for line in MIRRORED_TABLE if line.split()[0] == "10.244.0.0/24"
    ]  # the kernel's, on cni0
    expected = own_pods
    scene.mirror_holds(expected)
    for line in [HOST_ROUTE, *(line for line in others if line != HOST_ROUTE)]:
        node.ip(f"route add {line}")
        expected = [made for made in MIRRORED_TABLE if made in expected or made.split()[0] == line.split()[0]]
        scene.mirror_holds(expected)
    scene.mirror_holds(MIRRORED_TABLE)

    for line in others:
        if line == HOST_ROUTE:
            continue
        node.ip(f"route del {line}")
        expected = [made for made in expected if made.split()[0] != line.split()[0]]
        scene.mirror_holds(expected)
    assert scene.standin.alive


def test_a_lease_renewal_never_brings_the_host_route_to_loxilb(scene: Scene) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    before = len(scene.of("route.dropped", "192.168.10.1/32"))
    for renewal in range(3):
        scene.topology.renew_lease()
        eventually_sync(
            lambda count=before + renewal + 1: len(scene.of("route.dropped", "192.168.10.1/32")) == count,  # type: ignore[misc]
            what="the drop's event",
        )
    # a route made after it has arrived there: so would the host route have
    scene.topology.move_pod_network(2, 9)
    moved = [line.replace("10.244.2.0", "10.244.9.0") for line in MIRRORED_TABLE]
    scene.mirror_holds(moved)
    assert not [
        event
        for event in scene.events()
        if ".accepted." in event["type"] and event["subject"].endswith(".10.1/32")
    ]


def test_a_link_that_flaps_takes_its_routes_along_and_brings_them_back(scene: Scene) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.topology.link_down("flannel.1")  # no RTM_DELROUTE announces this
    scene.mirror_holds([line for line in MIRRORED_TABLE if line.split()[0] in {"default", "10.244.0.0/24"}])
    scene.topology.link_up("flannel.1")
    scene.mirror_holds(MIRRORED_TABLE)


def test_what_changed_while_the_daemon_was_killed_is_made_good(scene: Scene) -> None:
    scene.config.write_text(
        scene.config.read_text().replace("allow_default", "startup_hold_s = 1\nallow_default")
    )
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    assert scene.daemon is not None
    scene.daemon.kill()
    scene.daemon.wait()
    scene.topology.move_pod_network(3, 8)
    (scene.directory / "daemon.log").unlink()
    scene.start()
    scene.mirror_holds([line.replace("10.244.3.0", "10.244.8.0") for line in MIRRORED_TABLE])


def test_without_loxilb_and_broker_it_runs_degraded_and_recovers(scene: Scene) -> None:
    scene.standin.stop()
    scene.start()
    assert "target down" in scene.log()
    started = time.monotonic()
    scene.standin.start()
    scene.mirror_holds(MIRRORED_TABLE)
    assert time.monotonic() - started < 60
    assert scene.stop() == 0
