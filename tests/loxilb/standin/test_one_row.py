"""One row per prefix, whatever its kernel holds: what the API shows of several routes, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.loxilb_caller import Caller
from support.netns import Namespace
from support.standin import StandinProcess, ingested, running_standin

SUCCESS = (200, {"result": "Success"})
P, P6 = "10.1.0.0/16", "2001:db8::/32"
HERE, THERE = "192.168.10.1", "192.168.10.2"
HERE6, THERE6 = "fd00:10::1", "fd00:10::2"
BOTH = pytest.mark.parametrize(("prefix", "here", "there"), [(P, HERE, THERE), (P6, HERE6, THERE6)])


class Lab:
    """A stand-in that ingests quickly, and what may be asked of it."""

    def __init__(self, space: Namespace, standin: StandinProcess) -> None:
        self.ip = space.ip
        self.caller = Caller(standin)
        self._standin = standin

    async def row(self, prefix: str) -> dict[str, Any] | None:
        """The row when everything was ingested."""
        await ingested(self._standin)
        return (await self.caller.rows()).get(prefix)

    def kernel(self, prefix: str) -> list[str]:
        """Its kernel's routes of the prefix, in order."""
        family = "-6" if ":" in prefix else "-4"
        return [line.strip() for line in self.ip(f"{family} route show exact {prefix}").splitlines()]


@pytest.fixture
def lab(space: Namespace) -> Iterator[Lab]:
    with running_standin(space, "--tick", "0.02") as standin:
        yield Lab(space, standin)


@BOTH
async def test_it_goes_with_any_route_of_the_prefix_and_only_delete_and_post_bring_it_back(
    lab: Lab, prefix: str, here: str, there: str
) -> None:
    assert await lab.caller.post(prefix, here) == SUCCESS
    lab.ip(f"route add {prefix} via {there} metric 2000")
    row = await lab.row(prefix)
    assert row is not None
    assert row["gateway"] == there
    lab.ip(f"route del {prefix} metric 2000")
    assert await lab.row(prefix) is None
    assert len(lab.kernel(prefix)) == 1
    assert (await lab.caller.post(prefix, here))[0] == 409
    assert await lab.row(prefix) is None
    assert await lab.caller.delete(prefix) == SUCCESS
    assert await lab.caller.post(prefix, here) == SUCCESS
    row = await lab.row(prefix)
    assert row is not None
    assert (row["gateway"], row["protocol"]) == (here, "static")


async def test_beside_a_route_by_the_same_gateway_it_keeps_that_ones_protocol(lab: Lab) -> None:
    lab.ip(f"route add {P} via {HERE} proto dhcp metric 100")
    assert await lab.caller.post(P, HERE) == SUCCESS
    row = await lab.row(P)
    assert row is not None
    assert (row["gateway"], row["protocol"]) == (HERE, "16")
    assert await lab.caller.delete(P) == SUCCESS
    assert await lab.row(P) is None
    assert [line.split(" proto ")[1] for line in lab.kernel(P)] == ["dhcp metric 100"]


@BOTH
async def test_delete_takes_the_lowest_metric_whosever_it_is(
    lab: Lab, prefix: str, here: str, there: str
) -> None:
    lab.ip(f"route add {prefix} via {there} metric 20 proto bgp")
    assert await lab.caller.post(prefix, here) == SUCCESS
    assert await lab.caller.delete(prefix) == SUCCESS
    (left,) = lab.kernel(prefix)
    assert (there if prefix == P else here) in left, "ours has metric 0, for IPv6 1024"


async def test_its_own_ipv6_default_is_taken_before_ours(lab: Lab) -> None:
    lab.ip(f"-6 route add default via {THERE6} metric 100 proto ra")
    assert await lab.caller.post("::/0", HERE6) == SUCCESS
    row = await lab.row("::/0")
    assert row is not None
    assert (row["gateway"], row["protocol"]) == (HERE6, "static"), "the row says nothing of its own"
    assert await lab.caller.delete("::/0") == SUCCESS
    (left,) = lab.kernel("::/0")
    assert HERE6 in left, "theirs is gone"


async def test_an_ipv6_ecmp_route_goes_whole_and_loses_its_row_with_one_hop(lab: Lab) -> None:
    assert await lab.caller.post(P6, HERE6) == SUCCESS
    lab.ip(f"-6 route append {P6} via {THERE6}")
    row = await lab.row(P6)
    assert row is not None
    assert set(row["gateway"].split(",")) == {HERE6, THERE6}
    lab.ip(f"-6 route del {P6} via {THERE6}")
    assert await lab.row(P6) is None
    assert HERE6 in lab.ip(f"-6 route show {P6}")
    lab.ip(f"-6 route append {P6} via {THERE6}")
    assert await lab.caller.delete(P6) == SUCCESS
    assert lab.kernel(P6) == []


async def test_both_defaults_have_rows_of_their_own(lab: Lab) -> None:
    assert await lab.caller.post("0.0.0.0/0", HERE) == SUCCESS
    assert await lab.caller.post("::/0", HERE6) == SUCCESS
    for prefix, gateway in (("0.0.0.0/0", HERE), ("::/0", HERE6)):
        row = await lab.row(prefix)
        assert row is not None
        assert row["gateway"] == gateway


async def test_in_0_9_1_both_defaults_are_one_entry_and_the_end_of_one_takes_it(space: Namespace) -> None:
    with running_standin(space, "--tick", "0.02", "--loxilb-version", "0.9.1") as standin:
        lab = Lab(space, standin)
        assert await lab.caller.post("0.0.0.0/0", HERE) == SUCCESS
        assert await lab.caller.post("::/0", HERE6) == SUCCESS
        row = await lab.row("0.0.0.0/0")
        assert row is not None
        assert row["gateway"] == HERE, "an entry keeps its first gateway"
        assert await lab.row("::/0") is None
        assert await lab.caller.delete("::/0") == SUCCESS
        assert await lab.row("0.0.0.0/0") is None
        assert HERE in lab.ip("route show default")
