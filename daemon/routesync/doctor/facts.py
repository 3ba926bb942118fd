"""What doctor works on: facts of this host, its daemon and its peers, gathered once; and the findings of the checks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final, Literal, NamedTuple

from routesync.config import Loaded
from routesync.config.resolve import Unresolved
from routesync.control.client import ControlError
from routesync.control.models import StatusResponse
from routesync.kernel import TableDump
from routesync.loxilb.schema import Port
from routesync.mirror.namespace import Sharing, sharing
from routesync.route import Prefix


class Level(IntEnum):
    """How bad a finding is; also the exit status, as monitoring plugins have it."""

    OK = 0
    WARN = 1
    FAIL = 2

    @property
    def label(self) -> str:
        return self.name.lower()


class Finding(NamedTuple):
    """What one check found at one subject.

    Attributes:
        summary: one line.
        why: what that means; empty where the summary says it all.
        remedy: what to do, one step a line; empty where there is nothing to do.
        subject: the target, route or file that it is about; empty for the host.
        check: the code of the check, which stays stable (docs/doctor.md).
    """

    level: Level
    summary: str
    why: str = ""
    remedy: tuple[str, ...] = ()
    subject: str = ""
    check: str = ""


def ok(summary: str, why: str = "", *, subject: str = "") -> Finding:
    return Finding(Level.OK, summary, why, subject=subject)


def warn(summary: str, why: str, *remedy: str, subject: str = "") -> Finding:
    return Finding(Level.WARN, summary, why, remedy, subject)


NOT_CHECKED: Final = warn("not checked: the configuration cannot be used, see config", "")


def fail(summary: str, why: str, *remedy: str, subject: str = "") -> Finding:
    return Finding(Level.FAIL, summary, why, remedy, subject)


class ConfigFacts(NamedTuple):
    """The configuration file, or what takes its place.

    Attributes:
        state: unreadable: this user may not read it, or another file that it names.
        loaded: what the other checks use: the file, or the shipped one where the file cannot be used.
        problems: why it is invalid, or unreadable.
        unresolved: targets with `all_addresses` that are not in `loaded`, because their names did not resolve.
    """

    path: Path
    state: Literal["read", "absent", "unreadable", "invalid"]
    loaded: Loaded
    problems: tuple[str, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()

    @property
    def known(self) -> bool:
        """Whether `loaded` is what the daemon has, or would start with."""
        return self.state in {"read", "absent"}


class KernelFacts(NamedTuple):
    """The kernel's side."""

    release: str  # as uname(2) reports it
    dump: TableDump | None
    error: str | None  # why there is no dump
    buffer_granted: int  # bytes that the kernel accounts for a socket of this process
    buffer_max: int | None  # net.core.rmem_max
    socket_unit: bool  # routesync.socket is installed: systemd opens the socket, with a buffer of its own


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
    error: str | None = None  # why it does not answer, to the daemon or to doctor
    denied: bool = False  # it answers, and wants another token
    asked: bool = True


class LocalLoxilb(NamedTuple):
    """A process of that name on this host."""

    pid: int
    shares_namespace: bool | None  # None: not permitted to see
    version: str | None = None


class BrokerFacts(NamedTuple):
    """The broker, tried out by doctor.

    Attributes:
        place: host and port.
        trouble: why it cannot be used; None: it can.
        status: the state of this node by its retained status and the age of that; None: there is none, or it may not
            be read.
        publish: what came of the test message: accepted, denied, not seen to come back (MQTT 3.1.1); or why there was
            none.
        denial: the broker's words for a denial.
        speaks_v5: whether it accepts MQTT 5 although `mqtt.protocol` is 3.1.1.
    """

    place: str
    trouble: str | None = None
    status: str | None = None
    publish: Literal["accepted", "denied", "not-back", "running", "other-node", "unknown", "not-asked"] = (
        "not-asked"
    )
    denial: str = ""
    speaks_v5: bool = False


class DatabaseFacts(NamedTuple):
    """A SQLite file of the state directory. `error`: why it cannot be used."""

    path: Path
    exists: bool = False
    owner: str = ""
    writable: bool = True  # for the daemon
    error: str | None = None


class StateFacts(NamedTuple):
    """The state directory. `user`: whom the daemon runs as, as far as is known."""

    directory: Path
    ledger: DatabaseFacts
    outbox: DatabaseFacts
    exists: bool = True
    user: str = "the daemon"
    writable: bool = True  # for that user
    read_only: bool = False  # the file system is
    free_bytes: int = 0
    owned: Mapping[str, int] = {}  # routes in the ledger, by target
    outbox_events: int = 0
    ledger_aside: Path | None = None  # a damaged one that was put aside


class User(NamedTuple):
    """Whom a process runs as."""

    uid: int
    gids: frozenset[int]


class DaemonFacts(NamedTuple):
    """The daemon that works on the state directory.

    Attributes:
        running: None: not known.
        user: None: not known.
        capabilities: effective ones; None: not known.
        stopped: whether a signal (SIGSTOP) or a debugger has stopped it.
        answer: its status, by the control socket; None: it was not asked, or did not answer.
        error: why it did not.
    """

    running: bool | None
    pid: int | None = None
    user: User | None = None
    capabilities: int | None = None
    stopped: bool = False
    answer: StatusResponse | None = None
    error: ControlError | None = None


class UnitFacts(NamedTuple):
    """routesync.service, as systemd has it.

    Attributes:
        active: such as active, activating, failed, inactive; with a detail in `sub`.
        result: how it ended: success, exit-code, watchdog, oom-kill, …
        status: exit status of its last run.
        restarts: how often systemd has restarted it by itself.
        text: the last status line of the daemon.
        user: whom it runs as.
        missing: files that LoadCredential= names and that do not exist.
        credentials: what systemd has for the service, by name, with the file; None: from elsewhere.
    """

    active: str
    sub: str
    result: str
    status: int
    restarts: int
    text: str
    user: str
    missing: tuple[str, ...] = ()
    credentials: Mapping[str, Path | None] = {}


class Facts(NamedTuple):
    """All of it."""

    config: ConfigFacts
    kernel: KernelFacts
    desired: Mapping[tuple[str, str], int]  # number of desired routes, by target and family
    dhcp: DhcpFacts
    targets: tuple[TargetFacts, ...]
    local: tuple[LocalLoxilb, ...]
    broker: BrokerFacts | None  # None: none is configured, or the daemon has answered
    state: StateFacts
    daemon: DaemonFacts
    own_capabilities: int
    systemd: int | None  # its version; None: it does not run here
    unit: UnitFacts | None = None  # None: systemd does not run here, or has no such unit

    def sharing(self, target: TargetFacts) -> Sharing:
        """Whether a target that has listed its ports shares this host's network namespace."""
        return sharing(target.ports or (), self.kernel.dump.links if self.kernel.dump else {})


def prefix_text(prefix: Prefix) -> str:
    """A host prefix as people write it: without its length."""
    text = str(prefix)
    return text.rpartition("/")[0] if prefix.is_host else text
