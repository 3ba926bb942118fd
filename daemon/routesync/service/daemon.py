"""The daemon: all rooms wired together, one task each.

::

    KernelSource --changes--> pump: Table --elected--> Reconciler (one per target) --> loxilb
         |                                                  |
         `---------------- events --------------------------'--> EventHub --> MQTT, log

The pump is the only writer of the table. A reconciler that dies is a defect and ends the daemon (systemd starts it
again); a target or a broker that is gone is not: those tasks see to it themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from routesync.config import Loaded
from routesync.events.hub import EventHub
from routesync.events.log import log_events
from routesync.events.models import ConfigLoaded
from routesync.events.mqtt import MqttPublisher
from routesync.events.outbox import Outbox
from routesync.events.status import Status
from routesync.events.store import Bounds
from routesync.kernel import KernelReport, KernelSource, Links, ResyncDone
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.token import FileToken
from routesync.mirror.brakes import Limits
from routesync.mirror.ledger import Ledger, LedgerBusyError, LedgerError, MemoryLedger, SqliteLedger
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.status import TargetView
from routesync.mirror.wanted import TargetRules, url_address
from routesync.mirror.witness import Witness
from routesync.route import Address, Route, Verdict
from routesync.service.kernel_reports import KernelReporter
from routesync.service.notify import Notifier, feed_watchdog
from routesync.service.status import StatusBuilder
from routesync.service.supervise import Supervisor, signals
from routesync.settings import Settings, TargetSettings, resolve_tables, rewrite_of
from routesync.settings.tls import client_context

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Prefixes that the pump handles before it lets other tasks run."""
READING_CONSIDERED_S: Final = 1.0
"""After a reading of the kernel, by when all that it changed was considered."""
STATUS_INTERVAL_S: Final = 1.0
SETTLE_INTERVAL_S: Final = 1.0


class InterfaceNames(Mapping[int, str]):
    """The links' names by ifindex, as the policy wants them; always the present ones."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def __getitem__(self, ifindex: int) -> str:
        return self._links[ifindex].name

    def __iter__(self) -> Iterator[int]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)


class Daemon:
    """One run of routesync, from its loaded configuration to its orderly stop."""

    def __init__(self, loaded: Loaded, *, state: Path, notifier: Notifier) -> None:
        self._loaded = loaded
        self._settings: Settings = loaded.settings
        self._policy = loaded.policy
        self._state = state
        self._notifier = notifier
        self._reconcilers: list[Reconciler] = []

    def _admit(self, route: Route, links: Links) -> Verdict:
        return self._policy.evaluate(route, InterfaceNames(links))

    def _views(self) -> list[TargetView]:
        return [reconciler.view() for reconciler in self._reconcilers]

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises:
            TaskDied: a part of the daemon ended by itself.
            LedgerBusyError: another daemon works on this state directory.
            KernelError: the kernel's routes cannot be read at all.
        """
        supervisor = Supervisor()
        async with AsyncExitStack() as stack:
            ledger, trouble = self._open_ledger(stack)
            self._open_events(stack)
            self._open_kernel()
            self._status.standing_reasons += trouble
            self._status.storage_trouble = lambda: ledger.trouble
            for target in self._settings.targets if self._settings.mode == "mirror" else ():
                self._reconcilers.append(await self._make_reconciler(target, ledger, stack))
            self._name_orphans(ledger)
            stack.enter_context(signals(stop=supervisor.request_stop, reload=self._reload))
            self._hub.emit(ConfigLoaded(path=str(self._loaded.path), digest=self._loaded.digest))
            supervisor.start("events", self._publish)
            for reconciler in self._reconcilers:
                supervisor.start(f"target {reconciler.name}", reconciler.run)
            supervisor.start("pump", self._pump)
            supervisor.start("kernel", self._source.run)
            supervisor.start("watchdog", lambda: feed_watchdog(self._notifier, lambda: True))
            supervisor.start("readiness", self._say_ready)
            supervisor.start("ledger", lambda: _settle(ledger))
            try:
                await supervisor.wait()
            finally:
                self._notifier.stopping()

    def _open_events(self, stack: AsyncExitStack) -> None:
        node = self._settings.node.name
        if self._settings.mqtt is None:
            self._hub = EventHub(node)
            return
        bounds = Bounds(self._settings.events.outbox_events, self._settings.events.outbox_bytes)
        outbox = Outbox.open(self._state / "outbox.sqlite", node, bounds=bounds)
        stack.push_async_callback(outbox.close)
        self._hub = EventHub(node, epoch=outbox.identity.epoch, sequence=outbox.first_sequence)
        self._hub.attach(outbox)
        self._publisher = MqttPublisher(
            self._settings.mqtt,
            node,
            self._hub,
            self._build_status,
            outbox=outbox,
            table_interval_s=self._settings.events.table_interval_s,
        )

    def _build_status(self) -> Status:
        return self._status.build()  # made after the publisher

    def _heed(self, report: KernelReport) -> None:
        """Take a report of the kernel side; a reading may be the second one that a mass withdrawal waits for."""
        self._reporter(report)
        if isinstance(report, ResyncDone):
            asyncio.get_running_loop().call_later(READING_CONSIDERED_S, self._tell_of_reading)

    def _tell_of_reading(self) -> None:
        for reconciler in self._reconcilers:
            reconciler.kernel_was_read()

    def _open_kernel(self) -> None:
        kernel = self._settings.kernel
        self._reporter = KernelReporter(self._hub, self._loaded.names, lambda: self._source.links)
        self._source = KernelSource(
            tables=resolve_tables(kernel, self._loaded.names),
            admit=self._admit,
            admit_header=self._policy.header_verdict,
            receive_buffer=kernel.receive_buffer,
            audit_interval_s=kernel.audit_interval_s,
            netns=kernel.netns,
            report=self._heed,
        )
        self._status = StatusBuilder(self._settings, self._source, self._hub, self._views)
        if self._settings.mqtt is not None:
            self._status.broker = lambda: self._publisher.state
            self._status.broker_troubles = lambda: self._publisher.troubles

    def _open_ledger(self, stack: AsyncExitStack) -> tuple[Ledger, list[str]]:
        """The ledger and, where it is not the durable one, why."""
        try:
            return stack.enter_context(SqliteLedger(self._state)), []
        except LedgerBusyError:
            raise
        except LedgerError as error:
            log.error("ledger unusable", error=str(error), consequence="nothing from before is ours")  # noqa: TRY400
            return MemoryLedger(), [f"ledger: {error}"]

    def _name_orphans(self, ledger: Ledger) -> None:
        configured = {target.name for target in self._settings.targets}
        for name, routes in ledger.targets().items():
            if name not in configured:
                text = f"target {name} is no longer configured, but {routes} routes in it are ours"
                log.warning("routes left behind", target=name, routes=routes)
                self._status.standing_reasons.append(text)

    async def _make_reconciler(
        self, target: TargetSettings, ledger: Ledger, stack: AsyncExitStack
    ) -> Reconciler:
        client = await stack.enter_async_context(make_client(target))
        reconciler = Reconciler(
            target.name,
            client,
            rules=target_rules(target),
            limits=target_limits(target),
            ledger=ledger,
            sink=self._hub,
            links=lambda: self._source.links,
            target_addresses=self._target_addresses,
            request_kernel_reading=lambda: self._source.request_resync("mass withdrawal"),
            witness=Witness(target.name, target.witness.netns) if target.witness else None,
        )
        reconciler.load_ledger()
        return reconciler

    def _target_addresses(self) -> frozenset[Address]:
        known = {address for reconciler in self._reconcilers for address in reconciler.facts.addresses}
        configured = (url_address(target.url) for target in self._settings.targets)
        return frozenset(known) | {address for address in configured if address is not None}

    async def _publish(self) -> None:
        if self._settings.mqtt is None:
            await log_events(self._hub)
        else:
            await self._publisher.run()

    async def _pump(self) -> None:
        table = self._status.table
        while True:
            changes = await self._source.changes()
            for count, (prefix, candidates) in enumerate(changes.items(), 1):
                change = table.update(prefix, candidates)
                if change is not None:
                    for reconciler in self._reconcilers:
                        reconciler.consider(prefix, change.after)
                if count % SLICE == 0:
                    await asyncio.sleep(0)

    async def _say_ready(self) -> None:
        began = time.monotonic()
        await self._source.synced.wait()
        for reconciler in self._reconcilers:
            await reconciler.contacted.wait()
        self._notifier.ready(self._status.line())
        log.info(
            "ready",
            **self._status.figures(),
            took_s=round(time.monotonic() - began, 3),
            mode=self._settings.mode,
        )
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            self._notifier.status(self._status.line())

    def _reload(self) -> None:
        log.warning("reload is not supported yet; restart to take up a new configuration")


async def _settle(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(SETTLE_INTERVAL_S)
        ledger.settle()


def make_client(target: TargetSettings) -> LoxilbClient:
    """A client for a target, as its configuration says."""
    return LoxilbClient(
        target.url,
        connect_timeout_s=target.connect_timeout_s,
        request_timeout_s=target.request_timeout_s,
        token=_token_of(target),
        tls=client_context(target.tls) if target.tls else None,
        server_name=target.tls.server_name if target.tls else None,
    )


def _token_of(target: TargetSettings) -> Callable[[], str | None]:
    if target.token_file is not None:
        return FileToken(Path(target.token_file))
    fixed = target.token.get_secret_value() if target.token else None
    return lambda: fixed


def target_rules(target: TargetSettings) -> TargetRules:
    """What the judgement needs of a target's configuration."""
    return TargetRules(target.allow_default, target.force_connected, rewrite_of(target.next_hop))


def target_limits(target: TargetSettings) -> Limits:
    """How a target is treated, its rate divided among all who write to it."""
    return Limits(
        rate=target.rate / target.writers,
        burst=max(1, target.burst // target.writers),
        inventory_interval_s=target.inventory_interval_s,
        canary_interval_s=target.canary_interval_s,
        sweep_interval_s=target.sweep_interval_s,
        startup_hold_s=target.startup_hold_s,
        withdraw_delay_s=target.withdraw_delay_s,
        max_inet=target.max_routes_ipv4,
        max_inet6=target.max_routes_ipv6,
        brake_share=target.brake_share,
        brake_minimum=target.brake_minimum,
    )
