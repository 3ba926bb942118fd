"""doctor on real hosts: namespaces with the founding table, a stand-in, a broker, and a daemon or none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.daemon import ROUTESYNC
from support.standin import running_standin
from support.waiting import eventually_sync
from support.world import World, world


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One in which no daemon is ever started."""
    with world(tmp_path_factory.mktemp("idle")) as made:
        yield made


def doctor(
    scene: World, *arguments: str, confined: bool = False
) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Run it in the node; give its status and its findings by check."""
    command = ("doctor", "--json", *arguments)
    if confined:
        done = subprocess.run(
            scene.command("setpriv", "--bounding-set=-all", "--inh-caps=-all", *ROUTESYNC, *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    else:
        done = scene.run(*command)
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in answer["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    assert done.returncode == {"ok": 0, "warn": 1, "fail": 2}[answer["level"]]
    return done.returncode, found


def ours(scene: World) -> list[str]:
    return ["--config", str(scene.config), "--state", str(scene.state)]


@contextmanager
def process_named(scene: World, name: str) -> Iterator[int]:
    """A process in the node that the kernel knows by this name."""
    pr_set_name = "ctypes.CDLL(None).prctl(15, sys.argv[1].encode())"
    script = f"import ctypes, sys, time; {pr_set_name}; print(flush=True); time.sleep(99)"
    command = scene.command(sys.executable, "-c", script, name)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_before_there_is_any_configuration(idle: World, tmp_path: Path) -> None:
    status, found = doctor(idle, "--config", str(tmp_path / "none.toml"), "--state", str(tmp_path / "none"))
    assert status == 1
    assert found["config"][0]["level"] == "warn"
    (route,) = found["dhcp-host-routes"]
    assert route["subject"] == "192.168.10.1/32"
    assert "ens3" in route["summary"]
    assert "not known" in route["summary"]
    assert route["level"] == "ok", "the shipped rules drop it"
    assert "rule dhcp-host-routes drops it" in route["why"]
    assert any("ip route del 192.168.10.1/32 dev ens3" in step for step in route["remedy"])


def test_a_loxilb_that_shares_the_namespace_is_found_and_its_version_weighed(
    idle: World, tmp_path: Path
) -> None:
    nothing = ["--config", str(tmp_path / "none.toml"), "--state", str(tmp_path / "none")]
    node = idle.node
    for release, level in (("0.9.1", "fail"), ("0.9.8.8", "ok")):
        with running_standin(node, "--loxilb-version", release), process_named(idle, "loxilb") as pid:
            _, found = doctor(idle, *nothing)
        assert [finding["subject"] for finding in found["shared-namespace"]] == [f"process {pid}"]
        assert found["dhcp-host-routes"][0]["level"] == level, release
        assert found["target"][-1]["level"] == {"fail": "warn"}.get(level, level)


def test_a_running_dhcp_client_is_named_as_far_as_is_known(idle: World, tmp_path: Path) -> None:
    with process_named(idle, "dhcpcd"):
        _, found = doctor(idle, "--config", str(tmp_path / "none.toml"), "--state", str(tmp_path / "none"))
    assert "probably written by dhcpcd" in found["dhcp-host-routes"][0]["summary"]


def test_a_host_in_good_health_with_its_daemon_running(scene: World) -> None:
    status, found = doctor(scene, *ours(scene))
    assert status == 1
    assert found["daemon"][0]["level"] == "warn"
    assert "accepts publishes to" in found["broker"][0]["summary"]

    scene.config = Path(os.path.relpath(scene.config))
    scene.start()
    eventually_sync(lambda: bool(scene.of("sync.completed", "edge")), within_s=20, what="the sync")
    assert scene.process is not None
    (synced,) = scene.logged("target_synced")
    assert (synced["posted"], synced["routes"], synced["complete"]) == (5, 5, True)
    status, found = doctor(scene, *ours(scene))
    bad = [finding for findings in found.values() for finding in findings if finding["level"] != "ok"]
    assert bad == []
    assert str(scene.process.pid) in found["daemon"][0]["summary"]
    assert "answers" in found["target"][0]["summary"]
    assert "of its own" in found["shared-namespace"][0]["summary"]
    assert "5 desired ipv4 routes" in found["capacity"][0]["summary"]
    assert "5 owned routes in 1 target" in found["ledger"][0]["summary"]
    assert "the daemon is connected" in found["broker"][0]["summary"]
    status = json.loads(scene.run("status", "--json").stdout)
    assert status["config"]["path"] == str(scene.config.absolute()), "doctor elsewhere finds it"
    for arguments in (ours(scene), ["--state", str(scene.state)]):
        _, found = doctor(scene, *arguments, "--no-contact")
        assert [it["summary"].split()[0] for it in found["config"]] == [str(scene.config.absolute())]
    assert scene.stop() == 0, "it was left undisturbed"


def test_a_daemon_that_gives_no_answer_is_described_by_its_lock(scene: World) -> None:
    with running(scene) as process:
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        done = scene.run("status", STATE_DIRECTORY=str(scene.state))
        assert time.monotonic() - began < 30, (
            "2 s, and what a busy machine adds; a command waits for 60 s else"
        )
        assert done.returncode == 1
        assert "no response in time" in done.stderr
        assert f"daemon   runs, process {process.pid}, by the lock on {scene.state}" in done.stdout
        assert f"kill -CONT {process.pid}" in done.stdout
        assert "owned: 5 routes in edge" in done.stdout
        status, found = doctor(scene, *ours(scene))
        assert (status, found["daemon"][0]["level"]) == (2, "fail")
        assert found["daemon"][0]["remedy"] == [f"kill -CONT {process.pid}"]
        process.send_signal(signal.SIGCONT)

        scene.config.write_text(scene.config.read_text() + "[[targets\n")
        assert scene.run("reload").returncode == 78
        (refused,) = doctor(scene, "--state", str(scene.state))[1]["daemon"]
        assert "configuration rejected" in refused["why"]

        scene.runtime.rename(scene.directory / "moved")
        scene.runtime.touch()  # or the daemon makes the directory again
        for command in ("status", "resync"):
            done = scene.run(command, STATE_DIRECTORY=str(scene.state))
            assert done.returncode == 1
            assert f"routesync runs (process {process.pid}, it has the lock" in done.stderr
        _, found = doctor(scene, *ours(scene))
        assert "does not serve its control socket" in found["daemon"][0]["summary"]


@contextmanager
def running(scene: World) -> Iterator[subprocess.Popen[bytes]]:
    process = scene.start()
    eventually_sync(lambda: bool(scene.of("sync.completed", "edge")), within_s=20, what="the sync")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)


def test_what_went_wrong_on_the_disk(scene: World) -> None:
    scene.start()
    eventually_sync(lambda: bool(scene.of("sync.completed", "edge")), within_s=20, what="the sync")
    scene.stop()
    ledger = scene.state / "ledger.sqlite"
    os.chown(scene.state, 12345, -1)
    scene.state.chmod(0o777)
    _, found = doctor(scene, *ours(scene))
    assert found["ledger"][0]["level"] == "ok", (
        "any user may write the directory: whose the file is, shows nothing"
    )
    scene.state.chmod(0o750)
    _, found = doctor(scene, *ours(scene))
    assert "belongs to root, and is not writable by 12345" in found["ledger"][0]["summary"]

    os.chown(scene.state, 0, -1)
    scene.config.write_text(scene.config.read_text().replace('name = "edge"', 'name = "other"'))
    _, found = doctor(scene, *ours(scene))
    assert found["orphans"][0]["subject"] == "edge"
    assert any("withdraw --target edge" in step for step in found["orphans"][0]["remedy"])

    ledger.write_bytes(b"x" * 4096)
    status, found = doctor(scene, *ours(scene), "--no-contact")
    assert status == 2
    assert "damaged" in found["ledger"][0]["summary"]
    assert any("adopt" in step for step in found["ledger"][0]["remedy"])


def test_without_privilege_it_says_what_it_cannot_see(scene: World) -> None:
    scene.start()
    scene.stop()
    nobody = 65534
    os.chown(scene.state, nobody, -1)
    scene.state.chmod(0o700)
    _, found = doctor(scene, *ours(scene), "--no-contact", confined=True)
    assert "no daemon runs" in found["daemon"][0]["summary"], "the directory's lock is seen from outside"
    assert "Permission denied" in found["ledger"][0]["summary"]
    assert found["kernel"][0]["level"] == "ok", "reading routes needs no privilege"
    assert found["dhcp-host-routes"][0]["subject"] == "192.168.10.1/32"


def test_an_invalid_file_is_reported_line_by_line_and_the_rest_is_checked(
    idle: World, tmp_path: Path
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text('[polcy]\n[mqtt]\nport = "many"\n')
    status, found = doctor(idle, "--config", str(file), "--state", str(tmp_path))
    assert status == 2
    assert len(found["config"]) >= 2
    assert all(finding["level"] == "fail" for finding in found["config"])
    assert found["dhcp-host-routes"][0]["subject"] == "192.168.10.1/32"


def test_people_get_lines_that_they_can_read(idle: World) -> None:
    done = idle.run("doctor", "--no-contact", *ours(idle))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1].endswith(" fail")
    assert any(line.startswith("warn  daemon") for line in lines)
    assert any(line.strip() == "-> systemctl start routesync" for line in lines)
    assert "\x1b" not in done.stdout
