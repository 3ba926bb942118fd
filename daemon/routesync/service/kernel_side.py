"""The kernel's routes as the configuration wants them, and the table that its rules make of them.

The pump is the only writer of the table. What changes in it goes to the consumers, prefix by prefix, as it is then.
Rules are exchanged in the source that runs: everything is read again and judged by them, and only what that changes
goes on. Where and how is read (tables, namespace, buffer, audit) is for another source, which takes over the table:
what it does not find is taken out when its first reading is done, and nothing before.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

import structlog

from routesync.config import Loaded
from routesync.config.models import resolve_tables
from routesync.events.models import EventSink
from routesync.kernel import (
    Admit,
    AdmitHeader,
    KernelError,
    KernelReport,
    KernelSource,
    KernelStats,
    Links,
    ResyncDone,
    in_own_namespace,
    open_route_socket,
)
from routesync.policy import Policy
from routesync.route import Candidate, Judged, Prefix, Route, Verdict
from routesync.service.exchange import Exchangeable
from routesync.service.kernel_reports import KernelReporter
from routesync.service.supervise import RESTART
from routesync.table import Table

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Prefixes that are handled before other tasks run."""
RESYNC_TAKEN_S: Final = 1.0
"""After a dump of the kernel, by when all that it changed was taken."""
PATIENCE_S: Final = 10.0
"""How long other rules may take until everything was judged by them; then things go on."""


class Consumer(Protocol):
    """Who works with the table."""

    def set_route(
        self, prefix: Prefix, candidate: Candidate | None, kernel_changed_at: float | None, /
    ) -> None:
        """Take the elected route of a prefix; None: there is none any more. Cheap, and never raises.

        `kernel_changed_at` is when that change was read off the kernel (monotonic seconds), if one caused this.
        """

    def on_resync(self, began: float, /) -> None:
        """Everything was dumped again from that moment on (loop time), and what that changed was taken."""


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


class KernelSide:
    """Source and table.

    Args:
        loaded: the configuration to begin with.
        sink: takes the events of the kernel side.
        sock: a netlink socket that was handed over, to be used instead of opening one; it stays its owner's.

    Attributes:
        table: the elected routes, and their runners-up.
        consumers: told of every change of an election.
        observers: told of every report of the kernel side. Cheap, and never raise.
        on_route_created: called with every route that the kernel created where none had its key. Cheap, and never
            raise.
        troubles: why the kernel cannot be read at the moment, in one line; empty while it can.
    """

    def __init__(self, loaded: Loaded, sink: EventSink, *, sock: socket.socket | None = None) -> None:
        self.table = Table()
        self.consumers: list[Consumer] = []
        self.observers: list[Callable[[KernelReport], None]] = []
        self.on_route_created: list[Callable[[Route], None]] = []
        self.troubles: tuple[str, ...] = ()
        self._loaded = loaded
        self._sock = sock
        self._work = Exchangeable()
        self.evaluated = asyncio.Event()
        """The table holds what the active rules make of a whole dump."""
        self._taking = False
        self._stats = KernelStats()
        self._reporter = KernelReporter(sink, loaded.names, lambda: self.links)
        self.source = self._make_source()

    @property
    def readable_only(self) -> bool:
        """Whether what is read lies in another namespace, reached by a socket that was handed over alone."""
        sock = self._socket_for(self._loaded)
        return sock is not None and not in_own_namespace(sock)

    def admit(self, route: Route, links: Links) -> Verdict:
        """What the active rules say of a route, by the gateways that are known now."""
        return self._loaded.policy.evaluate(
            route, InterfaceNames(links), link_gateway=self.source.link_gateway(route)
        )

    @property
    def links(self) -> Links:
        """The network interfaces, by ifindex."""
        return self.source.links

    async def run(self) -> None:
        """Follow the kernel until cancelled.

        Raises:
            KernelError: its routes cannot be read at all.
        """
        self._follow_source()
        await self._work.run()

    async def apply(self, loaded: Loaded) -> None:
        """Apply another configuration; return when everything was judged by it, or it took too long."""
        before, self._loaded = self._loaded, loaded
        self._reporter.names = loaded.names
        rules = (before.settings.policy, before.names) != (loaded.settings.policy, loaded.names)
        if _reading(before) != _reading(loaded):
            log.info("kernel_reading_changed", reason="its part of the configuration changed")
            self.evaluated.clear()
            self.source = self._make_source()
            self._follow_source()
        elif rules:
            self.evaluated.clear()
            self.source.replace_admit(*_rules(loaded.policy))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self.evaluated.wait()
                while self._taking or self.source.lag_s:  # noqa: ASYNC110 - for a moment, and seldom
                    await asyncio.sleep(0.005)

    def probe(self, loaded: Loaded) -> None:
        """Find out whether the kernel can be read as a configuration wants it.

        Raises:
            KernelError: it cannot, e.g. for there is no such namespace.
        """
        if self._socket_for(loaded) is None:
            open_route_socket(loaded.settings.kernel.netns).close()

    def _socket_for(self, loaded: Loaded) -> socket.socket | None:
        """The socket that was handed over, unless another namespace is wanted than the one that it lives in."""
        if loaded.settings.kernel.netns is None or self._sock is None or not in_own_namespace(self._sock):
            return self._sock
        return None

    def _make_source(self) -> KernelSource:
        kernel, names = self._loaded.settings.kernel, self._loaded.names
        admit, admit_header, admit_link_gateway = _rules(self._loaded.policy)
        sock = self._socket_for(self._loaded)
        if self._sock is not None and sock is None:
            log.warning("socket_not_used", reason=f"kernel.netns is {kernel.netns}, it lives here")
        return KernelSource(
            tables=resolve_tables(kernel, names),
            admit=admit,
            admit_header=admit_header,
            admit_link_gateway=admit_link_gateway,
            receive_buffer=kernel.receive_buffer,
            audit_interval_s=kernel.resync_interval_s,
            netns=kernel.netns,
            sock=sock,
            stats=self._stats,
            report=self._heed,
            made=self._route_created,
        )

    def _follow_source(self) -> None:
        self._work.exchange(functools.partial(self._follow, self.source))

    async def _follow(self, source: KernelSource) -> None:
        tasks = [asyncio.create_task(work) for work in (self._read(source), self._pump(source))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, source: KernelSource) -> None:
        """Read for good. Once there is a table, it is held while the kernel cannot be read, and that is said."""
        failures = 0
        while True:
            reading = asyncio.create_task(source.run())
            try:
                await self._until_read(source, reading)
                failures = 0
                await reading
            except KernelError as error:
                if not source.synced.is_set():
                    raise
                if not self.troubles:
                    log.error("kernel_unreadable", error=str(error), consequence="the routes held stay")  # noqa: TRY400
                self.troubles = (f"kernel: {error}; the routes of before are held",)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            failures += 1
            await asyncio.sleep(RESTART.delay_s(failures))

    async def _until_read(self, source: KernelSource, reading: asyncio.Task[None]) -> None:
        """Return after the next full reading; raise what ends the task before."""
        readings = source.stats.resyncs.total()
        while source.stats.resyncs.total() == readings:
            done, _ = await asyncio.wait({reading}, timeout=0.1)
            if done:
                reading.result()
        if self.troubles:
            log.info("kernel_readable")
            self.troubles = ()

    async def _pump(self, source: KernelSource) -> None:
        changes = await source.changes()
        gone = [prefix for prefix in self.table.prefixes() if prefix not in changes]
        await self._take(changes, source)
        await self._take([(prefix, ()) for prefix in gone], source)
        del changes, gone
        self.evaluated.set()
        while True:
            await self._take(await source.changes(), source)

    async def _take(self, changes: Iterable[tuple[Prefix, tuple[Judged, ...]]], source: KernelSource) -> None:
        self._taking = True
        asked_at = source.changed_at
        for count, (prefix, candidates) in enumerate(changes, 1):
            change = self.table.update(prefix, candidates)
            if change is not None:
                for consumer in self.consumers:
                    consumer.set_route(prefix, change.after, asked_at)
            if count % SLICE == 0:
                await asyncio.sleep(0)
        self._taking = False

    def _heed(self, report: KernelReport) -> None:
        """Take a report of the kernel side; a reading may be the second one that a mass withdrawal waits for."""
        self._reporter(report)
        for observer in self.observers:
            observer(report)
        if isinstance(report, ResyncDone):
            loop = asyncio.get_running_loop()
            loop.call_later(RESYNC_TAKEN_S, self._tell_of_reading, loop.time() - report.duration_s)
            if "rules" in report.causes:
                self.evaluated.set()

    def _route_created(self, route: Route) -> None:
        for listener in self.on_route_created:
            listener(route)

    def _tell_of_reading(self, began: float) -> None:
        if self._taking:  # what it changed is still being considered
            asyncio.get_running_loop().call_later(RESYNC_TAKEN_S, self._tell_of_reading, began)
            return
        for consumer in self.consumers:
            consumer.on_resync(began)


def _reading(loaded: Loaded) -> object:
    """What a source is made of, beside the rules."""
    kernel = loaded.settings.kernel
    return kernel, resolve_tables(kernel, loaded.names)


def _rules(policy: Policy) -> tuple[Admit, AdmitHeader, Admit]:
    """A policy in the form in which the kernel side asks for it."""

    def admit(route: Route, links: Links) -> Verdict:
        return policy.evaluate(route, InterfaceNames(links))

    def admit_link_gateway(route: Route, links: Links) -> Verdict:
        return policy.evaluate(route, InterfaceNames(links), link_gateway=True)

    return admit, policy.header_verdict, admit_link_gateway
