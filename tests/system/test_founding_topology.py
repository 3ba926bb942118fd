"""The topology is what the bug report shows, line by line, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.topology import FOUNDING_TABLE, HOST_ROUTE, FoundingTopology
from support.waiting import eventually_sync


@pytest.fixture(scope="module")
def topology() -> Iterator[FoundingTopology]:
    with FoundingTopology() as made:
        yield made


def in_place(topology: FoundingTopology) -> bool:
    return topology.table(topology.node) == list(FOUNDING_TABLE)


def test_the_table_of_the_node_is_the_reports(topology: FoundingTopology) -> None:
    assert topology.table(topology.node) == list(FOUNDING_TABLE)


def test_a_renewed_lease_leaves_the_table_as_it_was(topology: FoundingTopology) -> None:
    topology.renew_lease()
    assert HOST_ROUTE in topology.table(topology.node)


@pytest.mark.parametrize("link", ["flannel.1", "ens3", "cni0"])
def test_a_flapping_link_loses_its_routes_and_gets_them_back(topology: FoundingTopology, link: str) -> None:
    topology.link_down(link)
    assert not [line for line in topology.table(topology.node) if f"dev {link}" in line]
    topology.link_up(link)
    eventually_sync(lambda: in_place(topology), what="founding table after the flap")


def test_a_pod_network_moves(topology: FoundingTopology) -> None:
    topology.move_pod_network(3, 4)
    table = "\n".join(topology.table(topology.node))
    assert "10.244.4.0/24 via 10.244.4.0" in table
    assert "10.244.3.0/24" not in table
    topology.move_pod_network(4, 3)
    assert in_place(topology)


def test_nothing_is_left_after_removal_also_when_repeated() -> None:
    with FoundingTopology() as made:
        pass
    made.remove()
    left = {entry.name for entry in Path("/run/netns").iterdir()}
    assert left.isdisjoint({made.node, made.loxilb, made.segment})
