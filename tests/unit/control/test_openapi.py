"""The OpenAPI document: current, valid, and whole."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from routesync.control.calls import CALLS
from routesync.control.models import Order
from routesync.control.openapi import FILE, document, text
from routesync.control.orders import Orders
from routesync.control.problems import TITLES
from routesync.control.reads import Reads

ROOT = Path(__file__).parents[3]
OFFICIAL = Path(__file__).parent / "openapi" / "3.1.json"


def test_the_file_is_current() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == text(), "run: python -m routesync.control.openapi"


def test_it_is_valid_by_the_official_schema() -> None:
    jsonschema.Draft202012Validator(json.loads(OFFICIAL.read_text())).validate(document())


@pytest.mark.parametrize("name", document()["components"]["schemas"])
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(document()["components"]["schemas"][name])


def test_every_reference_leads_somewhere() -> None:
    schemas = document()["components"]["schemas"]
    names = {part.split('"')[0] for part in json.dumps(document()).split("#/components/schemas/")[1:]}
    assert names <= set(schemas)
    assert names >= {"Problem", "StatusAnswer", "Explanation"}


def test_every_call_is_carried_out_and_says_what_it_can_fail_with() -> None:
    for call in CALLS:
        assert callable(getattr(Orders if call.changes else Reads, call.name))
        assert set(call.failures) <= set(TITLES)
        assert call.changes == (call.method == "POST"), (
            "what changes something is a POST, and nothing else is"
        )
        responses = document()["paths"][call.path][call.method.lower()]["responses"]
        assert ("403" in responses) == call.changes


def test_only_orders_forbid_what_they_do_not_know() -> None:
    closed = {
        name
        for name, schema in document()["components"]["schemas"].items()
        if schema.get("additionalProperties") is False
    }
    assert closed == {call.order.__name__ for call in CALLS if call.order is not None}
    assert all(issubclass(call.order, Order) for call in CALLS if call.order is not None)
