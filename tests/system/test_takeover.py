"""A node that is gone, and another one with the same loxilb: the alarm, and the takeover by an operator's word."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from support import forks
from support.broker import Broker, broker
from support.daemon import Daemon, prepared
from support.netns import Namespace, namespace, segment
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CONFIG = """
[node]
name = "{name}"

[policy]
default_action = "drop"

[[policy.rules]]
name = "tens"
action = "keep"
match = {{ prefix = {{ within = "10.0.0.0/8" }} }}

[[targets]]
name = "{target}"
url = "http://192.168.10.20:11111"
startup_hold_s = 0
writers = 2

[mqtt]
host = "192.168.10.2"
heartbeat_s = 5
reconnect_spread_s = 1
keepalive_s = 5
will_delay_s = 1
timeout_s = 3
"""
FIRST, SECOND = "192.168.10.31", "192.168.10.32"
"""The next hops of the two nodes."""
BOTH = [f"10.1.{number}.0/24" for number in range(5)]
ONLY_SECOND = [f"10.2.{number}.0/24" for number in range(15)]


class Pair(NamedTuple):
    """Two nodes, one loxilb, one broker."""

    first: Daemon
    second: Daemon
    loxilb: Namespace
    standin: StandinProcess
    broker: Broker

    def routes(self) -> set[str]:
        """What loxilb's kernel has below 10.0.0.0/8."""
        rows = json.loads(self.loxilb.run(["ip", "-j", "route", "show", "root", "10.0.0.0/8"]))
        return {f"{row['dst']} via {row['gateway']}" for row in rows}

    def takeover(self, *more: str) -> tuple[int, str]:
        """Run it at the first node; return exit status and what it said."""
        arguments = ("takeover", "--node", "node-2", "--target", "lb", "--config", str(self.first.config))
        done = forks.run(
            "routesync",
            [*arguments, *more],
            netns=self.first.netns,
            env=self.first.environment,
            timeout_s=240,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def state_of_second(self) -> str:
        command = self.first.command(
            "mosquitto_sub", "-h", "192.168.10.2", "-t", "routesync/v1/node-2/status", "-C", "1", "-W", "5"
        )
        said = subprocess.run(command, capture_output=True, check=True).stdout
        return str(json.loads(said)["data"]["state"])

    def gone(self) -> None:
        eventually_sync(lambda: self.state_of_second() == "offline", within_s=30, what="node-2 offline")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        one, two, lb = (stack.enter_context(namespace(label)) for label in ("one", "two", "lb"))
        bridge = stack.enter_context(segment((one, "eth0", 10), (two, "eth0", 11), (lb, "eth0", 20)))
        bridge.ip("addr add 192.168.10.2/24 dev br0")
        # Two writers: an inventory of one can meet the ingestion of the other, the limit that docs/loxilb.md names.
        standin = stack.enter_context(running_standin(lb, "--fragile", "off"))
        mosquitto = stack.enter_context(broker(namespace=bridge, address="192.168.10.2"))
        first = stack.enter_context(prepared(CONFIG.format(name="node-1", target="lb"), space=one))
        second = stack.enter_context(prepared(CONFIG.format(name="node-2", target="other-name"), space=two))
        one.batch([f"route add {prefix} via {FIRST}" for prefix in BOTH])
        two.batch([f"route add {prefix} via {SECOND}" for prefix in (*BOTH, *ONLY_SECOND)])
        made = Pair(first, second, lb, standin, mosquitto)
        second.start()
        eventually_sync(lambda: made.routes() == SECONDS, within_s=20, what="the routes of the second node")
        first.start()
        eventually_sync(lambda: reads(made, "manifest", 20), within_s=20, what="its manifest at the broker")
        yield made


SECONDS = {f"{prefix} via {SECOND}" for prefix in (*BOTH, *ONLY_SECOND)}
TAKEN = {f"{prefix} via {FIRST}" for prefix in BOTH}


def reads(made: Pair, part: str, routes: int) -> bool:
    topic = f"routesync/v1/node-2/table/other-name/{part}"
    command = made.first.command("mosquitto_sub", "-h", "192.168.10.2", "-t", topic, "-C", "1", "-W", "5")
    said = subprocess.run(command, capture_output=True, check=False).stdout
    return bool(said) and json.loads(said)["data"]["routes"] == routes


def alarms(daemon: Daemon) -> dict[str, Any]:
    answer = json.loads(daemon.run("status", "--json").stdout)
    return {alarm["kind"]: alarm for alarm in answer["status"]["alarms"]}


def test_a_killed_node_raises_an_alarm_and_its_routes_are_taken_over_once(pair: Pair) -> None:
    status, said = pair.takeover("--yes-node-is-down")
    assert (status, "node-2 is online" in said or "node-2 is degraded" in said) == (1, True), said
    pair.second.kill()
    pair.gone()
    status, said = pair.takeover()
    assert status == 0, said
    assert "node-2 left 20 routes in lb" in said
    assert pair.routes() == SECONDS, "a dry run"
    eventually_sync(lambda: "peer-gone" in alarms(pair.first), within_s=60, what="the alarm peer-gone")
    assert "node node-2 is offline" in alarms(pair.first)["peer-gone"]["detail"]
    eventually_sync(lambda: alarms(pair.first)["peer-gone"]["count"] == 20, what="the routes that it left")
    status, said = pair.takeover("--yes-node-is-down")
    assert (status, said.split(",")[0]) == (0, "lb: 20 routes of node-2 taken over")
    assert pair.routes() == TAKEN
    eventually_sync(lambda: "peer-gone" not in alarms(pair.first), within_s=30, what="the alarm cleared")
    status, said = pair.takeover("--yes-node-is-down")
    assert (status, said.split(",")[:2]) == (
        0,
        ["lb: 0 routes of node-2 taken over", " 20 were not there as its own"],
    )


def test_a_node_that_was_only_paused_adds_its_routes_again_and_nobody_fights(pair: Pair) -> None:
    assert pair.second.process is not None
    pair.second.process.send_signal(signal.SIGSTOP)
    pair.gone()
    assert pair.takeover("--yes-node-is-down")[0] == 0
    assert pair.routes() == TAKEN
    pair.second.process.send_signal(signal.SIGCONT)
    back = TAKEN | {f"{prefix} via {SECOND}" for prefix in ONLY_SECOND}
    eventually_sync(lambda: pair.routes() == back, within_s=60, what="what only the second node wants")
    eventually_sync(lambda: pair.state_of_second() != "offline", within_s=30, what="the second node's word")
    assert pair.takeover("--yes-node-is-down")[0] == 1
    assert pair.routes() == back


def test_a_node_that_only_lost_the_broker_ends_the_takeover(pair: Pair) -> None:
    assert pair.second.space is not None
    pair.second.space.ip("route add unreachable 192.168.10.2/32")
    pair.gone()
    with ThreadPoolExecutor() as threads:
        running = threads.submit(pair.takeover, "--yes-node-is-down")
        eventually_sync(lambda: pair.routes() != SECONDS, within_s=30, what="the first batch")
        assert pair.second.run("resync").returncode == 0
        status, said = running.result()
    assert status == 1
    assert "peer-alive: node-2 added 10." in said
    touched = SECONDS - pair.routes()
    assert len(touched) <= 8, "only those of the first batch"
    status, said = pair.takeover("--yes-node-is-down")
    assert (status, "peer-alive" in said) == (1, True)


def test_it_is_refused_while_the_table_is_not_whole_or_another_node_takes_over(pair: Pair) -> None:
    pair.second.kill()
    pair.gone()

    def publish(topic: str, payload: str) -> None:
        subprocess.run(
            pair.first.command(
                *(
                    "mosquitto_pub",
                    "-h",
                    "192.168.10.2",
                    "-q",
                    "1",
                    "-r",
                    "-t",
                    f"routesync/v1/{topic}",
                    "-m",
                    payload,
                )
            ),
            check=True,
        )

    def retained(topic: str) -> str:
        command = pair.first.command(
            "mosquitto_sub", "-h", "192.168.10.2", "-t", f"routesync/v1/{topic}", "-C", "1", "-W", "5"
        )
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    (note,) = [json.loads(retained("node-2/instance/+"))]
    instance = note["data"]["instance"]
    marker = note | {
        "type": "io.routesync.takeover.v1",
        "source": "/routesync/node-3",
        "data": {"instance": instance, "node": "node-2", "state": "running", "sequence": 1, "left": 0},
    }
    publish(f"node-3/takeover/{instance}/node-2", json.dumps(marker | {"time": now()}))
    status, said = pair.takeover("--yes-node-is-down")
    assert (status, "node-3 takes over from node-2" in said) == (1, True), said
    publish(f"node-3/takeover/{instance}/node-2", json.dumps(marker | {"time": "2026-01-31T12:00:00Z"}))
    assert pair.takeover()[0] == 0, "an old marker"
    names = [f"{number:02x}" for number in range(64)]
    bucket = next(name for name in names if '"10.' in retained(f"node-2/table/other-name/{name}"))
    publish(f"node-2/table/other-name/{bucket}", "")
    status, said = pair.takeover("--yes-node-is-down")
    assert (status, "is not whole" in said) == (1, True), said
    assert pair.routes() == SECONDS


def now() -> str:
    return subprocess.run(
        ["date", "-u", "+%FT%TZ"], capture_output=True, check=True, text=True
    ).stdout.strip()
