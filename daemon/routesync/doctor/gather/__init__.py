"""Gathers the facts. Reads files, /proc and the kernel; asks targets for version and ports, never for their table.

Reading the table of a loxilb can crash it, so doctor does not. The only thing that it ever writes is one message to the
broker, and that only while no daemon runs (see `broker`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from routesync.config import ConfigError, Loaded, load, shipped_configuration
from routesync.config.models import Settings
from routesync.control.plan import TargetInput, choose, evaluator, plan_targets
from routesync.doctor.dhcp import is_dhcp_host_route
from routesync.doctor.facts import (
    BrokerFacts,
    ConfigFacts,
    DaemonFacts,
    Facts,
    JudgedRoute,
    LocalLoxilb,
    TargetFacts,
)
from routesync.doctor.gather.broker import ask_broker
from routesync.doctor.gather.host import (
    effective_capabilities,
    local_loxilbs,
    read_dhcp,
    read_kernel,
    systemd_version,
)
from routesync.doctor.gather.peers import ask_local, ask_target
from routesync.doctor.gather.state import find_daemon, read_state
from routesync.kernel import TableDump
from routesync.mirror.eligibility import Desired, TargetRules
from routesync.route import leads_to_gateway, link_gateways

__all__ = ["gather"]


def gather(config: Path, state: Path, *, contact: bool, root: Path = Path("/")) -> Facts:
    """Find out everything that the checks want to know.

    Args:
        config: the configuration file; need not exist.
        state: the state directory; need not exist.
        contact: whether targets and broker may be asked.
        root: where /run and /etc are looked for.
    """
    found = read_config(config)
    settings = found.loaded.settings
    tables = settings.kernel.tables
    kernel = read_kernel(settings.kernel, tables, root)
    daemon = find_daemon(state)
    targets, local, broker = asyncio.run(_ask(settings, local_loxilbs(), daemon, contact=contact))
    return Facts(
        config=found,
        kernel=kernel,
        host_routes=_host_routes(found.loaded, kernel.reading),
        desired=_desired(found.loaded, kernel.reading, tables),
        dhcp=read_dhcp(root),
        targets=targets,
        local=local,
        broker=broker,
        state=read_state(state, running=daemon.running),
        daemon=daemon,
        own_capabilities=effective_capabilities("self") or 0,
        systemd=systemd_version(root),
    )


def read_config(path: Path) -> ConfigFacts:
    """Read the configuration; where that cannot be, take the shipped one."""
    if not path.exists():
        return ConfigFacts(path, "absent", load(shipped_configuration()))
    try:
        return ConfigFacts(path, "read", load(path))
    except ConfigError as error:
        return ConfigFacts(path, "wrong", load(shipped_configuration()), tuple(map(str, error.problems)))


async def _ask(
    settings: Settings, local: tuple[LocalLoxilb, ...], daemon: DaemonFacts, *, contact: bool
) -> tuple[tuple[TargetFacts, ...], tuple[LocalLoxilb, ...], BrokerFacts | None]:
    targets = await asyncio.gather(*(ask_target(target, contact=contact) for target in settings.targets))
    if contact and not targets:
        local = tuple(await asyncio.gather(*map(ask_local, local)))
    broker = None
    if settings.mqtt is not None:
        broker = await ask_broker(settings.mqtt, settings.node.name, running=daemon.running, contact=contact)
    return tuple(targets), local, broker


def _host_routes(loaded: Loaded, reading: TableDump | None) -> tuple[JudgedRoute, ...]:
    if reading is None:
        return ()
    names = {ifindex: link.name for ifindex, link in reading.links.items()}
    gateways = link_gateways(reading.routes)
    return tuple(
        JudgedRoute(
            route, loaded.policy.evaluate(route, names, link_gateway=leads_to_gateway(route, gateways))
        )
        for route in reading.routes
        if is_dhcp_host_route(route, gateways)
    )


def _desired(
    loaded: Loaded, reading: TableDump | None, tables: Sequence[int]
) -> Mapping[tuple[str, str], int]:
    """How many routes each target is to have, by family, as far as can be told without its table."""
    counts: Counter[tuple[str, str]] = Counter()
    if reading is None:
        return counts
    inputs = [
        TargetInput(target.name, target.url, TargetRules.from_settings(target), {})
        for target in loaded.settings.targets
    ]
    names = {ifindex: link.name for ifindex, link in reading.links.items()}
    evaluate = evaluator(loaded.policy, names, reading.valid)
    choices = list(choose(reading.valid, evaluate, tables, {}))
    for target in plan_targets(inputs, choices):
        for choice in choices:
            view = target.route(choice.prefix)
            if view is not None and isinstance(view.evaluation, Desired):
                counts[target.name, choice.prefix.family.label] += 1
    return counts
