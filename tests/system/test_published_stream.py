"""The event stream of a real daemon, when its broker, its disk or the daemon itself fails."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from demo.topology import MIRRORED_TABLE
from docgen.contract import message_schema
from support.bad_brokers import bad_broker
from support.broker import broker
from support.disks import fill, small_disk
from support.waiting import eventually_sync
from support.world import EVENTS, World, world
from table_follower import Copy

MANY = 40
"""Routes at a time: fewer than what counts as a mass withdrawal."""
GATEWAY = "192.168.10.1"

Trouble = Callable[[World], AbstractContextManager[None]]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def prefixes(block: int, count: int = MANY) -> list[str]:
    return [f"10.{block}.{number}.0/24" for number in range(count)]


def change(scene: World, verb: str, routes: list[str]) -> None:
    scene.node.batch([f"route {verb} {prefix} via {GATEWAY}" for prefix in routes])


def mirror_holds(scene: World, *routes: list[str]) -> None:
    scene.mirror_holds([*MIRRORED_TABLE, *(f"{prefix} via {GATEWAY}" for some in routes for prefix in some)])


# -- brokers in trouble: each is in force when the daemon is ready ----------------------------------------------------


@contextmanager
def gone(scene: World) -> Iterator[None]:
    scene.broker.kill()
    scene.start()
    eventually_sync(lambda: "Connection refused" in scene.log(), what="the daemon's words about its broker")
    yield


@contextmanager
def frozen(scene: World) -> Iterator[None]:
    scene.start()
    eventually_sync(lambda: bool(scene.of("sync.completed", "edge")), what="events")
    scene.broker.freeze()
    try:
        yield
    finally:
        scene.broker.thaw()


def bad(kind: str) -> Trouble:
    @contextmanager
    def trouble(scene: World) -> Iterator[None]:
        with bad_broker(scene.node, kind, scene.directory) as made:
            scene.set_broker(1884)
            scene.start()
            eventually_sync(lambda: made.connections > 0, what="a connection to the broker")
            yield

    return trouble


TROUBLES = {"gone": gone, "frozen": frozen} | {kind: bad(kind) for kind in ("silent", "mute", "flapping")}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_broker_in_trouble_delays_no_route(scene: World, trouble: Trouble) -> None:
    """Routes come and go at the target while not one event about them gets through."""
    with trouble(scene):
        change(scene, "add", prefixes(1))
        mirror_holds(scene, prefixes(1))
        change(scene, "del", prefixes(1))
        mirror_holds(scene)
        assert not [event for event in scene.events() if str(event.get("subject")).startswith("10.1.")]
        assert scene.stop() == 0


def test_the_status_names_the_events_that_are_held_for_a_denied_topic(scene: World) -> None:
    acl = f"topic deny {EVENTS}/event/route/accepted\ntopic readwrite #\n"
    with broker(namespace=scene.node, port=1884, acl=acl):
        scene.set_broker(1884)
        scene.start()

        def held() -> list[tuple[str, int]]:
            return [(it["topic"], it["count"]) for it in scene.get("/v1/status")["status"]["held"]]

        routes = len(MIRRORED_TABLE)
        eventually_sync(
            lambda: held() == [("event/route/accepted", routes)], what="held events in the status"
        )
        said = scene.run("status").stdout
        assert f"{routes} events of event/route/accepted, which the broker denies" in said


# -- the daemon killed, the disk full ---------------------------------------------------------------------------------


@cache
def validator(type_name: str) -> jsonschema.Draft202012Validator:
    """Of the published schema of this type."""
    return jsonschema.Draft202012Validator(
        message_schema(type_name), format_checker=jsonschema.FormatChecker()
    )


def followed(file: Path) -> tuple[Copy, list[dict[str, Any]]]:
    """What a subscriber has who got all of this; and the events by their id, in order of arrival."""
    copy = Copy()
    events: dict[str, dict[str, Any]] = {}
    for line in file.read_bytes().splitlines():
        if not line:  # a topic was cleared
            continue
        message = json.loads(line)
        validator(message["type"]).validate(message)
        copy.apply(f"routesync/v1/node/{'event' if 'sequence' in message else message['subject']}", line)
        if "sequence" in message:
            events.setdefault(message["id"], message)
    return copy, list(events.values())


def accepted_on_disk(scene: World) -> set[str]:
    """The prefixes whose acceptance waits in the outbox; a kill takes what is in memory for some milliseconds."""
    copied = scene.directory / "copied"  # the daemon has locked its own
    copied.mkdir(exist_ok=True)
    for file in scene.state.glob("outbox.sqlite*"):
        shutil.copy(file, copied)
    with closing(sqlite3.connect(copied / "outbox.sqlite")) as db:
        rows = db.execute("SELECT prefix FROM outbox WHERE topic LIKE '%/route/accepted'")
        return {prefix for (prefix,) in rows}


def test_what_a_killed_daemon_left_in_its_outbox_comes_with_what_followed(scene: World) -> None:
    stream = scene.directory / "stream"
    scene.broker.kill()
    for block in (1, 2):
        scene.start()
        change(scene, "add", prefixes(block))
        mirror_holds(scene, *map(prefixes, range(1, block + 1)))
        eventually_sync(lambda: accepted_on_disk(scene) >= {*prefixes(block)}, what="events on disk")  # noqa: B023
        scene.kill()
    scene.broker.start()
    with scene.listening("#", stream):
        scene.start()
        change(scene, "del", prefixes(1))
        mirror_holds(scene, prefixes(2))

        def whole() -> bool:
            copy, _ = followed(stream)
            table = copy.targets["edge"].routes if "edge" in copy.targets else {}
            rows = [
                f"{'default' if prefix == '0.0.0.0/0' else prefix} via {gateway}"
                for prefix, (gateway, _) in table.items()
            ]
            return copy.whole and sorted(rows) == sorted(scene.mirrored())

        eventually_sync(whole, within_s=15, what="a whole copy that is what loxilb has")
        _, events = followed(stream)
    sequences = [int(event["sequence"]) for event in events]
    assert sequences == sorted(sequences)
    accepted = {event["subject"] for event in events if event["type"] == "io.routesync.route.accepted.v1"}
    assert accepted >= {*prefixes(1), *prefixes(2)}
    losses = [event["data"] for event in events if event["type"] == "io.routesync.events.lost.v1"]
    assert {(loss["reason"], loss["count"]) for loss in losses} == {("killed", None)}
    # every number that is missing is one that a kill, which was reported, jumped over
    gaps = sum(later - earlier > 1 for earlier, later in pairwise(sequences))
    assert gaps == 2


def test_a_full_disk_stops_neither_routes_nor_events_and_is_said(scene: World) -> None:
    many = prefixes(1, 250)  # more than what the files of a small ledger have room for
    with small_disk(scene.state, size="4m") as disk:
        scene.start()
        mirror_holds(scene)
        ballast = fill(disk)
        change(scene, "add", many)
        mirror_holds(scene, many)
        eventually_sync(lambda: len(scene.status()["reasons"]) == 2, what="words about ledger and outbox")
        assert all("database or disk is full" in reason for reason in scene.status()["reasons"])
        eventually_sync(
            lambda: {str(event.get("subject")) for event in scene.events()} >= {*many}, what="events"
        )
        ballast.unlink()
        eventually_sync(lambda: scene.status()["state"] == "online", what="a daemon that is well again")
        scene.kill()
        scene.start()  # it knows what it mirrored while the disk was full: of before the kill, written after
        change(scene, "del", many)
        mirror_holds(scene)
        assert scene.stop() == 0
        sequences = [
            int(event["sequence"]) for event in scene.events() if event["epoch"] == scene.events()[0]["epoch"]
        ]
        assert sequences == sorted({*sequences})
        said = [json.loads(line) for line in scene.log().splitlines()]
    errors = [line["event"] for line in said if line["level"] == "error"]
    assert sorted(errors) == ["ledger_failing", "outbox_failing"]
