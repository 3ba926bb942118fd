"""Which routes are owned, changed by hand: adopt, withdraw, forget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.topology import MIRRORED_TABLE
from routesync.mirror.ledger import read_owned
from routesync.route import Prefix
from support.waiting import eventually_sync
from support.world import World, world


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def arguments(scene: World) -> list[str]:
    return ["--config", str(scene.config), "--state", str(scene.state), "--target", "edge"]


def test_withdraw_takes_out_what_is_ours_and_nothing_else(scene: World) -> None:
    loxilb = scene.loxilb
    loxilb.ip("route add 10.99.0.0/16 via 192.168.10.1 proto bird")
    scene.start()
    scene.mirror_holds([*MIRRORED_TABLE, "10.99.0.0/16 via 192.168.10.1"])
    refused = scene.run("withdraw", *arguments(scene))
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    scene.stop()
    done = scene.run("withdraw", *arguments(scene))
    assert done.returncode == 0, done.stderr
    assert "5 routes withdrawn" in done.stdout
    assert scene.mirrored() == ["10.99.0.0/16 via 192.168.10.1"]
    assert read_owned(scene.state, "edge") == {}


def test_withdraw_ends_when_only_what_cannot_be_proved_is_left_and_names_it(scene: World) -> None:
    covered = "10.244.1.0/24"
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.stop()
    scene.loxilb.ip(f"route add {covered} via 192.168.10.1 metric 50 proto bird")
    done = scene.run("withdraw", *arguments(scene))
    assert done.returncode == 1
    assert f"nothing proves that a DELETE would remove its own route and no other ({covered})" in done.stderr
    assert "; 1 route left, and still owned" in done.stderr
    assert read_owned(scene.state, "edge").keys() == {Prefix.parse(covered)}
    assert sorted(scene.mirrored()) == [f"{covered} via 192.168.10.1", f"{covered} via 192.168.10.10"]

    wrong = scene.run("forget", *arguments(scene)[2:], "--prefix", "10.244.2.0/24", "--yes")
    assert wrong.returncode == 1
    assert "10.244.2.0/24: no route to it in target edge is owned" in wrong.stderr
    forgotten = scene.run("forget", *arguments(scene)[2:], "--prefix", covered, "--yes")
    assert forgotten.stdout == "edge: 1 route forgotten; it stays in loxilb\n"
    assert read_owned(scene.state, "edge") == {}
    assert len(scene.mirrored()) == 2


def test_what_is_forgotten_stays_and_can_be_adopted_again(scene: World) -> None:
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.stop()
    forgotten = scene.run("forget", "--state", str(scene.state), "--target", "edge", "--yes")
    assert forgotten.returncode == 0, forgotten.stderr
    assert read_owned(scene.state, "edge") == {}
    assert len(scene.mirrored()) == 5

    declined = scene.run("adopt", *arguments(scene), stdin="n\n")
    assert declined.returncode == 1
    assert "10.244.1.0/24 via 192.168.10.10" in declined.stdout
    assert read_owned(scene.state, "edge") == {}

    one = scene.run("adopt", *arguments(scene), "--yes", "10.244.1.0/24")
    assert one.returncode == 0, one.stderr
    assert read_owned(scene.state, "edge").keys() == {Prefix.parse("10.244.1.0/24")}
    again = scene.run("adopt", *arguments(scene), "--yes", "10.244.1.0/24")
    assert again.returncode == 1
    assert "10.244.1.0/24: is owned already in target edge" in again.stderr

    adopted = scene.run("adopt", *arguments(scene), "--yes")
    assert adopted.returncode == 0, adopted.stderr
    assert len(read_owned(scene.state, "edge")) == 5


TOKEN = {"ROUTESYNC_TARGET_EDGE_TOKEN": "secret"}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[World]:
    """A loxilb that wants a token, which is in the environment of the daemon and of the commands."""
    with world(tmp_path, None, "--userservice", "secret") as made:
        made.extra_environment = TOKEN
        yield made


def test_a_target_that_was_taken_out_is_named_until_it_is_emptied(guarded: World) -> None:
    scene = guarded
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.stop()
    text = scene.config.read_text()
    start, end = text.index("[[targets]]"), text.index("[node]")
    scene.config.write_text(text[:start] + text[end:])
    scene.start()
    eventually_sync(
        lambda: "no longer configured" in scene.log() or "routes_left_behind" in scene.log(), what="the word"
    )
    scene.stop()
    lost = scene.run("withdraw", *arguments(scene))
    assert lost.returncode == 78
    assert "--url" in lost.stderr
    done = scene.run("withdraw", *arguments(scene), "--url", "http://192.168.10.20:11111")
    assert done.returncode == 0, done.stderr
    assert scene.mirrored() == []


def test_a_target_that_was_taken_out_is_emptied_by_the_daemon_with_its_token(guarded: World) -> None:
    scene = guarded
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    text = scene.config.read_text()
    start, end = text.index("[[targets]]"), text.index("[node]")
    scene.config.write_text(text[:start] + text[end:])
    scene.reload()
    done = scene.run("withdraw", "--target", "edge", "--url", "http://192.168.10.20:11111")
    assert (done.returncode, done.stdout) == (0, "edge: 5 routes withdrawn\n"), done.stderr
    assert scene.mirrored() == []


def test_a_name_of_many_addresses_withdraws_from_each_also_if_it_does_not_resolve(guarded: World) -> None:
    scene = guarded
    hosts = Path("/etc/netns") / scene.node.name / "hosts"  # `ip netns exec` puts it over /etc/hosts
    hosts.parent.mkdir(parents=True)
    try:
        hosts.write_text("192.168.10.20 lb.example.net\n")
        written = 'url = "http://192.168.10.20:11111"'
        text = scene.config.read_text()
        assert written in text
        named = 'url = "http://lb.example.net:11111"\nall_addresses = true'
        scene.config.write_text(text.replace(written, named))
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        scene.stop()
        hosts.write_text("")
        done = scene.run("withdraw", *arguments(scene), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"target": "edge", "routes": 5}
        assert scene.mirrored() == []
    finally:
        shutil.rmtree(hosts.parent)


def test_a_ledger_that_can_be_read_only_later_is_taken_over_without_a_restart(scene: World) -> None:
    node = scene.node
    removed = "10.244.1.0/24"
    scene.config.write_text(
        scene.config.read_text().replace('name = "edge"', 'name = "edge"\nstartup_hold_s = 1')
    )
    scene.start()
    scene.mirror_holds(MIRRORED_TABLE)
    scene.stop()
    ledger = scene.state / "ledger.sqlite"
    hidden = ledger.rename(scene.state / "hidden")
    ledger.mkdir()  # it can be neither opened nor copied
    node.ip(f"route del {removed}")
    scene.start()
    eventually_sync(lambda: scene.status()["targets"][0]["state"] == "synced", what="the sync")
    scene.mirror_holds(MIRRORED_TABLE)
    assert any("not known as owned" in reason for reason in scene.status()["reasons"])
    refused = scene.run("forget", "--state", str(scene.state), "--target", "edge", "--yes")
    assert refused.returncode == 1
    ledger.rmdir()
    hidden.rename(ledger)
    scene.mirror_holds([route for route in MIRRORED_TABLE if not route.startswith(removed)])
    eventually_sync(lambda: scene.status()["state"] == "online", what="the end of the trouble")
    assert scene.stop() == 0
    assert len(read_owned(scene.state, "edge")) == len(MIRRORED_TABLE) - 1


def test_commands_say_why_a_ledger_cannot_be_used(tmp_path: Path, scene: World) -> None:
    state = tmp_path / "other"
    (state / "ledger.sqlite").mkdir(parents=True)
    refused = scene.run("forget", "--state", str(state), "--target", "edge", "--yes")
    assert refused.returncode == 1
    assert f"{state}/ledger.sqlite: unable to open database file" in refused.stderr
