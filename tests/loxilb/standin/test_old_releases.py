"""What the stand-in does when it is configured as an older loxilb."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from standin.releases import Release
from support.loxilb_caller import GATEWAY, Caller
from support.netns import Namespace
from support.standin import StandinProcess, ingested, running_standin

FAIL = (200, {"result": "fail"})
SUCCESS = (200, {"result": "Success"})


@pytest.fixture
def first(space: Namespace) -> Iterator[StandinProcess]:
    """A v0.9.1 that ingests quickly."""
    with running_standin(space, "--loxilb-version", "0.9.1", "--tick", "0.02") as standin:
        yield standin


async def test_up_to_0_9_8_4_errors_of_the_kernel_are_200_fail(space: Namespace) -> None:
    with running_standin(space, "--loxilb-version", "0.9.8.4") as standin:
        caller = Caller(standin)
        assert await caller.post("10.1.0.0/16") == SUCCESS
        assert await caller.post("10.1.0.0/16") == FAIL
        assert await caller.post("10.2.0.0/16", "203.0.113.1") == FAIL
        assert await caller.post("garbage") == FAIL
        assert await caller.delete("10.9.0.0/16") == FAIL
        assert (await caller.ask("POST", "/config/route", json={}))[0] == 422
        assert await caller.ask("GET", "/version") == (200, {"buildInfo": "stand-in", "version": "0.9.8.4"})


async def test_0_9_1_does_not_read_the_protocol_and_shows_numbers(
    first: StandinProcess, space: Namespace
) -> None:
    caller = Caller(first)
    assert await caller.post("10.1.0.0/16") == SUCCESS
    assert "static" not in space.ip("route show 10.1.0.0/16")
    await ingested(first)
    rows = await caller.rows()
    assert rows["10.1.0.0/16"]["protocol"] == 3
    assert "protocol" not in rows["192.168.10.0/24"]


async def test_0_9_1_has_no_version(first: StandinProcess) -> None:
    assert (await Caller(first).ask("GET", "/version"))[0] == 404


async def test_0_9_1_takes_a_missing_gateway_to_the_kernel(first: StandinProcess) -> None:
    assert await Caller(first).ask("POST", "/config/route", json={"destinationIPNet": "10.1.0.0/16"}) == FAIL


async def test_0_9_1_shows_the_ipv6_default_as_the_ipv4_one(first: StandinProcess) -> None:
    caller = Caller(first)
    assert await caller.post("::/0", "fd00:10::1") == SUCCESS
    await ingested(first)
    rows = await caller.rows()
    assert rows["0.0.0.0/0"]["gateway"] == "fd00:10::1"
    assert "::/0" not in rows


async def test_0_9_1_does_not_ingest_ecmp(first: StandinProcess, space: Namespace) -> None:
    space.ip(f"route add 10.3.0.0/16 nexthop via {GATEWAY} nexthop via 192.168.10.2")
    space.ip(f"route add 10.4.0.0/16 via {GATEWAY}")
    await ingested(first)
    rows = await Caller(first).rows()
    assert "10.4.0.0/16" in rows
    assert "10.3.0.0/16" not in rows


async def test_0_9_1_cuts_off_the_neighbour_of_a_dhcp_host_route(
    first: StandinProcess, space: Namespace
) -> None:
    """The founding bug."""
    space.ip(f"neigh add {GATEWAY} lladdr 02:00:00:00:00:01 dev ens3")
    space.ip(f"route add {GATEWAY} dev ens3 proto dhcp scope link metric 100")
    await ingested(first)
    row = (await Caller(first).rows())[f"{GATEWAY}/32"]
    assert row["flags"] == "Self"
    assert "gateway" not in row


async def test_0_9_1_keeps_the_gateway_that_the_kernel_replaced(
    first: StandinProcess, space: Namespace
) -> None:
    space.ip(f"route add 10.5.0.0/16 via {GATEWAY}")
    space.ip("route replace 10.5.0.0/16 via 192.168.10.2")
    await ingested(first)
    assert (await Caller(first).rows())["10.5.0.0/16"]["gateway"] == GATEWAY


@pytest.mark.parametrize("text", ["", "1", "0.9.x", "main"])
def test_release_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no release"):
        Release.parse(text)
