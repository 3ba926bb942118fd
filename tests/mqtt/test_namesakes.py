"""Two daemons with one name: both notice, the later one stands by, and there is no endless take-over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from routesync.backoff import Backoff
from routesync.events.models import AlarmCleared, AlarmRaised, SyncCompleted
from support.broker import Broker
from support.events import Node, accepted, listening, publishing
from support.waiting import eventually

BEGAN = datetime.now(UTC)
BRIEF = Backoff(0.3, 0.3)
COMPLETED = SyncCompleted(target="lb-1", routes=1, posted=1, deleted=0, duration_s=1)


def alarm(node: Node) -> str:
    return "" if node.publisher.alarm is None else node.publisher.alarm.detail


def alarm_events(node: Node) -> list[type]:
    return [type(it.event) for it in node.hub.tail if isinstance(it.event, AlarmRaised | AlarmCleared)]


@pytest.mark.parametrize("client_id", ["routesync-node-1", "another"], ids=["one-id", "two-ids"])
async def test_the_later_of_two_daemons_with_one_name_stands_by_until_the_other_is_gone(
    mosquitto: Broker, client_id: str
) -> None:
    settings = mosquitto.settings().model_copy(update={"heartbeat_s": 1})
    others = settings.model_copy(update={"client_id": client_id})
    async with publishing(settings, started=BEGAN, backoff=BRIEF) as first:
        await first.connected()
        first.hub.emit(accepted(1))
        first.hub.emit(COMPLETED)
        async with (
            publishing(others, started=BEGAN + timedelta(hours=1), backoff=BRIEF) as second,
            listening(settings) as listener,
        ):
            second.hub.emit(accepted(2))
            second.hub.emit(COMPLETED)
            await eventually(lambda: "waits" in alarm(first) and "began later, so" in alarm(second))
            assert second.hub.identity.epoch in alarm(first)
            assert "node.name" in alarm(first)
            assert alarm(first) in first.publisher.troubles
            assert alarm(second) in second.publisher.troubles

            await first.connected()
            measures = first.publisher.measures, second.publisher.measures
            first.emit(1)
            second.emit(1)
            await eventually(lambda: first.outbox.acknowledged == first.hub.sequence)

            async def nobody_connects_again() -> bool:
                connections, heard = [it.connections for it in measures], len(listener.heard)
                await eventually(lambda: len(listener.heard) >= heard + 5)  # both show their status
                return [it.connections for it in measures] == connections

            await eventually(nobody_connects_again)
            assert second.outbox.backlog > 0

            async def only_the_first_is_retained() -> bool:
                async with listening(settings) as late:
                    await eventually(lambda: "online" in late.states)
                    stored = {it.envelope["epoch"] for it in late.heard if it.retained}
                    return stored == {first.hub.identity.epoch}

            await eventually(only_the_first_is_retained)
            first.publisher.stop()
            await second.connected()
            await eventually(lambda: second.outbox.acknowledged == second.hub.sequence)
            assert alarm_events(second) == [AlarmRaised, AlarmCleared]


async def test_the_broker_is_no_trouble_any_more_when_the_one_that_stands_by_has_it_again(
    mosquitto: Broker,
) -> None:
    settings = mosquitto.settings(heartbeat_s=20)
    async with (
        publishing(settings, started=BEGAN, backoff=BRIEF) as first,
        publishing(settings, started=BEGAN + timedelta(hours=1), backoff=BRIEF) as second,
    ):
        await eventually(lambda: second.publisher.state == alarm(second) != "")
        mosquitto.kill()
        await eventually(lambda: "refused" in second.publisher.state)
        mosquitto.start()
        await first.connected()
        await eventually(lambda: second.publisher.state == alarm(second) != "")
