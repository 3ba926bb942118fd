"""What is wrong on this host, why, and what to do: facts are gathered once, then judged by pure functions.

gather    reads and asks: files, /proc, the kernel, targets, the broker; writes nothing but one message to the broker
facts     what was found, as values
host, dhcp, kernel, targets, broker, state   the checks
"""

from __future__ import annotations

from routesync.doctor import broker, dhcp, host, kernel, state, targets
from routesync.doctor.facts import Facts
from routesync.doctor.finding import Check, Finding, Level

__all__ = ["Check", "Facts", "Finding", "Level", "diagnose", "worst"]


def diagnose(facts: Facts) -> list[Finding]:
    """Judge the facts; each check says something, also when all is well."""
    return [
        *host.config(facts),
        *host.daemon(facts),
        *host.capabilities(facts),
        *host.systemd(facts),
        *kernel.readable(facts),
        *dhcp.host_routes(facts),
        *kernel.receive_buffer(facts),
        *kernel.sysctls(facts),
        *targets.reachable(facts),
        *targets.version(facts),
        *targets.shared_namespace(facts),
        *targets.capacity(facts),
        *broker.reachable(facts),
        *broker.access(facts),
        *state.directory(facts),
        *state.ledger(facts),
        *state.orphans(facts),
        *state.outbox(facts),
    ]


def worst(findings: list[Finding]) -> Level:
    """The worst level among them."""
    return max((finding.level for finding in findings), default=Level.OK)
