"""The tables of docs/configuration.md, made from the JSON Schema and so from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple

from docgen.config_schema import Schema, json_schema

SHARED: Final = "target_defaults"
"""Its keys are those of [[targets]], and are listed there."""


class Key(NamedTuple):
    """One key of a table, in words."""

    name: str
    kind: str  # what may stand there, with bounds; words in `backquotes`
    required: bool
    default: str  # as JSON; empty: there is none to be told
    meaning: str


class Table(NamedTuple):
    """One table, or what stands outside of any."""

    name: str  # [policy], [[policy.rules]] …
    meaning: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """Everything that may stand in the file, outer tables before inner ones."""
    root = json_schema()
    outside = Table("Outside of any table", "", tuple(_keys(root, root, only_values=True)))
    inner = (
        Table(name, str(schema["description"]), () if name == f"[{SHARED}]" else tuple(_keys(schema, root)))
        for name, schema in _tables(root, root, ())
    )
    return [outside, *inner]


def markdown() -> str:
    """Write the reference."""
    parts: list[str] = []
    for table in tables():
        heading = f"`{table.name}`" if table.name.startswith("[") else table.name
        parts.append(f"## {heading}\n\n")
        parts.append(f"{table.meaning}\n\n" if table.meaning else "")
        if table.keys:
            parts.append("| key | value | default | meaning |\n|---|---|---|---|\n")
        for key in table.keys:
            default = "**required**" if key.required else f"`{key.default}`" if key.default else ""
            meaning = key.meaning.replace("<", "\\<").replace("|", "\\|")
            parts.append(f"| `{key.name}` | {key.kind} | {default} | {meaning} |\n")
        parts.append("\n" if table.keys else "")
    return "".join(parts).rstrip("\n") + "\n"


def _tables(schema: Schema, root: Schema, path: tuple[str, ...]) -> Iterator[tuple[str, Schema]]:
    """All tables, outer before inner."""
    for key, value in _properties(schema).items():
        inner, many = _table_of(value, root)
        if inner is None:
            continue
        here = (*path, key)
        name = ".".join(here)
        yield f"[[{name}]]" if many else f"[{name}]", inner
        if key != SHARED:
            yield from _tables(inner, root, here)


def _table_of(value: Schema, root: Schema) -> tuple[Schema | None, bool]:
    """The table that stands in a key, and whether it is an array of them."""
    items = value.get("items")
    if isinstance(items, dict) and "$ref" in items:
        return _resolved(items, root), True
    for choice in (value, *_choices(value)):
        if "$ref" in choice:
            resolved = _resolved(choice, root)
            return next((it for it in _choices(resolved) if "properties" in it), resolved), False
    return None, False


def _keys(schema: Schema, root: Schema, *, only_values: bool = False) -> Iterator[Key]:
    required = schema.get("required")
    for key, value in _properties(schema).items():
        if only_values and _table_of(value, root)[0] is not None:
            continue
        must = isinstance(required, list) and key in required
        default = json.dumps(value["default"]) if "default" in value and not must else ""
        yield Key(key, _kind(value, root), must, default, str(value["description"]))


def _kind(value: Schema, root: Schema) -> str:
    """Say in words what may stand in a key."""
    if "$ref" in value:
        resolved = _resolved(value, root)
        return _kind(resolved, root) if "anyOf" in resolved else "table"
    if "anyOf" in value:
        kinds = [_kind(choice, root) for choice in _choices(value) if choice.get("type") != "array"]
        many = any(choice.get("type") == "array" for choice in _choices(value))
        return " or ".join([*dict.fromkeys(kinds), *(["array"] if many else [])])
    if "enum" in value:
        words = value["enum"]
        return ", ".join(f"`{word}`" for word in words) if isinstance(words, list) else ""
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        if isinstance(several := value.get("prefixItems"), list):
            return f"array of {len(several)}: {'; '.join(_kind(it, root) for it in several)}"
        items = value.get("items")
        return f"array of {_kind(items, root)}s" if isinstance(items, dict) else "array"
    return f"{value.get('type', 'table')}{_bounds(value)}".replace("object", "table")


def _bounds(value: Schema) -> str:
    low, high = value.get("minimum", value.get("exclusiveMinimum")), value.get("maximum")
    if low is None and high is None:
        return ""
    return f", above {low}, up to {high}" if "exclusiveMinimum" in value else f", {low} to {high}"


def _properties(schema: Schema) -> dict[str, Schema]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _choices(schema: Schema) -> list[Schema]:
    choices = schema.get("anyOf")
    return choices if isinstance(choices, list) else []


def _resolved(schema: Schema, root: Schema) -> Schema:
    defs = root["$defs"]
    name = str(schema["$ref"]).rpartition("/")[2]
    return defs[name] if isinstance(defs, dict) else {}
