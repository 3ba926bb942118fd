"""Every line that the program can log has a stable name, and docs/logs.md lists them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from routesync.events.models import EVENTS
from support.log_calls import log_calls

DOCUMENT = Path(__file__).parents[3] / "docs" / "logs.md"


class Documented(NamedTuple):
    level: str
    fields: frozenset[str]
    heals_with: str | None


def documented() -> dict[str, Documented]:
    found: dict[str, Documented] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            name, level, fields, _, heals = (cell.strip() for cell in line.strip("|").split("|"))
            named = frozenset(re.findall(r"`(\w+)`", fields))
            found[name.strip("`")] = Documented(level, named, heals.strip("`") or None)
    return found


def test_every_event_has_a_name_in_snake_case() -> None:
    wrong = [
        call for call in log_calls() if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", call.event or "")
    ]
    assert wrong == []
    # where the log is the sink of events, lines are named after them
    for event in EVENTS:
        assert re.fullmatch(r"[a-z_]+", f"{event.group}_{event.name}".replace("-", "_"))


def test_the_documentation_lists_them_all_and_no_others() -> None:
    assert documented().keys() == {call.event for call in log_calls() if call.event is not None}


def test_levels_and_fields_are_as_documented() -> None:
    known = documented()
    for call in log_calls():
        if call.event is not None:
            row = known[call.event]
            assert row.level == call.level, call
            assert call.fields <= row.fields, call


def test_one_name_means_one_thing() -> None:
    fields: dict[str, frozenset[str]] = {}
    for call in log_calls():
        if call.event is not None:
            assert fields.setdefault(call.event, call.fields) == call.fields, call


def test_what_heals_is_an_event_itself() -> None:
    known = documented()
    healers = {entry.heals_with for entry in known.values()} - {None}
    assert healers <= known.keys()
    assert len(healers) > 8
