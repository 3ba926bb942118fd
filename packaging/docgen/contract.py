"""The contract with subscribers, made from the models that write the messages: examples, JSON Schemas, AsyncAPI.

Sources: AsyncAPI 3.0.0 and its MQTT bindings 0.2.0 (https://www.asyncapi.com/docs/reference), JSON Schema 2020-12.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docgen.examples import STORY
from routesync.events.cloudevents import (
    CONTENT_TYPE,
    Record,
    StreamIdentity,
    dataschema,
    encode,
    encode_state,
)
from routesync.events.models import EVENTS, Event
from routesync.events.node_status import (
    MIN_DEPTH,
    Instance,
    KernelStatus,
    Status,
    TableBucket,
    TableManifest,
    TableRow,
    Takeover,
    TargetStatus,
)
from routesync.events.retained import route_hash, row_hash

Document = dict[str, Any]

ROOT: Final = "routesync/v1"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"
CONTRACT_VERSION: Final = "1.0.0"

_IDENTITY: Final = StreamIdentity("node-1", "5f0c2e9ab1d4")
_AT: Final = datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)
_MODELS: Final[dict[str, type[BaseModel]]] = {
    **{kind.type_name(): kind for kind in EVENTS},
    Status.type_name: Status,
    TableBucket.type_name: TableBucket,
    TableManifest.type_name: TableManifest,
    Instance.type_name: Instance,
    Takeover.type_name: Takeover,
}
_RETAINED: Final = {model.type_name for model in (Status, TableBucket, TableManifest, Instance, Takeover)}
State = Status | TableBucket | TableManifest | Instance | Takeover
_CLOSED: Final = ("additionalProperties", False)
_INSTANCE: Final = "5a0f3c9d1b2e4f60"
_PARAMETERS: Final = {
    "node": {"description": "Name of the node.", "examples": ["node-1"]},
    "target": {"description": "Name of the target.", "examples": ["lb-1"]},
    "instance": {"description": "Names a loxilb.", "examples": [_INSTANCE]},
    "peer": {"description": "Name of the node that is gone.", "examples": ["node-2"]},
    "bucket": {"description": "The leading bits of the prefixes' hash, in hex.", "examples": ["0a"]},
}


def _field_example(field: FieldInfo) -> object:
    if field.examples:
        return field.examples[0]
    return field.get_default(call_default_factory=True)


def example_event(kind: type[Event]) -> Event:
    """An event with the examples of its fields, as far as they go together."""
    fields = {name: _field_example(field) for name, field in kind.model_fields.items()}
    return kind.model_validate({**fields, **STORY.get(kind, {})})


def example_bucket() -> TableBucket:
    """A bucket with one route."""
    row = TableRow(prefix="10.244.1.0/24", gateway="192.168.10.10", state="confirmed")
    return TableBucket(target="lb-1", bucket="0a", depth=MIN_DEPTH, sequence=1234, routes=(row,))


def example_manifest() -> TableManifest:
    """The manifest of the table with that one route."""
    (row,) = example_bucket().routes
    digests = [0] * 2**MIN_DEPTH
    digests[0x0A] = row_hash(row)
    return TableManifest(
        target="lb-1",
        depth=MIN_DEPTH,
        routes=1,
        digest=f"{row_hash(row):016x}",
        routes_digest=f"{route_hash(row):016x}",
        sequence=1234,
        sequences=(1234,) * 2**MIN_DEPTH,
        digests=tuple(f"{digest:016x}" for digest in digests),
    )


def example_instance() -> Instance:
    """Which target is this loxilb."""
    return Instance(target="lb-1", instance=_INSTANCE)


def example_takeover() -> Takeover:
    """A takeover that is done."""
    return Takeover(instance=_INSTANCE, node="node-2", state="done", sequence=1234)


def example_status() -> Status:
    """The status of a node where all is well."""
    return Status(
        state="online",
        node=_IDENTITY.node,
        version="1.0.0",
        epoch=_IDENTITY.epoch,
        mode="mirror",
        started=_AT,
        time=_AT,
        kernel=KernelStatus(state="synced", routes=5, dropped=1),
        targets=(
            TargetStatus(
                name="lb-1",
                url="http://192.168.10.20:11111",
                state="synced",
                instance=_INSTANCE,
                desired=1,
                phases={"confirmed": 1},
                complete=True,
            ),
        ),
        verdicts={"pod-networks": 4, "dhcp-host-routes": 1},
        broker="connected",
    )


def example_message(kind: type[Event]) -> Document:
    """An event as it goes over the wire."""
    return _read(encode(Record(1234, _AT.timestamp(), example_event(kind)), _IDENTITY))


def example_state(data: State) -> Document:
    """A retained state as it goes over the wire."""
    match data:
        case Status():
            subject = "status"
        case TableBucket():
            subject = f"table/{data.target}/{data.bucket}"
        case Instance():
            subject = f"instance/{data.instance}"
        case Takeover():
            subject = f"takeover/{data.instance}/{data.node}"
        case _:
            subject = f"table/{data.target}/manifest"
    return _read(
        encode_state(data.type_name, _IDENTITY, data, at=_AT.timestamp(), subject=subject, serial="1")
    )


def _read(payload: bytes) -> Document:
    document: Document = json.loads(payload)
    return document


def data_schema(model: type[BaseModel], type_name: str) -> Document:
    """The JSON Schema of a message's `data`, without references.

    It does not forbid unknown fields, for new ones may come.
    """
    schema = model.model_json_schema(mode="serialization")
    parts = schema.pop("$defs", {})
    return {"$schema": DIALECT, "$id": dataschema(type_name), **_resolved(schema, parts)}


def _resolved(schema: Any, parts: Document) -> Any:
    if isinstance(schema, list):
        return [_resolved(value, parts) for value in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolved(parts[schema["$ref"].removeprefix("#/$defs/")], parts)
    return {key: _resolved(value, parts) for key, value in schema.items() if (key, value) != _CLOSED}


def schemas() -> dict[str, Document]:
    """The JSON Schemas of all data, by CloudEvents type."""
    return {type_name: data_schema(model, type_name) for type_name, model in _MODELS.items()}


def message_schema(type_name: str) -> Document:
    """The JSON Schema of a whole message: the envelope and its data."""
    text = {"type": "string"}
    properties: Document = {
        "specversion": {"const": "1.0"},
        "id": {**text, "description": "Unique; a message that comes again has the same."},
        "source": {**text, "format": "uri-reference", "description": "/routesync/<node>"},
        "type": {"const": type_name},
        "time": {**text, "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "dataschema": {"const": dataschema(type_name)},
        "subject": {**text, "description": "The prefix, else the target; of retained state its topic."},
        "epoch": {**text, "description": "What the sequence counts in."},
        "data": data_schema(_MODELS[type_name], type_name),
    }
    optional = {"subject", "late"}
    if type_name not in _RETAINED:
        properties["late"] = {"type": "boolean", "description": "The event was held at the node for a while."}
        properties["sequence"] = {
            **text,
            "pattern": "^[0-9]{20}$",
            "description": "One more than that of the event before.",
        }
    required = [name for name in properties if name not in optional]
    return {"$schema": DIALECT, "type": "object", "properties": properties, "required": required}


def _message(title: str, summary: str, schema: Document, example: Document) -> Document:
    return {
        "title": title,
        "summary": summary,
        "contentType": CONTENT_TYPE,
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": schema},
        "examples": [{"payload": example}],
        "bindings": {"mqtt": {"bindingVersion": "0.2.0", "payloadFormatIndicator": 1}},
    }


def asyncapi() -> Document:
    """The AsyncAPI document."""
    channels: Document = {}
    operations: Document = {}
    messages: Document = {}

    def add(key: str, topic: str, message: Document, *, retained: bool) -> None:
        names = [name for name in _PARAMETERS if f"{{{name}}}" in topic]
        messages[key] = message
        channels[key] = {
            "address": topic,
            "parameters": {name: _PARAMETERS[name] for name in names},
            "messages": {key: {"$ref": f"#/components/messages/{key}"}},
        }
        operations[f"send.{key}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{key}"}],
            "bindings": {"mqtt": {"bindingVersion": "0.2.0", "qos": 1, "retain": retained}},
        }

    below = f"{ROOT}/{{node}}"
    status, bucket = example_status(), example_bucket()
    add(
        "status",
        f"{below}/status",
        _message("Status", summary_of(Status), message_schema(Status.type_name), example_state(status)),
        retained=True,
    )
    add(
        "table",
        f"{below}/table/{{target}}/{{bucket}}",
        _message(
            "Table bucket",
            summary_of(TableBucket),
            message_schema(TableBucket.type_name),
            example_state(bucket),
        ),
        retained=True,
    )
    add(
        "manifest",
        f"{below}/table/{{target}}/manifest",
        _message(
            "Table manifest",
            summary_of(TableManifest),
            message_schema(TableManifest.type_name),
            example_state(example_manifest()),
        ),
        retained=True,
    )
    for key, topic, title, state in (
        ("instance", "instance/{instance}", "Instance", example_instance()),
        ("takeover", "takeover/{instance}/{peer}", "Takeover", example_takeover()),
    ):
        schema, example = message_schema(state.type_name), example_state(state)
        add(
            key,
            f"{below}/{topic}",
            _message(title, summary_of(type(state)), schema, example),
            retained=True,
        )
    for kind in EVENTS:
        message = _message(
            f"{kind.group} {kind.name}",
            summary_of(kind),
            message_schema(kind.type_name()),
            example_message(kind),
        )
        add(f"{kind.group}.{kind.name}", f"{below}/{kind.topic()}", message, retained=False)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "routesync",
            "version": CONTRACT_VERSION,
            "description": "The kernel routes that are mirrored into loxilb, and every change. See docs/events.md.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def summary_of(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring, in one line."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
