"""Retained state: the table in buckets, the manifest that vouches for it, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from pathlib import Path

import aiomqtt
import pytest
from structlog.testing import capture_logs

from routesync.events.models import RouteWithdrawn, SyncCompleted
from routesync.events.node_status import MIN_DEPTH, KernelStatus, State, Status
from routesync.events.retained import STATUS_EXPIRY_S
from support.broker import Broker, broker
from support.events import NODE, TARGET, UNHURRIED, Listener, Node, accepted, listening, publishing
from support.retained import is_bucket, is_whole, rows
from support.waiting import eventually

BUCKETS = 2**MIN_DEPTH
COMPLETED = SyncCompleted(target="lb-1", routes=0, posted=0, deleted=0, duration_s=0)


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


def sent(node: Node) -> int:
    """How many buckets were sent to the broker since the start, tables of all connections together."""
    return sum(table.mark for table in node.publisher._tables)


async def whole(node: Node, mosquitto: Broker, *, routes: int) -> None:
    """Wait until the broker has the table and its manifest."""
    await node.connected()
    async with listening(mosquitto.settings()) as listener:
        await eventually(lambda: len(rows(listener)) == routes and manifests(listener) == [routes])


@pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
async def test_a_new_connection_publishes_only_the_buckets_that_the_broker_lacks(
    mosquitto: Broker, protocol: str
) -> None:
    settings = mosquitto.settings(protocol=protocol)
    async with publishing(settings, backoff=UNHURRIED) as node, listening(mosquitto.settings()) as follower:
        serve(node, routes=300)
        await whole(node, mosquitto, routes=300)
        before = sent(node)
        await cut(node)
        node.hub.emit(accepted(1, gateway="192.0.2.99"))
        prefix = accepted(1).prefix
        await eventually(lambda: rows(follower)[prefix]["gateway"] == "192.0.2.99")
        await eventually(lambda: is_whole(follower))
        assert sent(node) == before + 1
        async with listening(mosquitto.settings()) as late:
            await eventually(lambda: len(rows(late)) == 300 and is_whole(late))
            assert rows(late) == rows(follower)


async def test_a_start_after_an_orderly_end_publishes_no_bucket_that_the_broker_has(
    mosquitto: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "outbox.sqlite"
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        serve(node, routes=50)
        await whole(node, mosquitto, routes=50)
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        compare(node, routes=51)  # one more than its target had before
        await whole(node, mosquitto, routes=51)
        assert sent(node) == 1
        async with listening(mosquitto.settings()) as late:
            await eventually(lambda: len(rows(late)) == 51 and is_whole(late))


def compare(node: Node, *, routes: int) -> None:
    """Find the same routes, the first of them, at the target after a restart."""
    for number in range(1, routes + 1):
        node.hub.emit(accepted(number))
    node.hub.emit(COMPLETED)


async def killed(mosquitto: Broker, tmp_path: Path) -> Path:
    """The outbox that a node leaves that is killed when its table of 50 routes is published."""
    file = tmp_path / "outbox.sqlite"
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        serve(node, routes=50)
        await whole(node, mosquitto, routes=50)
        await node.outbox.flush()
        shutil.copytree(tmp_path, left := tmp_path / "killed")
    return left / file.name


async def test_after_a_kill_between_buckets_and_manifest_all_are_published(
    mosquitto: Broker, tmp_path: Path
) -> None:
    file = await killed(mosquitto, tmp_path)
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        compare(node, routes=50)
        await eventually(lambda: sent(node) == BUCKETS)


async def test_a_run_that_never_compared_its_table_vouches_for_none(
    mosquitto: Broker, tmp_path: Path
) -> None:
    """After a kill comes a run that ends in order before its target answers, and then one that compares."""
    file = await killed(mosquitto, tmp_path)
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        await node.connected()
    async with publishing(mosquitto.settings(), outbox_path=file) as node:
        compare(node, routes=50)
        await eventually(lambda: sent(node) == BUCKETS)


async def test_an_end_in_order_does_not_vouch_for_a_bucket_that_the_broker_denied(tmp_path: Path) -> None:
    file, allow = tmp_path / "outbox.sqlite", "topic readwrite #\n"
    with broker(acl=f"topic deny routesync/v1/{NODE}/table/lb-1/00\n{allow}") as guarded:
        async with (
            listening(guarded.settings()) as listener,
            publishing(guarded.settings(), outbox_path=file) as node,
        ):
            serve(node, routes=50)
            await eventually(lambda: manifests(listener) == [50])
            assert len(buckets(listener)) == BUCKETS - 1
        guarded.set_acl(allow)
        guarded.reload()
        async with publishing(guarded.settings(), outbox_path=file) as node:
            compare(node, routes=50)
            async with listening(guarded.settings()) as late:
                await eventually(lambda: len(rows(late)) == 50 and is_whole(late))


async def test_a_bucket_that_a_broken_connection_left_open_is_published_again(mosquitto: Broker) -> None:
    """Changed, perhaps at the broker, and changed back: its manifest shows nothing of it."""
    async with publishing(mosquitto.settings(), backoff=UNHURRIED) as node:
        serve(node, routes=50)
        await whole(node, mosquitto, routes=50)
        before = sent(node)
        await asyncio.to_thread(mosquitto.freeze)
        node.hub.emit(accepted(1, gateway="192.0.2.99"))
        node.publisher.refresh()
        await eventually(lambda: sent(node) == before + 1)
        await cut(node)
        node.hub.emit(accepted(1))
        mosquitto.thaw()
        await eventually(lambda: sent(node) == before + 2)
        async with listening(mosquitto.settings()) as late:
            await eventually(lambda: len(rows(late)) == 50 and is_whole(late))
            assert rows(late)[accepted(1).prefix]["gateway"] == "192.0.2.1"


async def cut(node: Node) -> None:
    """Break the node's connection as a network does; the broker keeps its memory."""
    assert node.publisher._delivery is not None
    sock = node.publisher._delivery.sender.connection._paho.socket()
    assert sock is not None
    sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # it is no websocket
    await eventually(lambda: node.publisher.state != "connected")


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
