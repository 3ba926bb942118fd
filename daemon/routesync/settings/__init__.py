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
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from routesync.names import Names
from routesync.settings.fields import ListenAt, Name, NetworkNamespace, OneOrMany, TableWord, host_names
from routesync.settings.guard import GuardSettings
from routesync.settings.model import Model
from routesync.settings.notation import MAX_U32, NotationError, read_number
from routesync.settings.peers import MqttSettings, TargetSettings, TlsSettings
from routesync.settings.rules import MatchSettings, PolicySettings, PrefixMatch, RuleSettings, rewrite_of

__all__ = [
    "ControlSettings",
    "EventsSettings",
    "GuardSettings",
    "KernelSettings",
    "LogSettings",
    "MatchSettings",
    "Model",
    "MqttSettings",
    "NodeSettings",
    "PolicySettings",
    "PrefixMatch",
    "RuleSettings",
    "Settings",
    "TargetSettings",
    "TlsSettings",
    "resolve_tables",
    "rewrite_of",
]


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
        description="Routing tables to read: names of rt_tables, or numbers. Merged by prefix; earlier ones win.",
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


class EventsSettings(Model):
    """Events that wait for the broker, in outbox.sqlite below the state directory; beyond a bound the oldest go."""

    outbox_events: int = Field(default=200_000, ge=1000, le=10_000_000, description="How many may wait.")
    outbox_bytes: int = Field(
        default=256 * 2**20, ge=2**20, le=2**40, description="How much room they may take, in bytes."
    )
    table_interval_s: float = Field(
        default=1,
        ge=1,
        le=3600,
        description="A part of the retained table is published at most this often, in seconds; "
        "more spares a broker of many nodes.",
    )


class ControlSettings(Model):
    """How the daemon is asked. Its control socket, control.sock in the runtime directory, is always there."""

    listen: ListenAt | None = Field(
        default=None,
        description="ADDRESS:PORT where /metrics and /health are served over TCP, to whoever can reach it, and nothing "
        "else; use an address of the loopback interface unless others have to ask. Without it: nowhere.",
    )


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

    mode: Literal["mirror", "observe", "guard"] = Field(
        default="mirror",
        description="mirror: write to the targets. observe: change nothing anywhere. guard: write to no target, and "
        "take redundant DHCP host routes out of the kernel that it shares with loxilb.",
    )
    node: NodeSettings = Field(default_factory=NodeSettings)
    kernel: KernelSettings = KernelSettings()
    policy: PolicySettings = PolicySettings()
    guard: GuardSettings = GuardSettings()
    targets: tuple[TargetSettings, ...] = Field(default=(), strict=False)
    mqtt: MqttSettings | None = None
    events: EventsSettings = EventsSettings()
    control: ControlSettings = ControlSettings()
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
