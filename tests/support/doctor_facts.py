"""Facts of a host on which all is well, to be changed one at a time."""

from __future__ import annotations

from pathlib import Path

from routesync.config import load
from routesync.doctor.facts import (
    ConfigFacts,
    DaemonFacts,
    DatabaseFacts,
    DhcpFacts,
    Facts,
    KernelFacts,
    StateFacts,
)
from routesync.kernel import Link, Sysctls, TableDump
from routesync.names import PROTOCOLS, TYPES, Names
from routesync.route import NextHop, Prefix, Route, parse_address

ENS3 = 2


def route(prefix: str, *, gateway: str | None = None, protocol: str = "dhcp", ifindex: int = ENS3) -> Route:
    """A route of the main table."""
    hops = (NextHop(parse_address(gateway) if gateway else None, ifindex),)
    return Route(Prefix.parse(prefix), 254, 0, 1024, PROTOCOLS[protocol], 253, TYPES["unicast"], hops)


def reading(*routes: Route) -> TableDump:
    links = {ENS3: Link(ENS3, "ens3", 0, bytes.fromhex("525400000001"))}
    switches = Sysctls(skip_notify_on_dev_down=False, nexthop_compat_mode=True)
    return TableDump(routes, links, (), switches, {})


def configuration(directory: Path, text: str) -> ConfigFacts:
    """A configuration that holds."""
    file = directory / "routesync.toml"
    file.write_text(text)
    return ConfigFacts(file, "read", load(file, {}, Names()))


def healthy(directory: Path, text: str = "") -> Facts:
    """All is well."""
    state = directory / "state"
    return Facts(
        config=configuration(directory, text),
        kernel=KernelFacts("6.1.0-40-amd64", reading(), None, 2**27, 2**26, socket_unit=False),
        host_routes=(),
        desired={},
        dhcp=DhcpFacts(frozenset(), {}, frozenset()),
        targets=(),
        local=(),
        broker=None,
        state=StateFacts(
            state,
            exists=True,
            owner=1000,
            owner_name="routesync",
            owner_may_write=True,
            readable=True,
            read_only=False,
            free_bytes=2**34,
            ledger=DatabaseFacts(state / "ledger.sqlite", exists=True, owner=1000),
            owned={},
            outbox=DatabaseFacts(state / "outbox.sqlite", exists=True, owner=1000),
        ),
        daemon=DaemonFacts(running=True, pid=17, capabilities=0),
        own_capabilities=0,
        systemd=252,
    )
