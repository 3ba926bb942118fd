"""A witness that catches up knows every change that was made before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from routesync.mirror.witness import Witness
from routesync.route import Prefix, parse_address
from support.netns import Namespace, namespace
from support.waiting import eventually

P = Prefix.parse("10.1.0.0/16")
GATEWAY = parse_address("192.168.10.1")


class Lab:
    """A namespace and its witness, which is running."""

    def __init__(self, space: Namespace) -> None:
        self.space = space
        self.witness = Witness("lb", space.name)
        self.changed: list[Prefix] = []

    def note(self, prefix: Prefix, *, foreign_removed: bool) -> None:
        del foreign_removed
        self.changed.append(prefix)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    with namespace("witnessed") as space:
        space.ip("link add ens3 type veth peer name ens4")
        space.ip("addr add 192.168.10.20/24 dev ens3")
        for link in ("ens3", "ens4"):
            space.ip(f"link set {link} up")
        made = Lab(space)
        running = asyncio.create_task(made.witness.run(made.note))
        await eventually(lambda: made.witness.ready, what="the witness")
        yield made
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_each_change_is_known_and_was_reported(lab: Lab) -> None:
    for _ in range(20):
        lab.changed.clear()
        lab.space.ip(f"route add {P} via 192.168.10.1 proto static")
        await lab.witness.catch_up()
        assert lab.witness.only_ours(P, GATEWAY)
        assert lab.changed == [P]
        lab.space.ip(f"route del {P}")
        await lab.witness.catch_up()
        assert lab.witness.first(P) is None


async def test_thousands_of_changes_are_all_known(lab: Lab) -> None:
    lab.space.batch(
        [f"route add 10.{n >> 8}.{n & 255}.0/24 via 192.168.10.1 proto static" for n in range(5000)]
    )
    await lab.witness.catch_up()
    assert all(lab.witness.first(Prefix.parse(f"10.{n >> 8}.{n & 255}.0/24")) for n in range(5000))


async def test_without_its_namespace_it_returns_and_is_not_ready(lab: Lab) -> None:
    lab.space.make_again()
    await eventually(lambda: not lab.witness.ready, what="doubt")
    async with asyncio.timeout(10):
        await lab.witness.catch_up()


async def test_before_it_runs_there_is_nothing_to_catch_up_with() -> None:
    witness = Witness("lb", "nowhere")
    await witness.catch_up()
    assert not witness.ready
