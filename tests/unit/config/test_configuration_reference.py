"""The reference, the schema and the shipped file say all that the models say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from docgen import config_schema as schema
from docgen import configuration as reference
from routesync.config.models import Settings
from routesync.config.parsers import Model
from routesync.config.problems import model_in
from routesync.config.rules import PrefixMatch
from routesync.names import Names
from routesync.route import HopFlag

ROOT = Path(__file__).parents[3]


def models(model: type[Model], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[Model]]]:
    yield path, model
    for key, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is not None:
            yield from models(inner, (*path, key))


def test_every_key_has_its_meaning_and_is_in_the_reference() -> None:
    text = reference.markdown()
    for path, model in models(Settings):
        section = text.split(f"{'.'.join(path)}]")[-1] if path else text
        for key, field in model.model_fields.items():
            assert model_in(field.annotation) or field.description, f"{model.__name__}.{key}"
            listed = path == () or path[0] == reference.SHARED or f"\n| `{key}` | " in section
            assert listed, f"{model.__name__}.{key}"


def test_the_shipped_file_names_every_key() -> None:
    text = (ROOT / "config/routesync.toml").read_text(encoding="utf-8")
    for path, model in models(Settings):
        if "rules" in path and path[-1] != "match":
            continue  # described in prose, at their match
        for key in model.model_fields:
            inline = {"token": "token_file", "password": "password_file", "rules": "[[policy.rules]]"}.get(
                key, key
            )
            assert inline in text, f"{'.'.join(path)}: {key}"


def test_what_the_shipped_file_shows_as_defaults_are_the_defaults() -> None:
    text = (ROOT / "config/routesync.toml").read_text(encoding="utf-8")
    own = {"name", "netns", "url", "token_file", "password_file", "next_hop", "host", "client_id", "username"}
    own |= {
        "ca_file",
        "cert_file",
        "key_file",
        "server_name",
        "listen",
        "guard",
        "labels",
        "prefix_lists",
        "kernel_table",
    }
    tables = {".".join(path): model for path, model in models(Settings)}
    model: type[Model] = Settings
    seen = 0
    for line in text.splitlines():
        header = re.fullmatch(r"(?:# )?\[{1,2}([a-z.]+)\]{1,2}", line)
        if header:
            model = tables[header[1]]
        pair = re.fullmatch(r"# ([a-z_0-9]+ = [^#]*?)(?: # .*)?", line)
        if pair:
            ((key, value),) = tomllib.loads(pair[1]).items()
            if key not in own:
                default = model.model_fields[key].default
                assert (tuple(value) if isinstance(value, list) else value) == default, f"{header}: {line}"
                seen += 1
    assert seen > 25


def test_the_schema_names_the_flags_that_there_are() -> None:
    text = schema.json_schema_text()
    start = text.index('"flags"')
    assert all(f'"{flag}"' in text[start : start + 1000] for flag in HopFlag.NAMES)


def test_a_schema_for_toml_has_no_null() -> None:
    assert "null" not in schema.json_schema_text()


def test_the_schema_takes_a_bare_string_for_a_prefix() -> None:
    definitions = schema.json_schema()["$defs"]
    assert isinstance(definitions, dict)
    assert {"type": "string"} in definitions[PrefixMatch.__name__]["anyOf"]


def test_the_settings_of_an_empty_file_are_the_defaults() -> None:
    assert Settings.model_validate({}, context=Names()) == Settings()
