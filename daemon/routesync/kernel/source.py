"""Follows the kernel's routes: subscribe, dump, apply events, and resync at each doubt.

A source follows one namespace's tables and says which candidates each changed prefix has now. Events keep the replica
current within microseconds; every doubt (lost events, a link, address or nexthop object that changed, a message not
understood, an event whose effect is open, the timer) has one remedy: a resync, which is a dump of everything, compared
with what is held (`dump`, `fib`). Causes are coalesced.

Losses. ENOBUFS is reported once; the kernel then drops events in silence until the queue has been empty, and while dump
answers are in it (netlink_overrun(), netlink_rcv_wake()). So a dump counts only if the socket's count of lost messages
did not change from its request to its end.

Concurrency: all in one event loop's thread. `run` is an eternal task; one consumer awaits `changes`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final

from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_NEWROUTE

from routesync.kernel.errors import DecodeError, KernelError
from routesync.kernel.evaluate import Evaluator, Rules
from routesync.kernel.fib import Fib
from routesync.kernel.links import InterfaceAddress, Links, LinkTables
from routesync.kernel.namespaces import Identity, namespace_identity, until_replaced
from routesync.kernel.netlink import (
    HEADER,
    HEADER_SIZE,
    LINK_REQUESTS,
    NetlinkSocket,
    in_own_namespace,
    open_route_socket,
    prepare,
    read_sysctls,
    route_requests,
    subscribe,
    unsubscribe,
    widen_receive_buffer,
)
from routesync.kernel.query import Lookup, TakeRoute
from routesync.kernel.replica import Changes
from routesync.kernel.reports import BadMessage, Drift, KernelStats, Overrun, Report, ResyncDone
from routesync.route import Address, Prefix, Route, Verdict, link_host

PAUSE_S: Final = 0.05
PATIENCE_S: Final = 0.5
SHARE: Final = 0.2

_ROUTES: Final = frozenset({RTM_NEWROUTE, RTM_DELROUTE})
_BELIEVED: Final = frozenset({"periodic", "doubt", "unsettled", "unconfirmed", "expired"})
"""Causes that leave what is held valid; all others put it in question."""

_NEVER: Final = float("inf")
_REPORTED_ERRORS: Final = 100
_REPORTED_PREFIXES: Final = 100


class ResyncSchedule:
    """Collects causes; says when a resync is due, and for what.

    Causes come in bursts (one `ip link set down` makes several), so a resync waits until they pause, but not for long.
    Resyncs take at most a share of the time, so constant churn cannot turn into constant dumping.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._causes: dict[str, None] = {}
        self._first = self._last = 0.0
        self._not_before = 0.0
        self._periodic_at = 0.0
        self._wake = asyncio.Event()

    def request(self, cause: str) -> None:
        """Note a cause for a resync."""
        now = asyncio.get_running_loop().time()
        if not self._causes:
            self._first = now
        self._last = now
        self._causes[cause] = None
        self._wake.set()

    @property
    def pending(self) -> frozenset[str]:
        """The causes for which a resync is requested."""
        return frozenset(self._causes)

    async def due(self) -> tuple[str, ...]:
        """Wait until a resync is due; return its causes, `periodic` alone when nothing else called for it."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            at = self._periodic_at
            if self._causes:
                at = max(min(self._last + PAUSE_S, self._first + PATIENCE_S), self._not_before)
                if self._causes.keys() <= {"start"}:
                    at = now
            if now >= at:
                causes = tuple(self._causes) or ("periodic",)
                self._causes.clear()
                return causes
            self._wake.clear()
            try:
                async with asyncio.timeout(at - now):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def took(self, seconds: float) -> None:
        """Note at the end of a resync how long it took."""
        now = asyncio.get_running_loop().time()
        self._not_before = now + seconds * (1 / SHARE - 1)
        self._periodic_at = max(now + self._interval_s, self._not_before)


def _ignore(_report: object) -> None:
    pass


class KernelSource:
    """Follows the routes of some tables, as far as the rules keep them."""

    def __init__(
        self,
        *,
        tables: Sequence[int],
        rules: Rules,
        receive_buffer: int,
        resync_interval_s: float,
        netns: str | None = None,
        sock: socket.socket | None = None,
        stats: KernelStats | None = None,
        report: Report = _ignore,
        on_route_created: Callable[[Route], None] | None = None,
    ) -> None:
        """Prepare a source; nothing is opened before `run`.

        Args:
            tables: routing tables to follow, preferred ones first.
            rules: the rules.
            receive_buffer: wanted size of the socket's buffer, in bytes; granted is `stats.receive_buffer`.
            resync_interval_s: how often there is a resync without a cause.
            netns: name or path of a network namespace to follow instead of our own.
            sock: a bound NETLINK_ROUTE socket handed over to us, instead of opening one; its namespace is followed.
            stats: of a source before this one, to count on in.
            report: called with each report, in the loop's thread; must not block.
            on_route_created: called with each route that an event says was created where no other had its key
                (NLM_F_EXCL), before the rules are asked; for the main table also where it is not among `tables`. Must
                not block. It costs each such event some microseconds.
        """
        self.synced = asyncio.Event()
        self.stats = stats or KernelStats()
        self.tables = tuple(dict.fromkeys(tables))
        """The tables that it follows, preferred ones first."""
        self._receive_buffer = receive_buffer
        self._netns = netns
        self._handed_over = sock
        self._report = report
        self._link_tables = LinkTables()
        self._dumped_links: LinkTables | None = None  # while they are dumped: events go there, too
        self._schedule = ResyncSchedule(resync_interval_s)
        self._evaluator = Evaluator(self.tables, rules, self._link_tables)
        self._fib = Fib(
            self.tables,
            self._evaluator,
            self._link_tables,
            stats=self.stats,
            report=report,
            request_dump=self._schedule.request,
            on_route_created=on_route_created,
        )
        self._socket: NetlinkSocket | None = None
        self._lookups: set[asyncio.Future[bool]] = set()
        self._lost = 0
        self._lost_at_resync: int | None = None  # the socket's count, unchanged over the last resync
        self._resynced: list[asyncio.Future[None]] = []  # of those who wait for the next resync
        self._review: asyncio.TimerHandle | None = None
        self._reported_errors: set[str] = set()
        self._news = asyncio.Event()
        self._first = True
        self.changed_at: float | None = None
        """When the oldest change of those that `changes` returned last was read from the kernel, in monotonic seconds;
        None: they were the first dump, which is no change."""
        self._periodic = (
            False  # the last resync was a periodic one, or the second look at what that had lacked
        )

    @property
    def links(self) -> Links:
        """The network interfaces, by ifindex."""
        return self._link_tables.links

    @property
    def addresses(self) -> Collection[InterfaceAddress]:
        """Our own addresses, with the networks that they connect us to."""
        return self._link_tables.addresses.values()

    @property
    def lag_s(self) -> float:
        """Age of the oldest change that the consumer has not taken yet, in seconds."""
        return self._fib.replica.lag_s

    @property
    def gateways(self) -> frozenset[Address]:
        """The gateways of this node's routes in the tables that are read, whatever the rules say of those routes.

        Left out are routes that the rules drop by their header alone, unless they are default routes. One that is no
        gateway any more goes with the next resync.
        """
        return self._evaluator.gateways.addresses

    def link_gateway(self, route: Route) -> bool:
        """Whether a route is a host route on a link to the gateway of another route over the same link."""
        host = link_host(route)
        return host is not None and self._evaluator.gateways.leads_to_gateway(host)

    def followed(self) -> list[tuple[Prefix, Verdict]]:
        """The drops that were reported and last (`Dropped`), for one who asks later."""
        return list(self._fib.drops)

    def request_resync(self, cause: str) -> None:
        """Request a resync; `cause` is what statistics and reports call it."""
        self._schedule.request(cause)

    def replace_rules(self, rules: Rules) -> None:
        """Apply other rules; everything is dumped again and evaluated by them."""
        self._evaluator.replace_rules(rules)
        self._schedule.request("rules")

    async def catch_up(self) -> None:
        """Apply every event that the kernel had queued by now; after a loss, wait for the resync that makes it good.

        Raises:
            KernelError: nothing is followed at the moment, or no longer.
        """
        while True:
            followed = self._following()
            await followed.catch_up()
            if followed is not self._socket:
                continue
            if followed.lost == self._lost_at_resync:
                return
            if self._lost_at_resync is not None:  # else the first resync is under way
                self._schedule.request("overrun")
            resynced = asyncio.get_running_loop().create_future()
            self._resynced.append(resynced)
            await resynced

    def _following(self) -> NetlinkSocket:
        if self._socket is None:
            raise KernelError("the kernel's routes are not followed now")
        return self._socket

    async def look_up(
        self, take: TakeRoute, covering: Prefix | None = None, *, tables: Sequence[int] | None = None
    ) -> bool:
        """Dump the tables for one who asks; what is held stays as it is.

        Args:
            take: called with each route, dropped by the rules or not; those of one prefix come table by table, in the
                kernel's order.
            covering: only routes whose prefix covers this one.
            tables: these tables, instead of those that are followed.

        Returns:
            Whether it was complete and consistent; else some may have been missed, or come twice.

        Raises:
            KernelError: nothing is followed at the moment, or the kernel refuses.
        """
        lookup = Lookup(self._fib.decoder, take, None if covering is None else (covering,))
        complete = True
        for request in route_requests(self.tables if tables is None else tuple(tables)):
            if not lookup.concerns(request):
                continue
            # The kernel refuses another dump while one runs: it is read to its end, even if the asker is gone.
            dump = asyncio.ensure_future(self._following().dump(request, lookup.feed))
            self._lookups.add(dump)
            dump.add_done_callback(self._end_lookup)
            complete = await asyncio.shield(dump) and complete
        return complete and not lookup.bad

    def _end_lookup(self, dump: asyncio.Future[bool]) -> None:
        self._lookups.discard(dump)
        if not dump.cancelled():
            dump.exception()  # seen, even if the asker is gone

    async def changes(self) -> Changes:
        """Wait until something changed; return the prefixes that did.

        Level-triggered: however many changes a prefix went through since the last call, it comes once, with the
        candidates that it has when the result is asked for them; none means that it is gone. The first call waits for
        the first dump and returns the whole table.
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
        """Follow the kernel until cancelled. After an error it may be run again; what is held stays until then.

        Raises:
            KernelError: no socket, no such namespace (any more), too old a kernel: it cannot go on.
        """
        named = None if self._netns is None else namespace_identity(self._netns)
        sock = self._handed_over or open_route_socket(self._netns)
        try:
            prepare(sock)
            self.stats.receive_buffer = widen_receive_buffer(sock, self._receive_buffer)
            subscribe(sock)
            if self._handed_over is None or in_own_namespace(sock):
                self.stats.sysctls = read_sysctls(self._netns if self._handed_over is None else None)
            followed = self._socket = NetlinkSocket(
                sock,
                on_event=self._event,
                on_overrun=self._overrun,
                on_bad=self._bad,
                on_slice=self._wake_consumer,
            )
            self._lost = followed.lost
            self._lost_at_resync = None
            followed.start()
            try:
                await self._follow(followed, named)
            finally:
                followed.stop()
                self._socket = None
                self._end_reviews()
                self._wake_resynced(KernelError("the kernel's routes are followed no longer"))
        finally:
            if self._handed_over is None:
                sock.close()
            else:
                unsubscribe(sock)

    async def _follow(self, followed: NetlinkSocket, named: Identity | None) -> None:
        self._schedule.request("start")
        tasks = [asyncio.create_task(self._resync_when_due(followed), name="kernel resyncs")]
        if self._netns is not None and self._handed_over is None:
            tasks.append(asyncio.create_task(until_replaced(self._netns, named), name="kernel namespace"))
        try:
            done, _ = await asyncio.wait({*tasks, followed.failed}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (followed.failed, *tasks):  # what else ends with the socket does not say why
                if ended in done:
                    ended.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _resync_when_due(self, followed: NetlinkSocket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            causes = await self._schedule.due()
            if not _BELIEVED.issuperset(causes):
                self._fib.distrust()
            started = loop.time()
            # A dump makes many small tuples and no cycles: looking for cycles would take a third of its time.
            gc.disable()
            try:
                done = await self._resync(followed, causes)
            finally:
                gc.enable()
            self._schedule.took(loop.time() - started)
            if not done:
                self.stats.void_dumps += 1
                for cause in causes:
                    self._schedule.request(cause)

    async def _resync(self, followed: NetlinkSocket, causes: tuple[str, ...]) -> bool:
        """Dump everything and compare; return whether it counts."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        lost, generation = followed.lost, self._evaluator.generation
        complete = await self._dump_links(followed)
        dump = self._fib.begin_dump()
        for request in route_requests(self.tables):
            if not complete:
                break
            complete = await followed.dump(request, functools.partial(dump.feed, request))
        for error in dump.bad:
            self._count_bad(error)
        if not complete or generation != self._evaluator.generation or lost != followed.lost:
            self._fib.abandon_dump()
            return False
        corrected = await self._fib.compare(dump)
        if dump.unresolved:
            self._schedule.request("nexthop")
        stats = self.stats
        stats.dump_s = loop.time() - started
        stats.dumps += 1
        stats.dumps_s += stats.dump_s
        stats.table, stats.table_routes = dict(dump.dropped), dump.routes
        stats.resyncs.update(causes)
        self._periodic = causes == ("periodic",) or (self._periodic and causes == ("unconfirmed",))
        drifted = [prefix for prefix in corrected if prefix not in dump.lifetimes] if self._periodic else []
        # A link that changed while the dump ran explains what it found: no drift.
        if drifted and _BELIEVED.issuperset(self._schedule.pending):
            stats.drift += len(drifted)
            self._report(Drift(tuple(drifted[:_REPORTED_PREFIXES]), len(drifted)))
        self._lost_at_resync = lost
        self._wake_resynced()
        self.synced.set()
        self._wake_consumer()
        self._report(ResyncDone(causes, stats.dump_s, dump.routes, stats.kept, len(corrected)))
        return True

    async def _dump_links(self, followed: NetlinkSocket) -> bool:
        """Dump links, addresses and nexthops; answers and events alike go into new tables, in their order."""
        tables = self._dumped_links = LinkTables()
        try:
            for request in LINK_REQUESTS:
                if not await followed.dump(request, functools.partial(self._take_link, tables)):
                    return False
        finally:
            self._dumped_links = None
        self._link_tables.adopt(tables)
        return True

    def _take_link(self, tables: LinkTables, data: bytes, position: int) -> int:
        length: int
        length, kind, _, _, _ = HEADER.unpack_from(data, position)
        try:
            tables.apply(kind, data[position : position + length])
        except DecodeError as error:
            self._count_bad(error)
        return position + (length + 3 & ~3)

    def _event(self, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        try:
            if kind in _ROUTES:
                self._fib.event(kind, flags, data, start, end)
                return
            message = data[start - HEADER_SIZE : end]
            cause = self._link_tables.apply(kind, message)
            if self._dumped_links is not None:
                self._dumped_links.apply(kind, message)
            if cause is not None:
                self._schedule.request(cause)
        except DecodeError as error:
            self._bad(error)

    def _overrun(self) -> None:
        self.stats.overruns += 1
        self._schedule.request("overrun")
        if self._socket is None:
            return
        now = self._socket.lost
        lost = (now - self._lost) & 0xFFFFFFFF  # the kernel's counter has 32 bits
        self._lost = now
        self.stats.lost += lost
        self._report(Overrun(lost, self.stats.receive_buffer))

    def _bad(self, error: DecodeError) -> None:
        """A message that should have been an event: its content is lost."""
        self._count_bad(error)
        self._schedule.request("bad message")

    def _count_bad(self, error: DecodeError) -> None:
        self.stats.bad_messages += 1
        text = str(error)
        if text not in self._reported_errors and len(self._reported_errors) < _REPORTED_ERRORS:
            self._reported_errors.add(text)
            self._report(BadMessage(text))

    def _wake_consumer(self) -> None:
        """After a slice of reading: wake the consumer if there are changes, and set the timer for the next review."""
        self.stats.kept = self._fib.replica.kept
        if self._fib.replica.dirty:
            self._news.set()
        at = self._fib.review_at
        if self._review is not None and self._review.when() != at:
            self._end_reviews()
        if self._review is None and at < _NEVER:
            self._review = asyncio.get_running_loop().call_at(at, self._do_review)

    def _do_review(self) -> None:
        self._review = None
        self._fib.review()
        self._wake_consumer()

    def _end_reviews(self) -> None:
        if self._review is not None:
            self._review.cancel()
            self._review = None

    def _wake_resynced(self, error: KernelError | None = None) -> None:
        waiting, self._resynced = self._resynced, []
        for future in waiting:
            if future.done():  # the one who waited was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
