"""The AsyncAPI document is valid by the official schema, which npm brings (tests/node/package-lock.json)."""

from __future__ import annotations

import json

import jsonschema

from docgen.contract import asyncapi
from support.npm import installed


def test_it_is_valid_by_the_official_schema() -> None:
    document = asyncapi()
    schema = installed("@asyncapi/specs") / "schemas" / f"{document['asyncapi']}.json"
    jsonschema.Draft7Validator(json.loads(schema.read_text(encoding="utf-8"))).validate(document)
