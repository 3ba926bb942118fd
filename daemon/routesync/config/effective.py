"""The effective configuration: every key with its value and the value's origin.

The origin is a line of the file, the environment, a credential, or the default. For a secret only the origin is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from pydantic import SecretStr

from routesync.config.credentials import Origin
from routesync.config.loader import Loaded
from routesync.config.parsers import Model, ordered_fields
from routesync.config.problems import TARGET_DEFAULTS, KeyPath, model_in, value_at

Value: TypeAlias = object
"""Any TOML value; None: the key is not set."""

_RULES: Final = ("policy", "rules")
_HOST_NAME: Final = ("node", "name")
_TABLES: Final = ("kernel", "tables")


class Setting(NamedTuple):
    """One key. A secret has no value here; it is listed only where it is set."""

    path: KeyPath
    value: Value
    origin: Origin
    secret: bool = False


def effective(loaded: Loaded) -> list[Setting]:
    """All keys, in the order of the models."""
    return list(_settings(loaded, loaded.settings, ()))


def _settings(loaded: Loaded, table: Model, path: KeyPath) -> Iterator[Setting]:
    inner: list[tuple[KeyPath, Model]] = []
    for key, field in ordered_fields(type(table)).items():
        here = (*path, key)
        value = getattr(table, key)
        if key == TARGET_DEFAULTS:
            continue  # each target shows what it has of them
        if isinstance(value, Model) and key != "match":
            inner.append((here, value))
        elif model_in(field.annotation) and isinstance(value, tuple):
            inner += [((*here, index), item) for index, item in enumerate(value)]
        elif isinstance(value, SecretStr):
            yield Setting(here, None, loaded.origins.get(here) or _in_file(loaded, here), secret=True)
        else:
            yield _setting(loaded, here, value)
    for here, value in inner:
        yield from _settings(loaded, value, here)


def _setting(loaded: Loaded, path: KeyPath, value: object) -> Setting:
    if origin := loaded.origins.get(path):
        return Setting(path, _plain(value), origin)
    written = value_at(loaded.document, path)
    if path == _TABLES and isinstance(value, tuple):
        value = tuple(map(loaded.names.table, value))
    if written is None:
        detail = "the host's name" if path == _HOST_NAME else ""
        return Setting(path, _plain(value), Origin("default", detail))
    shown = _plain(value) if path[:2] != _RULES else None
    if shown is None and value is not None:
        shown = written
    return Setting(path, shown, _in_file(loaded, path))  # None: a secret's file, where the environment has it


def _in_file(loaded: Loaded, path: KeyPath) -> Origin:
    place = loaded.lines.get(path)
    return Origin("file", str(place.file), place.line) if place else Origin("file", str(loaded.path))


def _plain(value: object) -> Value:
    """The value in TOML's types; None where it differs from what the file has, which is shown then."""
    if value is None or isinstance(value, str | int | float):
        return value
    if type(value) is tuple and all(isinstance(item, str | int | float) for item in value):
        return list(value)
    return None


def toml(settings: list[Setting]) -> str:
    """Write them as a complete configuration, with each origin in a comment after its value."""
    rows: list[tuple[str, str]] = []
    table: KeyPath = ()
    for setting in settings:
        if setting.path[:-1] != table:
            table = setting.path[:-1]
            rows += [("", ""), (_header(table), "")]
        rows.append(_row(setting))
    width = max((len(left) for left, right in rows if right and len(left) <= _WIDTH), default=0)
    return "".join(
        f"{left:{width}}  # {right}".rstrip() + "\n" if right else f"{left}\n" for left, right in rows
    )


_WIDTH: Final = 60
"""Longer values do not move the other origins to the right."""


def _header(table: KeyPath) -> str:
    name = ".".join(part for part in table if isinstance(part, str))
    return f"[[{name}]]" if isinstance(table[-1], int) else f"[{name}]"


def _row(setting: Setting) -> tuple[str, str]:
    key = str(setting.path[-1])
    if setting.secret:
        return f"# {key}: set, not shown", str(setting.origin)
    if setting.value is None:
        why = "not set" if setting.origin.kind == "default" else "not used: the environment comes first"
        return f"# {key}: {why}", "" if setting.origin.kind == "default" else str(setting.origin)
    return f"{key} = {toml_value(setting.value)}", str(setting.origin)


def toml_value(value: Value) -> str:
    """Write a value in TOML, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            return f"{{ {', '.join(f'{_key(name)} = {toml_value(item)}' for name, item in value.items())} }}"
        case _:
            return str(value)


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else json.dumps(name, ensure_ascii=False)
