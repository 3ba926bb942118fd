"""The configuration, as pydantic models: what may stand in routesync.toml, with units, defaults and bounds.

These models are the one source: the loader (`routesync.config`) turns their errors into lines that name file, table and
key, and the reference in docs/ is made from their descriptions. Values are parsed here once, so that no other room ever
sees text where it wants a prefix. The names of protocols and tables are the exception: they depend on the host, and are
looked up by `Policy.compile` and `resolve_tables`.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from routesync.fields import (
    FamilyWord,
    FlagBit,
    GatewayMatch,
    Host,
    InterfaceGlob,
    LengthSpan,
    MetricSpan,
    Name,
    Network,
    NetworkNamespace,
    NextHopText,
    OneOrMany,
    ProtocolWord,
    ScopeNumber,
    TableWord,
    Topic,
    TypeNumber,
    Url,
    host_names,
)
from routesync.names import Names
from routesync.notation import MAX_U32, NotationError, kind_of, read_number, read_rewrite
from routesync.route import Rewrite

MQTT_PORT, MQTT_TLS_PORT = 1883, 8883
"""As registered with IANA (mqtt, secure-mqtt)."""


class Model(BaseModel):
    """Base of all tables of the configuration: frozen, strictly typed, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _own_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-")[:63] or "localhost"


class NodeSettings(Model):
    """Who this daemon is."""

    name: Name = Field(
        default_factory=_own_name,
        description="Name of this node in topics and events; the host's name by default.",
    )


class KernelSettings(Model):
    """Where routes come from."""

    tables: OneOrMany[TableWord] = Field(
        default=("main",),
        description="Routing tables to read: names of rt_tables, or numbers. Earlier ones win.",
    )
    receive_buffer: int = Field(
        default=64 * 2**20,
        ge=65536,
        le=2**30,
        description="Wanted size of the netlink receive buffer, in bytes; the kernel may grant less.",
    )
    netns: NetworkNamespace | None = Field(
        default=None,
        description="Network namespace to read instead of our own: a name below /run/netns or a path. "
        "Needs CAP_SYS_ADMIN.",
    )
    audit_interval_s: float = Field(
        default=600,
        ge=5,
        le=7 * 86400,
        description="A full dump is compared with what is held this often, in seconds.",
    )

    @field_validator("tables")
    @classmethod
    def _tables_are_distinct(
        cls, tables: tuple[str | int, ...], info: ValidationInfo
    ) -> tuple[str | int, ...]:
        names = host_names(info)
        if names is not None:
            _table_numbers(tables, names)
        return tables


class PrefixMatch(Model):
    """What a route's prefix is compared with. As a bare string: `exact`."""

    exact: OneOrMany[Network] | None = Field(default=None, description="The route's prefix is this one.")
    within: OneOrMany[Network] | None = Field(
        default=None, description="The route's prefix lies inside this one (or is it)."
    )
    covers: OneOrMany[Network] | None = Field(
        default=None, description="The route's prefix contains this address or prefix."
    )
    length: OneOrMany[LengthSpan] | None = Field(
        default=None, description='The length of the route\'s prefix: a number, or a range like "24-32".'
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_a_string(cls, value: object) -> object:
        if isinstance(value, str):
            return {"exact": value}
        if isinstance(value, dict) and not value:
            raise NotationError("the table is empty", "give exact, within, covers or length")
        if not isinstance(value, dict | PrefixMatch):
            raise NotationError(
                f'expected a prefix as a string, a table like {{ within = "10.0.0.0/8" }}, or a list of them, '
                f"got {kind_of(value)}"
            )
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Tell the schema of the bare string."""
        table = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"type": "string"}, table]}


class MatchSettings(Model):
    """What a rule matches: all keys that are given must hold; a list holds when one of its members does.

    Dead and linkdown hops are taken off an ECMP route before the keys about hops (gateway, interface, flags) are
    compared, and these hold only when all remaining hops match.
    """

    protocol: OneOrMany[ProtocolWord] | None = Field(
        default=None, description="Who made the route: a built-in name, one of rt_protos, or a number."
    )
    family: OneOrMany[FamilyWord] | None = Field(default=None, description="ipv4 or ipv6.")
    prefix: OneOrMany[PrefixMatch] | None = Field(
        default=None,
        description="The route's prefix: a string is exact; a table has exact, within, covers or length.",
    )
    host: bool | None = Field(default=None, description="Whether the prefix has full length: /32, /128.")
    default_route: bool | None = Field(
        default=None, description="Whether the route is a default route: 0.0.0.0/0, ::/0."
    )
    scope: OneOrMany[ScopeNumber] | None = Field(
        default=None, description="global, site, link, host, nowhere, or a number."
    )
    type: OneOrMany[TypeNumber] | None = Field(
        default=None, description="unicast, local, broadcast, blackhole, unreachable, …, or a number."
    )
    table: OneOrMany[TableWord] | None = Field(
        default=None, description="The routing table: a name of rt_tables, or a number."
    )
    metric: OneOrMany[MetricSpan] | None = Field(
        default=None, description='A number, or a range like "100-200", "1024-", "-50".'
    )
    gateway: GatewayMatch | None = Field(
        default=None,
        description="true: every hop has a gateway; false: none has; "
        "or a prefix that the gateway of every hop lies in.",
    )
    interface: OneOrMany[InterfaceGlob] | None = Field(
        default=None, description="Glob of the interface's name, for every hop."
    )
    flags: OneOrMany[FlagBit] | None = Field(
        default=None, description="A flag that every hop has: linkdown, onlink, dead, …"
    )
    source: OneOrMany[Network] | None = Field(
        default=None, description="The preferred source address (src), or a prefix that it lies in."
    )


class RuleSettings(Model):
    """One rule of the policy."""

    name: Name = Field(description="Names the rule in verdicts, events and metrics; unique.")
    match: MatchSettings = Field(default=MatchSettings(), description="Which routes; without it, all.")
    action: Literal["keep", "drop"] = Field(description="What becomes of them.")
    next_hop: OneOrMany[NextHopText] | None = Field(
        default=None,
        description="With keep: the gateway to tell loxilb instead; one address, or one of each family.",
    )
    report: bool = Field(
        default=False,
        description="Each drop by this rule is an event; without it drops are only counted.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name == "default":
            raise NotationError(
                "the name 'default' is that of the default action in verdicts", "give the rule another name"
            )
        return name

    @field_validator("next_hop")
    @classmethod
    def _next_hop_is_for_keep(
        cls, value: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if value is not None:
            read_rewrite(value)
            if info.data.get("action") == "drop":
                raise NotationError(
                    "a dropped route has no next hop", 'leave the key out, or set action = "keep"'
                )
        return value


class PolicySettings(Model):
    """Which routes are fit to be mirrored: ordered rules, first match wins, then the default."""

    default_action: Literal["keep", "drop"] = Field(
        default="keep", description="What becomes of routes that no rule matches."
    )
    rules: tuple[RuleSettings, ...] = Field(default=(), strict=False, description="The rules, in order.")


class TlsSettings(Model):
    """TLS towards a server. Relative file names are looked for in $CREDENTIALS_DIRECTORY, or beside this file."""

    ca_file: str | None = Field(
        default=None,
        description="Certificates that the server's is checked against (PEM); the system's by default.",
    )
    cert_file: str | None = Field(
        default=None, description="Our own certificate (PEM), where the server asks for one."
    )
    key_file: str | None = Field(
        default=None, description="The key to it (PEM, without a passphrase); without it, it is in cert_file."
    )
    server_name: Host | None = Field(
        default=None,
        description="The name that the server's certificate is to have; that of the host by default.",
    )

    @field_validator("key_file")
    @classmethod
    def _key_has_a_certificate(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("cert_file", "") is None:
            raise NotationError("a key without a certificate", "give cert_file too")
        return value


class TargetSettings(Model):
    """One loxilb to mirror into."""

    name: Name = Field(description="Names the target in topics, events, metrics and commands; unique.")
    url: Url = Field(description="Base of its REST API, e.g. http://192.168.10.20:11111")
    token: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="What --manualtoken of loxilb wants. Better by file, or by the environment: "
        "ROUTESYNC_TARGET_<NAME>_TOKEN.",
    )
    token_file: str | None = Field(
        default=None,
        description="File with the token; a relative name is looked for in $CREDENTIALS_DIRECTORY.",
    )
    tls: TlsSettings | None = Field(default=None, description="TLS, for an https URL.")
    allow_default: bool = Field(
        default=False,
        description="Whether default routes may be mirrored into it: a posted default beats its own way out.",
    )
    force_connected: bool = Field(
        default=False,
        description="Whether prefixes inside networks that it is connected to may be mirrored into it.",
    )
    next_hop: OneOrMany[NextHopText] | None = Field(
        default=None,
        description="Gateway to tell it instead of the kernel's, where no rule says one; one address, or one of "
        "each family.",
    )
    rate: float = Field(default=240, gt=0, le=100_000, description="Changes per second; loxilb ingests 256.")
    burst: int = Field(
        default=64, ge=1, le=10_000, description="Changes that may go at once after a quiet time."
    )
    writers: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="How many daemons write to this loxilb; the rate is divided by it.",
    )
    connect_timeout_s: float = Field(
        default=3, gt=0, le=60, description="How long connecting may take, in seconds."
    )
    request_timeout_s: float = Field(
        default=10, gt=0, le=300, description="How long one request may take, in seconds."
    )
    inventory_interval_s: float = Field(
        default=600,
        ge=10,
        le=7 * 86400,
        description="How often its table is read when nothing calls for it, in seconds.",
    )

    @field_validator("next_hop")
    @classmethod
    def _one_next_hop_a_family(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            read_rewrite(value)
        return value

    @field_validator("tls")
    @classmethod
    def _tls_is_for_https(cls, value: TlsSettings | None, info: ValidationInfo) -> TlsSettings | None:
        if value is not None and str(info.data.get("url", "")).startswith("http:"):
            raise NotationError(
                "TLS settings for an http URL", "write https in the URL (loxilb's own port for it is 8091)"
            )
        return value


class MqttSettings(Model):
    """The broker that events go to."""

    host: Host = Field(description="Name or address of the broker.")
    port: int = Field(
        default=MQTT_PORT,
        ge=1,
        le=65535,
        description="TCP port; 8883 by default where the table tls is given.",
    )
    root: Topic = Field(default="routesync/v1", description="Root of all topics, above the node's name.")
    protocol: Literal["5.0", "3.1.1"] = Field(default="5.0", description="Version of MQTT.")
    client_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="routesync-<node> by default; must be stable and unique at the broker."
    )
    username: str | None = Field(default=None, description="Name to log in by.")
    password: SecretStr | None = Field(
        default=None, description="Better by file, or by the environment: ROUTESYNC_MQTT_PASSWORD."
    )
    password_file: str | None = Field(
        default=None,
        description="File with the password; a relative name is looked for in $CREDENTIALS_DIRECTORY.",
    )
    tls: TlsSettings | None = Field(
        default=None, description="TLS; an empty table trusts the system's certificates."
    )
    keepalive_s: int = Field(
        default=30, ge=5, le=65535, description="Interval of pings that keep the session alive, in seconds."
    )
    timeout_s: float = Field(
        default=10, gt=0, le=120, description="How long one operation may take, in seconds."
    )

    @model_validator(mode="before")
    @classmethod
    def _tls_has_its_own_port(cls, value: object) -> object:
        if isinstance(value, dict) and "tls" in value and "port" not in value:
            return value | {"port": MQTT_TLS_PORT}
        return value


class LogSettings(Model):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe lines that are written."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, else json."
    )


class Settings(Model):
    """The whole of routesync.toml."""

    mode: Literal["mirror", "observe"] = Field(
        default="mirror", description="mirror: write to the targets. observe: change nothing anywhere."
    )
    node: NodeSettings = Field(default_factory=NodeSettings)
    kernel: KernelSettings = KernelSettings()
    policy: PolicySettings = PolicySettings()
    targets: tuple[TargetSettings, ...] = Field(default=(), strict=False)
    mqtt: MqttSettings | None = None
    log: LogSettings = LogSettings()


def _table_numbers(tables: Iterable[str | int], names: Names) -> tuple[int, ...]:
    numbers: list[int] = []
    for table in tables:
        number = read_number(table, "table", names.tables, MAX_U32)
        if number == 0:
            raise NotationError("0 is no routing table", 'name one, such as "main"')
        if number in numbers:
            raise NotationError(f"table {table!r} stands twice in the list")
        numbers.append(number)
    return tuple(numbers)


def resolve_tables(settings: KernelSettings, names: Names) -> tuple[int, ...]:
    """Turn the tables to read into their numbers, in order of preference.

    Raises:
        NotationError: a name that this host does not know; a table that stands twice. The loader has seen to that.
    """
    return _table_numbers(settings.tables, names)


def rewrite_of(next_hop: str | Iterable[str] | None) -> Rewrite | None:
    """Turn a `next_hop` setting, of a rule or a target, into the hops to put in place; None where nothing is set.

    Raises:
        NotationError: no usable address, or two of one family. The models have seen to that.
    """
    return None if next_hop is None else read_rewrite(next_hop)
