"""`routesync fleet`: nodes by state, who has a prefix, whose tables differ."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from routesync.events.models import SyncCompleted
from routesync.events.node_status import Status, TargetStatus
from support import forks
from support.broker import Broker, broker
from support.events import Node, accepted, listening, publishing
from support.fleet import FleetNode, publish
from support.waiting import eventually

COMPLETED = SyncCompleted(target="lb-1", routes=0, posted=0, deleted=0, duration_s=0)


async def fleet(mosquitto: Broker, *arguments: str) -> tuple[int, str, str]:
    """Run it; return exit status, output and errors."""
    command = ("fleet", "--broker", f"{mosquitto.address}:{mosquitto.port}", *arguments)
    done = await asyncio.to_thread(forks.run, "routesync", command, env=os.environ | {"COLUMNS": "200"})
    return done.returncode, done.stdout, done.stderr


async def answer(mosquitto: Broker, *arguments: str) -> tuple[int, Any]:
    """Run it with --json; return exit status and answer."""
    status, said, errors = await fleet(mosquitto, *arguments, "--json")
    assert not errors
    return status, json.loads(said)


@asynccontextmanager
async def nodes(mosquitto: Broker, tables: dict[str, Sequence[int]]) -> AsyncIterator[dict[str, Node]]:
    """Nodes with these routes; their tables are published."""
    async with AsyncExitStack() as stack:
        made: dict[str, Node] = {}
        for name, routes in tables.items():
            node = made[name] = await stack.enter_async_context(publishing(mosquitto.settings(), node=name))
            target = TargetStatus(
                name="lb-1",
                url="u",
                state="synced",
                desired=len(routes),
                phases={"present": 1, "confirmed": 1},
            )
            node.status = Status(
                state="online", node=name, version="1.0.0", targets=(target,), labels={"site": name[-1]}
            )
            for number in routes:
                node.hub.emit(accepted(number))
            node.hub.emit(COMPLETED)
        async with listening(mosquitto.settings(), "routesync/v1/+/table/+/manifest") as listener:
            await eventually(lambda: {heard.topic.split("/")[2] for heard in listener.heard} == {*tables})
        yield made


async def test_nodes_are_shown_by_state_with_reason_age_and_figures(mosquitto: Broker) -> None:
    async with nodes(mosquitto, {"node-a": range(3), "node-b": range(2)}) as made:
        assert (await fleet(mosquitto))[0] == 0
        made["node-b"].status = made["node-b"].status.model_copy(
            update={
                "state": "degraded",
                "reasons": ("target lb-1: [red]no\x1b[31m",),
                "since": datetime.fromtimestamp(time.time() - 3700, UTC),
            }
        )
        made["node-b"].publisher.refresh()
        await eventually(lambda: states_are(mosquitto, {"node-a": "online", "node-b": "degraded"}))
        status, said, _ = await fleet(mosquitto)
        assert status == 1
        summary, row = said.splitlines()
        assert summary == "2 nodes: 1 degraded, 1 online; 4 of 5 routes mirrored; 2 with 1.0.0"
        assert row.split()[:2] == ["node-b", "degraded"]
        assert row.endswith("for 1 h 1 min: target lb-1: [red]no\\x1b[31m [site=b]")
        status, (one,) = await answer(mosquitto, "--label", "site=a")
        assert (status, one["node"], one["labels"]) == (0, "node-a", {"site": "a"})
        assert one["age_s"] < 60
        assert one["mirrored"] == 2


async def test_a_node_that_is_missing_is_named_and_is_not_well(mosquitto: Broker) -> None:
    async with nodes(mosquitto, {"node-a": range(2)}):
        for command in ([], ["diff"]):
            status, said, errors = await fleet(
                mosquitto, "-n", "node-a", "-n", "gone", "-n", "lost", *command
            )
            assert (status, "1 node" in said) == (1, True)
            assert errors.splitlines() == [
                f"routesync: the broker has no status of {name}: is that its name?"
                for name in ("gone", "lost")
            ]
            status, _, errors = await fleet(mosquitto, "--label", "site=x", "--label", "rack=7", *command)
            assert status == 1
            assert errors == "routesync: none of 1 node has the label site=x and rack=7\n"
        status, _, errors = await fleet(mosquitto, "-n", "gone", "-n", "lost")
        assert (status, "has no status of gone or lost below routesync/v1: " in errors) == (3, True)
        assert (await fleet(mosquitto, "-n", "node-a"))[0] == 0


async def test_a_status_that_is_none_is_named_and_its_node_may_be_missing(mosquitto: Broker) -> None:
    envelope = {"id": "1", "source": "/routesync/odd", "type": Status.type_name, "epoch": "e", "data": {}}
    states = {"raw": b"\x00", "odd": json.dumps(envelope | {"time": "yesterday"}).encode()}
    async with aiomqtt.Client(mosquitto.address, mosquitto.port) as client:
        for node, payload in states.items():
            await client.publish(f"routesync/v1/{node}/status", payload, qos=1, retain=True)
    status, _, errors = await fleet(mosquitto, "-n", "raw")
    assert (status, "has as status of raw is no message of routesync; " in errors) == (3, True)
    async with nodes(mosquitto, {"node-a": range(2)}):
        for chosen in ([], ["-n", "node-a", "-n", "raw", "-n", "odd"]):
            status, said, errors = await fleet(mosquitto, *chosen)
            assert (status, "1 node: 1 online" in said) == (1, True)
            assert "has as status of odd, raw is no message of routesync; " in errors
            assert "is that its name" not in errors


async def states_are(mosquitto: Broker, wanted: dict[str, str]) -> bool:
    _, found = await answer(mosquitto)
    return {node["node"]: node["state"] for node in found} == wanted


async def test_a_node_that_died_with_its_broker_is_silent(mosquitto: Broker) -> None:
    status = Status(state="online", node="gone", heartbeat_s=1, expiry_s=1000).model_dump(mode="json")
    message = {
        "id": "1",
        "source": "/routesync/gone",
        "type": Status.type_name,
        "time": "2026-01-31T12:00:00Z",
        "epoch": "e",
        "data": status,
    }
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
    properties.MessageExpiryInterval = 1000
    async with aiomqtt.Client(
        mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        topic = "routesync/v1/gone/status"
        await client.publish(topic, json.dumps(message), qos=1, retain=True, properties=properties)
    await eventually(lambda: states_are(mosquitto, {"gone": "silent"}), within_s=30)
    assert (await fleet(mosquitto))[0] == 1


async def test_who_has_a_prefix_over_tables_of_different_depth(mosquitto: Broker) -> None:
    small, large = range(5), range(3000)  # 64 and 256 buckets
    async with nodes(mosquitto, {"small": small, "large": large, "without": [9000]}):
        route = accepted(4)
        status, found = await answer(mosquitto, "who-has", route.prefix)
        assert status == 0
        assert [(row["node"], row["target"], row["gateway"]) for row in found["has"]] == [
            ("large", "lb-1", "192.0.2.1"),
            ("small", "lb-1", "192.0.2.1"),
        ]
        assert found["has_not"] == [["without", "lb-1"]]
        assert found["unknown"] == []
        status, found = await answer(mosquitto, "who-has", route.prefix.removesuffix("/32"))
        assert [row["prefix"] for row in found["has"]] == [route.prefix] * 2
        assert (await fleet(mosquitto, "who-has", "10.99.0.0/16"))[0] == 1
        status, said, _ = await fleet(mosquitto, "who-has", "10.0.0.9")
        assert said.splitlines()[-1] == "1 table has a route to 10.0.0.9, 2 not"
        _, _, errors = await fleet(mosquitto, "who-has", "10.0.0.1/8")
        assert "has host bits set" in errors


async def test_a_bucket_that_is_missing_at_the_broker_makes_the_answer_unknown(mosquitto: Broker) -> None:
    async with nodes(mosquitto, {"node-a": range(5)}):
        async with aiomqtt.Client(mosquitto.address, mosquitto.port) as client:
            for number in range(64):
                await client.publish(f"routesync/v1/node-a/table/lb-1/{number:02x}", b"", qos=1, retain=True)
        status, found = await answer(mosquitto, "who-has", accepted(4).prefix)
        assert (status, found) == (1, {"has": [], "has_not": [], "unknown": [["node-a", "lb-1"]]})


async def test_tables_that_differ_are_found_by_one_look(mosquitto: Broker) -> None:
    async with nodes(mosquitto, {"node-a": range(5), "node-b": range(5), "node-c": range(4)}):
        status, found = await answer(mosquitto, "diff")
        assert status == 1
        assert [(it["routes"], it["nodes"]) for it in found["lb-1"]] == [
            (5, ["node-a", "node-b"]),
            (4, ["node-c"]),
        ]
        for command in (["diff"], ["diff", "node-a", "node-c"], ["who-has", "10.0.0.4"]):
            before, after = (
                await fleet(mosquitto, "--json", *command),
                await fleet(mosquitto, *command, "--json"),
            )
            assert before == after
            assert json.loads(before[1])
        assert (await fleet(mosquitto, "diff", "node-a", "node-b"))[0] == 0
        status, said, _ = await fleet(mosquitto, "diff", "node-a", "node-c")
        assert status == 1
        assert said.splitlines()[0].split() == ["lb-1", "10.0.0.4/32", "node-a:", "192.0.2.1", "node-c:", "-"]
        assert (await fleet(mosquitto, "diff", "node-a", "nobody"))[0] == 1
        assert (await fleet(mosquitto, "diff", "node-a"))[0] == 2


async def test_a_broker_that_does_not_answer_or_has_no_node_is_another_exit_status(mosquitto: Broker) -> None:
    status, _, errors = await fleet(mosquitto)
    assert (status, "has no status of any node" in errors) == (3, True)
    mosquitto.kill()
    status, _, errors = await fleet(mosquitto)
    assert (status, "Connection refused; check --broker" in errors) == (3, True)


async def test_a_prefix_that_is_none_is_its_nodes_fault(mosquitto: Broker) -> None:
    made = [FleetNode("good", {"10.0.0.0/8": "192.0.2.1"}), FleetNode("bad", {"10.0.0.0/33": "192.0.2.1"})]
    states = [it for node in made for it in (node.status(), *node.table())]
    await asyncio.to_thread(publish, mosquitto.settings(), states)
    status, said, errors = await fleet(mosquitto, "diff", "good", "bad")
    assert (status, said) == (1, "")
    assert errors.startswith("routesync: bad publishes an invalid prefix: '10.0.0.0/33' ")


HOSTILE = [b"", b"x", b"[]", b"{}", b"\xff", b'{"data": 7}', b"null"]


@pytest.mark.parametrize("command", [[], ["who-has", "10.0.0.1"], ["diff"], ["diff", "n", "m"]])
async def test_nothing_at_the_broker_ends_it_with_a_traceback(command: list[str]) -> None:
    envelope = {"id": "1", "source": "/routesync/n", "time": "2026-01-31T12:00:00Z", "epoch": "e"}
    with broker() as mosquitto:
        async with aiomqtt.Client(mosquitto.address, mosquitto.port) as client:
            for number, place in enumerate(("status", "table/t/manifest", "table/t/2a", "table/t/zz")):
                for node, bad in enumerate(HOSTILE):
                    await client.publish(f"routesync/v1/n{number}{node}/{place}", bad, qos=1, retain=True)
                kind = ["status", "manifest", "table", "table"][number]
                data = {
                    "state": "online",
                    "node": "n",
                    "target": "t",
                    "depth": 6,
                    "routes": 3
                    if kind == "manifest"
                    else [{"prefix": "x\ny", "gateway": "g", "state": "accepted"}],
                    "bucket": place[-2:],
                    "sequence": 1,
                    "digest": "",
                    "routes_digest": "",
                    "sequences": [],
                    "digests": [],
                }
                message = envelope | {"type": f"io.routesync.{kind}.v1", "data": data}
                await client.publish(f"routesync/v1/n/{place}", json.dumps(message), qos=1, retain=True)
        status, _, errors = await fleet(mosquitto, *command)
        assert status in (0, 1)
        assert "Traceback" not in errors
