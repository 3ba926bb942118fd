"""The configuration as pydantic models: the keys of routesync.toml with their types, defaults, bounds and meaning.

The models are the only source: the loader turns their errors into lines with file, table and key, and the JSON schema
and docs/configuration.md are made from the text below each key. Values are parsed once, here: no other package sees
text where it needs a prefix, or a name where it needs a number.
"""

from __future__ import annotations

import platform
import re
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from routesync.config.parsers import (
    AllowDefault,
    Host,
    LeastLengths,
    ListenAt,
    Model,
    Name,
    Network,
    NetworkNamespace,
    NextHops,
    OneOrMany,
    SettingError,
    TableNumber,
    Topic,
    Url,
    fits_a_header,
    host_names,
)
from routesync.config.rules import PolicySettings
from routesync.url import url_address

LabelValue = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[ -~]+$")]


def _own_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-")[:63] or "localhost"


class NodeSettings(Model):
    """The identity of this daemon."""

    name: Name = Field(default_factory=_own_name)
    """Name of this node in topics and events; the host's name by default."""
    labels: dict[Name, LabelValue] = Field(default_factory=dict, max_length=16)
    """Words that describe this node, such as `site = "berlin"`: its status has them, and `routesync fleet` selects by
    them."""


class KernelSettings(Model):
    """Which routes are read."""

    tables: OneOrMany[TableNumber] = Field(default=("main",), validate_default=True)
    """Routing tables to read: names from rt_tables, or numbers. Merged by prefix; earlier ones win."""
    receive_buffer: int = Field(default=64 * 2**20, ge=65536, le=2**30)
    """Requested size of the netlink receive buffer, in bytes; the kernel may grant less."""
    netns: NetworkNamespace | None = None
    """Network namespace to read instead of the daemon's own: a name below /run/netns or a path. Needs
    CAP_SYS_ADMIN."""

    @field_validator("tables")
    @classmethod
    def _tables_are_distinct(cls, tables: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        for position, table in enumerate(tables):
            if table == 0:
                raise SettingError("0 is not a routing table", 'name one, such as "main"')
            if table in tables[:position]:
                raise SettingError(f"table {host_names(info).table(table)} is listed twice")
        return tables


class GuardSettings(Model):
    """Mode "guard": remove the routes of rules with `guard = true` from the kernel where that is safe.

    See docs/guard.md.
    """

    dry_run: bool = True
    """Only report what would be removed. Review the report before you turn this off."""
    settle_s: float = Field(default=2, ge=0, le=600)
    """Age at which a route is first examined, in seconds: its DHCP client may still be at work."""
    removals_per_minute: float = Field(default=6, gt=0, le=600)
    """Most removals per minute."""
    contended_within_s: float = Field(default=60, ge=1, le=86400)
    """A route that reappears within this time after its removal, in seconds, is contended: another program wants
    it. It is left for an hour, and an alarm is raised. Set it below half the time of your leases: a renewal brings a
    route back, too."""


MQTT_PORT: Final = 1883
MQTT_TLS_PORT: Final = 8883
"""As registered with IANA (mqtt, secure-mqtt)."""


class TlsSettings(Model):
    """TLS towards a server. Relative file names are looked up in $CREDENTIALS_DIRECTORY, then beside this file."""

    ca_file: str | None = None
    """CA certificates that the server's certificate is checked against (PEM); the system's by default."""
    cert_file: str | None = None
    """Client certificate (PEM), where the server asks for one."""
    key_file: str | None = None
    """Its key (PEM, without a passphrase); by default cert_file contains it."""
    server_name: Host | None = None
    """The name that the server's certificate must have; the host's name by default."""

    @field_validator("key_file")
    @classmethod
    def _key_has_a_certificate(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("cert_file", "") is None:
            raise SettingError("a key without a certificate", "give cert_file too")
        return value


class WitnessSettings(Model):
    """loxilb's kernel, read directly: the best proof of the routes that it has."""

    netns: NetworkNamespace
    """Network namespace of that loxilb on this host: a name below /run/netns or a path. Entering it needs
    CAP_SYS_ADMIN. While it cannot be read, routesync relies on loxilb's own table."""


class TargetDefaults(Model):
    """Keys that all targets share: any of [[targets]] but name, url and token.

    A target's own key takes precedence; its own table (tls, witness) does so as a whole.
    """

    token_file: str | None = None
    """File with the token; a relative name is looked up in $CREDENTIALS_DIRECTORY, then beside the
    configuration file."""
    tls: TlsSettings | None = None
    """TLS, for an https URL."""
    allow_default: AllowDefault = False
    """Whether default routes may be mirrored. true: where the target has none. override: an IPv4 default route also
    beside one of another metric, which it then replaces in effect; that one may be the target's way to its API
    clients."""
    min_prefix_length: LeastLengths = (8, 16)
    """Shorter prefixes, IPv4 and IPv6, are nearly a default route and are not mirrored; 240.0.0.0/4 and fc00::/7
    are exempt."""
    return_path_ok: tuple[Network, ...] = Field(default=(), strict=False)
    """Prefixes that contain this host's address on the connection to the target and may be mirrored all the same,
    because the target's answers reach this host by their next hops."""
    force_connected: bool = False
    """Whether prefixes inside networks that the target is connected to may be mirrored."""
    next_hop: NextHops | None = None
    """Gateway to send instead of the kernel's, where no rule has one: one address, one of each family, "self",
    this host's address on the interface that reaches the target, or { interface = "ens3" }, its address on that one."""
    rate: float = Field(default=240, ge=0.001, le=100_000)
    """Changes per second; loxilb ingests 256 per second."""
    burst: int = Field(default=64, ge=1, le=10_000)
    """Changes that may be sent at once after a quiet time."""
    writers: int = Field(default=1, ge=1, le=10_000)
    """Number of daemons that write to this loxilb; rate and burst are divided by it."""
    witness: WitnessSettings | None = None
    """loxilb's network namespace on this host, to read its kernel directly."""
    withdraw_delay_s: float = Field(default=0, ge=0, le=600)
    """How long a route stays after it is no longer desired, in seconds; longer than a link flap lasts, it hides the
    flap from loxilb."""
    max_routes_ipv4: int = Field(default=30_000, ge=0, le=1_000_000)
    """Most IPv4 routes that routesync adds; loxilb's eBPF table holds 32,768, its own routes included."""
    max_routes_ipv6: int = Field(default=8_000, ge=0, le=1_000_000)
    """Most IPv6 routes that routesync adds."""
    withdraw_limit_share: float = Field(default=0.5, ge=0, le=1)
    """More withdrawals at once than this share of the owned routes, and at least 50, wait until a second dump of the
    kernel confirms them; 1: none wait."""
    startup_hold_s: float = Field(default=60, ge=0, le=3600)
    """How long owned routes that the kernel does not have stay after the start, in seconds: the routing daemon may
    still be starting."""
    inventory_interval_s: float = Field(default=600, ge=10, le=7 * 86400)
    """Interval of inventories, in seconds, when no other cause asks for one."""


_LONGEST_OF_MANY: Final = 23
"""Characters of a name: an IPv6 address behind it has 39, and 63 are allowed."""


class TargetSettings(TargetDefaults):
    """A loxilb to mirror into."""

    name: Name
    """Unique name, used in topics, events, metrics and commands."""
    url: Url
    """Base URL of its REST API, e.g. http://192.168.10.20:11111 or http://[fe80::1%25eth0]:11111"""
    token: SecretStr | None = Field(default=None, min_length=1)
    """The token that loxilb's --manualtoken asks for. Prefer a file, or the environment:
    ROUTESYNC_TARGET_<NAME>_TOKEN."""

    all_addresses: bool = False
    """Whether each address of the host's name is a target of its own, with the name NAME-ADDRESS. Of a name with
    addresses of both families only the IPv4 ones count, since a pod has one of each. The name is looked up every 10 s;
    what an address that is gone has from routesync stays, until `withdraw` or `forget`."""

    @field_validator("all_addresses")
    @classmethod
    def _there_is_a_name(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  # pydantic's
        if value and url_address(info.data.get("url", "")) is not None:
            raise SettingError(
                "the URL has an address, which resolves to nothing else", "write a host's name"
            )
        if value and len(info.data.get("name", "")) > _LONGEST_OF_MANY:
            raise SettingError(
                f"the target's name has more than {_LONGEST_OF_MANY} characters, which leaves no room for an address",
                "shorten it",
            )
        return value

    @field_validator("token")
    @classmethod
    def _token_fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not fits_a_header(value.get_secret_value()):
            raise SettingError(
                "it contains characters that an HTTP header cannot carry", "use printable ASCII"
            )
        return value

    @field_validator("url")
    @classmethod
    def _tls_is_for_https(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith("http:") and info.data.get("tls") is not None:
            raise SettingError(
                "TLS settings for an http URL", "write https in the URL (loxilb serves it on port 8091)"
            )
        return value


class MqttSettings(Model):
    """The MQTT broker that events are published to."""

    model_config = ConfigDict(
        json_schema_extra={"required": [], "anyOf": [{"required": ["host"]}, {"required": ["hosts"]}]}
    )

    host: Host
    """Name or address of the broker; or give hosts."""
    hosts: tuple[Host, ...] = Field(default=(), max_length=16, strict=False)
    """Instead of host, the members of a cluster, each with the same port: a node begins with a random one, and goes on
    with another where one fails."""
    port: int = Field(default=MQTT_PORT, ge=1, le=65535)
    """TCP port; 8883 by default where the table tls is given."""
    root: Topic = "routesync/v1"
    """Root of all topics, above the node's name."""
    protocol: Literal["5.0", "3.1.1"] = "5.0"
    """MQTT version."""
    client_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """routesync-<node> by default; must be stable, and unique at the broker."""
    username: str | None = None
    """Name to log in with."""
    password: SecretStr | None = None
    """Prefer a file, or the environment: ROUTESYNC_MQTT_PASSWORD."""
    password_file: str | None = None
    """File with the password; a relative name is looked up in $CREDENTIALS_DIRECTORY, then beside the
    configuration file."""
    tls: TlsSettings | None = None
    """TLS; an empty table trusts the system's certificates."""
    keepalive_s: int = Field(default=30, ge=5, le=65535)
    """MQTT keep-alive interval, in seconds."""
    timeout_s: float = Field(default=10, gt=0, le=120)
    """How long one operation may take, in seconds."""
    reconnect_spread_s: float = Field(default=15, ge=1, le=600)
    """After a connection broke, the next one is made within this time, in seconds, at a random moment: a fleet whose
    broker was restarted does not return at once. While the broker does not answer, it is tried as often."""
    will_delay_s: int = Field(default=20, ge=0, le=3600)
    """How long this node may be away before the broker publishes its state offline, in seconds; MQTT 5 only. Longer
    than reconnect_spread_s, it hides a lost connection."""
    heartbeat_s: int = Field(default=60, ge=5, le=86400)
    """The status is published at least this often, in seconds: readers notice a node that died together with its
    broker."""
    event_expiry_s: int = Field(default=86400, ge=1, le=2**32 - 1)
    """How long the broker keeps an event for an absent subscriber, in seconds; MQTT 5 only."""

    @field_validator("password")
    @classmethod
    def _password_has_a_user(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # MQTT 3.1.1, section 3.1.2.9: without the user name flag the password flag must be 0.
        if (
            value is not None
            and info.data.get("protocol") == "3.1.1"
            and info.data.get("username", "") is None
        ):
            raise SettingError("MQTT 3.1.1 has no password without a user name", "give username too")
        return value

    @field_validator("hosts")
    @classmethod
    def _hosts_replace_the_host(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("host", value[0]) not in value:
            raise SettingError("host and hosts are both given, and differ", "give one of them")
        return value

    @model_validator(mode="before")
    @classmethod
    def _derive_defaults(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        derived: dict[str, object] = {}
        if "tls" in value and "port" not in value:
            derived["port"] = MQTT_TLS_PORT
        hosts = value.get("hosts")
        if "host" not in value and isinstance(hosts, list | tuple) and hosts:
            derived["host"] = hosts[0]
        return value | derived

    @property
    def brokers(self) -> tuple[Self, ...]:
        """The same settings for each host alone."""
        hosts = self.hosts or (self.host,)
        return tuple(self.model_copy(update={"host": host, "hosts": ()}) for host in hosts)

    @property
    def place(self) -> str:
        """Where the broker is, for people."""
        return " or ".join(f"{host}:{self.port}" for host in self.hosts or (self.host,))

    @property
    def user(self) -> str:
        """Who logs in, for people."""
        return f"user {self.username!r}" if self.username else "a client without a user name"


class EventsSettings(Model):
    """The outbox, outbox.sqlite in the state directory: events that wait for the broker. When full, the oldest go."""

    outbox_events: int = Field(default=200_000, ge=1000, le=10_000_000)
    """Most events that may wait."""
    outbox_bytes: int = Field(default=256 * 2**20, ge=2**20, le=2**40)
    """Most space that they may take, in bytes."""
    table_interval_s: float = Field(default=1, ge=1, le=3600)
    """Least time between two publications of one part of the retained table, in seconds; a longer one spares a
    broker that serves many nodes."""
    table: bool = True
    """Publish the retained tables. false: for a broker that limits retained messages; then nothing heals the copy of a
    subscriber that missed an event."""
    kernel_table: bool | None = None
    """Publish what the rules keep of the kernel's routes, as events (`kernel/kept`, `kernel/gone`) and as a retained
    table; by default in mode observe. The table needs memory and traffic for each route: it ends beyond 100,000."""


class ControlSettings(Model):
    """The TCP listener. The control socket, control.sock in the runtime directory, always exists."""

    listen: ListenAt | None = None
    """ADDRESS:PORT that serves /metrics and /health, and nothing else, over TCP to any client that can reach it;
    use a loopback address unless other hosts need it. Without it there is no TCP listener."""
    page: bool = False
    """Serve the page there, too. Any client that reaches it can then read the state of the node, its routes, and the
    names and addresses of its targets; nothing can be changed."""
    page_hosts: tuple[Host, ...] = Field(default=(), strict=False)
    """Names by which the page may be opened, beside localhost and every address. A request for any other name is
    refused, so that no foreign site can read the page through a visitor's browser."""

    @model_validator(mode="after")
    def _page_has_a_listener(self) -> Self:
        if self.page and self.listen is None:
            raise SettingError("page = true needs a listener", 'add listen = "127.0.0.1:9469"')
        return self


class LogSettings(Model):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, json otherwise."""


class Settings(Model):
    """The whole of routesync.toml."""

    mode: Literal["mirror", "observe", "guard"] = "mirror"
    """mirror: write to the targets. observe: change nothing. guard: write to no target, and remove redundant DHCP
    host routes from the kernel that this host shares with loxilb."""
    reload_on_change: bool = False
    """Reload when the file or a drop-in has another content, checked every 2 s: for a ConfigMap of Kubernetes. As at
    any reload, an invalid file is rejected, and the running configuration stays."""
    node: NodeSettings = Field(default_factory=NodeSettings)
    kernel: KernelSettings = KernelSettings()
    policy: PolicySettings = PolicySettings()
    guard: GuardSettings = GuardSettings()
    target_defaults: TargetDefaults | None = None
    targets: tuple[TargetSettings, ...] = Field(default=(), strict=False)
    mqtt: MqttSettings | None = None
    events: EventsSettings = EventsSettings()
    control: ControlSettings = ControlSettings()
    log: LogSettings = LogSettings()
