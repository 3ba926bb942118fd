"""Retained state: the table in buckets, the manifest that vouches for it, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aiomqtt
from structlog.testing import capture_logs

from routesync.events.models import RouteWithdrawn, SyncCompleted
from routesync.events.node_status import MIN_DEPTH, KernelStatus, State, Status
from routesync.events.retained import STATUS_EXPIRY_S
from support.broker import Broker, broker
from support.events import NODE, TARGET, Heard, Listener, Node, accepted, listening, publishing
from support.waiting import eventually

BUCKETS = 2**MIN_DEPTH
COMPLETED = SyncCompleted(target="lb-1", routes=0, posted=0, deleted=0, duration_s=0)


def rows(listener: Listener) -> dict[str, dict[str, object]]:
    """The table as the last message of each bucket has it."""
    last = {heard.topic: heard for heard in listener.heard if is_bucket(heard)}
    found: dict[str, dict[str, object]] = {}
    for heard in last.values():
        if heard.payload:
            routes = heard.data["routes"]
            assert isinstance(routes, list)
            found |= {row["prefix"]: row for row in routes}
    return found


def is_bucket(heard: Heard) -> bool:
    return "/table/" in heard.topic and not heard.topic.endswith("/manifest")


def buckets(listener: Listener) -> set[str]:
    return {heard.topic for heard in listener.heard if is_bucket(heard) and heard.payload}


def manifests(listener: Listener) -> list[object]:
    """The numbers of routes by the last manifest of each target."""
    last = {heard.topic: heard for heard in listener.heard if heard.topic.endswith("/manifest")}
    return [heard.data["routes"] for heard in last.values() if heard.payload]


def cleared(listener: Listener) -> set[str]:
    return {heard.topic for heard in listener.heard if is_bucket(heard) and not heard.payload}


def serve(node: Node, *, routes: int) -> None:
    node.status = Status(state="online", node=NODE, targets=(TARGET,))
    node.emit(routes)
    node.hub.emit(COMPLETED)


async def test_a_late_listener_finds_the_whole_table_and_its_manifest(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node:
        serve(node, routes=300)
        await node.connected()
        await eventually(lambda: node.outbox.acknowledged == 301)
        async with listening(mosquitto.settings()) as late:
            await eventually(lambda: len(rows(late)) == 300)
            assert (
                len(buckets(late)) == BUCKETS
            )  # empty ones, too: they replace what may stand there from before
            await eventually(lambda: manifests(late) == [300])


async def test_a_table_is_published_when_its_first_comparison_is_complete(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        node.emit(10)
        node.publisher.refresh()
        await eventually(lambda: len(listener.events) == 10)
        assert not buckets(listener)
        node.hub.emit(COMPLETED)
        node.publisher.refresh()
        await eventually(lambda: len(rows(listener)) == 10)


async def test_a_withdrawn_route_leaves_its_bucket(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        serve(node, routes=10)
        await eventually(lambda: len(rows(listener)) == 10)
        route = accepted(1)
        node.hub.emit(
            RouteWithdrawn(
                target=route.target,
                prefix=route.prefix,
                family="ipv4",
                gateway=route.gateway,
                reason="no-route",
            )
        )
        await eventually(lambda: route.prefix not in rows(listener))
        assert len(rows(listener)) == 9


async def test_a_broker_that_lost_its_memory_gets_everything_again(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node:
        serve(node, routes=50)
        await node.connected()
        await eventually(lambda: node.outbox.acknowledged == 51)
        await asyncio.to_thread(mosquitto.restart)
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: len(rows(listener)) == 50 and len(buckets(listener)) == BUCKETS)
            await eventually(lambda: listener.states[-1:] == ["online"])


async def test_what_a_former_name_left_behind_is_cleared(mosquitto: Broker, tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        serve(node, routes=5)
        await node.connected()
        await eventually(lambda: node.outbox.acknowledged == 6)
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: len(buckets(listener)) == BUCKETS)
    async with publishing(mosquitto.settings(), outbox_path=file, node="renamed") as node:
        node.status = Status(state="online", node="renamed")
        await node.connected()

        async def only_the_new_name() -> bool:
            async with listening(mosquitto.settings(), "routesync/v1/+/status") as marker:
                await eventually(lambda: bool(marker.heard))
                return {heard.topic for heard in marker.heard} == {"routesync/v1/renamed/status"}

        await eventually(only_the_new_name)
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: "online" in listener.states)
            assert not buckets(listener)


async def test_a_target_that_is_no_longer_configured_is_cleared(mosquitto: Broker, tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        serve(node, routes=5)
        await node.connected()
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: len(buckets(listener)) == BUCKETS)
    async with listening(mosquitto.settings()) as listener:
        await eventually(lambda: len(buckets(listener)) == BUCKETS)
        async with publishing(mosquitto.settings(), outbox_path=file) as node:
            node.status = Status(state="online", node=NODE)
            await eventually(lambda: len(cleared(listener)) == BUCKETS)
            await node.connected()


async def test_a_configured_target_that_is_not_back_yet_keeps_its_last_known_table(
    mosquitto: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "outbox.sqlite"
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        serve(node, routes=5)
        await node.connected()
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: len(buckets(listener)) == BUCKETS)
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        node.status = Status(state="degraded", node=NODE, targets=(TARGET,))
        await node.connected()
        node.publisher.refresh()
        async with listening(mosquitto.settings()) as listener:
            await eventually(lambda: listener.states[-1:] == ["degraded"])
            await eventually(lambda: len(rows(listener)) == 5)


async def test_a_target_taken_out_while_it_runs_is_cleared(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        serve(node, routes=5)
        await eventually(lambda: len(rows(listener)) == 5 and manifests(listener) == [5])
        node.status = Status(state="online", node=NODE)
        await eventually(lambda: len(cleared(listener)) == BUCKETS and manifests(listener) == [])
        async with listening(mosquitto.settings()) as late:
            await eventually(lambda: late.states[-1:] == ["online"])  # the one before may come first
            assert not buckets(late)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from routesync.config.models import MqttSettings
from support.events import publishing

async def main() -> None:
    settings = MqttSettings(host=sys.argv[1], port=int(sys.argv[2]), will_delay_s=1)
    async with publishing(settings, outbox_path=Path(sys.argv[3]), node="former") as node:
        await node.connected()
        while "routesync/v1/former/status" not in await node.outbox.retained():
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_the_last_will_of_a_former_name_is_cleared_too(mosquitto: Broker, tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    killed = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED,
        mosquitto.address,
        str(mosquitto.port),
        file,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert await killed.wait() == -9
    settings = mosquitto.settings(will_delay_s=1).model_copy(update={"keepalive_s": 1})
    former = "routesync/v1/former/status"
    async with (
        listening(mosquitto.settings(), former) as listener,
        publishing(settings, outbox_path=file, node="renamed") as node,
    ):
        await eventually(lambda: listener.states_or_cleared[-2:] == ["offline", ""])
        await eventually_gone(node, former)
    async with listening(mosquitto.settings()) as late:
        await eventually(lambda: late.states == ["offline"])  # of the new name alone
        assert {heard.topic for heard in late.heard if heard.payload} == {"routesync/v1/renamed/status"}


async def eventually_gone(node: Node, topic: str) -> None:
    async def gone() -> bool:
        return topic not in await node.outbox.retained()

    await eventually(gone)


async def test_what_may_not_be_cleared_is_said(tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    acl = "user one\ntopic write routesync/v1/one/#\nuser two\ntopic write routesync/v1/two/#\n"
    with broker(users={"one": "1", "two": "2"}, acl=acl) as guarded, capture_logs() as logs:
        one = guarded.settings(username="one", password="1")
        async with publishing(one, outbox_path=file, node="one") as node:
            await node.connected()
            await eventually(
                lambda: bool(node.publisher._delivery and node.publisher._delivery._retained._remembered)
            )
        two = guarded.settings(username="two", password="2")
        async with publishing(two, outbox_path=file, node="two"):
            await eventually(lambda: any(line["event"] == "retained_state_stays" for line in logs))
    (line,) = [line for line in logs if line["event"] == "retained_state_stays"]
    assert line["first"].startswith("routesync/v1/one/")


async def test_retained_messages_can_be_told_apart_without_parsing(mosquitto: Broker) -> None:
    async with (
        aiomqtt.Client(mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
        publishing(mosquitto.settings()) as node,
    ):
        await client.subscribe("routesync/+/+/status", qos=1)
        await client.subscribe("routesync/+/+/table/#", qos=1)
        serve(node, routes=1)
        found: dict[str, object] = {}
        async for message in client.messages:
            kind = message.topic.value.split("/")[3]
            found[kind] = vars(message.properties)["UserProperty"]
            if len(found) == 2:
                break
        assert found == {
            "status": [("type", "io.routesync.status.v1")],
            "table": [("type", "io.routesync.table.v1"), ("target", "lb-1")],
        }


async def test_the_status_is_published_again_with_every_heartbeat_and_its_age_can_be_told(
    mosquitto: Broker,
) -> None:
    settings = mosquitto.settings().model_copy(update={"heartbeat_s": 1})
    async with listening(mosquitto.settings()) as listener, publishing(settings) as node:
        await eventually(lambda: listener.states == ["online"] * 3)
        times = {str(heard.data["time"]) for heard in listener.heard}
        assert len(times) == 3
        assert {(heard.data["heartbeat_s"], heard.data["expiry_s"]) for heard in listener.heard} == {
            (1, STATUS_EXPIRY_S)
        }
        await node.connected()
    async with (
        publishing(mosquitto.settings()),
        aiomqtt.Client(mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
    ):
        await client.subscribe(f"routesync/v1/{NODE}/status", qos=1)
        message = await anext(aiter(client.messages))
        while json.loads(bytes(message.payload))["data"]["state"] == "offline":
            message = await anext(aiter(client.messages))
        assert STATUS_EXPIRY_S - 10 <= vars(message.properties)["MessageExpiryInterval"] <= STATUS_EXPIRY_S


async def test_a_node_where_nothing_happens_publishes_heartbeats_only(mosquitto: Broker) -> None:
    """That a proof is a second older, or the kernel's lag another, is no news."""
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        for number in range(5):
            target = TARGET.model_copy(update={"proved_s": float(number), "remaining_s": 9.0 - number})
            kernel = KernelStatus(state="synced", lag_ms=number)
            state: State = "degraded" if number == 4 else "online"
            node.status = Status(state=state, node=NODE, targets=(target,), kernel=kernel)
            node.publisher.refresh()
            asked = node.asked
            await eventually(lambda before=asked: node.asked > before + 1)  # type: ignore[misc]
        await eventually(lambda: listener.states[-1:] == ["degraded"])
        assert listener.states == ["online", "degraded"]


async def test_the_last_word_of_a_node_does_not_expire(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node:
        await node.connected()
    async with aiomqtt.Client(
        mosquitto.address, mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        await client.subscribe(f"routesync/v1/{NODE}/status", qos=1)
        message = await anext(aiter(client.messages))
        data = json.loads(bytes(message.payload))["data"]
        assert (data["state"], data["expiry_s"]) == ("offline", None)
        assert "MessageExpiryInterval" not in vars(message.properties)
