"""The kernel's routes, exactly: subscribe, read, follow, and read again at each doubt.

A source reads one namespace's tables and tells which candidates each changed prefix has now. Events keep the replica
current within microseconds; every doubt (lost events, a link, address or nexthop that changed, a message not
understood, an event whose effect cannot be told, the audit's timer) has one remedy: a coalesced reading of everything,
compared with what is held (`reading`, `fib`, `schedule`).

Losses. ENOBUFS is told once; the kernel then drops events in silence until the queue has been empty, and while dump
answers stand in it (netlink_overrun(), netlink_rcv_wake()). So a reading counts only if the socket's count of lost
messages did not move from its request to its end.

Concurrency: all in one event loop's thread. `run` is an eternal task; one consumer awaits `changes`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from routesync.kernel.errors import DecodeError, KernelError
from routesync.kernel.fib import Fib
from routesync.kernel.judge import Admit, AdmitHeader, Judge, admit_header_unknown
from routesync.kernel.lookup import Lookup, Take
from routesync.kernel.namespaces import Identity, namespace_identity, until_replaced
from routesync.kernel.netlink import (
    HEADER,
    HEADER_SIZE,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    SURROUNDINGS,
    in_own_namespace,
    open_route_socket,
    prepare,
    read_sysctls,
    route_requests,
    subscribe,
    widen_receive_buffer,
)
from routesync.kernel.replica import Changes
from routesync.kernel.reports import BadMessage, Drift, KernelReport, KernelStats, Overrun, ResyncDone
from routesync.kernel.schedule import Schedule
from routesync.kernel.surroundings import InterfaceAddress, Links, Surroundings
from routesync.kernel.wire import Wire
from routesync.route import Address, Candidate, Prefix, Route, Verdict, link_host

_BELIEVED: Final = frozenset({"audit", "doubt", "unsettled", "unconfirmed", "expired"})
"""Causes that leave in force what is held; all others put it in question."""

_NEVER: Final = float("inf")
_TOLD_ERRORS: Final = 100
_TOLD_PREFIXES: Final = 100


def _unreported(_report: KernelReport) -> None:
    """Nobody wants to know."""


class KernelSource:
    """Follows the routes of some tables, as far as the rules keep them."""

    def __init__(
        self,
        *,
        tables: Sequence[int],
        admit: Admit,
        receive_buffer: int,
        audit_interval_s: float,
        netns: str | None = None,
        sock: socket.socket | None = None,
        stats: KernelStats | None = None,
        admit_header: AdmitHeader = admit_header_unknown,
        admit_link_gateway: Admit | None = None,
        report: Callable[[KernelReport], None] = _unreported,
        made: Callable[[Route], None] | None = None,
        gateways_changed: Callable[[], None] | None = None,
    ) -> None:
        """Prepare a source; nothing is opened before `run`.

        Args:
            tables: routing tables to read, preferred ones first.
            admit: the rules.
            receive_buffer: wanted size of the socket's buffer, in bytes; granted is `stats.receive_buffer`.
            audit_interval_s: how often everything is read without a cause.
            netns: name or path of a network namespace to read instead of our own.
            sock: a bound NETLINK_ROUTE socket handed over to us, instead of opening one; its namespace is read.
            stats: of a source before this one, to count on in.
            admit_header: the rules, where the header of a message is enough to drop it.
            admit_link_gateway: the rules for a host route on a link to the gateway of another route over the same link
                (`link_gateway`); None: the same as for others, and no host route is held back.
            report: called with each report, in the loop's thread; must not block.
            made: called with each route that an event says was made where no other had its key (NLM_F_EXCL), before the
                rules are asked; for the main table also where it is not among `tables`. Must not block. It costs each
                such event some microseconds.
            gateways_changed: called when `gateways` is not what it was. Must not block.
        """
        self.synced = asyncio.Event()
        self.stats = stats or KernelStats()
        self._tables = tuple(dict.fromkeys(tables))
        self._receive_buffer = receive_buffer
        self._netns = netns
        self._sock = sock
        self._report = report
        self._surroundings = Surroundings()
        self._fresh: Surroundings | None = None
        self._schedule = Schedule(audit_interval_s)
        self._judge = Judge(
            self._tables, admit, admit_header, lambda: self._surroundings.links, admit_link_gateway
        )
        self._fib = Fib(
            self._tables,
            self._judge,
            self._surroundings,
            stats=self.stats,
            report=report,
            order=self._schedule.order,
            made=made,
            gateways_changed=gateways_changed,
        )
        self._wire: Wire | None = None
        self._dumps: set[asyncio.Future[bool]] = set()  # asked for by others than us
        self._lost = 0
        self._lost_at_resync: int | None = (
            None  # the socket's count, unchanged over the last resync that counted
        )
        self._resynced: list[asyncio.Future[None]] = []  # of those who wait for the next one
        self._review: asyncio.TimerHandle | None = None
        self._told_errors: set[str] = set()
        self._news = asyncio.Event()
        self._first = True
        self.changed_at: float | None = None
        """When the oldest change of those that `changes` returned last was read from the kernel, in monotonic seconds;
        None: they were the first reading, which holds no change."""
        self._auditing = False  # the last reading was the audit, or the second look at what it had lacked

    @property
    def links(self) -> Links:
        """The network interfaces, by ifindex."""
        return self._surroundings.links

    @property
    def addresses(self) -> Mapping[int, tuple[InterfaceAddress, ...]]:
        """Our own addresses and the networks that they connect us to, by ifindex."""
        found: dict[int, tuple[InterfaceAddress, ...]] = {}
        for address in self._surroundings.addresses.values():
            found[address.ifindex] = (*found.get(address.ifindex, ()), address)
        return found

    @property
    def lag_s(self) -> float:
        """Age of the oldest change that the consumer has not taken yet, in seconds."""
        return self._fib.replica.lag_s

    @property
    def made(self) -> Callable[[Route], None] | None:
        """What is called with each route that was made (see `__init__`); None, when nobody asks, is cheapest."""
        return self._fib.made

    @made.setter
    def made(self, made: Callable[[Route], None] | None) -> None:
        self._fib.made = made

    @property
    def gateways(self) -> frozenset[Address]:
        """The gateways of this node's routes in the tables that are read, whatever the rules say of those routes.

        Left out are routes that the rules drop by their header alone, unless they are default routes. One that is no
        gateway any more goes with the next resync.
        """
        return self._fib.gateways.addresses

    def link_gateway(self, route: Route) -> bool:
        """Whether a route is a host route on a link to the gateway of another route over the same link."""
        host = link_host(route)
        return host is not None and self._fib.gateways.leads_to_gateway(host)

    def held(self) -> Mapping[Prefix, tuple[Candidate, ...]]:
        """All candidates at this moment, delivered or not."""
        return {
            prefix: tuple(candidate.at(prefix) for candidate in candidates)
            for prefix, candidates in self._fib.replica.candidates()
        }

    def followed(self) -> list[tuple[Prefix, Verdict]]:
        """The drops that were told and hold (`Dropped`), for whoever comes later."""
        return list(self._fib.followed())

    def request_resync(self, cause: str) -> None:
        """Order a full reading; `cause` is what statistics and reports call it."""
        self._schedule.order(cause)

    def replace_admit(
        self,
        admit: Admit,
        admit_header: AdmitHeader = admit_header_unknown,
        admit_link_gateway: Admit | None = None,
    ) -> None:
        """Apply other rules; everything is read again and judged by them."""
        self._judge.replace(admit, admit_header, admit_link_gateway)
        self._schedule.order("rules")

    async def catch_up(self) -> None:
        """Take in every event that the kernel had queued by now; after a loss, wait for the resync that makes it good.

        Raises:
            KernelError: nothing is followed at the moment, or no longer.
        """
        while True:
            wire = self._following()
            await wire.catch_up()
            if wire is not self._wire:
                continue
            if wire.lost == self._lost_at_resync:
                return
            if self._lost_at_resync is not None:  # else the first resync is under way
                self._schedule.order("overrun")
            resynced = asyncio.get_running_loop().create_future()
            self._resynced.append(resynced)
            await resynced

    def _following(self) -> Wire:
        if self._wire is None:
            raise KernelError("the kernel's routes are not followed yet")
        return self._wire

    async def look_up(
        self, take: Take, covering: Prefix | None = None, *, tables: Sequence[int] | None = None
    ) -> bool:
        """Read the tables anew, for somebody who asks; what is held stays as it is.

        Args:
            take: called with each route, dropped by the rules or not; those of one prefix come table by table, in the
                kernel's order.
            covering: only routes whose prefix covers this one.
            tables: these tables, instead of those that are followed.

        Returns:
            Whether it was whole and consistent; else some may have been missed, or come twice.

        Raises:
            KernelError: nothing is followed at the moment, or the kernel refuses.
        """
        lookup = Lookup(self._fib.decoder, take, covering)
        whole = True
        for request in route_requests(self._tables if tables is None else tuple(tables)):
            if not lookup.wants(request):
                continue
            # The kernel refuses another dump while one runs: it is heard to its end, whoever has lost interest.
            dump = asyncio.ensure_future(self._following().dump(request, lookup.feed))
            self._dumps.add(dump)
            dump.add_done_callback(self._dumps.discard)
            whole = await asyncio.shield(dump) and whole
        return whole and not lookup.bad

    async def changes(self) -> Changes:
        """Wait until something changed; return the prefixes that did.

        Level-triggered: however many changes a prefix went through since the last call, it is told once, with the
        candidates that it has when the result is asked for them; none means that it is gone. The first call waits for
        the first reading and returns the whole table.
        """
        await self.synced.wait()
        while not self._first and not self._fib.replica.dirty:
            self._news.clear()
            await self._news.wait()
        self.changed_at = None if self._first else self._fib.replica.dirty_since
        self._first = False
        self.stats.lag_s = self._fib.replica.lag_s
        return self._fib.replica.take()

    async def run(self) -> None:
        """Read and follow until cancelled. After an error it may be run again; what is held stays until then.

        Raises:
            KernelError: no socket, no such namespace (any more), too old a kernel: it cannot go on.
        """
        named = None if self._netns is None else namespace_identity(self._netns)
        sock = self._sock or open_route_socket(self._netns)
        try:
            prepare(sock)
            self.stats.receive_buffer = widen_receive_buffer(sock, self._receive_buffer)
            subscribe(sock)
            if self._sock is None or in_own_namespace(sock):
                self.stats.sysctls = read_sysctls(self._netns if self._sock is None else None)
            wire = self._wire = Wire(
                sock, on_event=self._event, on_overrun=self._overrun, on_bad=self._bad, after=self._tell
            )
            self._lost = wire.lost
            self._lost_at_resync = None
            wire.start()
            try:
                await self._follow(wire, named)
            finally:
                wire.stop()
                self._wire = None
                self._end_reviews()
                self._wake_resynced(KernelError("the kernel's routes are followed no longer"))
        finally:
            if self._sock is None:
                sock.close()

    async def _follow(self, wire: Wire, named: Identity | None) -> None:
        self._schedule.order("start")
        tasks = [asyncio.create_task(self._read_again_and_again(wire), name="kernel readings")]
        if self._netns is not None and self._sock is None:
            tasks.append(asyncio.create_task(until_replaced(self._netns, named), name="kernel namespace"))
        try:
            done, _ = await asyncio.wait({*tasks, wire.failed}, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_again_and_again(self, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        while True:
            causes = await self._schedule.due()
            if not _BELIEVED.issuperset(causes):
                self._fib.distrust()
            started = loop.time()
            # A reading makes many small tuples and no cycles: looking for cycles would take a third of its time.
            gc.disable()
            try:
                done = await self._read(wire, causes)
            finally:
                gc.enable()
            self._schedule.took(loop.time() - started)
            if not done:
                self.stats.void_readings += 1
                for cause in causes:
                    self._schedule.order(cause)

    async def _read(self, wire: Wire, causes: tuple[str, ...]) -> bool:
        """Read everything and compare; return whether it counts."""
        started = asyncio.get_running_loop().time()
        lost, generation = wire.lost, self._judge.generation
        whole = await self._read_surroundings(wire)
        reading = self._fib.begin_reading()
        for request in route_requests(self._tables):
            if not whole:
                break
            whole = await wire.dump(request, functools.partial(reading.feed, request))
        for error in reading.bad:
            self._count_bad(error)
        if not whole or generation != self._judge.generation or lost != wire.lost:
            self._fib.abandon_reading()
            return False
        corrected = await self._fib.compare(reading)
        if reading.unresolved:
            self._schedule.order("nexthop")
        stats = self.stats
        stats.dump_s = asyncio.get_running_loop().time() - started
        stats.readings += 1
        stats.readings_s += stats.dump_s
        stats.table, stats.table_routes = dict(reading.dropped), reading.routes
        for cause in causes:
            stats.resyncs[cause] += 1
        self._auditing = causes == ("audit",) or (self._auditing and causes == ("unconfirmed",))
        # A link that changed while the audit ran explains what it found: no drift.
        drifted = (
            [prefix for prefix in corrected if prefix not in reading.lifetimes] if self._auditing else []
        )
        if drifted and _BELIEVED.issuperset(self._schedule.pending):
            stats.drift += len(drifted)
            self._report(Drift(tuple(drifted[:_TOLD_PREFIXES]), len(drifted)))
        self._lost_at_resync = lost
        self._wake_resynced()
        self.synced.set()
        self._tell()
        self._report(ResyncDone(causes, stats.dump_s, reading.routes, stats.kept, len(corrected)))
        return True

    async def _read_surroundings(self, wire: Wire) -> bool:
        """Read links, addresses and nexthops; answers and events alike go into fresh tables, in their order."""
        for request in SURROUNDINGS:
            fresh = self._fresh = Surroundings()
            try:
                if not await wire.dump(request, functools.partial(self._take_surroundings, fresh)):
                    return False
            finally:
                self._fresh = None
            self._surroundings.adopt(request.message_type, fresh)
        return True

    def _take_surroundings(self, fresh: Surroundings, data: bytes, position: int) -> int:
        length: int
        length, kind, _, _, _ = HEADER.unpack_from(data, position)
        try:
            fresh.apply(kind, data, position + HEADER_SIZE, position + length)
        except DecodeError as error:
            self._count_bad(error)
        return position + (length + 3 & ~3)

    def _event(self, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        try:
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                self._fib.event(kind, flags, data, start, end)
                return
            cause = self._surroundings.apply(kind, data, start, end)
            if self._fresh is not None:
                self._fresh.apply(kind, data, start, end)
            if cause is not None:
                self._schedule.order(cause)
        except DecodeError as error:
            self._bad(error)

    def _overrun(self) -> None:
        self.stats.overruns += 1
        self._schedule.order("overrun")
        self._count_lost()

    def _count_lost(self) -> None:
        if self._wire is None:
            return
        now = self._wire.lost
        lost = (now - self._lost) & 0xFFFFFFFF  # the kernel's counter has 32 bits
        self._lost = now
        self.stats.lost += lost
        self._report(Overrun(lost, self.stats.receive_buffer))

    def _bad(self, error: DecodeError) -> None:
        """A message that should have been an event: what it said is lost."""
        self._count_bad(error)
        self._schedule.order("bad message")

    def _count_bad(self, error: DecodeError) -> None:
        self.stats.bad_messages += 1
        text = str(error)
        if text not in self._told_errors and len(self._told_errors) < _TOLD_ERRORS:
            self._told_errors.add(text)
            self._report(BadMessage(text))

    def _tell(self) -> None:
        """After a slice of reading: wake the consumer if there is something for it."""
        self.stats.kept = self._fib.replica.kept
        if self._fib.replica.dirty:
            self._news.set()
        at = self._fib.review_at
        if self._review is not None and self._review.when() != at:
            self._review.cancel()
            self._review = None
        if self._review is None and at < _NEVER:
            self._review = asyncio.get_running_loop().call_at(at, self._do_review)

    def _do_review(self) -> None:
        self._review = None
        self._fib.review()
        self._tell()

    def _end_reviews(self) -> None:
        if self._review is not None:
            self._review.cancel()
            self._review = None

    def _wake_resynced(self, error: KernelError | None = None) -> None:
        waiting, self._resynced = self._resynced, []
        for future in waiting:
            if future.done():  # whoever waited was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
