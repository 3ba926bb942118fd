"""The types of the configuration's keys: the parsers of `routesync.config.parsers` as pydantic types.

Each type also describes to the JSON schema what the file may contain.
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

from routesync.config.parsers import (
    MAX_LENGTH,
    MAX_U8,
    MAX_U32,
    NAME,
    Listen,
    SettingError,
    kind_of,
    parse_allow_default,
    parse_family,
    parse_flag,
    parse_host,
    parse_interface,
    parse_least_lengths,
    parse_listen,
    parse_name,
    parse_netns,
    parse_next_hop_word,
    parse_number,
    parse_prefix,
    parse_span,
    parse_topic,
    parse_url,
)
from routesync.names import SCOPES, TYPES, Names
from routesync.policy.conditions import Span
from routesync.route import Family, Prefix


class _OneOrMany:
    """Marks a tuple that may be written as a single value. An empty list is an error."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def gather(value: object) -> tuple[object, ...]:
            items = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not items:
                raise SettingError("the list is empty", "name at least one, or leave the key out")
            return items

        return core_schema.no_info_before_validator_function(gather, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many | {"minItems": 1}]}


T = TypeVar("T")
OneOrMany = Annotated[tuple[T, ...], _OneOrMany()]
"""One value or a list of them in the file, always a tuple in the program."""


def host_names(info: ValidationInfo) -> Names | None:
    """The host's names, which the loader passes as pydantic's context; None without it."""
    return info.context if isinstance(info.context, Names) else None


def _word(value: object, kind: str, names: Mapping[str, int] | None, highest: int) -> str | int:
    """Check a word against the host's names where they are known; where the word is used, it is looked up again."""
    if isinstance(value, str) and names is None:
        return value
    number = parse_number(value, kind, names or {}, highest)
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
        raise SettingError("the list is empty", "name at least one prefix, or leave the key out")
    if not all(isinstance(item, str) for item in items):
        raise SettingError(
            f"expected true, false, a prefix as a string, or a list of prefixes, got {kind_of(value)}"
        )
    return tuple(parse_prefix(item) for item in items)


def _parsed(parse: Callable[[object], object], written: object = str) -> PlainValidator:
    """Parse with this function; `written` is the type in the file."""
    return PlainValidator(parse, json_schema_input_type=written)


Name = Annotated[str, _parsed(parse_name, Annotated[str, Field(pattern=f"^{NAME.pattern}$")])]
"""Used in topics, file names and metrics labels."""
Url = Annotated[str, _parsed(parse_url)]
Host = Annotated[str, _parsed(parse_host)]
NetworkNamespace = Annotated[str, _parsed(parse_netns)]
Topic = Annotated[str, _parsed(parse_topic)]
ListenAt = Annotated[Listen, _parsed(parse_listen)]
NextHopText = Annotated[str, _parsed(parse_next_hop_word)]
"""An address, checked and in its canonical form, still as text; or "self"."""
NetworkText = Annotated[str, _parsed(lambda value: str(parse_prefix(value)))]
"""A prefix, checked and in its canonical form, still as text."""
AllowDefault = Annotated[bool | Literal["override"], _parsed(parse_allow_default, bool | Literal["override"])]
LeastLengths = Annotated[
    tuple[int, int],
    BeforeValidator(
        parse_least_lengths,
        json_schema_input_type=tuple[Annotated[int, Field(ge=0, le=32)], Annotated[int, Field(ge=0, le=128)]],
    ),
]

ProtocolWord = Annotated[str | int, PlainValidator(_protocol, json_schema_input_type=str | int)]
TableWord = Annotated[str | int, PlainValidator(_table, json_schema_input_type=str | int)]
FamilyWord = Annotated[Family, _parsed(parse_family, Literal["ipv4", "ipv6"])]
ScopeNumber = Annotated[int, _parsed(lambda value: parse_number(value, "scope", SCOPES, MAX_U8), str | int)]
TypeNumber = Annotated[
    int, _parsed(lambda value: parse_number(value, "route type", TYPES, MAX_U8), str | int)
]
Network = Annotated[Prefix, _parsed(parse_prefix)]
LengthSpan = Annotated[Span, _parsed(lambda value: parse_span(value, "prefix length", MAX_LENGTH), str | int)]
MetricSpan = Annotated[Span, _parsed(lambda value: parse_span(value, "metric", MAX_U32), str | int)]
GatewayMatch = Annotated[bool | tuple[Prefix, ...], _parsed(_gateway, bool | str | list[str])]
InterfaceGlob = Annotated[str, _parsed(parse_interface)]
FlagBit = Annotated[
    int,
    _parsed(parse_flag, Literal["dead", "pervasive", "onlink", "offload", "linkdown", "unresolved", "trap"]),
]
