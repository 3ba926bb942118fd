"""The types of the configuration's keys: `routesync.settings.notation` in the clothes that pydantic wants.

Each type parses what stands in the file into what the program works with, and tells the JSON schema what may stand
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from routesync.names import SCOPES, TYPES, Names
from routesync.route import Family, Prefix
from routesync.settings.notation import (
    MAX_LENGTH,
    MAX_U8,
    MAX_U32,
    NAME,
    NotationError,
    Span,
    kind_of,
    read_allow_default,
    read_family,
    read_flag,
    read_interface,
    read_least_lengths,
    read_name,
    read_next_hop_word,
    read_number,
    read_prefix,
    read_span,
)
from routesync.settings.places import Listen, read_host, read_listen, read_netns, read_topic, read_url


class _OneOrMany:
    """Marks a tuple that may be written as a single value; an empty list is an error."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def gather(value: object) -> tuple[object, ...]:
            items = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not items:
                raise NotationError("the list is empty", "name at least one, or leave the key out")
            return items

        return core_schema.no_info_before_validator_function(gather, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many | {"minItems": 1}]}


T = TypeVar("T")
OneOrMany = Annotated[tuple[T, ...], _OneOrMany()]
"""One value or a list of them, in the program always a tuple."""


def host_names(info: ValidationInfo) -> Names | None:
    """The names in force, where the loader gave them as pydantic's context."""
    return info.context if isinstance(info.context, Names) else None


def _word(value: object, kind: str, names: Mapping[str, int] | None, highest: int) -> str | int:
    """Check a word against the host's names, if these are known here; it is looked up for good where it is used."""
    if isinstance(value, str) and names is None:
        return value
    number = read_number(value, kind, names or {}, highest)
    return value if isinstance(value, str) else number


def _protocol(value: object, info: ValidationInfo) -> str | int:
    names = host_names(info)
    return _word(value, "protocol", names.protocols if names else None, MAX_U8)


def _table(value: object, info: ValidationInfo) -> str | int:
    names = host_names(info)
    return _word(value, "table", names.tables if names else None, MAX_U32)


def _gateway(value: object) -> bool | tuple[Prefix, ...]:
    if isinstance(value, bool):
        return value
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise NotationError("the list is empty", "name at least one prefix, or leave the key out")
    if not all(isinstance(item, str) for item in items):
        raise NotationError(
            f"expected true, false, a prefix as a string, or a list of prefixes, got {kind_of(value)}"
        )
    return tuple(read_prefix(item) for item in items)


def _parsed(read: Callable[[object], object], written: object = str) -> PlainValidator:
    """Parse by this reader; `written` is the type that stands in the file."""
    return PlainValidator(read, json_schema_input_type=written)


Name = Annotated[str, _parsed(read_name, Annotated[str, Field(pattern=f"^{NAME.pattern}$")])]
"""A name that is used in topics, file names and metrics labels."""
Url = Annotated[str, _parsed(read_url)]
Host = Annotated[str, _parsed(read_host)]
NetworkNamespace = Annotated[str, _parsed(read_netns)]
Topic = Annotated[str, _parsed(read_topic)]
ListenAt = Annotated[Listen, _parsed(read_listen)]
NextHopText = Annotated[str, _parsed(read_next_hop_word)]
"""An address, checked and in its usual form, still as text; or "self"."""
NetworkText = Annotated[str, _parsed(lambda value: str(read_prefix(value)))]
"""A prefix, checked and in its usual form, still as text."""
AllowDefault = Annotated[bool | Literal["override"], _parsed(read_allow_default, bool | Literal["override"])]
LeastLengths = Annotated[
    tuple[int, int],
    BeforeValidator(
        read_least_lengths,
        json_schema_input_type=tuple[Annotated[int, Field(ge=0, le=32)], Annotated[int, Field(ge=0, le=128)]],
    ),
]

ProtocolWord = Annotated[str | int, PlainValidator(_protocol, json_schema_input_type=str | int)]
TableWord = Annotated[str | int, PlainValidator(_table, json_schema_input_type=str | int)]
FamilyWord = Annotated[Family, _parsed(read_family, Literal["ipv4", "ipv6"])]
ScopeNumber = Annotated[int, _parsed(lambda value: read_number(value, "scope", SCOPES, MAX_U8), str | int)]
TypeNumber = Annotated[int, _parsed(lambda value: read_number(value, "route type", TYPES, MAX_U8), str | int)]
Network = Annotated[Prefix, _parsed(read_prefix)]
LengthSpan = Annotated[Span, _parsed(lambda value: read_span(value, "prefix length", MAX_LENGTH), str | int)]
MetricSpan = Annotated[Span, _parsed(lambda value: read_span(value, "metric", MAX_U32), str | int)]
GatewayMatch = Annotated[bool | tuple[Prefix, ...], _parsed(_gateway, bool | str | list[str])]
InterfaceGlob = Annotated[str, _parsed(read_interface)]
FlagBit = Annotated[
    int,
    _parsed(read_flag, Literal["dead", "pervasive", "onlink", "offload", "linkdown", "unresolved", "trap"]),
]
