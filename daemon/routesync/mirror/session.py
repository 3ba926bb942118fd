"""The sessions with one target: handshake, then work until nothing works any more, then the same again.

Concurrency: everything runs on one event loop. One task (`run`) connects, reads the table and starts workers; a worker
sends one request after the other, never two for one prefix. `state.py` decides what is sent; this file only waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

import structlog

from routesync.backoff import backoff_s
from routesync.kernel import Link
from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.schema import Inventory
from routesync.mirror.apply import Applier
from routesync.mirror.handshake import PATIENCE_S, Dump, Handshake
from routesync.mirror.last_loxilb import LastLoxilb, Loxilb
from routesync.mirror.namespace import PostedRoutes
from routesync.mirror.reporting import Reporter
from routesync.mirror.state import STATIC, Answer, Kind, MirrorState, Outcome, Request
from routesync.mirror.status import TargetState
from routesync.route import Family, Prefix, format_address
from routesync.slices import finish_in_slices

log = structlog.get_logger(__name__)

WORKERS: Final = 64
"""Requests that wait for the ledger's disk or for a connection; so one commit serves many."""
RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 30.0
FAILURES_IN_A_ROW: Final = 5
"""So many requests without an answer, none answered in between, and the session ends."""
ASK_EACH_S: Final = 15.0
"""So often a target is asked for its version that nothing else is asked of, and whose connections are closed."""
BATCH_S: Final = 1.0
"""Work that is done within this time is not reported as a sync."""
STATIC_OR_BOOT: Final = STATIC | {"boot", "3"}


def our_protocols(version: str) -> frozenset[str]:
    """What our routes are shown as: we post with protocol static, which loxilb honours since v0.9.5."""
    return STATIC_OR_BOOT if version.startswith("before") else STATIC


class SharedNamespaceError(errors.LoxilbError):
    """What we posted came up in our own kernel."""


class Session:
    """The sessions with one target, one after the other.

    Attributes:
        status: what the session is doing; `synced` and `syncing` follow from the state of the routes.
        error: why it is not doing better, in one line.
        version: of the target, after the first handshake.
        contacted: set when the target answered, or failed to, at least once; or is paused.
        wake: set whenever something changed that the session may wait for.
    """

    def __init__(
        self,
        name: str,
        client: LoxilbClient,
        state: MirrorState,
        applier: Applier,
        *,
        report: Reporter,
        links: Callable[[], Mapping[int, Link]],
        use_inventory: Callable[[Inventory, str, bool], Awaitable[None]],
        proof: PostedRoutes | None,
        last_loxilb: LastLoxilb,
    ) -> None:
        self.status = TargetState.CONNECTING
        self.error: str | None = None
        self.version: str | None = None
        self.contacted = asyncio.Event()
        self.wake = asyncio.Event()
        self.connections = 0
        self._name = name
        self._client = client
        self._state = state
        self._applier = applier
        self._report = report
        self._handshake = Handshake(client, links, state, waiting=self._not_yet)
        self._use_inventory = use_inventory
        self._proof = proof
        self._last_loxilb = last_loxilb
        self._failures = 0
        self._ask_at = 0.0
        self._looks_again = False  # at a target that may have been restarted, though nothing failed
        self._unanswered = 0
        self._broken: errors.LoxilbError | None = None
        self._reported: set[TargetState] = set()  # troubles that were reported since the last handshake
        self._workers: set[asyncio.Task[None]] = set()
        self._batch: tuple[float, int, int] | None = None
        self._batch_reported = False

    @property
    def target_state(self) -> TargetState:
        """What is being done about the target, as is true at this moment."""
        if self.status is not TargetState.SYNCED:
            return self.status
        return TargetState.SYNCED if self._state.synced else TargetState.SYNCING

    def pause(self, why: str) -> None:
        """Send nothing new; the caller cancels `run`."""
        self.status, self.error = TargetState.PAUSED, why
        self._batch = None
        self._state.halted = True
        self.contacted.set()

    def resume(self) -> None:
        """The next `run` begins as after a start."""
        self.status, self.error, self._failures = TargetState.CONNECTING, None, 0

    @property
    def instance(self) -> str | None:
        """Which loxilb it is; None: not known yet."""
        return self._handshake.instance

    async def run(self) -> None:
        """Serve the target until cancelled; what is being sent then is finished, or cancelled by `cancel`."""
        self._state.halted = self._looks_again = False
        while True:
            try:
                await self._connect()
                await self._work()
            except SharedNamespaceError as error:
                await self._refuse(error)
            except errors.LoxilbError as error:
                await self._rest_after(error)

    async def _connect(self) -> None:
        self._client.is_bound = False
        version, dump = await self._handshake.make()
        self._client.is_bound = self._client.unbroken  # else something before it closes each connection
        state, now = self._state, monotonic()
        self.connections += 1
        state.protocols = our_protocols(version)
        met = Loxilb(self._client.url, self.instance)
        if await asyncio.to_thread(self._last_loxilb.replaced_by, met):
            routes = state.owning
            await finish_in_slices(state.give_up_all("its URL leads to another loxilb now", monotonic()))
            log.warning("target_replaced", target=self._name, url=self._client.url, routes=routes)
        await self._note(met)
        state.connected(now)
        self._broken, self._unanswered = None, 0
        await self._take(dump, version, connected=True)
        is_news = self.version is None or bool(self._reported)
        if is_news:
            self._reported.clear()
            self._report.target_up(self._client.url, version)
        self.version, self._failures, self.error = version, 0, None
        self.status = TargetState.SYNCED
        is_reported = is_news or not self._looks_again
        if is_reported or self._batch is None:  # else work goes on that was begun, and perhaps reported
            self._begin_batch(now, report=is_reported)
        self._looks_again = False
        self.contacted.set()

    async def _note(self, met: Loxilb) -> None:
        await self._applier.committed()  # else a crash would leave what is given up owned in the other loxilb
        await asyncio.to_thread(self._last_loxilb.note, met)

    async def _take(self, dump: Dump, version: str, *, connected: bool) -> None:
        await self._use_inventory(dump.inventory, version, connected)
        await finish_in_slices(
            self._state.take_inventory(dump.inventory, dump.started, monotonic(), connected=connected)
        )

    async def _work(self) -> None:
        """Send what waits, and read the table when that is due, until the session is broken.

        Returns where the target may have been restarted: then `run` connects again before anything is sent.
        """
        state = self._state
        while True:
            if self._broken is not None:
                raise self._broken
            now = monotonic()
            if self._client.may_be_another:
                if self._workers or state.inventory_in(now) <= 0 or state.has_work(now):
                    await self.settle()
                    self._looks_again = True
                    return
                if now >= self._ask_at:  # there is nothing to do by which it would be noticed that it is gone
                    self._ask_at = now + ASK_EACH_S
                    await self._client.version()
            if not self._workers and state.inventory_in(now) <= 0:
                await self._read_table()
                continue
            self._start_workers()
            self._report_batch(now)
            await rest(self.wake, max(0.001, min(state.next_wakeup(now), 1.0)))
            state.tick(monotonic())

    async def _read_table(self) -> None:
        dump = await self._handshake.inventory()
        if not dump.inventory.rows:
            raise errors.OutcomeUnknown("GET /config/route/all: an empty table: it was restarted")
        self.status, self.error = TargetState.SYNCED, None  # it may have been settling after a restart
        await self._note(Loxilb(self._client.url, self.instance))  # the disk may have been full before
        await self._take(dump, self.version or "", connected=dump.restarted)

    # -- workers ----------------------------------------------------------------------------------------------------

    @property
    def _may_send(self) -> bool:
        """Whether more requests may be begun over this connection."""
        return self._broken is None and not self._client.may_be_another

    def _start_workers(self) -> None:
        while len(self._workers) < WORKERS and self._may_send:
            request = self._state.next_request(monotonic())
            if request is None:
                return
            worker = asyncio.get_running_loop().create_task(self._send_on(request))
            self._workers.add(worker)
            worker.add_done_callback(self._ended)

    async def _send_on(self, first: Request) -> None:
        """Send a request, what follows it, and then the next that waits, as long as there is one."""
        request: Request | None = first
        while request is not None:
            outcome = await self._send(request)
            request = self._state.finished(request, outcome, monotonic())
            self._note_health(outcome)
            if self._broken is not None and request is not None:
                request = self._state.finished(
                    request, Outcome(Answer.NOT_SENT, str(self._broken)), monotonic()
                )
            if request is None and self._may_send:
                request = self._state.next_request(monotonic())

    async def _send(self, request: Request) -> Outcome:
        proving = self._state.one_at_a_time and request.kind is not Kind.DELETE
        if proving and self._proof is not None:
            self._proof.begin(request)
        outcome = await self._applier.send(request)
        if proving and outcome.answer is Answer.CREATED:
            shared = await self._proof.shared(request) if self._proof is not None else False
            if shared:
                self._broken = SharedNamespaceError(
                    f"the route to {request.prefix} via {format_address(request.gateway)} that was posted to it came "
                    "up in this host's own kernel: it shares this host's network namespace; nothing more is mirrored "
                    "into it"
                )
                self._state.suspend(request.prefix)
            elif shared is not None:
                self._state.one_at_a_time = False
        return outcome

    def _note_health(self, outcome: Outcome) -> None:
        if outcome.answer is Answer.DENIED:
            self._broken = self._broken or errors.OutcomeUnknown(outcome.words)
        elif outcome.answer is Answer.WITHHELD:
            pass
        elif outcome.answer not in {Answer.UNKNOWN, Answer.NOT_SENT}:
            self._unanswered = 0
        else:
            self._unanswered += 1
            if self._unanswered >= FAILURES_IN_A_ROW:
                self._broken = self._broken or errors.OutcomeUnknown(outcome.words)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            log.error("reconciler_error", target=self._name, error=repr(error), exc_info=error)
            self._broken = errors.OutcomeUnknown(f"internal error: {error!r}")
        self.wake.set()

    async def settle(self) -> None:
        """Wait for what is being sent; each request has a deadline of its own."""
        while self._workers:
            await asyncio.wait(tuple(self._workers))

    async def cancel(self) -> None:
        """Cancel what is being sent; what became of it is for the next run to find out."""
        workers = tuple(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    # -- trouble ----------------------------------------------------------------------------------------------------

    async def _rest_after(self, error: errors.LoxilbError) -> None:
        self._broken = error
        await self.settle()  # what these requests learn is worth the wait
        self._state.disconnected()
        self._looks_again = False
        self._failures += 1
        delay_s = backoff_s(self._failures, RECONNECT_FIRST_S, RECONNECT_MOST_S)
        if self._is_news(TargetState.UNREACHABLE):
            syncing = self._batch is not None and self._batch_reported
            self._report.target_down(self._client.url, str(error), delay_s if syncing else None)
        self.status, self.error, self._batch = TargetState.UNREACHABLE, str(error), None
        self.contacted.set()
        await asyncio.sleep(delay_s)

    async def _refuse(self, error: SharedNamespaceError) -> None:
        """The target shares our namespace after all: take back what came up there, and begin again with its ports."""
        await self.settle()
        self._handshake.disprove()
        left = [str(prefix) for prefix in self._state.suspended if not await self._take_back(prefix)]
        self._reported.add(TargetState.SHARED_NAMESPACE)
        self.status, self.error, self._batch = TargetState.SHARED_NAMESPACE, str(error), None
        self._report.target_refused(self._client.url, "own-route-seen", str(error), left)
        self.contacted.set()
        await asyncio.sleep(PATIENCE_S)

    async def _take_back(self, prefix: Prefix) -> bool:
        """Delete a route of ours that came up in our own kernel; tell whether it is gone.

        The IPv4 one is the only one with metric 0, as it was created just now, so DELETE takes it. For IPv6 there may
        be one with a lower metric than 1024, which DELETE would take instead.
        """
        request = self._state.take_back(prefix, monotonic()) if prefix.family is Family.INET else None
        if request is None:
            return False
        outcome = await self._applier.send(request)
        follow = self._state.finished(request, outcome, monotonic())
        if follow is not None:  # our kernel has the route again that was elected there
            withheld = Outcome(Answer.WITHHELD, "it shares this host's network namespace")
            self._state.finished(follow, withheld, monotonic())
        self._state.route_changed(prefix, monotonic())  # for when it is elsewhere
        return outcome.answer is Answer.DELETED

    def _not_yet(self, status: TargetState, why: str) -> None:
        if self._is_news(status):
            log.warning("target_not_mirrored", target=self._name, url=self._client.url, reason=why)
            if status is TargetState.SHARED_NAMESPACE:
                self._report.target_refused(self._client.url, "shared-namespace", why, ())
        self.status, self.error = status, why
        self.contacted.set()

    def _is_news(self, status: TargetState) -> bool:
        """Whether this trouble was not reported since the last handshake; a restart goes through several."""
        news = status not in self._reported
        self._reported.add(status)
        return news

    # -- batches of work --------------------------------------------------------------------------------------------

    def _begin_batch(self, now: float, *, report: bool) -> None:
        counters = self._state.counters
        self._batch, self._batch_reported = (now, counters.posted, counters.deleted), report
        if report:
            self._report.sync_started(self._state.desired + self._state.over_capacity, self._state.waiting)

    def _report_batch(self, now: float) -> None:
        """Report work that takes a while, when it begins and when it is done."""
        state = self._state
        if not state.waiting:
            self._report.log_batch()
        if self._batch is None:
            if state.waiting:
                self._begin_batch(now, report=False)
            return
        began, posted, deleted = self._batch
        if state.waiting:
            if not self._batch_reported and now - began >= BATCH_S:
                self._batch_reported = True
                self._report.sync_started(state.desired + state.over_capacity, state.waiting)
            return
        if self._batch_reported:
            counters = state.counters
            self._report.sync_completed(
                routes=state.owning,
                posted=counters.posted - posted,
                deleted=counters.deleted - deleted,
                duration_s=now - began,
                complete=state.complete,
            )
        self._batch = None


async def rest(wake: asyncio.Event, seconds: float) -> None:
    """Wait until `wake` is set, but no longer than this; it is cleared then."""
    timer = asyncio.get_running_loop().call_later(seconds, wake.set)
    try:
        await wake.wait()
    finally:
        timer.cancel()
    wake.clear()
