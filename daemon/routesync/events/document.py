"""The contract as files: docs/events.md, docs/events/asyncapi.json, docs/events/schemas/.

`python -m routesync.events.document [DIRECTORY]` writes them; a test holds them to the models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from routesync.events.contract import (
    asyncapi,
    data_schema,
    example_bucket,
    example_message,
    example_state,
    example_status,
    schemas,
)
from routesync.events.models import EVENTS, Event

DOCS: Final = Path("docs")

MARKER: Final = (
    "<!-- Made from here on by `python -m routesync.events.document` from the models in the code. -->"
)


def markdown(current: str) -> str:
    """The document: what people wrote above the marker, and below it what is made from the models."""
    written, _, _ = current.partition(MARKER)
    return "\n".join([written + MARKER, "", *_lines()])


def _lines() -> Iterator[str]:
    yield "## Retained state"
    yield ""
    for title, state in (("status", example_status()), ("table bucket", example_bucket())):
        yield f"### {title}"
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


def files(docs: Path) -> dict[str, str]:
    """The content that each file below docs/ is to have, by its name."""
    current = (docs / "events.md").read_text(encoding="utf-8")
    made = {"events.md": markdown(current), "events/asyncapi.json": _json(asyncapi())}
    for type_name, schema in schemas().items():
        made[f"events/schemas/{type_name}.json"] = _json(schema)
    return made


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def main() -> None:
    """Write the files below the directory that is named, or below docs/."""
    docs = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, content in files(docs).items():
        file = docs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
