"""The envelope: CloudEvents 1.0 in JSON, structured mode.

Source: https://github.com/cloudevents/spec, v1.0.2, `spec.md`, `formats/json-format.md`,
`bindings/mqtt-protocol-binding.md` and the sequence extension.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from routesync.characters import whole_json
from routesync.events.models import Event

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
URI_ROOT: Final = "tag:routesync.io,2026"
"""Of names that are URIs (RFC 4151): nothing can be fetched there."""


class StreamIdentity(NamedTuple):
    """Whose stream it is: the node, and the epoch that its sequence counts in."""

    node: str
    epoch: str

    @property
    def source(self) -> str:
        """The CloudEvents source."""
        return f"/routesync/{self.node}"


class Record(NamedTuple):
    """An event with its number and its time."""

    sequence: int
    time: float  # seconds since 1970, UTC
    event: Event


def rfc3339(time: float) -> str:
    """Write a time as RFC 3339 in UTC, in microseconds."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def dataschema(type_name: str) -> str:
    """The name of the schema of a type's data."""
    return f"{URI_ROOT}:schema:{type_name}"


def encode(record: Record, identity: StreamIdentity) -> bytes:
    """Write an event as a CloudEvent.

    `id` is made of epoch and sequence, so it is unique over all restarts, and a message that comes again is
    known by it. `sequence` is a string, as the extension wants it, padded so that it sorts like the number
    that it is.
    """
    event = record.event
    kind = event.type_name()
    envelope: dict[str, object] = {
        "specversion": "1.0",
        "id": f"{identity.epoch}-{record.sequence}",
        "source": identity.source,
        "type": kind,
        "time": rfc3339(record.time),
        "datacontenttype": "application/json",
        "dataschema": dataschema(kind),
        "sequence": f"{record.sequence:020d}",
        "epoch": identity.epoch,
    }
    if (subject := event.subject) is not None:
        envelope["subject"] = subject
    envelope["data"] = event
    return _write(envelope)


def encode_state(
    kind: str, identity: StreamIdentity, data: BaseModel, *, at: float, subject: str, serial: str
) -> bytes:
    """Write a retained state (status, table bucket) as a CloudEvent of the type `kind`.

    It has no `sequence`, since it is no event. `serial` makes its `id` unique among those of its subject.
    """
    return _write(
        {
            "specversion": "1.0",
            "id": f"{identity.epoch}-{subject}-{serial}",
            "source": identity.source,
            "type": kind,
            "time": rfc3339(at),
            "datacontenttype": "application/json",
            "dataschema": dataschema(kind),
            "epoch": identity.epoch,
            "subject": subject,
            "data": data,
        }
    )


def _write(envelope: dict[str, object]) -> bytes:
    try:
        return to_json(envelope)
    except PydanticSerializationError:  # half a surrogate pair in words that came from outside
        return whole_json(to_jsonable_python(envelope)).encode()
