"""The OpenAPI document: current, valid, and whole."""

from __future__ import annotations

import json
from typing import Any, cast

import jsonschema
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from routesync.control import openapi
from routesync.control.api import CALLS, Api, Lookups
from routesync.control.context import Context
from routesync.control.models import PROBLEMS, RequestModel


@pytest.fixture(scope="module")
def document() -> Any:
    return openapi.document(CALLS)


def test_it_is_valid_by_the_official_schema(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_schema_is_one(document: Any) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere(document: Any) -> None:
    schemas = document["components"]["schemas"]
    names = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(schemas)
    assert names >= {"Problem", "StatusResponse", "Explanation"}


def test_every_call_is_carried_out_and_says_what_it_can_fail_with(document: Any) -> None:
    for call in CALLS:
        assert callable(getattr(Api, call.name))
        assert set(call.failures) <= set(PROBLEMS)
        assert call.changes == (call.method == "POST"), (
            "what changes something is a POST, and nothing else is"
        )
        responses = document["paths"][call.path][call.method.lower()]["responses"]
        assert ("403" in responses) == call.changes


def test_only_request_bodies_forbid_unknown_fields(document: Any) -> None:
    closed = {
        name
        for name, schema in document["components"]["schemas"].items()
        if schema.get("additionalProperties") is False
    }
    bodies = [call.takes for call in CALLS if call.changes and call.takes is not None]
    assert closed == {body.__name__ for body in bodies}
    assert all(issubclass(body, RequestModel) for body in bodies)


async def test_it_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Api(cast("Context", None), cast("Lookups", None), over_tcp=False)
    first = await served.openapi()
    monkeypatch.setattr(openapi, "text", lambda _calls: pytest.fail("made again"))
    again = await served.openapi()
    assert isinstance(first, web.Response)
    assert isinstance(again, web.Response)
    assert first.body == again.body
