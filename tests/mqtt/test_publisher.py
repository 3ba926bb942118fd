"""The publisher against a real mosquitto: birth, last will, order, refusals, outages."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import aiomqtt
import pytest
from structlog.testing import capture_logs

from routesync.backoff import Backoff
from routesync.config.models import MqttSettings
from routesync.events.models import ConfigRejected, RouteDropped
from routesync.events.node_status import Status
from support.bad_brokers import serve_badly
from support.broker import Broker, broker
from support.events import NODE, UNHURRIED, listening, publishing
from support.waiting import eventually


async def test_birth_is_retained_and_a_stop_says_stopping_then_offline(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as before:
        async with publishing(mosquitto.settings()):
            await eventually(lambda: before.states == ["online"])
            async with listening(mosquitto.settings()) as late:
                await eventually(lambda: late.states == ["online"])
                assert late.heard[0].retained
        await eventually(lambda: before.states == ["online", "stopping", "offline"])


async def test_a_changed_status_is_published(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        await eventually(lambda: listener.states == ["online"])
        node.status = Status(state="degraded", node=NODE, reasons=("target lb-1 is unreachable",))
        node.publisher.refresh()
        await eventually(lambda: listener.states == ["online", "degraded"])
        assert listener.heard[-1].data["reasons"] == ["target lb-1 is unreachable"]


@pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
async def test_events_arrive_in_order(mosquitto: Broker, protocol: str) -> None:
    async with listening(mosquitto.settings(), "routesync/v1/node-1/event/#") as listener:
        async with publishing(mosquitto.settings(protocol=protocol)) as node:
            node.emit(1000)
            await eventually(lambda: len(listener.heard) == 1000)
        assert listener.sequences == list(range(1, 1001))
        assert listener.heard[0].topic == "routesync/v1/node-1/event/route/accepted"
        assert len({heard.envelope["id"] for heard in listener.heard}) == 1000


async def test_events_can_be_filtered_without_parsing_and_expire(mosquitto: Broker) -> None:
    version = aiomqtt.ProtocolVersion.V5
    async with (
        aiomqtt.Client(mosquitto.address, mosquitto.port, protocol=version) as client,
        publishing(mosquitto.settings(event_expiry_s=60)) as node,
    ):
        await client.subscribe("routesync/+/+/event/#", qos=1)
        node.emit(1)
        message = await anext(aiter(client.messages))
        properties = vars(message.properties)
        assert properties["ContentType"] == "application/cloudevents+json; charset=utf-8"
        assert properties["UserProperty"] == [
            ("type", "io.routesync.route.accepted.v1"),
            ("target", "lb-1"),
            ("prefix", "10.0.0.1/32"),
        ]
        assert 0 < properties["MessageExpiryInterval"] <= 60


async def test_a_stop_that_takes_its_time_is_no_relapse(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        await eventually(lambda: listener.states == ["online"])
        mosquitto.freeze()  # so that the stop waits for its events
        node.emit(1)
        node.publisher.stop(30)
        await eventually(lambda: node.publisher._delivery is not None and node.publisher._delivery._stopping)
        node.status = node.status.model_copy(
            update={"verdicts": {"default": 1}}
        )  # a change is said all the same
        node.publisher.refresh()
        await eventually(lambda: not node.publisher._delivery._retained.due.is_set())  # type: ignore[union-attr]
        mosquitto.thaw()
        await eventually(lambda: listener.states[-1:] == ["offline"])
        assert listener.states == ["online", "stopping", "stopping", "offline"]


async def test_events_are_delivered_before_a_stop(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener:
        async with publishing(mosquitto.settings()) as node:
            await node.connected()
            node.emit(500)
        await eventually(lambda: listener.states[-1:] == ["offline"])
        assert listener.sequences == list(range(1, 501))


async def test_a_flood_is_summed_up_before_a_stop(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener:
        async with publishing(mosquitto.settings()) as node:
            await node.connected()
            for _ in range(30):
                node.hub.emit(
                    RouteDropped(
                        prefix="192.0.2.1/32",
                        family="ipv4",
                        protocol="dhcp",
                        metric=0,
                        table="main",
                        rule="hosts",
                    )
                )
        await eventually(lambda: listener.states[-1:] == ["offline"])
        assert listener.events[-1].data["dropped"] == {"hosts": 20}


async def test_a_cancelled_publisher_says_offline(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener, publishing(mosquitto.settings()) as node:
        await eventually(lambda: listener.states == ["online"])
        node.task.cancel()
        node.emit(100)
        await eventually(node.task.cancelled)
        await eventually(lambda: listener.states == ["online", "stopping", "offline"])
        assert listener.sequences == list(range(1, 101))


async def test_a_cancelled_publisher_does_not_wait_for_a_frozen_broker(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings(timeout_s=60)) as node:
        await node.connected()
        mosquitto.freeze()
        node.emit(100)
        node.task.cancel()
        await eventually(node.task.cancelled, within_s=9)
        mosquitto.thaw()


async def test_a_server_that_never_answers_is_given_up_and_left() -> None:
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side closes
        writer.close()
        ended.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = MqttSettings(host="127.0.0.1", port=port, timeout_s=0.3)
        async with publishing(settings, backoff=UNHURRIED) as node:
            await eventually(lambda: "does not answer within 0.3 s" in node.publisher.state)
            await asyncio.wait_for(ended.wait(), 30)


class Counting(Backoff):
    """A back-off that does not wait, and remembers what it was asked for."""

    asked: ClassVar[list[int]] = []

    def delay_s(self, failures: int) -> float:
        self.asked.append(failures)
        return 0.01


async def test_a_connection_that_does_not_last_is_a_failure_like_others() -> None:
    Counting.asked.clear()
    server = await asyncio.start_server(partial(serve_badly, "flapping"), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with publishing(MqttSettings(host="127.0.0.1", port=port), backoff=Counting(1, 60)):
            await eventually(lambda: len(Counting.asked) >= 5)
    assert Counting.asked[:5] == [1, 2, 3, 4, 5]  # each wait is longer, although each time it was connected


async def test_no_more_is_in_flight_than_the_broker_asks_for() -> None:
    with broker(extra="max_inflight_messages 3\nmax_queued_messages 0") as slow:
        async with listening(slow.settings()) as listener, publishing(slow.settings()) as node:
            await node.connected()
            node.emit(200)
            await eventually(lambda: listener.sequences == list(range(1, 201)))
            assert node.publisher._delivery is not None
            assert node.publisher._delivery.sender.connection._window == 3


async def test_a_message_that_the_broker_would_not_take_does_not_end_the_connection() -> None:
    with broker(extra="max_packet_size 1000") as small:
        async with listening(small.settings()) as listener, publishing(small.settings()) as node:
            await node.connected()
            long = ConfigRejected(path="/etc/routesync.toml", errors=("a long line, " * 100,))
            node.hub.emit(long)
            node.emit(1)
            await eventually(lambda: any(heard.topic.endswith("events/lost") for heard in listener.events))
            assert 2 in listener.sequences
            assert any("1000 bytes" in trouble for trouble in node.publisher.troubles)


KILLED = """
import asyncio, os, signal, sys
from routesync.config.models import MqttSettings
from support.events import publishing

async def main() -> None:
    settings = MqttSettings(host=sys.argv[1], port=int(sys.argv[2]), will_delay_s=int(sys.argv[3]))
    async with publishing(settings, node=sys.argv[4]) as node:
        await node.connected()
        node.emit(10)
        while node.outbox.acknowledged < 10:  # so it was born
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def kill_a_node(mosquitto: Broker, *, will_delay_s: int, name: str = NODE) -> None:
    """Run a node for a moment in a process of its own, and kill it."""
    tests = str(Path(__file__).parents[1])
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED,
        mosquitto.address,
        str(mosquitto.port),
        str(will_delay_s),
        name,
        env={"PYTHONPATH": tests},
    )
    assert await child.wait() == -9


async def test_the_last_will_says_offline(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener:
        await kill_a_node(mosquitto, will_delay_s=0)
        await eventually(lambda: listener.states == ["online", "offline"])


async def test_a_node_that_is_back_before_the_wills_delay_was_never_offline(mosquitto: Broker) -> None:
    async with listening(mosquitto.settings()) as listener:
        await kill_a_node(mosquitto, will_delay_s=2)
        async with publishing(mosquitto.settings(will_delay_s=2)):
            await eventually(lambda: listener.states == ["online", "online"])
            await kill_a_node(mosquitto, will_delay_s=2, name="later")
            await eventually(lambda: listener.states[-1] == "offline")  # so the will of the first is overdue
            assert [
                heard.data["node"] for heard in listener.heard if heard.data.get("state") == "offline"
            ] == ["later"]


async def test_a_wrong_password_is_said_once_with_place_and_remedy(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with broker(users={"routesync": "right"}) as guarded, capture_logs() as logs:
        settings = guarded.settings(username="routesync", password_file=str(password))
        async with publishing(settings) as node:
            await eventually(lambda: "refuses user 'routesync'" in node.publisher.state)
            refusals = guarded.log.count("not authorised")
            await eventually(lambda: guarded.log.count("not authorised") >= refusals + 3)
            assert "mqtt.password_file" in node.publisher.state
            assert list(node.publisher.troubles) == [node.publisher.state]
            assert [line["log_level"] for line in logs] == ["warning"]

            password.write_text("right\n")  # read again on every connect
            await node.connected()
            assert [line["log_level"] for line in logs] == ["warning", "info"]
            assert not list(node.publisher.troubles)


async def test_no_broker_is_one_line_and_one_when_it_heals(mosquitto: Broker) -> None:
    mosquitto.kill()
    with capture_logs() as logs:
        async with publishing(mosquitto.settings(), backoff=UNHURRIED) as node:
            await eventually(lambda: "mqtt.host" in node.publisher.state)
            node.emit(10)
            await asyncio.to_thread(mosquitto.start)
            async with listening(mosquitto.settings()) as listener:
                await eventually(lambda: listener.sequences == list(range(1, 11)))
    said = [line["event"] for line in logs]
    assert said == ["broker_down", "broker_up"]


async def test_a_broker_killed_in_a_burst_gets_all_it_has_not_acknowledged_in_order(
    mosquitto: Broker,
) -> None:
    async with publishing(mosquitto.settings(), backoff=UNHURRIED) as node:
        async with listening(mosquitto.settings()) as first:
            await node.connected()
            node.emit(5000)
            await eventually(lambda: node.outbox.acknowledged > 100)
            await asyncio.to_thread(mosquitto.kill)
            await eventually(lambda: node.publisher.state != "connected")
        acknowledged = node.outbox.acknowledged
        assert 0 < acknowledged < 5000
        await asyncio.to_thread(mosquitto.start)
        async with listening(mosquitto.settings()) as second:
            await eventually(lambda: 5000 in second.sequences)
            assert second.states == ["online"]
    assert first.sequences == list(range(1, len(first.events) + 1))
    assert second.sequences == list(range(acknowledged + 1, 5001))


async def test_a_missing_password_file_names_the_setting(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings(password_file="/nonexistent/password")) as node:
        await eventually(
            lambda: (
                node.publisher.state == "mqtt.password_file: /nonexistent/password: No such file or directory"
            )
        )
