"""The founding table, both ways: as it stands when the daemon starts, and route by route while it runs.

Everything is real but loxilb, whose stand-in dies of any misuse: two kernels' namespaces, a broker, the daemon as a
process of its own with the shipped example configuration.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.topology import FOUNDING_TABLE, HOST_ROUTE, MIRRORED_TABLE
from support.waiting import eventually_sync
from support.world import World, world


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def test_the_table_that_stands_at_the_start_is_mirrored_as_each_route_deserves(scene: World) -> None:
    assert scene.topology.table(scene.topology.node) == list(FOUNDING_TABLE)
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    eventually_sync(lambda: bool(scene.of("sync.completed", "edge")), what="the sync's event")

    (dropped,) = scene.of("route.dropped", "192.168.10.1/32")
    assert dropped["data"]["rule"] == "dhcp-host-routes"
    kernel = {"protocol": "dhcp", "metric": 100, "interface": "ens3", "table": "main"}
    assert dropped["data"].items() >= kernel.items()
    (default,) = scene.of("route.accepted", "0.0.0.0/0")
    assert default["data"].items() >= kernel.items()
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


README = Path(__file__).parents[2] / "README.md"


def test_what_init_writes_and_the_lines_of_the_readme_mirror_it_too(scene: World) -> None:
    scene.config.unlink()
    done = scene.run("init", str(scene.config), "--yes", "--target", "192.168.10.20", "--broker", "127.0.0.1")
    assert done.returncode == 0, done.stderr
    assert "DHCP host route: 192.168.10.1/32 dev ens3" in done.stderr
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.stop()
    places = "--config", str(scene.config), "--state", str(scene.state)
    assert scene.run("withdraw", "--target", "edge", *places).returncode == 0
    scene.mirror_holds([])

    (lines,) = re.findall(
        r"^```toml\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    scene.config.write_text(lines.replace("broker.example.net", "127.0.0.1"))
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)


def test_each_route_has_its_verdict_in_the_plan(scene: World) -> None:
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


def test_route_by_route_while_the_daemon_runs(scene: World) -> None:
    node = scene.node
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


def test_a_lease_renewal_never_brings_the_host_route_to_loxilb(scene: World) -> None:
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


def test_a_link_that_flaps_takes_its_routes_along_and_brings_them_back(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.topology.link_down("flannel.1")  # no RTM_DELROUTE announces this
    scene.mirror_holds([line for line in MIRRORED_TABLE if line.split()[0] in {"default", "10.244.0.0/24"}])
    scene.topology.link_up("flannel.1")
    scene.mirror_holds(MIRRORED_TABLE)


def test_what_changed_while_the_daemon_was_killed_is_made_good(scene: World) -> None:
    scene.config.write_text(
        scene.config.read_text().replace("allow_default", "startup_hold_s = 1\nallow_default")
    )
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    assert scene.process is not None
    scene.process.kill()
    scene.process.wait()
    scene.topology.move_pod_network(3, 8)
    scene.log_file.unlink()
    scene.start()
    scene.mirror_holds([line.replace("10.244.3.0", "10.244.8.0") for line in MIRRORED_TABLE])


def test_without_loxilb_and_broker_it_runs_degraded_and_recovers(scene: World) -> None:
    scene.standin.stop()
    scene.start()
    assert "target_down" in scene.log()
    started = time.monotonic()
    scene.standin.start()
    scene.mirror_holds(MIRRORED_TABLE)
    assert time.monotonic() - started < 60
    assert scene.stop() == 0
