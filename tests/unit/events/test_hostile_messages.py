"""Anyone who may write to the broker may send anything: readers show it or pass it over, and never fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiomqtt
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rich.console import Console

from routesync.characters import one_line
from routesync.cli import fleet as commands
from routesync.cli.watch import View, _line
from routesync.config.models import MqttSettings
from routesync.events.fleet import Fleet
from routesync.events.models import EVENTS, AlarmRaised
from routesync.events.mqtt_client import Publication
from routesync.events.node_status import Bucket, Manifest, StatusPart
from routesync.events.peers import Peers
from routesync.events.reader import Cleared, ReceivedMessage, Selection, Subscriber, read
from routesync.route import Prefix
from support.damage import damaged_json, each
from support.events import accepted
from support.fleet import ROOT, FleetNode, Retained

SETTINGS: Final = MqttSettings(host="broker.example")
WAY: Final = commands.Way(Path("/nonexistent"), "broker.example", None)
ROUTES: Final = {f"10.{number}.0.0/16": "192.0.2.1" for number in range(4)}
PLACE_OF_BUCKET: Final = re.compile(r"/table/[^/]+/[0-9a-f]{2,3}$")
INSTANCE: Final = "5a0f3c9d1b2e4f60"


def _publications() -> list[Publication]:
    """What two nodes publish: the status, a table, and events."""
    found: list[Publication] = []
    for name in ("node-1", "node-2"):
        node = FleetNode(name, ROUTES)
        alarm = node.alarm("contended", "another writer deletes them")
        since = "2026-01-31T12:00:00Z"
        found.append(
            node.status(
                "degraded", age_s=70, reasons=["slow"], since=since, labels={"site": "b"}, alarms=(alarm,)
            )
        )
        found += node.table()
        found.append(node.event(accepted(7)))
        found.append(
            node.event(
                AlarmRaised(
                    kind="contended", target="edge", detail="it is", count=3, prefixes=("10.0.0.0/8",)
                )
            )
        )
        instance = {"target": "edge", "instance": INSTANCE}
        takeover = {"instance": INSTANCE, "node": "node-2", "state": "done", "sequence": 7, "left": 0}
        for kind, place, data in (
            ("instance", f"instance/{INSTANCE}", instance),
            ("takeover", f"takeover/{INSTANCE}/node-2", takeover),
        ):
            envelope = {"id": "1", "source": f"/routesync/{name}", "time": since, "epoch": "e", "data": data}
            payload = json.dumps(envelope | {"type": f"io.routesync.{kind}.v1"}).encode()
            found.append(Publication(f"{ROOT}/{name}/{place}", payload, retain=True))
    return found


PUBLICATIONS: Final = _publications()
VARIED: Final = [
    number
    for number, publication in enumerate(PUBLICATIONS)
    if publication.topic[-2:] in ("00", "2a") or not PLACE_OF_BUCKET.search(publication.topic)
]
"""One of each kind, and not only buckets, which are many."""
DOCUMENTS: Final = [json.loads(publication.payload) for publication in PUBLICATIONS]


def received(chance: random.Random, number: int, *, damaged: bool) -> ReceivedMessage | Cleared | None:
    """One of the messages as a reader gets it from a broker."""
    topic = PUBLICATIONS[number].topic
    payload = damaged_json(DOCUMENTS[number], chance) if damaged else PUBLICATIONS[number].payload
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
    if chance.random() < 0.5:
        properties.MessageExpiryInterval = chance.choice((0, 1, 600_000, 2**32 - 1))
    retain = chance.random() < 0.5
    return read(aiomqtt.Message(topic, payload, 1, retain, 1, properties), ROOT)


def some(chance: random.Random, times: int) -> list[ReceivedMessage]:
    made = (received(chance, chance.choice(VARIED), damaged=chance.random() < 0.9) for _ in range(times))
    return [message for message in made if isinstance(message, ReceivedMessage)]


def printable(text: str) -> bool:
    text.encode()
    return one_line(text) == text


def attempt_to_watch(chance: random.Random) -> None:
    view, selection = View(Console(width=100, height=30)), Selection(within=Prefix.parse("10.0.0.0/8"))
    now = time.monotonic()
    for message in some(chance, 4):
        selection.wants(message)
        assert printable(_line(message).plain)
        assert "\n" not in message.text
        view.take(message, now)
    lines = view.render(now + chance.choice((0, 100, 10**9)))
    assert all(printable(line.plain) for line in getattr(lines, "renderables", ()))


def attempt_to_follow_peers(chance: random.Random) -> None:
    peers, now = Peers("node-1"), 1000.0
    peers.set_instance("lb", INSTANCE)
    for message in some(chance, 6):
        peers.take(message, now)
        for place in peers.places(now + 1000):
            aiomqtt.Wildcard(place)  # it can be subscribed to
        for gone in peers.gone("lb", now + 2000):
            assert gone.routes is None or gone.routes >= 0


COMMANDS: Final[Sequence[Callable[[bool], None]]] = (
    lambda as_json: commands.fleet(WAY, all_nodes=True, as_json=as_json),
    lambda as_json: commands.who_has(WAY, "10.1.0.0/16", as_json=as_json),
    lambda as_json: commands.who_has(WAY, "10.1.2.3", as_json=as_json),
    lambda as_json: commands.diff(WAY, as_json=as_json),
    lambda as_json: commands.compare(WAY, "node-1", "node-2", as_json=as_json),
)


@pytest.fixture
def attempt_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[random.Random], None]:
    def attempt(chance: random.Random) -> None:
        numbers = chance.sample(VARIED, chance.choice((1, 2, 5)))
        messages = [
            message
            for number in range(len(PUBLICATIONS))
            if isinstance(message := received(chance, number, damaged=number in numbers), ReceivedMessage)
        ]

        def run(_: object, work: Callable[[Subscriber, MqttSettings], Coroutine[Any, Any, Any]]) -> Any:
            return asyncio.run(work(Retained(messages), SETTINGS))

        monkeypatch.setattr(commands, "_run", run)
        as_json = chance.random() < 0.5
        for command in chance.sample(COMMANDS, 2):
            with contextlib.suppress(typer.Exit):
                command(as_json)
            said, errors = capsys.readouterr()
            assert all(printable(line) for line in (said + errors).split("\n"))
            if as_json and said:
                json.loads(said, parse_constant=pytest.fail)

    return attempt


SEEDS: Final = st.integers(0, 2**32)


@given(SEEDS)
def test_watch_shows_any_message_or_passes_it_over(seed: int) -> None:
    each(seed, 4, attempt_to_watch)


@given(SEEDS)
def test_no_message_breaks_what_follows_peers(seed: int) -> None:
    each(seed, 4, attempt_to_follow_peers)


@given(SEEDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_message_ends_fleet_with_a_traceback(
    attempt_commands: Callable[[random.Random], None], seed: int
) -> None:
    each(seed, 1, attempt_commands)


def status_document() -> tuple[int, dict[str, Any]]:
    """The number of a status among the publications, and its JSON."""
    status = next(number for number in VARIED if PUBLICATIONS[number].topic.endswith("/status"))
    return status, json.loads(PUBLICATIONS[status].payload)


def read_as(number: int, text: str) -> ReceivedMessage | Cleared | None:
    """Read this text as it would come with the topic of a publication."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
    properties.MessageExpiryInterval = 5
    message = aiomqtt.Message(PUBLICATIONS[number].topic, text.encode(), 1, True, 1, properties)
    return read(message, ROOT)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", f"{'9' * 400}.0"])
def test_a_message_with_a_number_that_is_not_finite_is_none_of_ours(number: str) -> None:
    status, document = status_document()
    assert read_as(status, json.dumps(document)) is not None
    data = document["data"]
    for place, key in (
        (document, "extension"),
        (data, "heartbeat_s"),
        (data["targets"][0], "rate"),
        (data["targets"][0], "unknown"),
        (data["labels"], "site"),
    ):
        before = dict(place)
        place[key] = ["HERE"]
        assert read_as(status, json.dumps(document).replace('"HERE"', number)) is None
        place.clear()
        place.update(before)


def test_every_number_of_retained_state_is_bounded() -> None:
    """But for the count of an alarm, which may be a sum of what peers say, and is only shown."""
    models = (*StatusPart.__subclasses__(), *Bucket.__subclasses__(), *Manifest.__subclasses__())
    assert all(model.model_config["allow_inf_nan"] is False for model in (*models, *EVENTS))
    unbounded = [
        f"{model.__name__}.{name}"
        for model in models
        for name, schema in model.model_json_schema()["properties"].items()
        for part in _numbers(schema)
        if "minimum" not in part
        or (part["type"] == "integer" and not {"maximum", "exclusiveMaximum"} & part.keys())
    ]
    assert unbounded == ["AlarmStatus.count"]


def _numbers(schema: object) -> Iterator[dict[str, Any]]:
    """The parts of a JSON Schema that are about numbers."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield schema
        for part in schema.values():
            yield from _numbers(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _numbers(part)


@pytest.mark.parametrize(
    ("key", "huge"),
    [
        ("heartbeat_s", 10**400),
        ("expiry_s", 10**400),
        ("desired", 10**4299),
        ("phases", {"accepted": 10**4299}),
        ("waiting", 10**4299),
        ("remaining_s", -1e300),
        ("proved_s", -1),
        ("rate", -1),
        ("lag_ms", -1),
    ],
)
def test_a_number_beyond_all_calculation_makes_a_status_unreadable(key: str, huge: object) -> None:
    status, document = status_document()
    data = document["data"]
    next(place for place in (data, data["targets"][0], data["kernel"]) if key in place)[key] = huge
    message = read_as(status, json.dumps(document))
    assert isinstance(message, ReceivedMessage)
    fleet = Fleet()
    fleet.take(message, 1000.0)
    (node,) = fleet.nodes.values()
    assert (node.state(1000.0), key in node.why(1000.0)) == ("unreadable", True)
