"""The reference subscriber: whatever it misses, its copy becomes the daemon's, and it knows when it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

import table_follower
from routesync.events.models import RouteConfirmed, RouteWithdrawn, SyncCompleted
from routesync.events.status import Status, TargetStatus
from routesync.events.table import BUCKETS
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

    def apply(self, payload: bytes) -> None:
        if self._random.random() >= self.loss:
            super().apply(payload)


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


def complete(node: Node) -> None:
    targets = tuple(TargetStatus(name=name, url="http://192.0.2.9:11111", state="synced") for name in TARGETS)
    node.status = Status(state="online", node=NODE, targets=targets)
    for name in TARGETS:
        node.hub.emit(SyncCompleted(target=name, routes=0, posted=0, deleted=0, duration_s=0))


def change(node: Node, chance: random.Random) -> None:
    route = accepted(
        chance.randrange(ROUTES), target=chance.choice(TARGETS), gateway=f"192.0.2.{chance.randrange(9)}"
    )
    match chance.randrange(3):
        case 0:
            node.hub.emit(route)
        case 1:
            node.hub.emit(
                RouteConfirmed(target=route.target, prefix=route.prefix, family="ipv4", gateway=route.gateway)
            )
        case _:
            node.hub.emit(
                RouteWithdrawn(
                    target=route.target,
                    prefix=route.prefix,
                    family="ipv4",
                    gateway=route.gateway,
                    reason="no-route",
                )
            )


def truth(node: Node, target: str) -> dict[str, tuple[str, str]]:
    (table,) = [table for table in node.publisher._table if table.target == target]
    rows = (row for number in range(BUCKETS) for row in table.bucket(number, 0).routes)
    return {row.prefix: (row.gateway, row.state) for row in rows}


async def test_copies_converge_whatever_they_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_follower, "PATIENCE_S", 1.0)
    chance = random.Random(20_000)
    quiet = asyncio.Event()
    copies = [Forgetful(loss, seed) for seed, loss in enumerate((0, 0, 0.01, 0.1))]
    with broker() as mosquitto:  # with its default limits
        async with publishing(mosquitto.settings()) as node:
            visitors = [
                asyncio.create_task(come_and_go(copy, mosquitto, seed, quiet))
                for seed, copy in enumerate(copies)
            ]
            for number in range(ROUTES):  # the burst of a start, while some listen already
                for target in TARGETS:
                    node.hub.emit(accepted(number, target=target))
                if number % 500 == 0:
                    await asyncio.sleep(0.01)
            complete(node)
            for _ in range(200):  # 4 seconds of churn
                for _ in range(10):
                    change(node, chance)
                await asyncio.sleep(0.02)
            await asyncio.to_thread(mosquitto.restart)  # and it loses all that it retained
            for _ in range(100):
                change(node, chance)
            quiet.set()
            await asyncio.gather(*visitors)
            for copy in copies:
                copy.loss = 0
                async with following(copy, mosquitto):
                    await eventually(
                        lambda copy=copy: (
                            copy.whole and all(copy.table(t) == truth(node, t) for t in TARGETS)
                        ),  # type: ignore[misc]
                        within_s=20,
                        what="a whole copy",
                    )
            late = Copy()
            async with following(late, mosquitto):
                await eventually(lambda: late.whole, within_s=20)
                for target in TARGETS:
                    assert late.table(target) == truth(node, target)
                    assert len(late.table(target)) > ROUTES / 2


async def test_a_copy_that_lacks_a_route_knows_that_it_is_not_whole(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node:
        for target in TARGETS:
            node.hub.emit(accepted(1, target=target))
        complete(node)
        node.publisher.refresh()
        copy = Copy()
        async with following(copy, mosquitto):
            await eventually(lambda: copy.whole and len(copy.targets) == 2)
            lacking = copy.targets["lb-1"]
            bucket = next(bucket for bucket in lacking.buckets if bucket.routes)
            lacking.set(bucket, accepted(1).prefix, None)
            assert not copy.whole
