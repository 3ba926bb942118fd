"""The generated half of docs/events.md: retained state and all events, each with its fields and an example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from docgen.contract import RETAINED, data_schema, example_message, example_state
from routesync.events.models import EVENTS, Event


def markdown() -> str:
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "## Retained state"
    yield ""
    for _, _, title, state in RETAINED:
        yield f"### {title.lower()}"
        yield ""
        yield from _text(type(state).__doc__)
        yield from _fields(data_schema(type(state), state.type_name))
        yield from _example(example_state(state))
    yield "## All events"
    yield ""
    for kind in EVENTS:
        yield from _event(kind)


def _event(kind: type[Event]) -> Iterator[str]:
    yield f"### {kind.group}/{kind.name}"
    yield ""
    yield from _text(kind.__doc__)
    yield f"Topic `{kind.topic()}`, type `{kind.type_name()}`."
    yield ""
    yield from _fields(data_schema(kind, kind.type_name()))
    yield from _example(example_message(kind))


def _text(docstring: str | None) -> Iterator[str]:
    for paragraph in (docstring or "").strip().split("\n\n"):
        yield " ".join(paragraph.split())
        yield ""


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    if not schema["properties"]:
        return
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    yield from _rows(schema, "")
    yield ""


def _rows(schema: dict[str, Any], above: str) -> Iterator[str]:
    for name, field in schema["properties"].items():
        yield f"| `{above}{name}` | {_type(field)} | {field.get('description', '')} |"
        for inner in (field, *field.get("anyOf", ())):
            if "properties" in inner:
                yield from _rows(inner, f"{above}{name}.")
        if "properties" in field.get("items", {}):
            yield from _rows(field["items"], f"{above}{name}[].")


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    kind: str = field.get("type", "object")
    if kind == "array":
        return f"array of {_type(field['items'])}"
    return "time" if field.get("format") == "date-time" else kind


def _example(message: dict[str, Any]) -> Iterator[str]:
    yield "```json"
    yield json.dumps(message, indent=2)
    yield "```"
    yield ""
