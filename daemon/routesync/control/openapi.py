"""The OpenAPI 3.1 document, made from a table of calls and the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core.core_schema import NullableSchema, WithDefaultSchema

from routesync.control.models import PROBLEMS, Problem
from routesync.control.requests import JSON, NDJSON, OPENMETRICS, PROBLEM_JSON, Call

Document = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{model}"
_TEXTS: Final[dict[str, Document]] = {
    JSON: {JSON: {"schema": {"type": "object"}}},
    NDJSON: {NDJSON: {"schema": {"type": "string", "description": "CloudEvents, one a line."}}},
    OPENMETRICS: {kind: {"schema": {"type": "string"}} for kind in (OPENMETRICS, "text/plain")},
}
_INFO: Final = {
    "title": "routesync control",
    "version": "1.0.0",
    "description": "The control API of a running routesync, over the Unix socket control.sock in its runtime directory "
    "(/run/routesync). Any client that can open the socket (the daemon's group) may read; only root and the daemon's "
    "own user may change anything. /metrics and /health can be served over TCP as well ([control] listen), "
    "and what the page reads ([control] page).",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}


class _Parameters(GenerateJsonSchema):
    def nullable_schema(self, schema: NullableSchema) -> Document:
        return self.generate_inner(schema["schema"])  # a parameter is left out, never null

    def default_schema(self, schema: WithDefaultSchema) -> Document:
        made = super().default_schema(schema)
        return {key: value for key, value in made.items() if value is not None}


def document(calls: Sequence[Call]) -> Document:
    bodies = {call.takes for call in calls if call.takes is not None and call.changes}
    used: dict[type[BaseModel], JsonSchemaMode] = dict.fromkeys(bodies, "validation")
    used |= {call.answer: "serialization" for call in calls if not isinstance(call.answer, str)}
    used[Problem] = "serialization"
    _, made = models_json_schema(list(used.items()), ref_template=_REFERENCE)
    for name, schema in made["$defs"].items():
        if name not in {model.__name__ for model in bodies}:
            schema.pop("additionalProperties", None)  # a later version may add fields to a response
    paths: Document = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "http://routesync", "description": "The host name does not matter."}],
        "paths": paths,
        "components": {"schemas": dict(sorted(made["$defs"].items()))},
    }


def text(calls: Sequence[Call]) -> str:
    return json.dumps(document(calls), indent=2, ensure_ascii=False) + "\n"


def _operation(call: Call) -> Document:
    summary, description = call.documentation
    content = _TEXTS[call.answer] if isinstance(call.answer, str) else _content(call.answer)
    operation: Document = {"operationId": call.name, "summary": summary, "description": description}
    if call.takes is not None and not call.changes:
        schema = call.takes.model_json_schema(schema_generator=_Parameters)
        operation["parameters"] = [
            {"name": name, "in": "query", "required": name in schema.get("required", ())}
            | {"description": it.pop("description"), "schema": it}
            for name, it in schema["properties"].items()
        ]
    elif call.takes is not None:
        operation["requestBody"] = {"required": False, "content": _content(call.takes)}
    operation["responses"] = {"200": {"description": "Success.", "content": content}}
    for name in call.failures:
        status, title = PROBLEMS[name]
        failure = {"description": f"{title} (`{name}`)", "content": _content(Problem, PROBLEM_JSON)}
        if before := operation["responses"].get(str(status)):
            failure["description"] = f"{before['description']}; or: {failure['description']}"
        operation["responses"][str(status)] = failure
    return operation


def _content(model: type[BaseModel], kind: str = JSON) -> Document:
    return {kind: {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}
