"""The OpenAPI 3.1 document, made from the table of calls and the models that the answers are made of.

`python -m routesync.control.openapi [FILE]` writes it; a test holds the file to the code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from routesync.control.calls import CALLS, JSON, NDJSON, OPENMETRICS, Call
from routesync.control.problems import CONTENT_TYPE as PROBLEM_JSON
from routesync.control.problems import TITLES, Problem

Document = dict[str, Any]

FILE: Final = Path("docs/control/openapi.json")
VERSION: Final = "1.0.0"
_REFERENCE: Final = "#/components/schemas/{model}"
_TEXT: Final = "text/plain"
_ALWAYS: Final = ("internal",)
_DESCRIPTION: Final = (
    "How a running routesync is asked and told, over the Unix socket control.sock in its runtime directory "
    "(/run/routesync). Whoever can open the socket, the daemon's group, may read; changes are for root and the "
    "daemon's own user. /metrics and /health can be served over TCP as well ([control] listen)."
)


def document() -> Document:
    """Make the document."""
    used: dict[type[BaseModel], JsonSchemaMode] = {Problem: "serialization"}
    for call in CALLS:
        if not isinstance(call.answer, str):
            used[call.answer] = "serialization"
        if call.order is not None:
            used[call.order] = "validation"
    _, made = models_json_schema(list(used.items()), ref_template=_REFERENCE)
    paths: Document = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "routesync control",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://routesync", "description": "The host's name is not looked at."}],
        "paths": paths,
        "components": {"schemas": {name: _opened(schema) for name, schema in sorted(made["$defs"].items())}},
    }


def text() -> str:
    """Write the document as it is kept in the repository."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _opened(schema: Document) -> Document:
    """A schema that does not forbid what a later version may add; orders stay closed, for a mistake there is one."""
    is_order = schema["title"] in {call.order.__name__ for call in CALLS if call.order is not None}
    return {key: value for key, value in schema.items() if is_order or key != "additionalProperties" or value}


def _operation(call: Call) -> Document:
    operation: Document = {"operationId": call.name, "summary": call.summary, "description": call.description}
    if call.query is not None:
        operation["parameters"] = _parameters(call.query)
    if call.order is not None:
        operation["requestBody"] = {"required": False, "content": {JSON: {"schema": _ref(call.order)}}}
    operation["responses"] = {"200": _success(call)} | _failures(call)
    return operation


def _success(call: Call) -> Document:
    if not isinstance(call.answer, str):
        return {
            "description": "Done." if call.changes else "The answer.",
            "content": {JSON: {"schema": _ref(call.answer)}},
        }
    if call.answer == OPENMETRICS:
        return {
            "description": "The metrics.",
            "content": {kind: {"schema": {"type": "string"}} for kind in (OPENMETRICS, _TEXT)},
        }
    schema: Document = (
        {"type": "string", "description": "CloudEvents, one a line."}
        if call.answer == NDJSON
        else {"type": "object"}
    )
    return {"description": "The answer.", "content": {call.answer: {"schema": schema}}}


def _failures(call: Call) -> Document:
    names = (*call.failures, *(("not-permitted",) if call.changes else ()), *_ALWAYS)
    by_status: dict[int, list[str]] = {}
    for name in names:
        by_status.setdefault(TITLES[name][0], []).append(name)
    return {
        str(status): {
            "description": "; or: ".join(f"{TITLES[name][1]} (`{name}`)" for name in found),
            "content": {PROBLEM_JSON: {"schema": _ref(Problem)}},
        }
        for status, found in sorted(by_status.items())
    }


def _parameters(query: type[BaseModel]) -> list[Document]:
    schema = query.model_json_schema(mode="validation")
    required = schema.get("required", [])
    return [
        _parameter(name, field, required=name in required) for name, field in schema["properties"].items()
    ]


def _parameter(name: str, field: Document, *, required: bool) -> Document:
    schema = {key: value for key, value in field.items() if key not in ("title", "description", "examples")}
    choices = [choice for choice in schema.pop("anyOf", []) if choice.get("type") != "null"]
    if choices:  # what may be left out is no null in a query
        schema = {**choices[0], **schema}
    if schema.get("default", 0) is None:
        del schema["default"]
    said = field.get("description") or schema.pop("description", "")
    schema.pop("description", None)
    schema.pop("examples", None)
    parameter: Document = {"name": name, "in": "query", "required": required, "schema": schema}
    return parameter | ({"description": said} if said else {})


def _ref(model: type[BaseModel]) -> Document:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def main() -> None:
    """Write the file that is named, or the one in docs/."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
