"""The events over the control socket: the same as over MQTT, and no reader holds the daemon up."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from support import forks
from support.daemon import ROUTESYNC, Daemon, connect, prepared
from support.netns import Namespace, namespace
from support.processes import WITH_CTRL_C
from support.waiting import eventually_sync

TARGET = '[node]\nname = "n"\n[[targets]]\nname = "lb"\nurl = "http://127.0.0.1:9"\n[log]\nlevel = "debug"\n'
LOST = "io.routesync.stream.lost.v1"


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespace("stream") as made:
        made.batch(
            [
                "link add d0 type veth peer name p0",
                "link set p0 up",
                "addr add 192.0.2.1/24 dev d0",
                "link set d0 up",
            ]
        )
        yield made


@pytest.fixture
def daemon(space: Namespace) -> Iterator[Daemon]:
    with prepared(TARGET, space=space) as made:
        made.start()
        made.serves()
        # the connected route is ineligible: an event that belongs to the start, not to what a test does
        eventually_sync(lambda: '"nothing-mirrored"' in made.log(), what="the alarm that nothing is mirrored")
        yield made
    while Stream.opened:  # those of a test that failed
        Stream.opened.pop().close()


class Stream:
    """A reader of the events in its plainest form."""

    opened: ClassVar[list[Stream]] = []

    def __init__(self, path: Path, query: str = "") -> None:
        self._socket = connect(path)
        self.opened.append(self)
        self._socket.sendall(f"GET /v1/events{query} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.head = self._read_head()

    def _read_head(self) -> list[bytes]:
        head = []
        while (line := self._file.readline()).strip():
            head.append(line)
        return head

    def next(self) -> dict[str, Any]:
        """The next message; waits for it."""
        message: dict[str, Any] = json.loads(self._file.readline())
        return message

    def until(self, kind: str) -> dict[str, Any]:
        while (message := self.next())["type"] != f"io.routesync.{kind}.v1":
            pass
        return message

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_first_comes_the_status_then_each_event_as_over_mqtt(space: Namespace, daemon: Daemon) -> None:
    stream = Stream(daemon.socket)
    assert b"200 OK" in stream.head[0]
    assert any(b"application/x-ndjson" in line for line in stream.head)
    status = stream.next()
    assert status["type"] == "io.routesync.status.v1"
    assert status["data"]["state"] == "degraded"
    space.ip("route add 10.1.0.0/16 dev d0")
    ineligible = stream.until("route.ineligible")
    assert ineligible["subject"] == "10.1.0.0/16"
    assert ineligible["source"] == "/routesync/n"
    assert int(ineligible["sequence"]) > 0
    assert ineligible["data"]["reason"] == "no-gateway"
    assert daemon.call("POST", "/v1/pause").status == 200
    assert "paused" in str(stream.until("status")["data"]["reasons"])
    stream.close()


def test_only_what_is_asked_for_comes(space: Namespace, daemon: Daemon) -> None:
    stream = Stream(daemon.socket, "?type=route.*&within=10.2.0.0/16")
    space.batch(["route add 10.1.0.0/16 dev d0", "route add 10.2.3.0/24 dev d0"])
    first = stream.next()
    assert (first["type"], first["subject"]) == ("io.routesync.route.ineligible.v1", "10.2.3.0/24")
    stream.close()


def test_who_comes_back_gets_what_was_missed_or_learns_that_it_is_lost(
    space: Namespace, daemon: Daemon
) -> None:
    stream = Stream(daemon.socket, "?type=route.*")
    space.ip("route add 10.1.0.0/16 dev d0")
    last = stream.next()["id"]
    stream.close()
    space.ip("route add 10.2.0.0/16 dev d0")
    eventually_sync(lambda: "10.2.0.0/16" in daemon.log(), what="the second event")
    again = Stream(daemon.socket, f"?type=route.*&after={last}")
    assert again.next()["subject"] == "10.2.0.0/16"
    again.close()

    stranger = Stream(daemon.socket, "?type=route.*&after=another-17")
    assert stranger.next()["data"] == {"count": None}
    stranger.close()


def test_many_readers_that_went_away_leave_nothing_behind(daemon: Daemon) -> None:
    for _ in range(3):
        crowd = [Stream(daemon.socket) for _ in range(32)]
        with connect(daemon.socket) as one_more:
            one_more.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
            assert b"503" in one_more.recv(4096)
        for stream in crowd:
            stream.close()

        def has_room() -> bool:
            stream = Stream(daemon.socket)
            stream.close()
            return b"200" in stream.head[0]

        eventually_sync(has_room, what="room for the next")
        eventually_sync(lambda: free_places(daemon) == 32, what="room for all")


def free_places(daemon: Daemon) -> int:
    streams = [Stream(daemon.socket) for _ in range(32)]
    free = sum(b"200" in stream.head[0] for stream in streams)
    for stream in streams:
        stream.close()
    return free


def test_a_daemon_that_stops_lets_its_readers_go(daemon: Daemon) -> None:
    stream = Stream(daemon.socket)
    stream.next()
    assert daemon.stop() == 0
    stream._file.read()  # to its end
    stream.close()
    assert "task_did_not_stop" not in daemon.log()


# -- watch ---------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*WITH_CTRL_C, *ROUTESYNC, "watch", "--local", "--json", "--type", "route.*", "--type", "status"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=daemon.environment,
    )
    yield process
    process.kill()
    process.communicate()


def message(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    read: dict[str, Any] = json.loads(process.stdout.readline())
    return read


def test_watch_needs_no_broker_and_survives_the_daemon(
    space: Namespace, daemon: Daemon, watching: subprocess.Popen[str]
) -> None:
    assert message(watching)["type"] == "io.routesync.status.v1"
    space.ip("route add 10.1.0.0/16 dev d0")
    while (seen := message(watching))["type"] == "io.routesync.status.v1":
        pass
    assert seen["data"]["prefix"] == "10.1.0.0/16"
    daemon.kill()
    assert watching.stderr is not None
    assert "the daemon is gone; waiting for it to come back" in watching.stderr.readline()
    daemon.start()
    types = [message(watching)["type"] for _ in range(2)]
    assert set(types) <= {"io.routesync.status.v1", LOST, "io.routesync.route.ineligible.v1"}
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 0


def test_watch_without_a_daemon_says_so_and_ends(tmp_path: Path) -> None:
    done = forks.run("routesync", ["watch", "--local", "--socket", str(tmp_path / "none.sock")])
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("routesync: routesync does not run here: there is no ")


def test_watch_asks_the_daemon_where_no_broker_is_configured(daemon: Daemon) -> None:
    command = ("watch", "--config", str(daemon.config), "--type", "status")
    process = forks.start("routesync", command, stdout=subprocess.PIPE, env=daemon.environment)
    try:
        assert process.stdout is not None
        assert b" n status degraded" in process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
