"""The JSON Schema of routesync.toml, with which editors complete and check a configuration."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from routesync.config.models import Settings, TargetSettings
from routesync.config.parsers import ordered_fields

Schema: TypeAlias = dict[str, object]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Leaves out what means nothing for TOML: null, which TOML does not have, and titles made from keys."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default") is None or isinstance(made["default"], dict):
            made.pop("default", None)
        return made

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002  # pydantic's signature
        return False


def json_schema() -> Schema:
    made = Settings.model_json_schema(schema_generator=_Generator)
    target = made["$defs"]["TargetSettings"]
    target["properties"] = {key: target["properties"][key] for key in ordered_fields(TargetSettings)}
    return {"$schema": DIALECT, "title": "routesync.toml"} | _tidy(made)


def json_schema_text() -> str:
    """The schema as it is stored in config/routesync.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(schema: Schema) -> Schema:
    """Flatten nested alternatives, and put each description on one line."""
    tidied: Schema = {}
    for key, value in schema.items():
        if key in ("properties", "$defs") and isinstance(value, dict):
            tidied[key] = {name: _tidy(inner) for name, inner in value.items()}
        elif key == "items" and isinstance(value, dict):
            tidied[key] = _tidy(value)
        elif key == "anyOf" and isinstance(value, list):
            tidied[key] = _alternatives([_tidy(inner) for inner in value])
        elif key == "description" and isinstance(value, str):
            tidied[key] = " ".join(value.split())
        elif key != "title":
            tidied[key] = value
    return tidied


def _alternatives(schemas: list[Schema]) -> list[Schema]:
    flat: list[Schema] = []
    for schema in schemas:
        inner = schema.get("anyOf")
        flat += inner if isinstance(inner, list) and len(schema) == 1 else [schema]
    return flat
