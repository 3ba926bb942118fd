"""What a fleet does to a broker that was restarted: it comes back spread, and nobody is late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from support.bench import record
from support.broker import broker
from support.events import Node, publishing

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

NODES = 200
MOST_SHARE = 0.15
WITHIN_S = 20.0


async def connected(nodes: list[Node], times: int) -> list[float]:
    """Wait until each node has connected so often; returns when each did, in the order of time."""
    waiting, seen = set(range(len(nodes))), []
    while waiting:
        done = {number for number in waiting if nodes[number].publisher.measures.connections >= times}
        waiting -= done
        seen += [time.monotonic()] * len(done)
        await asyncio.sleep(0.01)
    return seen


@pytest.mark.parametrize("outage_s", [0.0, 20.0])
async def test_a_fleet_returns_to_its_broker(outage_s: float) -> None:
    with broker() as made:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(
                    publishing(made.settings(), node=f"node-{number}", backoff=None)
                )
                for number in range(NODES)
            ]
            await connected(nodes, 1)
            await asyncio.to_thread(made.kill)
            await asyncio.sleep(outage_s)
            await asyncio.to_thread(made.start)
            began = time.monotonic()
            returns = [at - began for at in await connected(nodes, 2)]
    busiest = max(Counter(map(int, returns)).values()) / NODES
    what = f"{NODES} nodes after an outage of {outage_s:g} s"
    record(
        f"{what}: share in the busiest second",
        busiest * 100,
        "%",
        target=f"<= {MOST_SHARE:.0%}",
        ok=busiest <= MOST_SHARE,
    )
    record(
        f"{what}: the last is back", returns[-1], "s", target=f"<= {WITHIN_S:g}", ok=returns[-1] <= WITHIN_S
    )
    assert busiest <= MOST_SHARE
    assert returns[-1] <= WITHIN_S
