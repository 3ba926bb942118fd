"""The contract with subscribers, made from the models that write the messages: examples, JSON Schemas, AsyncAPI.

Sources: AsyncAPI 3.0.0 and its MQTT bindings 0.2.0 (https://www.asyncapi.com/docs/reference), JSON Schema 2020-12.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from docgen.examples import STORY
from routesync.config.models import MQTT_PORT, MQTT_TLS_PORT
from routesync.events.cloudevents import (
    CONTENT_TYPE,
    URI_ROOT,
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
    KernelTableBucket,
    KernelTableManifest,
    KernelTableRow,
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
CONTRACT_VERSION: Final = "1.0.0"

_IDENTITY: Final = StreamIdentity("node-1", "5f0c2e9ab1d4")
_AT: Final = datetime(2026, 1, 31, 12, 0, 0, 250000, tzinfo=UTC)
_MODELS: Final[dict[str, type[BaseModel]]] = {
    **{kind.type_name(): kind for kind in EVENTS},
    Status.type_name: Status,
    TableBucket.type_name: TableBucket,
    TableManifest.type_name: TableManifest,
    KernelTableBucket.type_name: KernelTableBucket,
    KernelTableManifest.type_name: KernelTableManifest,
    Instance.type_name: Instance,
    Takeover.type_name: Takeover,
}
State = Status | TableBucket | TableManifest | KernelTableBucket | KernelTableManifest | Instance | Takeover
_RETAINED: Final = {model.type_name for model in get_args(State)}
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


def example_kernel_bucket() -> KernelTableBucket:
    """The kernel's route for it."""
    row = KernelTableRow(
        prefix="10.244.1.0/24",
        gateway="192.168.10.10",
        protocol="bird",
        metric=20,
        interface="ens3",
        table="main",
    )
    return KernelTableBucket(bucket="0a", depth=MIN_DEPTH, sequence=1234, routes=(row,))


def _manifest_of(row: TableRow | KernelTableRow) -> Document:
    digests = [0] * 2**MIN_DEPTH
    digests[0x0A] = row_hash(row)
    return {
        "depth": MIN_DEPTH,
        "routes": 1,
        "digest": f"{row_hash(row):016x}",
        "routes_digest": f"{route_hash(row):016x}",
        "sequence": 1234,
        "sequences": (1234,) * 2**MIN_DEPTH,
        "digests": tuple(f"{digest:016x}" for digest in digests),
    }


def example_manifest() -> TableManifest:
    """The manifest of the table with that one route."""
    return TableManifest(target="lb-1", **_manifest_of(*example_bucket().routes))


def example_kernel_manifest() -> KernelTableManifest:
    """The same of the kernel's table."""
    return KernelTableManifest(**_manifest_of(*example_kernel_bucket().routes))


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
        case KernelTableBucket():
            subject = f"kernel-table/{data.bucket}"
        case KernelTableManifest():
            subject = "kernel-table/manifest"
        case Takeover():
            subject = f"takeover/{data.instance}/{data.node}"
        case _:
            subject = f"table/{data.target}/manifest"
    return _read(
        encode_state(data.type_name, _IDENTITY, data, at=_AT.timestamp(), subject=subject, serial="1")
    )


RETAINED: Final[tuple[tuple[str, str, str, State], ...]] = (
    ("status", "status", "Status", example_status()),
    ("table", "table/{target}/{bucket}", "Table bucket", example_bucket()),
    ("manifest", "table/{target}/manifest", "Table manifest", example_manifest()),
    ("kernel-table", "kernel-table/{bucket}", "Kernel table bucket", example_kernel_bucket()),
    ("kernel-manifest", "kernel-table/manifest", "Kernel table manifest", example_kernel_manifest()),
    ("instance", "instance/{instance}", "Instance", example_instance()),
    ("takeover", "takeover/{instance}/{peer}", "Takeover", example_takeover()),
)
"""Of each retained state: its key in AsyncAPI, its topic below `<root>/<node>/`, a title, an example."""


def _read(payload: bytes) -> Document:
    document: Document = json.loads(payload)
    return document


class _Named(GenerateJsonSchema):
    """Leaves out titles made from the names of fields: only models and enumerations have one, which is unique."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002  # pydantic's signature
        return False


def data_schema(model: type[BaseModel], type_name: str) -> Document:
    """The JSON Schema of a message's `data`, without references.

    It does not forbid unknown fields, for new ones may come.
    """
    schema = model.model_json_schema(mode="serialization", schema_generator=_Named)
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
    """The JSON Schema of a whole message: the envelope and its data.

    What is the same in every message of the type is a pattern: of `const`, modelina's models for Python are no Python.
    """
    text = {"type": "string"}
    data = data_schema(_MODELS[type_name], type_name)
    properties: Document = {
        "specversion": _always("1.0"),
        "id": {**text, "description": "Unique; a message that comes again has the same."},
        "source": {**text, "format": "uri-reference", "description": "/routesync/<node>"},
        "type": _always(type_name),
        "time": {**text, "format": "date-time"},
        "datacontenttype": _always("application/json"),
        "dataschema": {**_always(dataschema(type_name)), "format": "uri"},
        "subject": {**text, "description": "The prefix, else the target; of retained state its topic."},
        "epoch": {**text, "description": "What the sequence counts in."},
        "data": data,
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
    title = f"{data['title']}Message"
    return {
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
    }


def _always(text: str) -> Document:
    return {"type": "string", "pattern": f"^{re.escape(text)}$", "examples": [text]}


def _message(name: str, title: str, summary: str, schema: Document, example: Document) -> Document:
    return {
        "name": name,
        "title": title,
        "summary": summary,
        "contentType": CONTENT_TYPE,
        "payload": schema,
        "examples": [{"payload": example}],
        "bindings": {"mqtt": {"bindingVersion": "0.2.0", "payloadFormatIndicator": 1}},
    }


def _hoisted(schema: Any, components: Document) -> Any:
    """The schema with a reference in place of each part that has a title; the parts are put into `components`.

    Generators make one model of each: two of the same name would overwrite each other.
    """
    if isinstance(schema, list):
        return [_hoisted(value, components) for value in schema]
    if not isinstance(schema, dict):
        return schema
    # a name of its own would be the base of the references in it
    made = {
        key: _hoisted(value, components) for key, value in schema.items() if key not in ("$schema", "$id")
    }
    if "title" not in schema:
        return made
    title = schema["title"]
    if components.setdefault(title, made) != made:
        raise ValueError(f"two schemas have the title {title}")
    return {"$ref": f"#/components/schemas/{title}"}


def _server(protocol: str, port: int, description: str) -> Document:
    return {
        "host": "{host}:{port}",
        "protocol": protocol,
        "protocolVersion": "5.0",
        "description": description,
        "variables": {
            "host": {"description": "`mqtt.host`", "examples": ["broker.example.net"]},
            "port": {"description": "`mqtt.port`", "default": str(port)},
        },
    }


def asyncapi() -> Document:
    """The AsyncAPI document. Version 3.0.0: generators read no newer one yet, and say nothing of it."""
    channels: Document = {}
    operations: Document = {}
    messages: Document = {}
    components: Document = {}

    def add(key: str, topic: str, title: str, model: type[BaseModel], example: Document) -> None:
        type_name = example["type"]
        names = [name for name in _PARAMETERS if f"{{{name}}}" in topic]
        schema = _hoisted(message_schema(type_name), components)
        messages[key] = _message(type_name, title, summary_of(model), schema, example)
        channels[key] = {
            "address": f"{ROOT}/{{node}}/{topic}",
            "parameters": {name: _PARAMETERS[name] for name in ("node", *names)},
            "messages": {key: {"$ref": f"#/components/messages/{key}"}},
        }
        operations[f"send.{key}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{key}"}],
            "bindings": {"mqtt": {"bindingVersion": "0.2.0", "qos": 1, "retain": type_name in _RETAINED}},
        }

    for key, topic, title, state in RETAINED:
        add(key, topic, title, type(state), example_state(state))
    for kind in EVENTS:
        title = f"{kind.group} {kind.name}"
        add(f"{kind.group}.{kind.name}", kind.topic(), title, kind, example_message(kind))
    return {
        "asyncapi": "3.0.0",
        "id": f"{URI_ROOT}:events",
        "info": {
            "title": "routesync",
            "version": CONTRACT_VERSION,
            "description": "The kernel routes that are mirrored into loxilb, and every change. See docs/events.md.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "plain": _server("mqtt", MQTT_PORT, "The broker of `[mqtt]`; 3.1.1 by `mqtt.protocol`."),
            "tls": _server("secure-mqtt", MQTT_TLS_PORT, "The same with `[mqtt.tls]`."),
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": components},
    }


def summary_of(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring, in one line."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
