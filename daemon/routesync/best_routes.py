"""The best route of each prefix: follows the kernel, evaluates the rules, elects, and passes changes on.

`KernelSource` applies the rules while it reads, so dropped routes cost nothing here. One task follows the kernel;
another is the only writer of the table of candidates and passes each change of an election to the consumers.

A reload that changes rules only replaces them in the running source: everything is dumped again and evaluated, and only
what that changes is passed on. Other kernel settings (tables, namespace, buffer, interval) need another source, which
takes over the table: what it does not find is removed when its first dump is done, and nothing before.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

import structlog

from routesync.config import Loaded
from routesync.events.models import EventSink, KernelDrift, KernelOverrun, KernelResynced, RouteDropped
from routesync.kernel import (
    BadMessage,
    Drift,
    Dropped,
    InterfaceAddress,
    KernelError,
    KernelReport,
    KernelSource,
    KernelStats,
    Link,
    Links,
    Overrun,
    ResyncDone,
    Rules,
    in_own_namespace,
    open_route_socket,
)
from routesync.names import Names
from routesync.policy import Policy
from routesync.route import Address, Candidate, Evaluated, Prefix, Route, Verdict
from routesync.slices import in_slices
from routesync.table import Table
from routesync.tasks import RESTART, Supervisor

log = structlog.get_logger(__name__)

RESYNC_INTERVAL_S: Final = 600.0
"""How often the kernel is dumped and compared without a cause."""
RESYNC_TAKEN_S: Final = 1.0
"""Time after a dump of the kernel by which everything that it changed was passed on."""
PATIENCE_S: Final = 10.0
"""How long a reload waits until every route was evaluated by the new rules; then it continues."""
QUIET_S: Final = 60.0
"""An episode of overruns ends when there was none for this long."""


class InWords(NamedTuple):
    """A route of the kernel, as events have it."""

    protocol: str
    metric: int
    interface: str | None
    table: str

    @classmethod
    def of(cls, route: Route, names: Names, links: Mapping[int, Link]) -> Self:
        """Name its numbers; the interface is that of the first hop."""
        hops = route.live_hops
        link = links.get(hops[0].ifindex) if hops else None
        return cls(
            names.protocol(route.protocol),
            route.metric,
            link.name if link is not None else None,
            names.table(route.table),
        )


class OwnNode:
    """What a reconciler asks about this node. The defaults are those of a node that nothing is known of."""

    follows_kernel = False
    """Whether `catch_up` and `overruns` work: they prove that a target has a network namespace of its own."""

    @property
    def overruns(self) -> int:
        """How often events of the kernel were lost."""
        return 0

    def links(self) -> Mapping[int, Link]:
        """The network interfaces of the namespace whose routes are mirrored, by ifindex."""
        return {}

    def addresses(self) -> Collection[InterfaceAddress]:
        """Our own addresses there."""
        return ()

    def next_hop_interfaces(self) -> Collection[str]:
        """The interfaces that `next_hop` of any rule names."""
        return ()

    def gateways(self) -> frozenset[Address]:
        """The gateways of any route of this node."""
        return frozenset()

    def elected(self, prefix: Prefix) -> Candidate | None:
        """The best route of a prefix."""
        del prefix
        return None

    def in_words(self, prefix: Prefix) -> InWords | None:
        """The best route of a prefix, in words."""
        del prefix
        return None

    def prefixes(self) -> Collection[Prefix]:
        """Every prefix that has a best route."""
        return ()

    def request_resync(self) -> None:
        """Request another dump of the kernel's routes."""

    async def catch_up(self) -> bool:
        """Return when everything was read that the kernel had queued before the call; False: it cannot be read now."""
        return False


class Consumer:
    """Takes what is learned from the kernel. Its methods are called in the event loop, are cheap, and never raise."""

    def on_best_route(self, prefix: Prefix, kernel_changed_at: float | None = None, /) -> None:
        """The best route of a prefix changed, or there is none any more; `elected` has it.

        `kernel_changed_at` is when that change was read from the kernel (monotonic seconds), if one caused this.
        """

    def on_resync(self, began: float, /) -> None:
        """Everything was dumped again from that moment on (loop time), and what that changed was passed on."""

    def on_route_created(self, route: Route, /) -> None:
        """The kernel created a route where none had its key. Called before the rules are evaluated."""

    def on_report(self, report: KernelReport, /) -> None:
        """The kernel side reports something."""


class InterfaceNames(Mapping[int, str]):
    """The names of links by ifindex, as the policy takes them; follows the links."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def __getitem__(self, ifindex: int) -> str:
        return self._links[ifindex].name

    def __iter__(self) -> Iterator[int]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)


class BestRoutes(OwnNode):
    """Source and table.

    Args:
        loaded: the configuration to begin with.
        sink: takes the events of the kernel side.
        supervisor: runs the tasks.
        sock: a netlink socket from the service manager, used instead of opening one; the caller closes it.

    Attributes:
        consumers: take every change.
        evaluated: set when the table holds what the active rules make of a whole dump.
        source: follows the kernel; a reload may replace it.
        table: the best routes, and their runners-up.
        troubles: why the kernel cannot be read at the moment, in one line; empty while it can.
    """

    follows_kernel = True

    def __init__(
        self, loaded: Loaded, sink: EventSink, supervisor: Supervisor, *, sock: socket.socket | None = None
    ) -> None:
        self.consumers: list[Consumer] = []
        self.evaluated = asyncio.Event()
        self.table = Table()
        self.troubles: tuple[str, ...] = ()
        self._loaded = loaded
        self._supervisor = supervisor
        self._sock = sock
        self._passing_on = False
        self._stats = KernelStats()
        self._reporter = KernelReporter(sink, loaded.names, self.links)
        self.source = self._make_source()

    @property
    def state(self) -> Literal["reading", "synced", "unreadable"]:
        """`reading`: until the first dump is done. `unreadable`: what is known may be out of date."""
        if self.troubles:
            return "unreadable"
        return "synced" if self.source.synced.is_set() else "reading"

    @property
    def readable_only(self) -> bool:
        """Whether the routes lie in another namespace that only a socket from the service manager reaches."""
        sock = self._socket_for(self._loaded)
        return sock is not None and not in_own_namespace(sock)

    def evaluate(self, route: Route, links: Links) -> Verdict:
        """Evaluate a route by the active rules, with the gateways that are known now."""
        return self._loaded.policy.evaluate(
            route, InterfaceNames(links), link_gateway=self.source.link_gateway(route)
        )

    # -- what reconcilers ask ------------------------------------------------------------------------------------------

    @property
    def overruns(self) -> int:
        """See `OwnNode`."""
        return self.source.stats.overruns

    def links(self) -> Links:
        """See `OwnNode`."""
        return self.source.links

    def addresses(self) -> Collection[InterfaceAddress]:
        """See `OwnNode`."""
        return self.source.addresses

    def next_hop_interfaces(self) -> Collection[str]:
        """See `OwnNode`."""
        rules = self._loaded.settings.policy.rules
        return {rule.next_hop.interface for rule in rules if rule.next_hop and rule.next_hop.interface}

    def gateways(self) -> frozenset[Address]:
        """See `OwnNode`."""
        return self.source.gateways

    def elected(self, prefix: Prefix) -> Candidate | None:
        """See `OwnNode`."""
        return self.table.elected(prefix)

    def in_words(self, prefix: Prefix) -> InWords | None:
        """See `OwnNode`."""
        candidate = self.table.elected(prefix)
        return InWords.of(candidate.route, self._loaded.names, self.links()) if candidate else None

    def prefixes(self) -> tuple[Prefix, ...]:
        """See `OwnNode`."""
        return self.table.prefixes()

    def request_resync(self) -> None:
        """See `OwnNode`."""
        self.source.request_resync("mass withdrawal")

    async def catch_up(self) -> bool:
        """See `OwnNode`."""
        try:
            await self.source.catch_up()
        except KernelError:
            return False
        return True

    # -- the configuration ---------------------------------------------------------------------------------------------

    def probe(self, loaded: Loaded) -> None:
        """Find out whether the kernel can be read as a configuration wants it.

        Raises:
            KernelError: it cannot, e.g. because there is no such namespace.
        """
        if self._socket_for(loaded) is None:
            open_route_socket(loaded.settings.kernel.netns).close()

    async def start(self) -> None:
        """Follow the kernel from now on. If it cannot be read at all, the task that reads it dies."""
        await self._follow(self.source)

    async def apply(self, loaded: Loaded) -> None:
        """Apply another configuration; return when every route was evaluated by it, or it took too long."""
        before, self._loaded = self._loaded, loaded
        self._reporter.names = loaded.names
        rules = (before.settings.policy, before.names) != (loaded.settings.policy, loaded.names)
        if before.settings.kernel != loaded.settings.kernel:
            log.info("kernel_settings_changed", consequence="the kernel's routes are dumped again")
            self.evaluated.clear()
            self.source = self._make_source()
            await self._follow(self.source)
        elif rules:
            self.evaluated.clear()
            self.source.replace_rules(_rules(loaded.policy))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self.evaluated.wait()
                while self._passing_on or self.source.lag_s:  # noqa: ASYNC110 - for a moment, and seldom
                    await asyncio.sleep(0.005)

    def _socket_for(self, loaded: Loaded) -> socket.socket | None:
        """The service manager's socket, unless another namespace is wanted than the one in which it was opened."""
        if loaded.settings.kernel.netns is None or self._sock is None or not in_own_namespace(self._sock):
            return self._sock
        return None

    def _make_source(self) -> KernelSource:
        kernel = self._loaded.settings.kernel
        sock = self._socket_for(self._loaded)
        if self._sock is not None and sock is None:
            log.warning("socket_not_used", reason=f"kernel.netns is {kernel.netns}, it lives here")
        return KernelSource(
            tables=kernel.tables,
            rules=_rules(self._loaded.policy),
            receive_buffer=kernel.receive_buffer,
            resync_interval_s=RESYNC_INTERVAL_S,
            netns=kernel.netns,
            sock=sock,
            stats=self._stats,
            report=self._on_report,
            on_route_created=self._on_route_created,
        )

    # -- the tasks -----------------------------------------------------------------------------------------------------

    async def _follow(self, source: KernelSource) -> None:
        await self._supervisor.replace("kernel", functools.partial(self._read, source))
        await self._supervisor.replace("best routes", functools.partial(self._elect, source))

    async def _read(self, source: KernelSource) -> None:
        """Follow the kernel. After the first dump, the table stays while the kernel cannot be read.

        Raises:
            KernelError: it could never be read.
        """
        failures = 0
        while True:
            resyncs = source.stats.resyncs.total()
            try:
                await source.run()
            except KernelError as error:
                if not source.synced.is_set():
                    raise
                if not self.troubles:
                    log.error("kernel_unreadable", error=str(error), consequence="the routes held stay")  # noqa: TRY400
                self.troubles = (f"kernel: {error}; the routes of before are held",)
            failures = 1 if source.stats.resyncs.total() > resyncs else failures + 1
            await asyncio.sleep(RESTART.delay_s(failures))

    async def _elect(self, source: KernelSource) -> None:
        changes = await source.changes()
        gone = [prefix for prefix in self.table.prefixes() if prefix not in changes]
        await self._pass_on(changes, None)  # what the first dump finds is no change
        await self._pass_on([(prefix, ()) for prefix in gone], None)
        del changes, gone
        self.evaluated.set()
        while True:
            changes = await source.changes()
            await self._pass_on(changes, source.changed_at)

    async def _pass_on(
        self, changes: Iterable[tuple[Prefix, tuple[Evaluated, ...]]], kernel_changed_at: float | None
    ) -> None:
        self._passing_on = True
        async for prefix, candidates in in_slices(changes):
            if self.table.update(prefix, candidates):
                for consumer in self.consumers:
                    consumer.on_best_route(prefix, kernel_changed_at)
        self._passing_on = False

    # -- what the kernel side reports ----------------------------------------------------------------------------------

    def _on_report(self, report: KernelReport) -> None:
        self._reporter.report(report)
        for consumer in self.consumers:
            consumer.on_report(report)
        if isinstance(report, ResyncDone):
            if self.troubles:
                log.info("kernel_readable")
                self.troubles = ()
            loop = asyncio.get_running_loop()
            loop.call_later(RESYNC_TAKEN_S, self._on_resync, loop.time() - report.duration_s)
            if "rules" in report.causes:
                self.evaluated.set()

    def _on_route_created(self, route: Route) -> None:
        for consumer in self.consumers:
            consumer.on_route_created(route)

    def _on_resync(self, began: float) -> None:
        if self._passing_on:  # perhaps what the dump changed
            asyncio.get_running_loop().call_later(RESYNC_TAKEN_S, self._on_resync, began)
            return
        for consumer in self.consumers:
            consumer.on_resync(began)


def _rules(policy: Policy) -> Rules:
    """A policy in the form in which the kernel side takes it."""

    def evaluate(route: Route, links: Links) -> Verdict:
        return policy.evaluate(route, InterfaceNames(links))

    def evaluate_link_gateway(route: Route, links: Links) -> Verdict:
        return policy.evaluate(route, InterfaceNames(links), link_gateway=True)

    return Rules(evaluate, policy.header_verdict, evaluate_link_gateway)


# -- reports as events and log lines -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Overruns:
    began: float
    last: float
    count: int = 0
    lost: int = 0


class KernelReporter:
    """Turns reports of the kernel side into events for subscribers and lines in the log. Cheap, and never raises."""

    def __init__(
        self,
        sink: EventSink,
        names: Names,
        links: Callable[[], Links],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self.names = names
        self._links = links
        self._overruns = 0
        self._clock = clock
        self._episode: _Overruns | None = None

    def report(self, report: KernelReport) -> None:
        """Report it to subscribers and in the log."""
        match report:
            case ResyncDone():
                cause = ", ".join(report.causes)
                figures = {"kept": report.kept, "corrected": report.corrected}
                self._log_end_of_overruns()
                log.debug("kernel_resynced", cause=cause, routes=report.routes, **figures)
                self._sink.emit(
                    KernelResynced(cause=cause, duration_ms=round(report.duration_s * 1e3, 3), **figures)
                )
            case Drift():
                prefixes = tuple(str(prefix) for prefix in report.prefixes)
                log.error("kernel_drift", count=report.count, prefixes=prefixes)
                self._sink.emit(KernelDrift(count=report.count, prefixes=prefixes))
            case Overrun():
                self._overruns += 1
                self._log_overrun(report)
                self._sink.emit(KernelOverrun(total=self._overruns))
            case Dropped() if report.verdict.report:
                self._emit_dropped(report)
            case BadMessage():
                log.error(
                    "kernel_message_not_understood",
                    error=report.error,
                    consequence="all routes are dumped again",
                )

    def _log_overrun(self, report: Overrun) -> None:
        """Log the first overrun of an episode: in a storm of changes the buffer overflows time and again."""
        self._log_end_of_overruns()
        now = self._clock()
        if self._episode is None:
            self._episode = _Overruns(began=now, last=now)
            log.warning(
                "kernel_overrun",
                lost=report.lost,
                receive_buffer=report.receive_buffer,
                consequence="all routes are dumped again",
            )
        self._episode.last = now
        self._episode.count += 1
        self._episode.lost += report.lost

    def _log_end_of_overruns(self) -> None:
        episode = self._episode
        if episode is not None and self._clock() - episode.last > QUIET_S:
            self._episode = None
            took_s = round(episode.last - episode.began)
            log.info("kernel_overruns_ended", overruns=episode.count, lost=episode.lost, took_s=took_s)

    def _emit_dropped(self, report: Dropped) -> None:
        route = report.route
        self._sink.emit(
            RouteDropped(
                prefix=str(route.prefix),
                family=route.prefix.family.label,
                rule=report.verdict.rule,
                **InWords.of(route, self.names, self._links())._asdict(),
            )
        )
