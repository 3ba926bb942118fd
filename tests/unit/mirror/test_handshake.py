"""The handshake with a target: its namespace is decided by settled ports, and its table must be settled too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import pytest

from routesync.best_routes import OwnNode
from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.schema import Inventory, InventoryRow, Port
from routesync.mirror import handshake
from routesync.mirror.handshake import Handshake
from routesync.mirror.limits import Limits
from routesync.mirror.reporting import Reporter
from routesync.mirror.state import MirrorState
from routesync.mirror.status import TargetState
from routesync.route import Address, Prefix
from support.event_sink import Events
from support.waiting import eventually

LO = Link(1, "lo", 0x10049, bytes(6))
ENS3 = Link(2, "ens3", 0x1043, bytes([2, 0, 0, 0, 0, 2]))
LINKS = {1: LO, 2: ENS3}
OURS = Port("ens3", 2, "02:00:00:00:00:02")
FOREIGN = Port("eth0", 9, "02:00:00:00:00:99")
LATER = Port("llb0", 10, "02:00:00:00:00:98")


class Scripted:
    """A loxilb that lists these ports, one list after the other, the last one for good."""

    def __init__(self, *lists: Sequence[Port]) -> None:
        self.lists = list(lists)
        self.inventories = 0
        self.growth = 0  # rows more at each look

    async def version(self) -> str:
        return "0.9.8"

    async def ports(self) -> tuple[Port, ...]:
        return tuple(self.lists.pop(0) if len(self.lists) > 1 else self.lists[0])

    def mark(self) -> None:
        pass

    async def inventory(self) -> Inventory:
        self.inventories += 1
        row = InventoryRow((), frozenset({"Self"}), "unspec")
        count = 1 + self.growth * self.inventories
        return Inventory({Prefix(Address(number.to_bytes(4, "big")), 32): row for number in range(count)}, 0)


class Making:
    """Contact that is being made, and what it said."""

    def __init__(self, client: Scripted) -> None:
        self.said: list[TargetState] = []
        self.handshake = Handshake(
            cast("LoxilbClient", client),
            lambda: LINKS,
            MirrorState(
                Limits(inventory_gap_s=0.01),
                asyncio.get_running_loop().time() - 100,
                evaluate=lambda _prefix, _current: None,
                contains_our_end=lambda _: False,
                note=lambda _prefix, _row: None,
                report=Reporter("lb", Events(), OwnNode()),
            ),
            waiting=lambda state, _: self.said.append(state),
        )
        self.task = asyncio.create_task(self.handshake.make())

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "PATIENCE_S", 0.02)


async def test_a_target_elsewhere_is_recognised_by_two_equal_lists() -> None:
    client = Scripted([FOREIGN])
    making = Making(client)
    version, dump = await making.task
    assert version == "0.9.8"
    assert dump.inventory.rows
    assert making.said == []


async def test_an_incomplete_list_decides_nothing() -> None:
    """The first port that it lists equals one of ours by chance; it is neither refused for it nor mirrored into."""
    making = Making(Scripted([], [OURS], [OURS, FOREIGN], [OURS, FOREIGN, LATER]))
    await making.task
    assert TargetState.SHARED_NAMESPACE not in making.said


async def test_one_that_seems_elsewhere_for_a_moment_is_not_mirrored_into() -> None:
    client = Scripted([FOREIGN], [OURS])
    making = Making(client)
    await eventually(lambda: TargetState.SHARED_NAMESPACE in making.said, what="refusal")
    assert not making.task.done()
    await making.stop()


async def test_one_that_shares_our_namespace_is_refused_until_its_ports_say_otherwise() -> None:
    client = Scripted([OURS])
    making = Making(client)
    await eventually(lambda: making.said.count(TargetState.SHARED_NAMESPACE) > 2, what="refusal")
    assert client.inventories == 0, "there is no need to read it"
    client.lists = [[FOREIGN, LATER]]
    await asyncio.wait_for(making.task, 30)


async def test_ports_that_led_astray_are_not_believed_again_and_others_are() -> None:
    client = Scripted([FOREIGN])
    making = Making(client)
    await making.task
    making.handshake.disprove()
    again = asyncio.create_task(making.handshake.make())
    await eventually(lambda: TargetState.SHARED_NAMESPACE in making.said, what="refusal")
    assert not again.done()
    client.lists = [[FOREIGN, LATER]]
    await asyncio.wait_for(again, 30)


async def test_ports_that_are_never_twice_the_same_are_said() -> None:
    making = Making(Scripted([OURS], [OURS, FOREIGN], [OURS], [OURS, FOREIGN], [OURS], []))
    await eventually(lambda: TargetState.STARTING in making.said, what="word of it")
    assert not making.task.done()
    await making.stop()


async def test_a_table_that_fills_is_waited_for_and_one_that_others_change_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "TRICKLE_SEEN_S", 0.02)
    monkeypatch.setattr(handshake, "TRICKLE", 1000)
    client = Scripted([FOREIGN])
    client.growth = 10_000
    making = Making(client)
    await eventually(lambda: client.inventories >= 5, what="looks")
    assert not making.task.done()
    client.growth = 1
    client.inventories *= 10_000
    await asyncio.wait_for(making.task, 30)
