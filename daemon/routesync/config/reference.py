"""The reference of the configuration, docs/configuration.md, made from the JSON Schema and so from the models.

`python -m routesync.config.reference` writes it and the schema anew, in the repository it is run in.
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

<!-- Made by `python -m routesync.config.reference` from the models in daemon/routesync/settings: change those. -->

routesync reads one file in [TOML](https://toml.io), `/etc/routesync/routesync.toml`. Every key is optional
unless it says otherwise, and a key that is not listed here is an error. `routesync check FILE` tells all that
is wrong with a file, one line for each mistake, and `routesync plan --config FILE` what it would do.

The file that is shipped, [routesync.toml](../config/routesync.toml), names no target and no broker: routesync
watches and reports. Whole configurations stand in [config/examples](../config/examples). Editors with a
language server for TOML complete and check the file while one writes: by its first line, `#:schema`, they find
[routesync.schema.json](../config/routesync.schema.json), which the package installs in /usr/share/routesync and
`routesync schema config` prints.

`routesync check` shows the whole configuration that a file comes to, and behind each value where it comes from:
the line, the environment, a credential, or the default. It warns of rules that never get their turn.

Where a key takes a value *or an array*, the array means any of its members.

## Secrets

A password or token may stand in the file itself, but better does not:

- `password_file` and `token_file` name a file that holds it. An absolute name is taken as it is; any other is
  looked for in `$CREDENTIALS_DIRECTORY`, where systemd's `LoadCredential=` puts it, or beside the configuration
  where that is not set. So are the files of TLS.
- The environment comes before both: `{MQTT_PASSWORD}`, and for the target `lb-1` `{token_variable("lb-1")}`
  (upper case, with `_` for `-` and `.`).

No secret is ever shown in a message, a log line or an event.

## How tables are merged

`[kernel] tables` are merged by prefix: of two routes to the same prefix, that of the earlier table wins. A `throw`
route ends the search in its own table only: the route of a later table to that prefix is used. Merging is not what
the kernel does for tables that `ip rule` lets it look up one after the other: it takes the first table that has any
route to the address, so a default route (or an `unreachable` 10.64.0.0/10) in an earlier table comes before a
longer prefix in a later one. loxilb has one table, which cannot express that: where an earlier table has a default
route, read that table alone, or mirror only prefixes that no earlier table covers.

Routes that IPv6 uses for some sources only (`from 2001:db8::/56`) are kept by rules as any other, shown, and never
mirrored: loxilb cannot express them. A plain route to the same prefix is always preferred to them. A route whose
lifetime is over counts as absent, although the kernel may list it for a while.

## How rules are read

A rule matches when all keys of its `match` hold. The first rule that matches a route decides; where none does,
`default_action`. A dropped route is as if it were absent: another route to its prefix, with a higher metric or
in a later table, takes its place.

`gateway`, `interface` and `flags` look at the route's next hops and hold when all of them match. Of a multipath
route, dead and linkdown hops are left out first, unless all are down. A route without hops (blackhole and its
like) matches none of them, except for `gateway = false`.

`link_gateway` depends on other routes: it holds for a host route without a gateway whose address is the gateway
of another route over the same link, whatever the rules say of that route. DHCP clients write such a route on a
lease with a mask of /32, before the default route by it. So a new host route on a link with protocol `boot` or
`dhcp` is not kept for its first 2 seconds; and what was once recognised stays so while the route exists.

A rule that keeps may give a `next_hop`: loxilb then sends to that address, whatever gateway the kernel uses. It
applies to routes of the address's own family, and leaves those of the other family as they are. With
`next_hop = "self"` loxilb sends to this host, to its address on the interface that reaches the target, of either
family: so one file serves every node. [loxilb.md](loxilb.md#this-host-as-the-next-hop) says which address that is.

Protocols and tables go by their names in iproute2's `rt_protos` and `rt_tables`, or by number. A built-in name
keeps its number, whatever these files say: `static` is 4, and FRR's own static routes (196) are `zstatic`.
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
