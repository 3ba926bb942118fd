"""Other nodes with the same loxilb: found by it, followed, and gone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import JsonValue

from routesync.events.peers import GRACE_S, Peers
from routesync.events.reader import Cleared, ReceivedMessage

INSTANCE = "5a0f3c9d1b2e4f60"
DONE: dict[str, JsonValue] = {
    "instance": INSTANCE,
    "node": "node-2",
    "state": "done",
    "sequence": 7,
    "left": 0,
}


def message(node: str, place: str, data: dict[str, JsonValue]) -> ReceivedMessage:
    kind = place.split("/", maxsplit=1)[0]
    return ReceivedMessage(
        id="1",
        source=f"/routesync/{node}",
        type=f"io.routesync.{kind}.v1",
        time=datetime.now(UTC),
        epoch="e",
        data=data,
        place=place,
        retained=True,
    )


def manifest(routes: int, sequence: int = 7) -> ReceivedMessage:
    data: dict[str, JsonValue] = {
        "target": "theirs",
        "depth": 6,
        "routes": routes,
        "digest": "0",
        "routes_digest": "0",
        "sequence": sequence,
        "sequences": [],
        "digests": [],
    }
    return message("node-2", "table/theirs/manifest", data)


def state(name: str) -> ReceivedMessage:
    return message("node-2", "status", {"state": name, "node": "node-2"})


def following(*more: ReceivedMessage) -> Peers:
    peers = Peers("node-1")
    peers.set_instance("lb", INSTANCE)
    for node in ("node-1", "node-2"):
        peers.take(message(node, f"instance/{INSTANCE}", {"target": "theirs", "instance": INSTANCE}), 0)
    for each in more:
        peers.take(each, 0)
    return peers


def test_only_nodes_with_the_same_loxilb_are_followed() -> None:
    peers = Peers("node-1")
    assert peers.places(0) == set()
    peers.set_instance("lb", INSTANCE)
    assert peers.places(0) == {f"+/instance/{INSTANCE}"}
    assert following().places(0) == {f"+/instance/{INSTANCE}", "node-2/status"}
    peers.take(message("node-3", "instance/other", {"target": "t", "instance": "other"}), 0)
    assert peers.places(0) == {f"+/instance/{INSTANCE}"}


def test_a_peer_that_stays_offline_is_gone_and_one_that_restarts_is_not() -> None:
    peers = following(state("offline"))
    assert peers.gone("lb", 0) == []
    peers.take(state("online"), GRACE_S - 1)
    assert peers.gone("lb", GRACE_S + 1) == []
    peers.take(state("offline"), 100)
    assert peers.gone("lb", 100) == []
    (gone,) = peers.gone("lb", 100 + GRACE_S)
    assert (gone.node, gone.state, gone.routes) == ("node-2", "offline", None)
    assert {"node-2/table/theirs/manifest", f"+/takeover/{INSTANCE}/node-2"} < peers.places(100 + GRACE_S)
    peers.take(manifest(3), 100 + GRACE_S)
    (gone,) = peers.gone("lb", 100 + GRACE_S)
    assert gone.routes == 3
    assert peers.gone("another target", 100 + GRACE_S) == []


@pytest.mark.parametrize(
    ("last", "is_gone"),
    [
        (manifest(0), False),
        (message("node-3", f"takeover/{INSTANCE}/node-2", DONE), False),
        (message("node-3", f"takeover/{INSTANCE}/node-2", DONE | {"state": "running"}), True),
        (message("node-3", f"takeover/{INSTANCE}/node-2", DONE | {"left": 1}), True),
        (message("node-3", f"takeover/{INSTANCE}/node-2", DONE | {"sequence": 6}), True),
        (message("node-3", f"takeover/{INSTANCE}/node-2", {"x": 1}), True),
    ],
)
def test_the_alarm_ends_when_nothing_of_it_is_left(last: ReceivedMessage, is_gone: bool) -> None:  # noqa: FBT001
    peers = following(state("offline"))
    assert len(peers.gone("lb", 0)) == 0
    peers.places(0)
    assert len(peers.gone("lb", GRACE_S)) == 1
    peers.take(manifest(3), GRACE_S)
    peers.take(last, GRACE_S)
    assert bool(peers.gone("lb", GRACE_S)) is is_gone


def test_a_node_that_was_renamed_is_no_peer_any_more() -> None:
    peers = following(state("offline"))
    peers.gone("lb", 0)
    peers.take(Cleared("node-2", f"instance/{INSTANCE}"), 0)
    assert peers.gone("lb", GRACE_S) == []
    assert peers.places(GRACE_S) == {f"+/instance/{INSTANCE}"}


def test_peers_are_bounded_and_their_targets_are_names() -> None:
    peers = following()
    for number in range(1000):
        peers.take(message(f"n{number}", f"instance/{INSTANCE}", {"target": "t", "instance": INSTANCE}), 0)
    assert len(peers.places(0)) < 70
    for node, target in (("bad", "#"), ("bad", "a\0b"), ("bad", "x" * 201), ("x" * 65_000, "t")):
        peers = following(message(node, f"instance/{INSTANCE}", {"target": target, "instance": INSTANCE}))
        assert f"{node}/status" not in peers.places(0)
