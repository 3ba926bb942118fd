"""The contract: its documents are current, valid, and true of what is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat

from docgen.contract import (
    RETAINED,
    State,
    asyncapi,
    example_bucket,
    example_event,
    example_manifest,
    example_message,
    example_state,
    message_schema,
    schemas,
)
from routesync.events import models
from routesync.events.cloudevents import Record, StreamIdentity, encode
from routesync.events.models import EVENTS, Event, RouteAccepted, RouteIneligible, RouteWithdrawn
from routesync.events.retained import bucket_name, bucket_of, row_hash
from routesync.mirror.eligibility import Reason
from support.events import accepted

DOCS = Path(__file__).parents[3] / "docs"


def test_every_event_model_is_listed() -> None:
    found = {
        kind
        for kind in vars(models).values()
        if isinstance(kind, type) and issubclass(kind, Event) and "group" in vars(kind)
    }
    assert found == set(EVENTS)
    assert len({kind.type_name() for kind in EVENTS}) == len({kind.topic() for kind in EVENTS}) == len(EVENTS)


def test_every_kind_of_alarm_is_documented_and_no_other() -> None:
    section = (DOCS / "events.md").read_text().split("\n## Alarms\n")[1].split("\n<!--")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    assert [row[1].strip().strip("`") for row in rows] == list(get_args(models.AlarmKind))
    assert all(condition.strip() and remedy.strip() for _, _, condition, remedy, _ in rows)


def test_generators_of_code_find_one_name_for_each_schema_and_a_model_for_each_message() -> None:
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0", "generators read no newer one, and make nothing of it"
    schemas, messages = document["components"]["schemas"], document["components"]["messages"]
    assert titles(schemas) == [*schemas]
    payloads = [message["payload"] for message in messages.values()]
    assert len({json.dumps(payload) for payload in payloads}) == len(EVENTS) + len(RETAINED)
    for payload in payloads:
        name = payload["$ref"].removeprefix("#/components/schemas/")
        assert name.endswith("Message")
        assert schemas[name]["properties"]["data"]["$ref"].removeprefix("#/components/schemas/") in schemas


def titles(schemas: dict[str, dict[str, object]]) -> list[str]:
    """The titles of all schemas, in the order of the document."""

    def inside(value: object) -> list[str]:
        if isinstance(value, list):
            return [title for it in value for title in inside(it)]
        if not isinstance(value, dict):
            return []
        own = [value["title"]] if isinstance(value.get("title"), str) else []
        return own + [title for it in value.values() for title in inside(it)]

    return inside(schemas)


def test_all_names_are_uris_of_a_registered_scheme() -> None:
    document = asyncapi()
    names = [document["id"], *(schema["$id"] for schema in schemas().values())]
    assert len({*names}) == len(names)
    # RFC 4151: tag:DOMAIN,DATE:SPECIFIC
    assert all(re.fullmatch(r"tag:[a-z.]+,\d{4}:[A-Za-z0-9.:-]+", name) for name in names)


@pytest.mark.parametrize("kind", EVENTS)
def test_examples_follow_their_schemas(kind: type[Event]) -> None:
    jsonschema.Draft202012Validator(
        message_schema(kind.type_name()), format_checker=jsonschema.FormatChecker()
    ).validate(example_message(kind))


@pytest.mark.parametrize("state", [state for _, _, _, state in RETAINED], ids=lambda state: state.type_name)
def test_retained_examples_follow_their_schemas(state: State) -> None:
    jsonschema.Draft202012Validator(message_schema(state.type_name)).validate(example_state(state))


def test_the_examples_of_the_table_agree_with_each_other() -> None:
    bucket, manifest = example_bucket(), example_manifest()
    (row,) = bucket.routes
    assert bucket.bucket == bucket_name(bucket_of(row.prefix, bucket.depth), bucket.depth)
    assert (manifest.routes, manifest.digest) == (1, f"{row_hash(row):016x}")


def test_reason_codes_in_the_examples_and_in_the_documents_are_those_that_are_used() -> None:
    used = {*Reason}
    assert example_message(RouteIneligible)["data"]["reason"] in used
    withdrawn = (DOCS / "events.md").read_text().partition("## Reason codes")[2].partition("##")[0]
    assert f"`{example_message(RouteWithdrawn)['data']['reason']}`" in withdrawn
    explained = (DOCS / "loxilb.md").read_text()
    assert all(f"| `{reason}` |" in explained for reason in used)


def test_unknown_fields_are_allowed_by_the_schemas_for_new_ones_may_come() -> None:
    message = example_message(RouteAccepted)
    message["data"]["new_field"] = 1
    jsonschema.Draft202012Validator(message_schema(RouteAccepted.type_name())).validate(message)


@pytest.mark.parametrize("kind", EVENTS)
def test_the_official_sdk_reads_events_back(kind: type[Event]) -> None:
    event = example_event(kind)
    read = JSONFormat().read(None, encode(Record(7, 1_700_000_000.5, event), StreamIdentity("node-1", "e1")))
    assert read.get_id() == "e1-7"
    assert read.get_source() == "/routesync/node-1"
    assert read.get_type() == kind.type_name()
    assert read.get_subject() == event.subject
    assert read.get_extension("sequence") == "00000000000000000007"
    time = read.get_time()
    assert time is not None
    assert time.timestamp() == 1_700_000_000.5
    data = read.get_data()
    assert isinstance(data, dict)
    assert kind.model_validate_json(json.dumps(data)) == event


def test_the_subject_is_the_prefix_else_the_target_else_nothing() -> None:
    assert accepted(1).subject == "10.0.0.1/32"
    assert models.TargetDown(target="lb-1", url="http://x", error="gone").subject == "lb-1"
    assert models.KernelOverrun(total=1).subject is None


def test_words_that_are_no_text_do_not_stop_an_event() -> None:
    event = models.TargetDown(target="lb-1", url="http://x", error="half a pair: \ud800")
    read = json.loads(encode(Record(1, 0.0, event), StreamIdentity("node-1", "e1")))
    assert read["data"]["error"] == r"half a pair: \ud800"


def test_a_path_that_is_not_utf_8_is_written_as_in_messages() -> None:
    event = models.ConfigLoaded(path="/etc/k\udcf6ü.toml", digest="1f")
    written = json.loads(encode(Record(1, 0.0, event), StreamIdentity("node-1", "epoch")))
    assert written["data"]["path"] == r"/etc/k\udcf6ü.toml"
