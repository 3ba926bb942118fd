"""Single values of the configuration: a parser for each kind, and the pydantic type that is made of it.

Each parser takes any TOML value and returns the parsed one, or raises `SettingError` with a message in TOML's terms and
a remedy where there is one. The loader adds file, line, table and key. Each type also describes to the JSON schema what
the file may contain.
"""

from __future__ import annotations

import datetime as dt
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from routesync.names import SCOPES, TYPES, Names
from routesync.policy.conditions import Span
from routesync.route import (
    Address,
    Family,
    HopFlag,
    Prefix,
    Rewrite,
    address_family,
    is_link_local,
    is_multicast,
)
from routesync.url import BaseUrl

MAX_U8: Final = 0xFF
MAX_U32: Final = 0xFFFF_FFFF
MAX_LENGTH: Final = 128
MAX_INTERFACE_NAME: Final = 15
"""IFNAMSIZ - 1 (linux/if.h)."""

_MAX_SHOWN: Final = 60
T = TypeVar("T")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class SettingError(ValueError):
    """A value that cannot be used: what is wrong with it, and what to write instead.

    `unread`: all that is known is that this user may not read a file that the value names.
    """

    def __init__(self, message: str, remedy: str = "", *, unread: bool = False) -> None:
        self.message = message
        self.remedy = remedy
        self.unread = unread
        super().__init__(f"{message}; {remedy}" if remedy else message)


def kind_of(value: object) -> str:
    """Name a value's type in TOML's terms, with its article."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int():
            return "an integer"
        case float():
            return "a float"
        case dt.date() | dt.time():
            return "a date or time"
        case list() | tuple():
            return "an array"
        case dict():
            return "a table"
        case _:
            return type(value).__name__


def masked(text: str) -> str:
    """The text without what may be a secret, as in a URL that was put into any key: credentials, a query."""
    _, at, behind = text.rpartition("@")
    text = f"…@{behind}" if at else text
    before, _, query = text.partition("?")
    return f"{before}?…" if "=" in query else text


def shown(text: str) -> str:
    """Quote a word for a message, shortened where it is very long, and without what may be a secret."""
    text = masked(text)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a remedy that names the known word probably meant; empty where none is close."""
    if len(word) > _MAX_SHOWN:
        return ""
    words = list(known)
    close = difflib.get_close_matches(word.lower(), words, n=1) or [it for it in words if it.startswith(word)]
    return f"did you mean {close[0]!r}?" if close else ""


def fits_a_header(text: str) -> bool:
    """Whether an HTTP header can carry it."""
    return text.isascii() and text.isprintable()


def parse_text(value: object, expected: str = "a string") -> str:
    if not isinstance(value, str):
        raise SettingError(f"expected {expected}, got {kind_of(value)}")
    return value


def parse_name(value: object) -> str:
    """Parse a name that can be used in topics, file names and metrics labels."""
    text = parse_text(value)
    if not NAME.fullmatch(text):
        raise SettingError(
            f"{shown(text)} is not a valid name",
            "use at most 63 letters, digits, '.', '_' and '-', with a letter or digit first",
        )
    return text


def look_up(word: str, kind: str, known: Mapping[str, T], otherwise: str = "") -> T:
    """Return what a word means; `otherwise` names what else may be written."""
    if word not in known:
        remedy = f"{suggest(word, known)} Known: {', '.join(known)}{otherwise}".lstrip()
        raise SettingError(f"unknown {kind} {shown(word)}", remedy)
    return known[word]


def parse_number(value: object, kind: str, names: Mapping[str, int], highest: int) -> int:
    """Parse the name of a number (a protocol, scope, type, table), or the number itself, from 0 to `highest`."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and value not in names):
        known = dict(sorted(names.items(), key=lambda item: item[1]))
        return look_up(value, kind, known, "; or a number")
    number = int(value[:20]) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool):
        raise SettingError(
            f"expected the name or number of a {kind}, or a list of them, got {kind_of(value)}"
        )
    if not 0 <= number <= highest:
        raise SettingError(f"a {kind} is a number between 0 and {highest}")
    return number


def parse_flag(value: object) -> int:
    """Parse the name of a hop's flag into its bit."""
    return look_up(parse_text(value, "the name of a flag, or a list of them"), "flag", HopFlag.NAMES)


def parse_family(value: object) -> Family:
    text = parse_text(value, '"ipv4", "ipv6" or a list of them')
    return look_up(text, "family", {family.label: family for family in Family})


def parse_span(value: object, kind: str, highest: int) -> Span:
    """Parse a number or a range of numbers: 100, "100", "100-200", "1024-", "-50"."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str):
        parts = re.fullmatch(r"\s*([0-9]{0,20})\s*(-?)\s*([0-9]{0,20})\s*", value)
        if parts is None or not (parts[1] or parts[3]) or (parts[3] and not parts[2]):
            raise SettingError(
                f"{shown(value)} is not a {kind}",
                'write a number, or a range like "100-200", "1024-" or "-50"',
            )
        low = int(parts[1] or 0)
        high = int(parts[3]) if parts[3] else (highest if parts[2] else low)
    else:
        raise SettingError(f"expected a number, a range as a string, or a list of them, got {kind_of(value)}")
    if not (0 <= low <= highest and 0 <= high <= highest):
        raise SettingError(f"a {kind} is between 0 and {highest}")
    if low > high:
        raise SettingError(f"the range {value!r} is empty", f'did you mean "{high}-{low}"?')
    return Span(low, high)


_ROUTERS_LIST: Final = re.compile(r"(\S+/\d+)(?=\s+[gl]e\s)(?:\s+ge\s+(\d+))?(?:\s+le\s+(\d+))?")


def parse_prefix(value: object) -> Prefix:
    """Parse a prefix in CIDR form; an address alone is a host prefix. Host bits are an error."""
    text = parse_text(value, "a prefix as a string, or a list of them")
    if text == "default":
        raise SettingError(
            "'default' does not say which family", "write 0.0.0.0/0, ::/0, or match default_route = true"
        )
    if len(text) > _MAX_SHOWN or text != masked(text):
        raise SettingError(f"{shown(text)} is not a prefix")
    if of_router := _ROUTERS_LIST.fullmatch(text):
        network, low, high = of_router.groups()
        raise SettingError(
            f"{shown(text)} is how a router's prefix list says it",
            f'write {{ within = "{network}", length = "{low or network.partition("/")[2]}-{high or ""}" }}',
        )
    if "%" in text:
        raise SettingError(f"{shown(text)} contains an interface", "match it with the key 'interface'")
    try:
        return Prefix.parse(text)
    except ValueError as error:
        raise SettingError(str(error)) from None


def parse_interface(value: object) -> str:
    text = parse_text(value, "the name of an interface or a glob as a string, or a list of them")
    if not text or any(char.isspace() or char in "/\0" for char in text):
        raise SettingError(
            f"{shown(text)} is not an interface name or glob", 'write something like "eth0" or "eth*"'
        )
    if len(text) > MAX_INTERFACE_NAME and not set("*?[") & set(text):
        raise SettingError(
            f"{shown(text)} is too long for an interface name",
            f"use at most {MAX_INTERFACE_NAME} characters",
        )
    return text


SELF: Final = "self"
"""As `next_hop`: this host's address on the interface that reaches the target."""


def parse_next_hop(value: object) -> Address:
    """Parse an address that loxilb accepts as a gateway: unicast, with more than link scope."""
    text = parse_text(value, "an address as a string, or a list of one for each family")
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        remedy = "leave out the prefix length" if "/" in text else 'write an IPv4 or IPv6 address, or "self"'
        raise SettingError(f"{shown(text)} is not an address", remedy) from None
    address = Address(parsed.packed)
    if "%" in text or parsed.is_unspecified or parsed.is_loopback or text == "255.255.255.255":
        raise SettingError(
            f"{shown(text)} cannot be a next hop", "name an address of this host that loxilb can reach"
        )
    if is_link_local(address) or is_multicast(address):
        kind = "link-local" if is_link_local(address) else "multicast"
        raise SettingError(
            f"{shown(text)} is {kind}, and loxilb does not accept such a gateway",
            "name a unicast address of wider scope",
        )
    return address


def parse_allow_default(value: object) -> bool | Literal["override"]:
    if isinstance(value, bool):
        return value
    if value == "override":
        return "override"
    got = shown(value) if isinstance(value, str) else kind_of(value)
    raise SettingError(f'expected true or false, or "override", got {got}')


def parse_least_lengths(value: object) -> tuple[int, int]:
    """Parse the least length of an IPv4 and of an IPv6 prefix."""
    items = value if isinstance(value, list | tuple) else ()
    lengths = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
    if len(lengths) != 2 or len(items) != 2:
        raise SettingError(
            f"expected two integers, for IPv4 and IPv6, got {kind_of(value)}", "write it like [8, 16]"
        )
    if not (0 <= lengths[0] <= 32 and 0 <= lengths[1] <= 128):
        raise SettingError("a prefix length is between 0 and 32 for IPv4, and between 0 and 128 for IPv6")
    return lengths[0], lengths[1]


def parse_rewrite(value: object) -> Rewrite:
    """Parse a `next_hop` setting: "self", an interface, one address, or one of each family."""
    if isinstance(value, dict):
        if value.keys() != {"interface"}:
            raise SettingError("expected a table with the key interface", 'write { interface = "ens3" }')
        name = parse_interface(value["interface"])
        if set("*?[") & set(name):
            raise SettingError(
                f"{shown(name)} is not the name of one interface", "name it without a wildcard"
            )
        return Rewrite(interface=name)
    items = value if isinstance(value, list | tuple) else [value]
    if SELF in items:
        if len(items) > 1:
            raise SettingError(
                '"self" covers both families and excludes addresses', 'write next_hop = "self"'
            )
        return Rewrite(to_self=True)
    found: dict[Family, Address] = {}
    for address in map(parse_next_hop, items):
        family = address_family(address)
        if family in found:
            raise SettingError(f"two {family.label} next hops", "give at most one address of each family")
        found[family] = address
    if not found:
        raise SettingError("the list is empty", "give an address, or leave the key out")
    return Rewrite(inet=found.get(Family.INET), inet6=found.get(Family.INET6))


_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def parse_host(value: object) -> str:
    """Parse a host name or an address."""
    text = parse_text(value)
    if "://" in text:
        raise SettingError(
            "expected a host's name or address, got a URL",
            "leave out the scheme, and put the port into 'port'",
        )
    if "@" in text:
        raise SettingError(
            "expected a host's name or address, got credentials, too", "give them by keys of their own"
        )
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if len(text) > 253 or not _HOST.fullmatch(text):
            raise SettingError(f"{shown(text)} is not a host name or address") from None
        if text.rstrip(".").rpartition(".")[2].isdigit():  # a resolver takes 1.2.3 for 1.2.0.3
            raise SettingError(
                f"{shown(text)} is not an address, and no host name ends with a number"
            ) from None
    return text


API_PATH: Final = "/netlox/v1"


def parse_url(value: object) -> str:
    """Parse the base URL of an HTTP API, without a slash at the end; a zone is written as in RFC 6874."""
    text = parse_text(value, "a URL as a string")
    example = "write it like http://192.168.10.20:11111"
    if any(char.isspace() or not char.isprintable() for char in text):
        raise SettingError("the URL contains white space or a control character", example)
    scheme, _, rest = text.partition("://")
    if "@" in text:
        raise SettingError("the URL contains credentials", "leave them out, and use 'token' or 'token_file'")
    if scheme.lower() not in ("http", "https") or not rest:
        raise SettingError(f"{shown(text)} is not an http or https URL", example)
    if "?" in text or "#" in text:
        raise SettingError("the URL contains a query or a fragment", example)
    try:
        url = BaseUrl.parse(text)
    except ValueError as error:
        raise SettingError(f"this is not a URL: {error}", example) from None
    if url.port == 0:
        raise SettingError("nothing can connect to port 0", example)
    try:
        parse_host(url.host)
    except SettingError as error:
        raise SettingError(error.message, example) from None
    # people copy it with the path of the API, which every request adds
    return (str(url) if url.zone else text.rstrip("/")).removesuffix(API_PATH)


def parse_netns(value: object) -> str:
    """Parse a network namespace: a name below /run/netns, or an absolute path."""
    text = parse_text(value)
    if "\0" in text or not text or (not text.startswith("/") and ("/" in text or text in (".", ".."))):
        raise SettingError(
            f"{shown(text)} does not name a network namespace", "write a name below /run/netns, or a path"
        )
    return text


def parse_topic(value: object) -> str:
    """Parse a root topic: no wildcards, no empty level (MQTT 5.0, section 4.7)."""
    text = parse_text(value)
    if (
        set("#+\0") & set(text)
        or not all(text.split("/"))
        or text.startswith("$")
        or len(text.encode()) > 1024
    ):
        raise SettingError(
            f"{shown(text)} cannot be a root topic",
            "write levels joined by '/', without '+', '#' and a leading '$'",
        )
    return text


class Listen(NamedTuple):
    """An address of this host and a port to listen on."""

    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def parse_listen(value: object) -> Listen:
    """Parse `ADDRESS:PORT`, with an IPv6 address in brackets."""
    example = "write it like 127.0.0.1:9469 or [::1]:9469"
    text = parse_text(value, "ADDRESS:PORT as a string")
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 1 << 16:
        raise SettingError(f"{shown(text)} has no valid port", example)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise SettingError(f"{shown(text)} has no IP address", example) from None
    if bracketed != (address.version == 6):
        raise SettingError(
            f"{shown(text)}: an IPv6 address needs brackets, and no other may have them", example
        )
    return Listen(str(address), int(port))


# -- pydantic types --------------------------------------------------------------------------------


class Model(BaseModel):
    """Base of all tables: frozen, strictly typed, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def ordered_fields(model: type[Model]) -> dict[str, FieldInfo]:
    """The keys of a table in the order in which they are shown: its own before those that it shares with others."""
    own = model.__annotations__
    return dict(sorted(model.model_fields.items(), key=lambda item: item[0] not in own))


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


OneOrMany = Annotated[tuple[T, ...], _OneOrMany()]
"""One value or a list of them in the file, always a tuple in the program."""


def host_names(info: ValidationInfo) -> Names:
    """The host's names, which the loader passes as pydantic's context; the built-in ones without it."""
    return info.context if isinstance(info.context, Names) else Names()


def _protocol(value: object, info: ValidationInfo) -> int:
    return parse_number(value, "protocol", host_names(info).protocols, MAX_U8)


def _table(value: object, info: ValidationInfo) -> int:
    return parse_number(value, "table", host_names(info).tables, MAX_U32)


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
NextHops = Annotated[
    Rewrite,
    _parsed(parse_rewrite, str | Annotated[list[str], Field(min_length=1, max_length=2)] | dict[str, str]),
]
AllowDefault = Annotated[bool | Literal["override"], _parsed(parse_allow_default, bool | Literal["override"])]
LeastLengths = Annotated[
    tuple[int, int],
    BeforeValidator(
        parse_least_lengths,
        json_schema_input_type=tuple[Annotated[int, Field(ge=0, le=32)], Annotated[int, Field(ge=0, le=128)]],
    ),
]

ProtocolNumber = Annotated[int, PlainValidator(_protocol, json_schema_input_type=str | int)]
TableNumber = Annotated[int, PlainValidator(_table, json_schema_input_type=str | int)]
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
