"""The reference subscriber: whatever it misses, its copy becomes the daemon's, and it knows when it is."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

import table_follower
from routesync.events.models import RouteConfirmed, RouteWithdrawn, SyncCompleted
from routesync.events.node_status import Status, TargetStatus
from support.broker import Broker, broker
from support.events import NODE, Node, accepted, publishing
from support.waiting import eventually
from table_follower import Copy

ROUTES = 20_000
TARGETS = ("lb-1", "lb-2")


class Forgetful(Copy):
    """A copy that loses messages on the way to it."""

    def __init__(self, loss: float, seed: int) -> None:
        super().__init__()
        self.loss = loss
        self._random = random.Random(seed)

    def apply(self, topic: str, payload: bytes) -> None:
        if self._random.random() >= self.loss:
            super().apply(topic, payload)


@asynccontextmanager
async def following(copy: Copy, mosquitto: Broker) -> AsyncIterator[None]:
    task = asyncio.create_task(table_follower.follow(copy, mosquitto.address, NODE, mosquitto.port))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def come_and_go(copy: Copy, mosquitto: Broker, seed: int, quiet: asyncio.Event) -> None:
    """Join at random times and leave again, until all is quiet; then stay."""
    chance = random.Random(seed)
    while not quiet.is_set():
        await asyncio.sleep(chance.uniform(0, 1.5))
        async with following(copy, mosquitto):
            await asyncio.sleep(chance.uniform(0.2, 2))


class Source:
    """A node, and what its tables have to be."""

    def __init__(self, node: Node, seed: int) -> None:
        self.truth: dict[str, dict[str, tuple[str, str]]] = {target: {} for target in TARGETS}
        self._node = node
        self._random = random.Random(seed)

    def accept(self, number: int, target: str, gateway: str = "192.0.2.1") -> None:
        route = accepted(number, target=target, gateway=gateway)
        self.truth[target][route.prefix] = (gateway, "accepted")
        self._node.hub.emit(route)

    def complete(self) -> None:
        targets = tuple(
            TargetStatus(name=name, url="http://192.0.2.9:11111", state="synced") for name in TARGETS
        )
        self._node.status = Status(state="online", node=NODE, targets=targets)
        for name in TARGETS:
            self._node.hub.emit(SyncCompleted(target=name, routes=0, posted=0, deleted=0, duration_s=0))

    def change(self) -> None:
        """One change as a mirror would tell it, to any of the routes."""
        chance = self._random
        number, target, gateway = (
            chance.randrange(ROUTES),
            chance.choice(TARGETS),
            f"192.0.2.{chance.randrange(9)}",
        )
        prefix = accepted(number).prefix
        table = self.truth[target]
        match chance.randrange(3):
            case 0:
                self.accept(number, target, gateway)
            case 1 if prefix in table:
                gateway, _ = table[prefix]
                table[prefix] = (gateway, "confirmed")
                self._node.hub.emit(
                    RouteConfirmed(target=target, prefix=prefix, family="ipv4", gateway=gateway)
                )
            case _ if prefix in table:
                gateway, _ = table.pop(prefix)
                self._node.hub.emit(
                    RouteWithdrawn(
                        target=target, prefix=prefix, family="ipv4", gateway=gateway, reason="no-route"
                    )
                )

    def equals(self, copy: Copy) -> bool:
        return all(
            target in copy.targets and copy.targets[target].routes == self.truth[target] for target in TARGETS
        )


async def test_copies_converge_whatever_they_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_follower, "FIRST_S", 1.0)
    # More than a busy machine needs for all that is retained: who asks again before it has come never has it.
    monkeypatch.setattr(table_follower, "MOST_S", 20.0)
    seed = int(os.environ.get("ROUTESYNC_FOLLOWER_SEED", "20000"))
    print(f"ROUTESYNC_FOLLOWER_SEED={seed}")
    quiet = asyncio.Event()
    copies = [Forgetful(loss, seed + number) for number, loss in enumerate((0, 0, 0.01, 0.1))]
    staying = Forgetful(0.01, seed + len(copies))
    with broker() as mosquitto:  # with its default limits
        async with publishing(mosquitto.settings()) as node, following(staying, mosquitto):
            source = Source(node, seed)
            visitors = [
                asyncio.create_task(come_and_go(copy, mosquitto, seed + number, quiet))
                for number, copy in enumerate(copies)
            ]
            for number in range(ROUTES):  # the burst of a start, while some listen already
                for target in TARGETS:
                    source.accept(number, target)
                if number % 500 == 0:
                    await asyncio.sleep(0.01)
            source.complete()
            for _ in range(200):  # 4 seconds of churn
                for _ in range(10):
                    source.change()
                await asyncio.sleep(0.02)
            await asyncio.to_thread(mosquitto.restart)  # and it loses all that it retained
            for _ in range(200):
                source.change()
            assert all(len(source.truth[target]) > ROUTES * 0.9 for target in TARGETS)
            quiet.set()
            await asyncio.gather(*visitors)
            for forgetful in (staying, *copies):
                forgetful.loss = 0
            await eventually(
                lambda: staying.whole and source.equals(staying), within_s=90, what="its copy whole"
            )
            late = Copy()
            for copy in (*copies, late):
                async with following(copy, mosquitto):
                    await eventually(
                        lambda copy=copy: copy.whole and source.equals(copy),  # type: ignore[misc]
                        within_s=90,
                        what="a whole copy of who came and went",
                    )


async def test_a_copy_that_lacks_a_route_knows_that_it_is_not_whole(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node:
        source = Source(node, 0)
        for target in TARGETS:
            source.accept(1, target)
        source.complete()
        node.publisher.refresh()
        copy = Copy()
        async with following(copy, mosquitto):
            await eventually(lambda: copy.whole and len(copy.targets) == 2)
            lacking = copy.targets["lb-1"]
            del next(bucket for bucket in lacking.buckets.values() if bucket.routes).routes[
                accepted(1).prefix
            ]
            assert not copy.whole


async def test_a_target_that_is_taken_out_leaves_the_copy(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node:
        source = Source(node, 0)
        for target in TARGETS:
            source.accept(1, target)
        source.complete()
        copy = Copy()
        async with following(copy, mosquitto):
            await eventually(lambda: copy.whole and {*copy.targets} == {*TARGETS})
            node.status = node.status.model_copy(update={"targets": node.status.targets[:1]})
            await eventually(lambda: copy.whole and {*copy.targets} == {TARGETS[0]})
