"""What the comparison with the truth finds, and what it excuses; a picture of a record."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from chaos.plots import draw
from chaos.tally import Tally
from chaos.truth import LAG_S, Look, Witness, unexplained

PREFIX, GATEWAY = "10.1.0.0/16", "192.168.10.1"


def said(phases: dict[str, int], *, complete: bool = False) -> dict[str, Any]:
    target = {
        "name": "lb",
        "state": "synced",
        "error": None,
        "complete": complete,
        "phases": phases,
        "desired": sum(phases.values()),
    }
    return {"status": {"targets": [target], "broker": "connected"}, "targets": [target]}


def row(phase: str) -> dict[str, Any]:
    end = {"target": "lb", "phase": phase, "desired": GATEWAY, "owned": GATEWAY}
    return {"prefix": PREFIX, "targets": [end]}


def witness(*, there: bool) -> Witness:
    made = Witness({PREFIX: time.monotonic() - LAG_S - 1})
    ours = {PREFIX: GATEWAY} if there else {}
    made.add(Look(time.monotonic(), {PREFIX: frozenset({GATEWAY})}, ours, {}, frozenset()))
    return made


def test_a_confirmed_route_that_loxilb_does_not_have_is_a_contradiction() -> None:
    status = said({"confirmed": 1}, complete=True)
    assert not witness(there=True).contradictions(status, [row("confirmed")], status)
    each, complete = witness(there=False).contradictions(status, [row("confirmed")], status)
    assert each.startswith(f"{PREFIX} via {GATEWAY} is said to be confirmed")
    assert complete.startswith(f"complete, and {PREFIX}")


def test_what_was_done_behind_its_back_is_excused_until_it_was_in_contact_for_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = said({"confirmed": 1})
    truth = witness(there=False)
    truth.disturb(PREFIX)
    assert not truth.contradictions(status, [row("confirmed")], status)
    monkeypatch.setattr("chaos.truth.BLIND_S", 0.0)
    truth.disturb(PREFIX)
    for _ in range(2):
        truth.note_contact(served=True)
    assert truth.contradictions(status, [row("confirmed")], status)


def event(sequence: int, epoch: str = "e", **data: object) -> dict[str, Any]:
    kind = "events.lost" if data else "route.accepted"
    return {
        "id": str(sequence),
        "epoch": epoch,
        "sequence": str(sequence),
        "type": f"io.routesync.{kind}.v1",
        "data": data,
    }


def test_a_gap_in_the_sequence_needs_a_loss_that_was_reported() -> None:
    assert not unexplained([event(1), event(3), event(2)])
    assert unexplained([event(1), event(5)])
    assert not unexplained([event(1), event(5), event(6, first=2, last=4)])
    assert not unexplained([event(1), event(5), event(6, first=None, last=None)])
    assert unexplained([event(1), event(5), event(6, first=2, last=3)])
    assert not unexplained([event(1), event(5), event(6, first=3, last=9), event(7, first=1, last=2)])
    assert unexplained([event(1), event(5), event(6, first=4, last=4), event(7, first=2, last=2)])


def test_what_an_outbox_in_memory_had_ends_with_it() -> None:
    before, after = [event(1), event(2)], [event(3)]
    in_memory = [event(1, "m"), event(3, "m")]
    assert not unexplained([*before, *in_memory, *after])
    assert unexplained([*before, *in_memory])  # it may be reported still
    assert unexplained([*before, *in_memory, event(5)])


def test_what_explains_a_gap_may_wait_in_a_file_while_there_is_an_outbox_in_memory() -> None:
    gap, in_memory = [event(1), event(5)], [event(1, "m")]
    assert not unexplained([*gap, *in_memory])
    assert unexplained([*gap, *in_memory, event(6)])
    assert not unexplained([*gap, *in_memory, event(6, first=2, last=4)])


@pytest.mark.parametrize(
    ("first", "last", "count", "silent", "untrue"),
    [(4, 5, 2, 0, 0), (1, 9, 2, 0, 0), (4, 5, 1, 1, 0), (5, 9, 2, 1, 0), (4, 5, 3, 0, 1), (4, 5, None, 2, 0)],
)
def test_what_the_broker_does_not_get_needs_a_report_with_its_number_and_the_right_count(
    first: int, last: int, count: int | None, silent: int, untrue: int
) -> None:
    tally = Tally()
    tally.on_disk = [range(1, 11)]
    for number in (1, 2, 3, 6, 7, 8, 9, 10):
        tally.note_acknowledged(event(number))
    assert tally.silent() == 2
    tally.note_arrived(event(11, first=first, last=last, count=count, reason="denied"))
    assert (tally.silent(), tally.untrue()) == (silent, untrue)


def test_what_arrives_out_of_order_shows_by_how_many_it_was_overtaken() -> None:
    tally = Tally()
    for number in (1, 2, 5, 3, 5, 6, 4):
        tally.note_arrived(event(number))
    assert (tally.overtaken, tally.again) == (2, 1)


def test_a_record_that_was_broken_off_is_drawn(tmp_path: Path) -> None:
    record = tmp_path / "chaos.jsonl"
    lines = [{"t": t, "kind": "sample", "memory": 1 << 20, "cpu_s": t / 10} for t in range(3)]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"t": 3, "ki')
    picture = draw(record)
    drawn = ET.fromstring(picture.read_text())  # noqa: S314 - our own
    assert len(drawn.findall("{*}polyline")) == 12
