"""Mode guard, with loxilb (its stand-in) and the daemon in the namespace whose table they share.

The daemon is a process of its own. What it may remove is one route of the founding table; all others must stand as they
did, whatever happens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.topology import FOUNDING_TABLE, HOST_ROUTE
from support.daemon import Daemon, prepared
from support.netns import Namespace, namespace
from support.standin import Fault
from support.waiting import eventually_sync
from support.world import NODE, TARGET, World, world

GUARD_RULE = """
[[policy.rules]]
name = "dhcp-host-routes"
match = { protocol = "dhcp", host = true, gateway = false }
action = "drop"
report = true
guard = true
"""


def guard_config(*settings: str, target: str = TARGET) -> str:
    """Mode guard, without its waits; further settings are lines of the table guard."""
    lines = ["settle_s = 0.2", "removals_per_minute = 600", *settings]
    return f'mode = "guard"\n{NODE}\n[guard]\n' + "\n".join(lines) + GUARD_RULE + target


HOST = "192.168.10.1/32"
OTHERS = [line for line in FOUNDING_TABLE if line != HOST_ROUTE]


def wrote_nothing(scene: World) -> bool:
    state = scene.standin.state()
    return (state.posts, state.deletes) == (0, 0)


def await_event(scene: World, kind: str, count: int = 1) -> list[dict[str, Any]]:
    eventually_sync(
        lambda: len(scene.named(kind)) >= count,
        within_s=20,
        what=f"{count} events {kind}; {scene.named(kind)}",
    )
    return scene.named(kind)


def test_of_the_founding_table_only_the_host_route_is_removed_and_loxilb_loses_it(tmp_path: Path) -> None:
    with world(tmp_path, guard_config("dry_run = false"), shared=True) as scene:
        scene.start()
        (removed,) = await_event(scene, "guard.removed")
        assert removed == {
            "prefix": HOST,
            "family": "ipv4",
            "interface": "ens3",
            "rule": "dhcp-host-routes",
            "covered_by": "192.168.10.0/24",
        }
        assert await_event(scene, "guard.verified") == [{"target": "here", "prefix": HOST}]
        assert scene.table() == OTHERS
        assert any("docker0" in line and "linkdown" in line for line in scene.table())
        assert len(scene.logged("guard_removed")) == 1
        assert wrote_nothing(scene)

        eventually_sync(lambda: scene.status().get("state") == "online", what="a status without reasons")
        status = scene.status()
        assert status["mode"] == "guard"
        assert status["guard"] | {"returned": 0} == {
            "dry_run": False,
            "permitted": True,
            "present": 0,
            "redundant": 0,
            "contended": 0,
            "removed": 1,
            "returned": 0,
            "failed": 0,
        }
        assert [target["state"] for target in status["targets"]] == ["guarded"]
        assert scene.stop() == 0
        assert scene.table() == OTHERS


def test_by_default_nothing_is_removed(tmp_path: Path) -> None:
    with world(tmp_path, guard_config(), shared=True) as scene:
        scene.start()
        (would,) = await_event(scene, "guard.would-remove")
        assert would["covered_by"] == "192.168.10.0/24"
        scene.topology.renew_lease()
        await_event(scene, "guard.would-remove", 2)
        assert scene.table() == list(FOUNDING_TABLE)
        assert scene.named("guard.removed") == []
        assert scene.status()["guard"]["redundant"] == 1
        assert scene.standin.state().route_reads == 0, "nobody has a question that its table could answer"
        assert wrote_nothing(scene)


def test_a_lease_renewal_brings_the_route_back_and_it_is_removed_again(tmp_path: Path) -> None:
    with world(tmp_path, guard_config("dry_run = false", "contended_within_s = 1"), shared=True) as scene:
        scene.start()
        for renewal in range(1, 4):
            await_event(
                scene, "guard.verified", renewal
            )  # loxilb is asked after each removal, which takes its second
            scene.node.ip(f"route add {HOST_ROUTE}")
            returned = await_event(scene, "guard.returned", renewal)[-1]
            assert returned["contended"] is False
            assert returned["away_s"] >= 1
        await_event(scene, "guard.removed", 4)
        eventually_sync(lambda: scene.table() == OTHERS, what="the others")
        assert scene.named("guard.failed") == []
        assert scene.logged("guard_contended") == []


def test_one_that_reappears_at_once_is_left_with_an_alarm(tmp_path: Path) -> None:
    with world(tmp_path, guard_config("dry_run = false"), shared=True) as scene:
        scene.start()
        eventually_sync(lambda: scene.table() == OTHERS, within_s=20, what="removal")
        scene.node.ip(f"route add {HOST_ROUTE}")
        (returned,) = await_event(scene, "guard.returned")
        assert returned["contended"] is True
        assert returned["stays_s"] == 3600
        (raised,) = await_event(scene, "alarm.raised")
        assert (raised["kind"], raised["target"], raised["prefixes"]) == ("contended", None, [HOST])
        assert "another program adds it" in raised["detail"]
        eventually_sync(lambda: scene.status()["alarms"] == [raised], what="the alarm in the status")
        assert scene.status()["guard"]["contended"] == 1
        assert scene.status()["reasons"] == [f"guard: {raised['detail']}"]
        assert len(scene.named("guard.removed")) == 1
        assert HOST_ROUTE in scene.table(), "it is left"

        scene.node.ip(f"route del {HOST}")
        (cleared,) = await_event(scene, "alarm.cleared")
        assert (cleared["kind"], cleared["target"]) == ("contended", None)
        eventually_sync(lambda: scene.status()["reasons"] == [], what="a status without reasons")


def test_a_target_elsewhere_is_said_to_be_none_of_its_business(tmp_path: Path) -> None:
    with world(tmp_path, guard_config("dry_run = false"), shared=True) as scene:
        foreign = {
            "portName": "eth0",
            "portSoftwareInformation": {"osId": 2},
            "portHardwareInformation": {"macAddress": "02:00:00:00:00:01"},
        }
        body = json.dumps({"portAttr": [foreign]})
        scene.standin.inject(Fault("answer", path="/config/port/all", status=200, body=body))
        scene.start()
        eventually_sync(lambda: bool(scene.logged("target_not_guarded")), what="word of it")
        await_event(scene, "guard.removed")  # the route is redundant all the same
        eventually_sync(lambda: scene.status()["targets"][0]["state"] == "elsewhere", what="status")
        assert "another network namespace" in str(scene.status()["reasons"])
        assert scene.standin.state().route_reads == 0
        assert wrote_nothing(scene)


def test_an_entry_that_stays_is_said_to_need_a_restart(tmp_path: Path) -> None:
    """A loxilb that has gone deaf, as too many events at once make it."""
    arguments = ("--queue-limit", "5", "--fragile", "off")
    with world(tmp_path, guard_config("dry_run = false"), *arguments, shared=True) as scene:
        scene.node.batch([f"route add 10.9.{number}.0/24 via 192.168.10.1" for number in range(50)])
        eventually_sync(lambda: scene.standin.state().deaf, what="deafness")
        scene.start()
        (stuck,) = await_event(scene, "guard.stuck")
        assert stuck["reason"] == "entry-stays"
        assert "restart" in stuck["detail"]
        eventually_sync(lambda: "restart loxilb" in str(scene.status()["reasons"]), what="the reason")
        assert HOST_ROUTE not in scene.table()
        scene.standin.stop()  # its deafness is what was wanted


def test_a_reload_turns_it_on_lets_it_remove_and_turns_it_off(tmp_path: Path) -> None:
    text = guard_config()
    with world(tmp_path, text.replace('mode = "guard"', 'mode = "mirror"'), shared=True) as scene:

        def reload(config: str) -> None:
            scene.config.write_text(config)
            scene.reload()

        scene.start()
        await_event(scene, "target.refused")
        assert scene.status()["guard"] is None
        reload(text)
        await_event(scene, "guard.would-remove")
        reload(text.replace("[guard]", "[guard]\ndry_run = false"))
        await_event(scene, "guard.verified")
        assert scene.table() == OTHERS
        reload(
            text.replace('mode = "guard"', 'mode = "mirror"').replace("[guard]", "[guard]\ndry_run = false")
        )
        dropped = len(scene.named("route.dropped"))
        scene.node.ip(f"route add {HOST_ROUTE}")
        await_event(scene, "route.dropped", dropped + 1)
        eventually_sync(lambda: scene.status()["guard"] is None, what="the status without it")
        assert scene.table() == list(FOUNDING_TABLE)
        assert len(scene.named("guard.removed")) == 1


NO_BROKER = (
    'mode = "guard"\n[guard]\ndry_run = false\nsettle_s = 0.1\nremovals_per_minute = 600\n' + GUARD_RULE
)


@contextmanager
def plain_daemon(space: Namespace, *prefix: str) -> Iterator[Daemon]:
    """A daemon without broker and target in a namespace; its log tells all."""
    with prepared(NO_BROKER, space=space) as daemon:
        process = daemon.launch(prefix=prefix)
        yield daemon
        assert process.poll() is None, daemon.log()


def logged(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    """Lines of the log that are no events: without a broker, those are logged, too."""
    return [line for line in daemon.logged(event) if "sequence" not in line]


@pytest.fixture
def cloud() -> Iterator[Namespace]:
    """A cloud host: an address of /32, and a default route by a gateway that only a host route reaches."""
    with namespace("cloud") as made:
        made.batch(
            [
                "link add ens3 type veth peer name other",
                "link set other up",
                "link set ens3 up",
                "addr add 10.0.0.5/32 dev ens3",
                "route add 10.0.0.1 dev ens3 proto dhcp scope link src 10.0.0.5 metric 100",
                "route add default via 10.0.0.1 dev ens3 proto dhcp src 10.0.0.5 metric 100",
            ]
        )
        yield made


def test_a_cloud_host_keeps_the_host_route_that_its_default_needs(cloud: Namespace) -> None:
    before = cloud.ip("route show")
    with plain_daemon(cloud) as daemon:
        eventually_sync(lambda: bool(logged(daemon, "guard_skipped")), what="a verdict")
        (left,) = logged(daemon, "guard_skipped")
        assert (left["prefix"], left["reason"]) == ("10.0.0.1/32", "only-by-gateway")
        assert cloud.ip("route show") == before

        # the same with an address that covers the gateway: now it is redundant, and goes
        cloud.ip("addr add 10.0.0.5/24 dev ens3")
        cloud.ip("addr del 10.0.0.5/32 dev ens3")
        cloud.ip("route replace 10.0.0.1 dev ens3 proto dhcp scope link src 10.0.0.5 metric 100")
        cloud.ip("route replace default via 10.0.0.1 dev ens3 proto dhcp src 10.0.0.5 metric 100")
        eventually_sync(lambda: bool(logged(daemon, "guard_removed")), within_s=30, what="removal")
        assert "\n10.0.0.1 dev" not in cloud.ip("route show")
        assert "default via 10.0.0.1" in cloud.ip("route show")


UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def test_without_the_capability_it_says_so_once_and_goes_on() -> None:
    with namespace("bare") as space:
        space.batch(
            [
                "link add ens3 type veth peer name other",
                "link set other up",
                "link set ens3 up",
                "addr add 192.168.10.10/24 dev ens3",
                f"route add {HOST_ROUTE}",
            ]
        )
        with plain_daemon(space, *UNPRIVILEGED) as daemon:
            eventually_sync(lambda: bool(logged(daemon, "guard_failed")), what="the failure")
            (failed,) = logged(daemon, "guard_failed")
            assert failed["reason"] == "not-permitted"
            assert "CAP_NET_ADMIN" in failed["detail"]
            assert len(logged(daemon, "guard_not_permitted")) == 1
            space.ip("route del 192.168.10.1")
            space.ip(f"route add {HOST_ROUTE}")
            eventually_sync(lambda: len(logged(daemon, "guard_failed")) == 2, what="that it goes on looking")
            assert len(logged(daemon, "guard_not_permitted")) == 1
            assert "192.168.10.1 dev ens3" in space.ip("route show")
