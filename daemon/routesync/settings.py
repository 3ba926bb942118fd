"""The configuration, as pydantic models: what may stand in routesync.toml, with units, defaults and bounds.

These models are the one source: the loader (`routesync.config`) turns their errors into lines that name file, table and
key. Values are parsed here once, so that no other room ever sees text where it wants a prefix.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Model(BaseModel):
    """Base of all tables of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""A name that is used in topics, file names and metrics labels."""


class NodeSettings(Model):
    """Who this daemon is."""

    name: Name = Field(default_factory=lambda: platform.node() or "localhost", description="Name of this node in topics and events; the host's name by default.")


class KernelSettings(Model):
    """Where routes come from."""

    tables: Sequence[str | int] = Field(default=("main",), min_length=1, description="Routing tables to read: names of rt_tables, or numbers. Earlier ones win.")
    receive_buffer: int = Field(default=64 * 2**20, ge=65536, le=2**30, description="Wanted size of the netlink receive buffer, in bytes; the kernel may grant less.")
    netns: str | None = Field(default=None, description="Network namespace to read instead of our own: a name below /run/netns or a path. Needs CAP_SYS_ADMIN.")
    audit_interval_s: float = Field(default=600, ge=5, description="A full dump is compared with what is held this often, in seconds.")


class PrefixMatch(Model):
    """`prefix` of a rule as a table."""

    exact: str | None = None
    within: str | Sequence[str] | None = Field(default=None, description="The route's prefix lies inside this one.")
    covers: str | Sequence[str] | None = Field(default=None, description="The route's prefix contains this address or prefix.")
    length: str | int | None = Field(default=None, description='Prefix length, or a range like "24-32".')


class MatchSettings(Model):
    """What a rule matches: all fields that are given must hold; a list holds when one of its members does."""

    protocol: str | int | Sequence[str | int] | None = None
    family: Literal["ipv4", "ipv6"] | Sequence[Literal["ipv4", "ipv6"]] | None = None
    prefix: str | PrefixMatch | Sequence[str | PrefixMatch] | None = None
    host: bool | None = Field(default=None, description="Full prefix length: /32, /128.")
    default_route: bool | None = None
    scope: str | int | Sequence[str | int] | None = None
    type: str | int | Sequence[str | int] | None = None
    table: str | int | Sequence[str | int] | None = None
    metric: str | int | Sequence[str | int] | None = Field(default=None, description='A number, or a range like "100-200", "1024-".')
    gateway: bool | str | Sequence[str] | None = Field(default=None, description="true, false, or a prefix that the gateway of every hop lies in.")
    interface: str | Sequence[str] | None = Field(default=None, description="Glob of the interface's name, for every hop.")
    flags: str | Sequence[str] | None = Field(default=None, description="Flags that every hop has, e.g. linkdown, onlink.")
    source: str | Sequence[str] | None = Field(default=None, description="Preferred source address (src), or a prefix that it lies in.")


class RuleSettings(Model):
    """One rule of the policy."""

    name: Name
    match: MatchSettings = MatchSettings()
    action: Literal["keep", "drop"]
    next_hop: str | Sequence[str] | None = Field(default=None, description="With keep: the gateway to tell loxilb instead; one address, or one of each family.")
    report: bool = Field(default=False, description="Each drop by this rule is an event; without it drops are only counted.")


class PolicySettings(Model):
    """Which routes are fit to be mirrored: ordered rules, first match wins, then the default."""

    default_action: Literal["keep", "drop"] = "keep"
    rules: Sequence[RuleSettings] = ()


class TargetSettings(Model):
    """One loxilb to mirror into."""

    name: Name
    url: str = Field(description="Base of its REST API, e.g. http://192.168.10.20:11111")
    allow_default: bool = Field(default=False, description="Whether default routes may be mirrored into it: a posted default beats its own way out.")
    force_connected: bool = Field(default=False, description="Whether prefixes inside networks that it is connected to may be mirrored into it.")
    next_hop: str | Sequence[str] | None = Field(default=None, description="Gateway to tell it instead of the kernel's, where no rule says one; one address, or one of each family.")
    rate: float = Field(default=240, gt=0, le=100_000, description="Changes per second; loxilb ingests 256.")
    burst: int = Field(default=64, ge=1, le=10_000, description="Changes that may go at once after a quiet time.")
    writers: int = Field(default=1, ge=1, le=10_000, description="How many daemons write to this loxilb; the rate is divided by it.")
    connect_timeout_s: float = Field(default=3, gt=0, le=60)
    request_timeout_s: float = Field(default=10, gt=0, le=300)
    inventory_interval_s: float = Field(default=600, ge=10, description="How often its table is read when nothing calls for it.")


class MqttSettings(Model):
    """The broker that events go to."""

    host: str
    port: int = Field(default=1883, ge=1, le=65535)
    root: str = Field(default="routesync/v1", pattern=r"^[^#+\x00]+$", description="Root of all topics, above the node's name.")
    protocol: Literal["5.0", "3.1.1"] = "5.0"
    client_id: str | None = Field(default=None, description="routesync-<node> by default; must be stable and unique at the broker.")
    username: str | None = None
    password: SecretStr | None = Field(default=None, description="Better by file, or by the environment: ROUTESYNC_MQTT_PASSWORD.")
    password_file: str | None = None
    keepalive_s: int = Field(default=30, ge=5, le=65535)
    timeout_s: float = Field(default=10, gt=0, le=120)


class LogSettings(Model):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = Field(default="auto", description="auto: console on a terminal, else json.")


class Settings(Model):
    """The whole of routesync.toml."""

    mode: Literal["mirror", "observe"] = Field(default="mirror", description="mirror: write to the targets. observe: change nothing anywhere.")
    node: NodeSettings = Field(default_factory=NodeSettings)
    kernel: KernelSettings = KernelSettings()
    policy: PolicySettings = PolicySettings()
    targets: Sequence[TargetSettings] = ()
    mqtt: MqttSettings | None = None
    log: LogSettings = LogSettings()
