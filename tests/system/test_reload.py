"""A new configuration for a daemon that runs: what differs reaches loxilb, and nothing else does.

`ip monitor` records what loxilb's kernel sees, so a route that went and came back would show.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from demo.topology import MIRRORED_TABLE
from routesync.kernel.namespaces import in_namespace
from support.broker import broker
from support.daemon import prepared
from support.waiting import eventually_sync
from support.world import World, world


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def edit(scene: World, *changes: tuple[str, str]) -> None:
    text = scene.config.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    scene.config.write_text(text)


def lines(scene: World, event: str) -> list[dict[str, object]]:
    """The lines of the log with this event."""
    found = (json.loads(line) for line in scene.log().splitlines() if line.startswith("{"))
    return [line for line in found if line["event"] == event]


def reload(scene: World, outcome: str = "config_reloaded") -> None:
    before = len(lines(scene, outcome))
    assert scene.process is not None
    scene.process.send_signal(signal.SIGHUP)
    eventually_sync(lambda: len(lines(scene, outcome)) > before, within_s=15, what=outcome)


def test_a_reload_requested_during_the_start_follows_it(scene: World) -> None:
    text = scene.config.read_text()
    scene.config.unlink()
    os.mkfifo(scene.config)
    process = scene.launch()
    with scene.config.open("w") as pipe:  # opened when the daemon reads its configuration
        scene.config.unlink()
        scene.config.write_text(text)
        process.send_signal(signal.SIGHUP)
        pipe.write(text)
    eventually_sync(lambda: len(lines(scene, "config_reloaded")) == 1, within_s=30, what="the reload")


@contextmanager
def route_changes(scene: World) -> Iterator[list[str]]:
    """Collect what changes among the gateway routes of loxilb's kernel within a `with` block."""
    space = scene.loxilb
    heard = scene.directory / "heard"
    changes: list[str] = []
    with heard.open("wb") as out:
        ear = subprocess.Popen(["ip", "-n", space.name, "monitor", "route"], stdout=out)
    try:
        # the ear is there as soon as it hears something
        def is_heard(mark: str) -> bool:
            space.ip(f"route add blackhole {mark}")
            space.ip(f"route del blackhole {mark}")
            return mark in heard.read_text()

        eventually_sync(lambda: is_heard("198.51.100.1"), what="the monitor")
        yield changes
        eventually_sync(lambda: is_heard("198.51.100.2"), what="the end of it in the monitor")
    finally:
        ear.kill()
        ear.wait()
    text = [line.strip() for line in heard.read_text().splitlines()]
    changes += [re.sub(r" dev .*", "", line) for line in text if line and "198.51.100." not in line]


def status(
    scene: World, host: str = "127.0.0.1", *, topic: str = "routesync/v1/node/status"
) -> dict[str, object]:
    """The retained status, or other topic, that this broker has."""
    done = subprocess.run(
        scene.command(*["mosquitto_sub", "-h", host, "-t", topic, "-C", "1", "-W", "5"]),
        capture_output=True,
        text=True,
        check=False,
    )
    data: dict[str, object] = json.loads(done.stdout)["data"] if done.stdout else {}
    return data


TARGET_MARK = '[[targets]]\nname = "edge"'
POD_RULE = 'action = "keep"\nnext_hop = "192.168.10.10"\n'


def test_only_what_the_new_rules_change_is_written(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    no_pod_3 = (
        '[[policy.rules]]\nname = "no-pod-3"\nmatch = { prefix = "10.244.3.0/24" }\naction = "drop"\n\n'
    )
    with route_changes(scene) as changes:
        edit(scene, ('[[policy.rules]]\nname = "dhcp-host', no_pod_3 + '[[policy.rules]]\nname = "dhcp-host'))
        reload(scene)
        scene.mirror_holds([line for line in MIRRORED_TABLE if "10.244.3.0" not in line])
        # a rule that is only called otherwise changes nothing
        edit(scene, (no_pod_3, ""), ('name = "pod-networks"', 'name = "pods"'))
        reload(scene)
        scene.mirror_holds(MIRRORED_TABLE)
    assert changes == [
        "Deleted 10.244.3.0/24 via 192.168.10.10",
        "10.244.3.0/24 via 192.168.10.10",
    ]


def test_what_moves_from_the_rules_to_a_target_changes_nothing_in_between(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    there = (
        (POD_RULE, POD_RULE.splitlines()[0] + "  #\n"),
        (TARGET_MARK, f'{TARGET_MARK}\nnext_hop = "192.168.10.10"'),
    )
    back = tuple((new, old) for old, new in reversed(there))
    with route_changes(scene) as changes:
        # with next_hop at the target the default route goes there, too; so it must not be mirrored meanwhile
        edit(scene, ("allow_default = true", "allow_default = false"))
        reload(scene)
        scene.mirror_holds([line for line in MIRRORED_TABLE if "default" not in line])
        edit(scene, *there)
        reload(scene)
        edit(scene, *back)
        edit(scene, (TARGET_MARK, f'{TARGET_MARK}\nrate = 100\ntoken = "it"'))  # calls for a new handshake
        reload(scene)
        edit(scene, ("allow_default = false", "allow_default = true"))
        reload(scene)
        scene.mirror_holds(MIRRORED_TABLE)
    assert changes == ["Deleted default via 192.168.10.1", "default via 192.168.10.1"]
    ineligible = {event["subject"] for event in scene.events() if ".ineligible." in event["type"]}
    assert ineligible == {"0.0.0.0/0"}


def test_a_bad_file_changes_nothing_and_is_explained_until_a_good_one_comes(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    good = scene.config.read_text()
    with route_changes(scene) as changes:
        first_rule = 'match = { protocol = "dhcp", host = true, gateway = false }\naction = '
        edit(scene, (f'{first_rule}"drop"', f'{first_rule}"dorp"'), ('"edge"', '""'))
        bad = [
            number for number, line in enumerate(scene.config.read_text().splitlines(), 1) if "dorp" in line
        ]
        reload(scene, "config_rejected")
        place = f"{scene.config}:{bad[0]}"
        eventually_sync(lambda: place in str(status(scene).get("reasons")), what="the reason in the status")
        problems = [str(line["problem"]) for line in lines(scene, "config_rejected")]
        assert len(problems) == 2
        assert problems[0].startswith(f"{place}: [[policy.rules]] #1 (dhcp-host-routes), key action: ")
        (rejected,) = [event for event in scene.events() if ".config.rejected." in event["type"]]
        assert rejected["data"]["errors"] == problems

        scene.config.write_text(good + '\n[kernel]\nnetns = "rs-nowhere"\n')
        reload(scene, "config_rejected")
        last = len(scene.config.read_text().splitlines())
        problem = str(lines(scene, "config_rejected")[-1]["problem"])
        assert problem.startswith(f"{scene.config}:{last}: [kernel], key netns: network namespace ")

        scene.node.ip("route add 10.99.0.0/16 via 192.168.10.1")
        scene.mirror_holds([*MIRRORED_TABLE, "10.99.0.0/16 via 192.168.10.1"])
        scene.config.write_text(good)
        reload(scene)
        eventually_sync(lambda: status(scene).get("state") == "online", what="the end of it in the status")
    assert changes == ["10.99.0.0/16 via 192.168.10.1"]
    assert scene.stop() == 0


def test_targets_and_modes_come_and_go_and_routes_stay(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    whole = scene.config.read_text()
    start, end = whole.index("[[targets]]"), whole.index("[node]")
    with route_changes(scene) as changes:
        scene.config.write_text(whole[:start] + whole[end:])
        reload(scene)
        eventually_sync(
            lambda: "of ours left in it" in str(status(scene).get("reasons")),
            what="its name in the status",
        )
        assert status(scene)["targets"] == []
        scene.config.write_text(f'mode = "observe"\n{whole}')
        reload(scene)
        eventually_sync(lambda: status(scene).get("mode") == "observe", what="the mode")
        scene.topology.move_pod_network(3, 7)
        scene.config.write_text(whole.replace("allow_default", "startup_hold_s = 1\nallow_default"))
        reload(scene)
        scene.mirror_holds([line.replace("10.244.3.0", "10.244.7.0") for line in MIRRORED_TABLE])
    assert sorted(changes) == ["10.244.7.0/24 via 192.168.10.10", "Deleted 10.244.3.0/24 via 192.168.10.10"]
    eventually_sync(lambda: not status(scene).get("reasons", True), what="a status without reasons")


def test_another_broker_gets_the_table_and_what_waits(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    with broker(namespace=scene.node, address="127.0.0.2") as other:
        edit(scene, ('host = "127.0.0.1"', f'host = "{other.address}"'))
        reload(scene)
        manifest = "routesync/v1/node/table/edge/manifest"
        eventually_sync(
            lambda: status(scene, other.address, topic=manifest).get("routes") == len(MIRRORED_TABLE),
            what="the manifest at the new broker",
        )
        eventually_sync(lambda: status(scene).get("state") == "offline", what="the farewell at the old one")


def test_other_tables_are_read_without_a_restart(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.node.ip("route add 10.99.0.0/16 via 192.168.10.1 table 100")
    with route_changes(scene) as changes:
        edit(scene, ("[mqtt]", '[log]\nlevel = "debug"\n\n[kernel]\ntables = ["main", 100]\n\n[mqtt]'))
        reload(scene)
        scene.mirror_holds([*MIRRORED_TABLE, "10.99.0.0/16 via 192.168.10.1"])
        eventually_sync(lambda: bool(lines(scene, "kernel_resynced")), what="a debug line")
        edit(scene, ('tables = ["main", 100]', 'tables = "main"'), ('name = "node"', 'name = "other"'))
        reload(scene)
        scene.mirror_holds(MIRRORED_TABLE)
    assert changes == ["10.99.0.0/16 via 192.168.10.1", "Deleted 10.99.0.0/16 via 192.168.10.1"]
    eventually_sync(
        lambda: "node.name" in str(status(scene).get("reasons")), what="what a reload cannot change"
    )


def test_a_target_that_was_looked_for_in_the_wrong_place_is_found_at_once(scene: World) -> None:
    edit(scene, ("192.168.10.20:11111", "192.168.10.20:9"))
    scene.start()
    assert lines(scene, "target_down")
    edit(scene, ("192.168.10.20:9", "192.168.10.20:11111"))
    reload(scene)
    scene.mirror_holds(MIRRORED_TABLE)
    assert not lines(scene, "target_moved"), "nothing of ours is left at the wrong place"


def test_subscribers_hear_of_a_route_that_goes_while_its_target_gets_another_connection(scene: World) -> None:
    edit(scene, (TARGET_MARK, f"{TARGET_MARK}\nstartup_hold_s = 1"))
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    gone = "10.244.3.0/24"
    scene.loxilb.ip(f"route del {gone}")  # nothing tells the daemon
    scene.node.ip(f"route del {gone}")
    edit(scene, (TARGET_MARK, f'{TARGET_MARK}\ntoken = "another"'))
    reload(scene)
    eventually_sync(lambda: bool(scene.of("route.withdrawn", gone)), within_s=30, what="its withdrawal")


def test_a_target_that_does_not_answer_holds_up_no_further_reload(scene: World) -> None:
    scene.start()
    eventually_sync(lambda: bool(lines(scene, "ready")), what="readiness")
    text = scene.config.read_text()
    scene.config.write_text(text + '\n[[targets]]\nname = "gone"\nurl = "http://192.168.10.77:11111"\n')
    first = scene.run("reload")
    assert first.returncode == 0, first.stderr
    scene.config.write_text(text)
    second = scene.run("reload")
    assert second.returncode == 0, second.stderr


def test_a_name_means_a_target_for_each_of_its_addresses(scene: World) -> None:
    hosts = Path("/etc/netns") / scene.node.name / "hosts"  # `ip netns exec` puts it over /etc/hosts
    hosts.parent.mkdir(parents=True)
    try:
        hosts.write_text("192.168.10.20 lb.example.net\n192.168.10.99 lb.example.net\n")
        edit(
            scene,
            (
                'url = "http://192.168.10.20:11111"',
                'url = "http://lb.example.net:11111"\nall_addresses = true',
            ),
        )
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)

        def states() -> dict[str, str]:
            return {it["name"]: it["state"] for it in scene.get("/v1/status")["targets"]}

        both = {"edge-192.168.10.20": "synced", "edge-192.168.10.99": "unreachable"}
        eventually_sync(lambda: states() == both, what="a target for each address")
        hosts.write_text("192.168.10.20 lb.example.net\n")
        eventually_sync(lambda: list(states()) == ["edge-192.168.10.20"], within_s=30, what="one address")
        hosts.write_text("")  # a name that does not resolve keeps its last addresses
        eventually_sync(
            lambda: any("does not resolve" in it for it in scene.get("/v1/status")["status"]["reasons"]),
            within_s=30,
            what="the trouble in the status",
        )
        eventually_sync(lambda: states() == {"edge-192.168.10.20": "synced"}, what="the last address")
        scene.mirror_holds(MIRRORED_TABLE)

        scene.stop()
        scene.start()
        (reason,) = scene.get("/v1/status")["status"]["reasons"]
        assert "it is no target until it does" in reason  # and what it owns there is no orphan
        hosts.write_text("192.168.10.20 lb.example.net\n")
        eventually_sync(lambda: states() == {"edge-192.168.10.20": "synced"}, within_s=30, what="the target")
        scene.mirror_holds(MIRRORED_TABLE)
    finally:
        shutil.rmtree(hosts.parent)


def silent_name_server() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 53))
    return sock


def test_name_servers_that_do_not_answer_delay_neither_start_nor_reload_nor_stop(scene: World) -> None:
    resolv_conf = Path("/etc/netns") / scene.node.name / "resolv.conf"  # as above
    resolv_conf.parent.mkdir(parents=True)
    resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    named = "".join(
        f'\n[[targets]]\nname = "{name}"\nurl = "http://{name}.example.net:11111"\nall_addresses = {many}\n'
        for name, many in (("a", "true"), ("b", "true"), ("c", "true"), ("plain", "false"))
    )
    edit(scene, ('host = "127.0.0.1"', 'host = "broker.example.net"'))
    scene.config.write_text(scene.config.read_text() + named)
    try:
        with in_namespace(scene.node.name, silent_name_server):
            scene.start(within_s=20)
            scene.mirror_holds(MIRRORED_TABLE)
            reasons = scene.get("/v1/status")["status"]["reasons"]
            assert sum("does not resolve: no answer within 5 s" in it for it in reasons) == 3
            reload(scene)
            began = time.monotonic()
            assert scene.stop() == 0
            assert time.monotonic() - began < 5
    finally:
        shutil.rmtree(resolv_conf.parent)


def test_a_config_map_that_is_swapped_is_applied_and_unknown_variables_are_named() -> None:
    """As the kubelet does it: the file links to ..data/routesync.toml, ..data to a folder, and ..data is replaced."""
    with prepared() as daemon:

        def swap(text: str) -> None:
            version = daemon.directory / f"..{len(list(daemon.directory.iterdir()))}"
            version.mkdir()
            (version / "routesync.toml").write_text(text)
            (daemon.directory / "..data_tmp").symlink_to(version.name)
            (daemon.directory / "..data_tmp").rename(daemon.directory / "..data")

        daemon.config.unlink()
        daemon.config.symlink_to("..data/routesync.toml")
        swap("reload_on_change = true\n")
        daemon.extra_environment = {"ROUTESYNC_NODENAME": "a", "ROUTESYNC_SERVICE_HOST": "10.96.0.7"}
        daemon.start()
        (warning,) = daemon.get("/v1/status")["config"]["warnings"]
        assert "ROUTESYNC_NODENAME" in warning
        assert warning.endswith("did you mean ROUTESYNC_NODE_NAME?")
        assert [line["warning"] for line in daemon.logged("config_warning")] == [warning]

        for text, event in (
            ('reload_on_change = true\nmode = "nirror"\n', "config_rejected"),
            ('reload_on_change = true\nmode = "observe"\n', "config_reloaded"),
        ):
            swap(text)
            applied = partial(lambda event: bool(daemon.logged(event)), event)
            eventually_sync(applied, within_s=20, what=event)
        assert len([line for line in daemon.logged("config_rejected") if "problem" in line]) == 1
        assert daemon.get("/v1/status")["status"]["mode"] == "observe"
