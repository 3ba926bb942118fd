"""The reference of the configuration, docs/configuration.md, made from the JSON Schema and so from the models.

`python -m routesync.config.reference` writes it and the schema into the repository that it runs in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from routesync.config.credentials import MQTT_PASSWORD, token_variable
from routesync.config.schema import Schema, json_schema, json_schema_text

REFERENCE: Final = Path("docs/configuration.md")
SCHEMA: Final = Path("config/routesync.schema.json")

_HEAD: Final = f"""\
# Configuration

<!-- Made by `python -m routesync.config.reference` from daemon/routesync/config/models.py: change the models. -->

routesync reads one file in [TOML](https://toml.io), `/etc/routesync/routesync.toml`. Every key is optional
unless marked as required, and an unknown key is an error. `routesync check FILE` reports all faults of a file, one
line each, and `routesync plan --config FILE` shows what it would do.

The shipped file, [routesync.toml](../config/routesync.toml), names no target and no broker: routesync follows the
routes and reports. [config/examples](../config/examples) has whole configurations. Editors with a language server
for TOML complete and check the file as you type: its first line, `#:schema`, names
[routesync.schema.json](../config/routesync.schema.json), which the package installs in /usr/share/routesync and
`routesync schema config` prints.

`routesync check` also prints the effective configuration, with the origin of each value: the line, the environment, a
credential, or the default. It warns of rules that can never apply.

Where a key takes a value *or an array*, the array means any of its members.

An invalid file is rejected at the start with one line per fault (file and line, what is wrong, what to do). On a
reload it is rejected as a whole, and the running configuration stays.

## Secrets

A password or token can be in the file itself, but it is better kept elsewhere:

- `password_file` and `token_file` name a file that contains it. A relative name is looked up in
  `$CREDENTIALS_DIRECTORY`, where systemd's `LoadCredential=` puts it, or beside the configuration where that variable
  is not set. The same holds for the files of TLS.
- The environment takes precedence over both: `{MQTT_PASSWORD}`, and for the target `lb-1` `{token_variable("lb-1")}`
  (upper case, with `_` for `-` and `.`).

No message, log line or event contains a secret.

## How tables are merged

`[kernel] tables` are merged by prefix: of two routes to the same prefix, that of the earlier table wins. A `throw`
route ends the search in its own table only: the route of a later table to that prefix is used. The kernel does not
merge tables that `ip rule` makes it look up one after the other: it takes the first table with any route to the
address, so a default route (or an `unreachable` 10.64.0.0/10) in an earlier table takes precedence over a longer
prefix in a later one. loxilb has one table, which cannot express that: where an earlier table has a default route,
read that table alone, or mirror only prefixes that no earlier table covers.

Routes that IPv6 uses for some sources only (`from 2001:db8::/56`) are evaluated and shown like any other, and never
mirrored: loxilb cannot express them. A plain route to the same prefix is always preferred to them. A route whose
lifetime has ended counts as absent, although the kernel may list it for a while.

## How rules are evaluated

A rule matches when all keys of its `match` do. The first rule that matches a route decides; if none matches,
`default_action` does. A dropped route counts as absent: another route to its prefix, with a higher metric or in a later
table, takes its place.

`gateway`, `interface` and `flags` examine the route's next hops and match when all of them do. Dead and linkdown hops
of a multipath route are ignored, unless all are down. A route without hops (such as blackhole) matches none of these
keys, except `gateway = false`.

`link_gateway` depends on other routes: it matches a host route without a gateway whose address is the gateway of
another route over the same link, whatever the rules decide on that route. DHCP clients add such a route on a lease
with a /32 mask, before the default route that uses it. So a new host route on a link with protocol `boot` or `dhcp` is
not kept for its first 2 seconds; and a route once recognised stays so while it exists.

A rule that keeps can set `next_hop`: loxilb then sends to that address, whatever gateway the kernel uses. It applies
to routes of the address's own family and leaves the other family unchanged. With `next_hop = "self"` loxilb sends to
this host, to its address on the interface that reaches the target, of either family: so one file serves every node.
[loxilb.md](loxilb.md#this-host-as-the-next-hop) says which address that is.

Protocols and tables are given by their names in iproute2's `rt_protos` and `rt_tables`, or by number. A built-in name
keeps its number, whatever these files contain: `static` is 4, and FRR's own static routes (196) are `zstatic`.
"""


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


def introduction() -> str:
    """What is to be known before the tables, in Markdown."""
    return _HEAD.partition("-->")[2]


def tables() -> list[Table]:
    """Everything that may stand in the file, outer tables before inner ones."""
    root = json_schema()
    outside = Table("Outside of any table", "", tuple(_keys(root, root, only_values=True)))
    inner = (
        Table(name, str(schema["description"]), tuple(_keys(schema, root)))
        for name, schema in _tables(root, root, ())
    )
    return [outside, *inner]


def markdown() -> str:
    """Write the reference."""
    parts = [_HEAD]
    for table in tables():
        heading = f"`{table.name}`" if table.name.startswith("[") else table.name
        parts.append(f"\n## {heading}\n\n")
        parts.append(f"{table.meaning}\n\n" if table.meaning else "")
        parts.append("| key | value | default | meaning |\n|---|---|---|---|\n")
        for key in table.keys:
            default = "**required**" if key.required else f"`{key.default}`" if key.default else ""
            meaning = key.meaning.replace("<", "\\<").replace("|", "\\|")
            parts.append(f"| `{key.name}` | {key.kind} | {default} | {meaning} |\n")
    return "".join(parts)


def _tables(schema: Schema, root: Schema, path: tuple[str, ...]) -> Iterator[tuple[str, Schema]]:
    """All tables, outer before inner."""
    for key, value in _properties(schema).items():
        inner, many = _table_of(value, root)
        if inner is None:
            continue
        here = (*path, key)
        name = ".".join(here)
        yield f"[[{name}]]" if many else f"[{name}]", inner
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


if __name__ == "__main__":
    REFERENCE.write_text(markdown(), encoding="utf-8")
    SCHEMA.write_text(json_schema_text(), encoding="utf-8")
