"""Which buckets at a broker the readers of a table believe: those that its manifest shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiomqtt
import pytest
import typer

from routesync.cli import fleet, takeover
from routesync.config.models import MqttSettings
from routesync.events.mqtt_client import Publication
from routesync.events.reader import ReceivedMessage, read
from routesync.events.retained import bucket_name, bucket_of
from routesync.route import Prefix
from support.fleet import ROOT, FleetNode, Retained

SETTINGS: Final = MqttSettings(host="broker.example")
PREFIX: Final = "10.1.0.0/16"
TABLE: Final = ("node-1", "edge")
INSTANCE: Final = "5a0f3c9d1b2e4f60"
EPOCH: Final = "node-1-epoch"
SEQUENCE: Final = 4


def at_the_broker(change: Mapping[str, object] | None) -> Retained:
    """A node with four routes; the bucket of one of them is changed, or missing for None."""
    node = FleetNode(TABLE[0], {f"10.{number}.0.0/16": "192.0.2.1" for number in range(4)})
    note = {
        "id": "1",
        "source": "/routesync/node-1",
        "type": "io.routesync.instance.v1",
        "time": "2026-01-31T12:00:00Z",
        "epoch": EPOCH,
        "data": {"target": TABLE[1], "instance": INSTANCE},
    }
    instance = Publication(f"{ROOT}/node-1/instance/{INSTANCE}", json.dumps(note).encode(), retain=True)
    messages: list[ReceivedMessage] = []
    for number, made in enumerate((node.status(), instance, *node.table())):
        payload = made.payload
        if made.topic.endswith(f"/edge/{bucket_name(bucket_of(PREFIX, 6), 6)}"):
            if change is None:
                continue
            document: dict[str, Any] = json.loads(payload)
            document["epoch"] = change.get("epoch", EPOCH)
            document["data"] |= {name: value for name, value in change.items() if name != "epoch"}
            payload = json.dumps(document).encode()
        message = read(aiomqtt.Message(made.topic, payload, 1, True, number, None), ROOT)
        assert isinstance(message, ReceivedMessage)
        messages.append(message)
    return Retained(messages)


def who_has(broker: Retained) -> bool:
    """Whether the table is known for the prefix."""
    way = fleet.Way(Path(), None, None)
    _, rows, unknown = asyncio.run(fleet._find(broker, SETTINGS, way, [Prefix.parse(PREFIX)]))
    assert unknown == (set() if rows else {TABLE})
    return bool(rows)


def diff(broker: Retained) -> bool:
    """Whether the table is whole."""
    way = fleet.Way(Path(), None, None, (TABLE[0],))
    try:
        _, tables = asyncio.run(fleet._tables(broker, SETTINGS, way))
    except typer.Exit:
        return False
    return Prefix.parse(PREFIX) in tables[TABLE]


def take_over(broker: Retained) -> bool:
    """Whether it is known what the node left."""
    here = takeover._Here("node-9", "e", "lb", INSTANCE)
    try:
        left = asyncio.run(takeover._left(broker, here, TABLE[0]))
    except takeover.RefusedError:
        return False
    return len(left.routes) == SEQUENCE


@pytest.mark.parametrize("knows", [who_has, diff, take_over])
@pytest.mark.parametrize(
    "change",
    [
        None,
        {"epoch": "former"},
        {"epoch": "former", "sequence": 5000},
        {"sequence": SEQUENCE - 1},
        {"routes": [{"prefix": PREFIX, "gateway": "192.0.2.9", "state": "confirmed"}]},
    ],
)
def test_a_bucket_that_is_not_the_one_of_the_manifest_is_not_believed(
    knows: Callable[[Retained], bool], change: Mapping[str, object] | None
) -> None:
    assert knows(at_the_broker({}))
    assert not knows(at_the_broker(change))


def test_a_newer_bucket_of_the_epoch_is_believed_but_for_a_takeover() -> None:
    """A bucket comes before its manifest; of a node that is gone no manifest follows."""
    newer = at_the_broker({"sequence": SEQUENCE + 1})
    assert who_has(newer)
    assert diff(newer)
    assert not take_over(newer)
