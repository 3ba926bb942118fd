"""What harms the stand-in as it harms the original: a GET in the wrong moment, a flood, a container made again."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from support.loxilb_caller import GATEWAY, Caller
from support.netns import Namespace
from support.standin import StandinProcess, doomed_standin, ingested, recreate_container, running_standin
from support.waiting import eventually

NEVER = ("--tick", "3600")  # after the first look nothing is taken in any more


@pytest.mark.parametrize(("prefix", "gateway"), [("10.1.0.0/16", GATEWAY), ("2001:db8::/32", "fd00:10::1")])
async def test_strict_one_dies_of_a_get_while_a_change_of_its_api_waits(
    space: Namespace, prefix: str, gateway: str
) -> None:
    with doomed_standin(space, *NEVER) as standin:
        await _get_during_ingestion(standin, prefix, gateway)
        assert standin.wait_death(5) == 2
        assert standin.log() == "fatal error: concurrent map iteration and map write"


async def _get_during_ingestion(standin: StandinProcess, prefix: str, gateway: str) -> None:
    caller = Caller(standin)
    assert await caller.rows()
    await caller.post(prefix, gateway)
    with pytest.raises(aiohttp.ClientError):
        await caller.rows()


async def test_a_test_fails_when_its_standin_died(space: Namespace) -> None:
    async def misuse() -> None:
        with running_standin(space, *NEVER) as standin:
            await _get_during_ingestion(standin, "10.1.0.0/16", GATEWAY)
            standin.wait_death(5)

    with pytest.raises(AssertionError, match="died of misuse"):
        await misuse()


async def test_strict_one_spares_a_get_that_cannot_know_of_foreign_changes(space: Namespace) -> None:
    with running_standin(space, *NEVER) as standin:
        space.ip(f"route add 10.1.0.0/16 via {GATEWAY}")
        assert standin.state().waiting > 0
        assert "10.1.0.0/16" not in await Caller(standin).rows()


async def test_likely_one_dies_of_gets_during_ingestion_in_the_end(space: Namespace) -> None:
    space.batch([f"route add 10.0.{n // 250}.{n % 250}/32 via {GATEWAY}" for n in range(8000)])
    with doomed_standin(
        space, "--fragile", "likely", "--seed", "1", "--batch", "10", "--tick", "0.01"
    ) as standin:
        caller = Caller(standin)
        space.batch([f"route del 10.0.{n // 250}.{n % 250}/32" for n in range(8000)])

        async def dead() -> bool:
            try:
                await caller.rows()
            except aiohttp.ClientError:
                return True
            assert standin.state().waiting, "ingestion was over before it died"
            return False

        await eventually(dead)
        assert standin.wait_death(5) == 2


async def test_strict_one_dies_of_a_get_while_a_deletion_waits(space: Namespace) -> None:
    space.ip(f"route add 10.1.0.0/16 via {GATEWAY}")
    with doomed_standin(space, *NEVER) as standin:
        caller = Caller(standin)
        await caller.delete("10.1.0.0/16")
        with pytest.raises(aiohttp.ClientError):
            await caller.rows()


async def test_flooded_one_goes_deaf_until_it_is_restarted(space: Namespace) -> None:
    with doomed_standin(space, "--queue-limit", "20", "--batch", "1", "--tick", "0.15") as standin:
        caller = Caller(standin)
        for number in range(40):
            assert (await caller.post(f"10.{number}.0.0/16"))[0] == 200
        await eventually(lambda: standin.state().deaf)
        await ingested(standin)
        assert (await caller.post("10.99.0.0/16"))[0] == 200
        assert standin.state().waiting == 0
        rows = await caller.rows()
        assert "10.0.0.0/16" in rows
        assert "10.99.0.0/16" not in rows
        standin.kill()
        standin.start()
        assert "10.99.0.0/16" in await caller.rows()
        assert not standin.state().deaf


async def test_what_is_beyond_the_capacity_is_listed_and_not_programmed(space: Namespace) -> None:
    with running_standin(space, "--marks", "12", "--capacity", "8", "--tick", "0.02") as standin:
        caller = Caller(standin)
        for number in range(10):
            assert (await caller.post(f"10.{number}.0.0/16"))[0] == 200
        await ingested(standin)
        rows = await caller.rows()
        assert rows["10.9.0.0/16"]["hardwareMark"] == -1
        assert {f"10.{number}.0.0/16" for number in range(10)} <= rows.keys()
        ipv4 = sum(":" not in prefix for prefix in rows)
        assert standin.state().unprogrammed == ipv4 - 8


async def test_kernel_routes_outlive_the_process(space: Namespace) -> None:
    with running_standin(space) as standin:
        caller = Caller(standin)
        await caller.post("10.1.0.0/16")
        standin.kill()
        with pytest.raises(aiohttp.ClientConnectorError):
            await caller.rows()
        standin.start()
        assert "10.1.0.0/16" in await caller.rows()


async def test_recreated_container_begins_without_routes(space: Namespace) -> None:
    with running_standin(space) as standin:
        caller = Caller(standin)
        await caller.post("10.1.0.0/16")
        await ingested(standin)
        recreate_container(space, standin)
        rows = await caller.rows()
        assert "10.1.0.0/16" not in rows
        assert "192.168.10.0/24" in rows


async def test_api_is_up_before_the_table_fills(space: Namespace, tmp_path: Path) -> None:
    space.batch([f"route add 10.0.{n}.0/24 via {GATEWAY}" for n in range(200)])
    slowly = ("--api-delay=0.1", "--fill-delay=0.7", "--fill-rate=250", "--fragile=off")
    standin = StandinProcess(space.name, tmp_path, *slowly)
    standin.launch()
    caller = Caller(standin)
    seen: list[int] = []

    async def full() -> bool:
        try:
            seen.append(len(await caller.rows()))
        except aiohttp.ClientConnectorError:  # not up yet
            return False
        return seen[-1] > 200

    try:
        await eventually(full)
    finally:
        standin.stop()
    assert seen[0] == 0
    assert any(0 < count <= 200 for count in seen)


async def test_without_netlink_ears_nothing_reaches_its_table(space: Namespace) -> None:
    with running_standin(space, "--nonlp") as standin:
        caller = Caller(standin)
        assert (await caller.post("10.1.0.0/16"))[0] == 200
        assert await caller.rows() == {}
        assert await caller.ask("GET", "/config/port/all") == (200, {"portAttr": []})
