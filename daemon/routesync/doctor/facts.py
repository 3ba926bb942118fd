"""What is known of this host, its daemon and its peers: gathered once, then judged by pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from routesync.config import Loaded
from routesync.kernel import TableDump
from routesync.loxilb.schema import Port
from routesync.route import Prefix, Route, Verdict


class ConfigFacts(NamedTuple):
    """The configuration, or what takes its place."""

    path: Path
    state: Literal["read", "absent", "wrong"]
    loaded: Loaded
    """What the other checks go by: the file, or where that cannot be, the shipped one."""
    problems: tuple[str, ...] = ()


class KernelFacts(NamedTuple):
    """The kernel's side."""

    release: str  # as uname(2) says it
    reading: TableDump | None
    error: str | None  # why there is no reading
    buffer_granted: int  # bytes that the kernel accounts for a socket of ours
    buffer_max: int | None  # net.core.rmem_max
    socket_unit: bool  # systemd is to hand a socket over, with a buffer of its own


class JudgedRoute(NamedTuple):
    """A route of the kernel and what the rules say of it."""

    route: Route
    verdict: Verdict


class NetworkdLink(NamedTuple):
    """What systemd-networkd keeps of a link."""

    network_file: str | None
    lease: Mapping[str, frozenset[str]]  # ROUTER, DNS, NTP, …: the addresses; empty: no DHCPv4 lease


class DhcpFacts(NamedTuple):
    """Traces of DHCP clients. Those of links are by ifindex."""

    clients: frozenset[str]  # names of running ones
    networkd: Mapping[int, NetworkdLink]
    network_manager: frozenset[int]  # links that it manages


class TargetFacts(NamedTuple):
    """One configured target."""

    name: str
    url: str
    version: str | None = None
    ports: tuple[Port, ...] | None = None
    error: str | None = None  # why it was not reached
    denied: bool = False  # it was, and wants another token
    asked: bool = True


class LocalLoxilb(NamedTuple):
    """A process of that name on this host."""

    pid: int
    shares_namespace: bool | None  # None: we may not see
    version: str | None = None


class BrokerFacts(NamedTuple):
    """The broker, tried out.

    Attributes:
        where: host and port.
        trouble: why it cannot be used; None: it can.
        status: what its retained status says of this node: the state; None: nothing, or we may not read it.
        reasons: why that status is degraded.
        publish: what came of the probe: taken, denied, not seen to come back (by 3.1.1); or why there was none.
        denial: the broker's words for a denial.
    """

    where: str
    trouble: str | None = None
    status: str | None = None
    reasons: tuple[str, ...] = ()
    publish: Literal["taken", "denied", "not-back", "running", "other-node", "unknown", "not-asked"] = (
        "not-asked"
    )
    denial: str = ""


class DatabaseFacts(NamedTuple):
    """A SQLite file of the state directory."""

    path: Path
    exists: bool = False
    owner: int | None = None
    error: str | None = None
    busy: bool = False  # the daemon holds it


class StateFacts(NamedTuple):
    """The state directory."""

    directory: Path
    exists: bool
    owner: int | None
    owner_name: str
    owner_may_write: bool
    readable: bool  # for us
    read_only: bool  # the file system is
    free_bytes: int
    ledger: DatabaseFacts
    owned: Mapping[str, int]  # routes that are ours, by target
    outbox: DatabaseFacts
    outbox_events: int = 0
    ledger_aside: Path | None = None  # a damaged one that was put aside


class DaemonFacts(NamedTuple):
    """The daemon that works on that state directory."""

    running: bool | None  # None: it cannot be told
    pid: int | None = None
    capabilities: int | None = None  # effective ones; None: not known


class Facts(NamedTuple):
    """All of it."""

    config: ConfigFacts
    kernel: KernelFacts
    host_routes: tuple[JudgedRoute, ...]  # the DHCP host routes
    desired: Mapping[tuple[str, str], int]  # number of desired routes, by target and family
    dhcp: DhcpFacts
    targets: tuple[TargetFacts, ...]
    local: tuple[LocalLoxilb, ...]
    broker: BrokerFacts | None
    state: StateFacts
    daemon: DaemonFacts
    own_capabilities: int
    systemd: int | None  # its version; None: it does not run here


def prefix_text(prefix: Prefix) -> str:
    """A host prefix as people write it: without its length."""
    text = str(prefix)
    return text.rpartition("/")[0] if prefix.is_host else text
