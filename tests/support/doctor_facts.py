"""Facts of a host on which all is well, to be changed one at a time."""

from __future__ import annotations

from pathlib import Path

from routesync.config import load
from routesync.control.models import ActiveConfig, StatusResponse
from routesync.doctor.facts import (
    ConfigFacts,
    DaemonFacts,
    DatabaseFacts,
    DhcpFacts,
    Facts,
    KernelFacts,
    StateFacts,
)
from routesync.events.node_status import KernelStatus, Status, TargetStatus
from routesync.kernel import Link, Sysctls, TableDump
from routesync.names import PROTOCOLS, TYPES, Names
from routesync.route import NextHop, Prefix, Route, parse_address

ENS3 = 2


def route(prefix: str, *, gateway: str | None = None, protocol: str = "dhcp", ifindex: int = ENS3) -> Route:
    """A route of the main table."""
    hops = (NextHop(parse_address(gateway) if gateway else None, ifindex),)
    return Route(Prefix.parse(prefix), 254, 0, 1024, PROTOCOLS[protocol], 253, TYPES["unicast"], hops)


def dump(*routes: Route) -> TableDump:
    links = {ENS3: Link(ENS3, "ens3", 0, bytes.fromhex("525400000001"))}
    switches = Sysctls(skip_notify_on_dev_down=False, nexthop_compat_mode=True)
    return TableDump(routes, links, (), switches, {})


def configuration(directory: Path, text: str) -> ConfigFacts:
    """A valid configuration."""
    file = directory / "routesync.toml"
    file.write_text(text)
    return ConfigFacts(file, "read", load(file, {}, Names()))


def healthy(directory: Path, text: str = "") -> Facts:
    """All is well."""
    state = directory / "state"
    return Facts(
        config=configuration(directory, text),
        kernel=KernelFacts("6.1.0-40-amd64", dump(), None, 2**27, 2**26, socket_unit=False),
        desired={},
        dhcp=DhcpFacts(frozenset(), {}, frozenset()),
        targets=(),
        local=(),
        broker=None,
        state=StateFacts(
            state,
            ledger=DatabaseFacts(state / "ledger.sqlite", exists=True, owner="routesync"),
            outbox=DatabaseFacts(state / "outbox.sqlite", exists=True, owner="routesync"),
            user="routesync",
            free_bytes=2**34,
        ),
        daemon=DaemonFacts(running=True, pid=17, capabilities=0),
        own_capabilities=0,
        systemd=252,
    )


def answer(
    *reasons: str,
    broker: str | None = None,
    receive_buffer: int = 2**27,
    targets: tuple[TargetStatus, ...] = (),
    active: ActiveConfig | None = None,
) -> StatusResponse:
    """What a running daemon reports."""
    status = Status(
        state="degraded" if reasons else "online",
        node="node",
        kernel=KernelStatus(state="synced", receive_buffer=receive_buffer),
        targets=targets,
        broker=broker,
        reasons=reasons,
    )
    active = active or ActiveConfig(path="/etc/routesync/routesync.toml", digest="")
    return StatusResponse(status=status, pid=17, config=active, rules=(), targets=())
