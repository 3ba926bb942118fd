"""What the broker refuses: for the moment, a topic, one message, or by closing the connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from routesync.events import delivery, sender
from routesync.events.models import ConfigRejected, SyncCompleted, SyncLost
from routesync.events.mqtt_client import WINDOW
from routesync.events.store import Bounds
from support.broker import broker
from support.events import listening, publishing
from support.refusing_broker import CLOSE, SILENCE, Got, RefusingBroker, refusing_broker
from support.waiting import eventually

QUOTA, UNSPECIFIED, DENIED, INVALID = 0x97, 0x80, 0x87, 0x99
ACCEPTED = "event/route/accepted"
INSTANCE = "5a0f3c9d1b2e4f60"
COMPLETED = SyncCompleted(target="lb-1", routes=0, posted=0, deleted=0, duration_s=0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "DENIED_S", 0.3)
    monkeypatch.setattr(sender, "DENIED_S", 0.3)
    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    monkeypatch.setattr(sender, "MOST_PAUSE_S", 0.2)


def held(made: RefusingBroker) -> list[object]:
    """What the last status says of held topics."""
    statuses = [got.data for got in made.taken if got.topic == "status"]
    return list(statuses[-1]["held"])


@pytest.mark.parametrize("code", [QUOTA, UNSPECIFIED])
async def test_what_is_refused_for_the_moment_is_sent_again(code: int) -> None:
    tries: Counter[bytes] = Counter()

    def answer(got: Got) -> int:
        tries[got.payload] += 1
        return code if tries[got.payload] <= 2 and got.topic == ACCEPTED and got.sequence % 100 == 7 else 0

    async with refusing_broker(answer) as made, publishing(made.settings()) as node:
        node.emit(1000)
        await eventually(lambda: node.outbox.acknowledged == 1000, within_s=20)
        assert node.outbox.unreported == ()
    assert sorted(made.sequences) == list(range(1, 1001)), "each of them, and none twice"
    order = {sequence: at for at, sequence in enumerate(made.sequences)}
    assert order[7] < 7 + 64 + 1, "before what was not in flight with it"


async def test_a_quota_is_named_while_it_lasts_and_holds_up_everything() -> None:
    exceeded = True
    async with (
        refusing_broker(lambda got: QUOTA if exceeded and got.topic != "status" else 0) as made,
        publishing(made.settings()) as node,
    ):
        node.emit(100)
        await eventually(lambda: len(made.refused) > 70)
        assert made.events == []
        (trouble,) = node.publisher.troubles
        assert "takes no more for the moment (Quota exceeded)" in trouble
        exceeded = False
        await eventually(lambda: node.outbox.acknowledged == 100)
        assert node.publisher.troubles == ()
    assert made.sequences == list(range(1, 101))


@pytest.mark.parametrize("topic", ["status", f"instance/{INSTANCE}"])
async def test_retained_state_that_is_refused_for_the_moment_is_published_again(topic: str) -> None:
    tries: Counter[str] = Counter()

    def answer(got: Got) -> int:
        tries[got.topic] += 1
        return QUOTA if got.topic == topic and tries[topic] == 1 else 0

    async with refusing_broker(answer) as made, publishing(made.settings()) as node:
        target = node.status.targets[0].model_copy(update={"instance": INSTANCE})
        node.status = node.status.model_copy(update={"targets": (target,)})
        await eventually(lambda: any(got.topic == topic for got in made.taken))


async def test_unclear_refusals_in_a_row_are_a_denial() -> None:
    async with (
        refusing_broker(lambda got: UNSPECIFIED if got.topic == ACCEPTED else 0) as made,
        publishing(made.settings()) as node,
    ):
        node.emit(1)
        node.hub.emit(COMPLETED)
        await eventually(lambda: made.sequences == [2])
        await eventually(lambda: ACCEPTED in node.outbox.held)
        assert len(made.refused) >= 6


async def test_a_denied_topic_is_held_and_named_and_comes_late_and_whole(tmp_path: Path) -> None:
    denied = True
    async with refusing_broker(lambda got: DENIED if denied and got.topic == ACCEPTED else 0) as made:
        async with publishing(made.settings(), outbox_path=tmp_path / "outbox") as node:
            node.emit(200)
            node.hub.emit(COMPLETED)
            await eventually(lambda: made.sequences == [201])
            await eventually(lambda: node.outbox.acknowledged == 201)
            node.publisher.refresh()
            expected = {"topic": ACCEPTED, "count": 200, "first": 1, "last": 200, "dropped": 0}
            await eventually(lambda: held(made) == [expected])
            (trouble,) = node.publisher.troubles
            assert f"{ACCEPTED} (Not authorized; 200 events are held)" in trouble
        async with publishing(made.settings(), outbox_path=tmp_path / "outbox") as node:  # over a restart
            await node.connected()
            node.emit(1)
            await eventually(lambda: node.held(ACCEPTED) == 201)
            denied = False
            await eventually(lambda: not node.outbox.held)
            await eventually(lambda: node.publisher.troubles == (), within_s=5)
            node.emit(1)
            await eventually(lambda: 203 in made.sequences)
            assert node.outbox.unreported == ()
            await eventually(lambda: held(made) == [])
    assert made.sequences == [201, *range(1, 201), 202, 203]
    late = [got.sequence for got in made.events if got.envelope.get("late")]
    assert late == [*range(1, 201), 202]


async def test_what_is_refused_while_its_topic_is_released_is_overtaken_by_a_window_at_most() -> None:
    denied = True
    refused: list[int] = []

    def answer(got: Got) -> int:
        if got.topic != ACCEPTED:
            return 0
        if denied:
            return DENIED
        if got.sequence == 20 and not refused:
            refused.append(got.sequence)
            return QUOTA
        return 0

    async with refusing_broker(answer) as made, publishing(made.settings()) as node:
        node.emit(400)
        await eventually(lambda: node.held(ACCEPTED) == 400)
        denied = False
        await eventually(lambda: not node.outbox.held)
    assert sorted(made.sequences) == [*range(1, 401)]
    assert made.sequences.index(20) < 20 + WINDOW


async def test_what_exceeds_the_bound_of_held_events_is_counted_by_topic() -> None:
    async with (
        refusing_broker(lambda got: DENIED if got.topic == ACCEPTED else 0) as made,
        publishing(made.settings(), bounds=Bounds(events=1000)) as node,
    ):
        node.hub.emit(SyncLost(target="lb-1", prefix="10.0.0.0/8", detail=""))
        for _ in range(5):
            node.emit(50)
            await node.outbox.flush()
        await eventually(lambda: any(got.topic == "event/events/lost" for got in made.taken))
        await eventually(
            lambda: (
                sum(
                    int(got.envelope["data"]["count"])
                    for got in made.events
                    if got.topic == "event/events/lost"
                )
                == 150
            )
        )
        losses = [got.data for got in made.events if got.topic == "event/events/lost"]
        assert all(loss["topics"] == {ACCEPTED: loss["count"]} for loss in losses)
        assert node.held(ACCEPTED) == 100
        assert node.outbox.held_dropped == {ACCEPTED: 150}


async def test_a_message_that_will_never_be_taken_is_lost_and_reported() -> None:
    async with (
        refusing_broker(lambda got: INVALID if got.topic == ACCEPTED and got.sequence == 3 else 0) as made,
        publishing(made.settings()) as node,
    ):
        node.emit(5)
        await eventually(lambda: any(got.topic == "event/events/lost" for got in made.taken))
        assert made.sequences[:4] == [1, 2, 4, 5]
        loss = made.events[4].data
        assert (loss["reason"], loss["count"], loss["topics"]) == ("denied", 1, {ACCEPTED: 1})


async def test_a_broker_that_closes_on_a_denied_topic_keeps_the_connection_once_the_topic_is_found() -> None:
    closes = True
    async with refusing_broker(lambda got: CLOSE if closes and got.topic == ACCEPTED else 0) as made:
        with capture_logs() as logs:
            async with publishing(made.settings()) as node:
                node.emit(50)
                node.hub.emit(COMPLETED)
                await eventually(lambda: made.sequences == [51])
                await eventually(lambda: node.held(ACCEPTED) == 50)
                await node.connected()
                connections = made.connections
                assert connections <= 4
                (trouble,) = node.publisher.troubles
                assert (
                    f"{ACCEPTED} (the broker closes the connection when it gets a message of this topic"
                    in trouble
                )
                node.emit(50)
                node.hub.emit(COMPLETED)
                await eventually(lambda: made.sequences == [51, 102])
                assert made.connections == connections
                assert node.outbox.unreported == ()
    aside = [line for line in logs if line["event"] == "message_set_aside"]
    assert [line["topic"] for line in aside] == [f"routesync/v1/node-1/{ACCEPTED}"]


async def test_a_broker_that_closes_on_a_denied_table_keeps_the_connection_once_one_bucket_is_found() -> None:
    async with (
        refusing_broker(lambda got: CLOSE if got.topic.startswith("table/") else 0) as made,
        publishing(made.settings()) as node,
    ):
        node.emit(50)
        node.hub.emit(COMPLETED)
        await eventually(lambda: any("table/lb-1/#" in trouble for trouble in node.publisher.troubles))
        await eventually(lambda: node.outbox.acknowledged == 51)
        connections = made.connections
        assert connections <= 4
        node.emit(50)
        await eventually(lambda: node.outbox.acknowledged == 101)
        await asyncio.sleep(2 * delivery.TICK_S)
        assert made.connections == connections


async def test_a_denied_topic_that_is_not_published_any_more_is_no_trouble_any_more() -> None:
    denied = {"table/lb-1/00", "table/lb-1/manifest", f"instance/{INSTANCE}"}
    async with (
        refusing_broker(lambda got: DENIED if got.topic in denied and got.payload else 0) as made,
        publishing(made.settings()) as node,
    ):
        (target,) = node.status.targets
        with_instance = target.model_copy(update={"instance": INSTANCE})
        node.status = node.status.model_copy(update={"targets": (with_instance,)})
        node.hub.emit(COMPLETED)
        await eventually(lambda: {got.topic for got in made.refused} == denied)
        await eventually(lambda: len(node.publisher.troubles) == 1)
        node.status = node.status.model_copy(update={"targets": ()})
        await eventually(lambda: node.publisher.troubles == ())


FORMER = {
    "routesync/v1/former/status",
    f"routesync/v1/former/instance/{INSTANCE}",
    "routesync/v1/former/table/lb-1/manifest",
    *(f"routesync/v1/former/table/lb-1/{number:02x}" for number in range(64)),
}


async def renamed(
    made: RefusingBroker, outbox: Path, answer: Callable[[Got], int]
) -> list[MutableMapping[str, Any]]:
    """Have a node clear what it retained under a former name, until it remembers none of it; return what it logs."""
    async with publishing(made.settings(), outbox_path=outbox, node="former") as node:
        await node.outbox.remember_retained(FORMER)
    made.connections, made.answer = 0, answer
    with capture_logs() as logs:
        async with publishing(made.settings(will_delay_s=0, keepalive_s=5), outbox_path=outbox) as node:
            node.emit(3)
            node.hub.emit(COMPLETED)

            async def is_settled() -> bool:
                return any(got.topic == "table/lb-1/manifest" for got in made.taken) and not (
                    FORMER - {"routesync/v1/former/status"} & await node.outbox.retained()
                )

            await eventually(is_settled, within_s=20)
            await eventually(lambda: node.publisher.troubles == ())
            assert node.outbox.acknowledged == 4
    return logs


@pytest.mark.parametrize(("code", "most_connections"), [(DENIED, 1), (INVALID, 1), (CLOSE, 5)])
async def test_what_may_not_be_cleared_is_named_and_holds_up_nothing(
    tmp_path: Path, code: int, most_connections: int
) -> None:
    async with refusing_broker(lambda _: 0) as made:
        logs = await renamed(made, tmp_path / "outbox", lambda got: 0 if got.payload else code)
        assert made.connections <= most_connections
    stays = [line for line in logs if line["event"] == "retained_state_stays"]
    assert sum(line["topics"] for line in stays) == len(FORMER)
    assert all(line["first"] in FORMER for line in stays)
    aside = {line["topic"] for line in logs if line["event"] == "message_set_aside"}
    assert aside <= FORMER
    assert bool(aside) == (code == CLOSE)


@pytest.mark.parametrize("code", [QUOTA, UNSPECIFIED])
async def test_what_is_refused_for_the_moment_is_cleared_later(tmp_path: Path, code: int) -> None:
    tries: Counter[str] = Counter()

    def answer(got: Got) -> int:
        tries[got.topic] += not got.payload
        return code if not got.payload and tries[got.topic] <= 2 else 0

    async with refusing_broker(lambda _: 0) as made:
        logs = await renamed(made, tmp_path / "outbox", answer)
        assert {got.topic for got in made.taken if not got.payload} == {it.split("/", 3)[3] for it in FORMER}
    assert not [line for line in logs if line["event"] == "retained_state_stays"]


async def test_a_message_that_is_too_large_for_a_broker_of_3_1_1_is_found_named_and_lost() -> None:
    with broker(extra="max_packet_size 6000") as small:
        async with (
            listening(small.settings()) as listener,
            publishing(small.settings(protocol="3.1.1")) as node,
        ):
            await node.connected()
            node.emit(1)
            node.hub.emit(ConfigRejected(path="/etc/routesync.toml", errors=("a long line, " * 1000,)))
            node.emit(1)
            await eventually(lambda: any(heard.topic.endswith("events/lost") for heard in listener.events))
            (loss,) = [heard.data for heard in listener.events if heard.topic.endswith("events/lost")]
            assert (loss["count"], loss["topics"]) == (1, {"event/config/rejected": 1})
            await eventually(lambda: {1, 3} <= {*listener.sequences})
            connections = node.publisher.measures.connections
            assert connections <= 4
            node.hub.emit(ConfigRejected(path="/etc/routesync.toml", errors=("a long line, " * 1000,)))
            node.emit(1)
            await eventually(lambda: node.hub.sequence in listener.sequences)
            assert node.publisher.measures.connections == connections
            assert any("event/config/rejected" in trouble for trouble in node.publisher.troubles)


async def test_a_broker_that_is_killed_again_and_again_makes_no_suspect_of_any_message() -> None:
    with broker() as mosquitto:
        async with publishing(mosquitto.settings()) as node:
            for number in range(5):
                await node.connected()
                node.emit(100)
                mosquitto.restart()
                node.emit(number)
            await node.connected()
            await eventually(lambda: node.outbox.acknowledged == node.hub.sequence)
            assert node.publisher.troubles == ()


async def test_a_broker_that_acknowledges_nothing_is_a_trouble_while_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "UNANSWERED_S", 0.3)
    is_silent = False
    async with (
        refusing_broker(lambda _: SILENCE if is_silent else 0) as made,
        publishing(made.settings()) as node,
    ):
        node.emit(10)
        await eventually(lambda: node.outbox.acknowledged == 10)
        await eventually(lambda: node.publisher.troubles == ())
        is_silent = True
        node.emit(10)
        await eventually(lambda: len(node.publisher.troubles) == 1)
        (trouble,) = node.publisher.troubles
        assert "has acknowledged nothing for" in trouble
        is_silent = False
        node.emit(10)
        await eventually(lambda: len(made.sequences) == 20)
        await eventually(lambda: node.publisher.troubles == ())
