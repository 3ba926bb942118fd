"""What is wrong on this host, why, and what to do: facts are gathered once, then checked by pure functions.

daemon    the daemon, whether it answers or not: lock, process, systemd unit, state files
gather    everything else: reads the configuration, DHCP clients and the kernel; asks targets and the broker
facts     facts and findings, as values
host, dhcp, loxilb, state   the checks, by subject
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from routesync.doctor import dhcp, host, loxilb, state
from routesync.doctor.facts import NOT_CHECKED, Facts, Finding, Level

__all__ = ["CHECKS", "Facts", "Finding", "Level", "diagnose", "worst"]

CHECKS: Final[Mapping[str, Callable[[Facts], Iterator[Finding]]]] = {
    "config": host.config,
    "daemon": host.daemon,
    "capabilities": host.capabilities,
    "kernel": host.kernel,
    "receive-buffer": host.receive_buffer,
    "dhcp-host-routes": dhcp.host_routes,
    "target": loxilb.target,
    "shared-namespace": loxilb.shared_namespace,
    "capacity": loxilb.capacity,
    "broker": state.broker,
    "state-directory": state.directory,
    "ledger": state.ledger,
    "orphans": state.orphans,
    "outbox": state.outbox,
}
"""By codes that stay stable (docs/doctor.md)."""
_OF_CONFIGURATION: Final = frozenset({"capabilities", "target", "capacity", "orphans", "outbox"})
"""Those that are about nothing else. The others do with the shipped rules, or ask the daemon first."""


def diagnose(facts: Facts) -> list[Finding]:
    """Run all checks; each has a finding, also when all is well."""
    return [
        finding._replace(check=code)
        for code, check in CHECKS.items()
        for finding in (
            (NOT_CHECKED,) if code in _OF_CONFIGURATION and not facts.config.known else check(facts)
        )
    ]


def worst(findings: list[Finding]) -> Level:
    """The worst level among them."""
    return max((finding.level for finding in findings), default=Level.OK)
