"""The reconciler of one target: level-triggered, paced, and careful with what is not ours.

It is told the elected route of each prefix (`consider`), as often as that changes, and works towards a target that has
exactly the wanted ones. It never replays events: at the moment of doing, only the present wish counts.

Concurrency: one task (`run`) decides everything; requests run as child tasks, at most `CONCURRENCY` at a time, never
two for one prefix. All of it, `consider` included, belongs to one event loop.

Complicating factors, each of which shaped the code below (all observed on a real loxilb):

- 2xx means that its kernel took the route; loxilb learns of it later, at 256 a second. Reading its table before it has
  is dangerous (it can crash) and misleading. So reading waits for quiet, and while somebody waits for a reading, new
  routes wait too.
- 409 says that *a* route stands there, and DELETE takes whichever stands first. So nothing is deleted that a fresh
  reading does not show with our gateway.
- After its start its table is empty for some seconds, then fills. So at each new connection it is read until two
  readings agree and are not empty.
- Its table goes on showing routes that its kernel has lost. A repeated POST tells: so one route is posted again every
  few seconds (the canary), and all of them when it had been lost, at each new connection, and every hour (the sweep).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import structlog

from routesync.events.models import EventSink, SyncCompleted, SyncFailed, SyncStarted, TargetDown, TargetUp
from routesync.kernel import Link
from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.wire import Inventory
from routesync.mirror.announce import Announcer
from routesync.mirror.book import NEVER, STATIC, Entry, our_protocols
from routesync.mirror.brakes import Limits
from routesync.mirror.changes import Changes, Outcome
from routesync.mirror.contact import Contact
from routesync.mirror.ledger import Ledger, LedgerError
from routesync.mirror.measures import Measures
from routesync.mirror.pace import Ingestion, TokenBucket
from routesync.mirror.pending import Urgency
from routesync.mirror.status import TargetState, TargetView
from routesync.mirror.wanted import Blocked, TargetFacts, TargetRules, Wanted, judge
from routesync.mirror.witness import Witness
from routesync.mirror.worklist import WITNESS_LAG_S, Worklist, backoff
from routesync.route import Address, Candidate, Family, Prefix

log = structlog.get_logger(__name__)

CONCURRENCY: Final = 8
RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 30.0
UNKNOWNS_ALLOWED: Final = 3
"""So many answers in a row that make no sense, and the connection is begun anew."""


class Reconciler:
    """Keeps one target as it is wanted. To be made within the event loop.

    `run` is eternal; cancel it to stop (routes stay).
    """

    def __init__(
        self,
        name: str,
        client: LoxilbClient,
        *,
        rules: TargetRules,
        limits: Limits,
        ledger: Ledger,
        sink: EventSink,
        links: Callable[[], Mapping[int, Link]],
        target_addresses: Callable[[], frozenset[Address]] = frozenset,
        request_kernel_reading: Callable[[], None] = lambda: None,
        witness: Witness | None = None,
    ) -> None:
        self.name = name
        self.contacted = asyncio.Event()  # answered, or failed to, at least once
        self._client = client
        self._rules = rules
        self._limits = limits
        self._ledger = ledger
        self._sink = sink
        self._target_addresses = target_addresses
        self._state = TargetState.CONNECTING
        self._error: str | None = None
        self._version: str | None = None
        self._failures = 0
        self._unknowns = 0
        self._broken: errors.LoxilbError | None = None
        self._wake = asyncio.Event()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._ingestion = Ingestion(self._now())
        self._bucket = TokenBucket(limits.rate, limits.burst, self._now())
        self._contact = Contact(
            client, links, self._ingestion, gap_s=limits.reading_gap_s, say=self._say_waiting
        )
        self._measures = Measures()
        say = Announcer(name, sink, self._measures)
        self._changes = Changes(
            name, client=client, ledger=ledger, say=say, ingestion=self._ingestion, bucket=self._bucket
        )
        self._work = Worklist(
            name,
            self._changes,
            say,
            judge=self._judge,
            limits=limits,
            now=self._now,
            request_kernel_reading=request_kernel_reading,
            witness=witness,
        )
        self._witness = witness
        self._canaries: Iterator[Prefix] = iter(())
        self._canary_at = NEVER
        self._sweep_at = NEVER
        self._sync_began: float | None = None
        self._sync_base = (0, 0)

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def consider(self, prefix: Prefix, candidate: Candidate | None, asked_at: float | None = None) -> None:
        """Take the elected route of a prefix; None: there is none any more. Cheap, and never blocks.

        `asked_at` is when that change was read off the kernel, in monotonic seconds; None: it was none of the kernel.
        """
        self._work.consider(prefix, candidate, asked_at)
        self._wake.set()

    def retain(self, prefixes: Iterable[Prefix]) -> None:
        """Take what is not among these prefixes as gone: for a table that is given as a whole."""
        self._work.retain(prefixes)
        self._wake.set()

    def load_ledger(self) -> None:
        """Take up what the ledger says may be ours. What nobody wants is withdrawn after the start-up hold."""
        self._work.claim(self._ledger.owned(self.name).items())

    def order_sweep(self) -> None:
        """Have all routes of ours posted again, as a proof that they stand there, when nothing else is to be done."""
        self._sweep_at = self._now()
        self._wake.set()

    def kernel_was_read(self) -> None:
        """The kernel's table was read anew, and what that changed was considered."""
        held = self._work.brake.held
        if self._work.brake.second_reading(self._work.pending):
            self._say_released(held, "second reading")

    def release(self) -> int:
        """Let a mass withdrawal go that is held back; tell how many routes that is about."""
        held = self._work.brake.held
        if held:
            self._work.brake.release()
            self._say_released(held, "hand")
        return held

    def _say_released(self, routes: int, by: str) -> None:
        log.warning("mass withdrawal released", target=self.name, routes=routes, by=by)
        self._wake.set()

    def _judge(self, candidate: Candidate, facts: TargetFacts) -> Wanted | Blocked:
        return judge(candidate, self._rules, facts, self._target_addresses())

    # -- the eternal task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, work, and when the connection breaks begin again. Returns never."""
        watching = asyncio.create_task(self._witness.run(self._witnessed)) if self._witness else None
        try:
            while True:
                try:
                    await self._connect()
                    await self._serve()
                except errors.LoxilbError as error:
                    await self._rest_after(error)
        finally:
            tasks = [*self._in_flight, *([watching] if watching else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _witnessed(self, prefix: Prefix) -> None:
        if self._work.witnessed(prefix):
            asyncio.get_running_loop().call_later(WITNESS_LAG_S, self._witnessed, prefix)
        self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _rest_after(self, error: errors.LoxilbError) -> None:
        if self._in_flight:  # they have deadlines of their own; what they learn is worth the wait
            await asyncio.gather(*self._in_flight, return_exceptions=True)
        self._failures += 1
        delay = backoff(self._failures, RECONNECT_FIRST_S, RECONNECT_MOST_S)
        text = str(error)
        if isinstance(error, errors.AccessDenied):
            text += "; set token_file for this target"
        if self._state is not TargetState.UNREACHABLE:
            self._measures.outages += 1
            log.warning("target down", target=self.name, url=self._client.url, error=text)
            self._sink.emit(TargetDown(target=self.name, url=self._client.url, error=text))
            if self._sync_began is not None:
                self._sink.emit(SyncFailed(target=self.name, error=text, retry_in_s=round(delay, 1)))
        self._state, self._error, self._broken = TargetState.UNREACHABLE, text, None
        self._sync_began = None
        self.contacted.set()
        await asyncio.sleep(delay)

    async def _connect(self) -> None:
        version, reading = await self._contact.make()
        self._changes.protocols = our_protocols(version)
        if self._witness is not None:
            self._witness.honours_static = self._changes.protocols == STATIC
        self._work.absorb(reading)
        if self._state is TargetState.UNREACHABLE or self._version is None:
            log.info("target up", target=self.name, url=self._client.url, version=version)
            self._sink.emit(TargetUp(target=self.name, url=self._client.url, version=version))
        self._version, self._failures, self._unknowns, self._error = version, 0, 0, None
        self._state = TargetState.SYNCING
        self._sync_began, self._sync_base = self._now(), self._changes.totals
        self._sweep_at = self._now()
        self._sink.emit(SyncStarted(target=self.name, wanted=self._work.tally.wanted))
        self.contacted.set()

    def _say_waiting(self, state: TargetState, why: str) -> None:
        if self._state is not state:
            log.warning("target not mirrored into", target=self.name, url=self._client.url, why=why)
        self._state, self._error = state, why
        self.contacted.set()

    async def _serve(self) -> None:
        """Serve the waiting work until the connection is found broken."""
        pending = self._work.pending
        while True:
            if self._broken is not None:
                raise self._broken
            now = self._now()
            wait_s = self._limits.canary_interval_s
            if self._reading_due(now):
                quiet_in = max(
                    self._ingestion.quiet_in(now), self._read_at + self._limits.reading_gap_s - now
                )
                if not self._in_flight and quiet_in <= 0:
                    await self._read()
                    continue
                wait_s = min(wait_s, quiet_in) if quiet_in > 0 else wait_s
            self._order_checks(now)
            if len(self._in_flight) < CONCURRENCY:
                job, token_in = self._next_job(now, others=len(self._in_flight))
                if job is not None:
                    self._launch(job)
                    continue
                if token_in > 0:
                    wait_s = min(wait_s, token_in)
            if (due := pending.next_due()) is not None and due > now:
                wait_s = min(wait_s, due - now)
            self._note_rest()
            await self._rest(wait_s)

    async def _rest(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    @property
    def _read_at(self) -> float:
        return self._work.reading.started if self._work.reading else NEVER

    def _reading_due(self, now: float) -> bool:
        if self._work.verify:
            return True
        old = now - self._read_at >= self._limits.inventory_interval_s
        return old and not self._in_flight and not self._work.pending.ready(now, least=Urgency.ADD)

    async def _read(self) -> None:
        reading = await self._contact.read()
        if not reading.inventory.rows:
            raise errors.OutcomeUnknown("GET /config/route/all: an empty table: it was restarted")
        self._work.absorb(reading)

    def _order_checks(self, now: float) -> None:
        """Order the next canary, or a sweep, when it is time and nothing else is to be done."""
        work = self._work
        others = len(work.pending) - work.pending.count(Urgency.WITHDRAW)
        if self._in_flight or others > len(work.over):
            return
        if now >= self._sweep_at:
            self._sweep_at = now + self._limits.sweep_interval_s
            for prefix in work.standing:
                work.pending.put(prefix, Urgency.CHECK, now=now)
        elif now >= self._canary_at and work.standing:
            self._canary_at = now + self._limits.canary_interval_s
            canary = next(self._canaries, None)
            if canary is None or canary not in work.standing:
                self._canaries = iter(tuple(work.standing))
                canary = next(self._canaries)
            work.pending.put(canary, Urgency.CHECK, now=now)

    def _next_job(self, now: float, *, others: int) -> tuple[Prefix | None, float]:
        """The next prefix to work on, with a token taken for it; or none, and the seconds until there is a token."""
        least, most = self._work.admitted(idle=not others)
        pending = self._work.pending
        if not pending.ready(now, least=least, most=most):
            return None, 0.0
        token_in = self._bucket.take(now)
        if token_in > 0:
            return None, token_in
        job = pending.pop(now, least=least, most=most)
        return (job[0], 0.0) if job else (None, 0.0)

    def _launch(self, prefix: Prefix) -> None:
        task = asyncio.get_running_loop().create_task(self._work_on(prefix))
        self._in_flight.add(task)
        task.add_done_callback(self._landed)

    async def _work_on(self, first: Prefix) -> None:
        """Work on a prefix, and then on whatever may go next."""
        prefix: Prefix | None = first
        while prefix is not None:
            self._work.busy.add(prefix)
            await self._carry_out(prefix)
            now = self._now()
            if self._broken is not None or self._reading_due(now):
                return
            prefix, _ = self._next_job(now, others=len(self._in_flight) - 1)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reconciler error", target=self.name, error=repr(error), exc_info=error)
            self._broken = errors.OutcomeUnknown(f"internal error: {error!r}")

    async def _carry_out(self, prefix: Prefix) -> None:
        entry = self.entries[prefix]
        try:
            if self._work.may_go(prefix, entry):
                self._work.begin(prefix, entry)
                await self._request(prefix, entry)
                self._work.end(prefix, entry)
            else:
                self._bucket.give_back(self._now())
        finally:
            self._work.busy.discard(prefix)
        self._work.schedule(prefix, entry)

    async def _request(self, prefix: Prefix, entry: Entry) -> None:
        try:
            if entry.need(prefix) is None:
                outcome = await self._changes.check(prefix, entry)
            else:
                inventory = self._work.reading.inventory if self._work.reading else Inventory({}, 0)
                outcome = await self._changes.make(prefix, entry, inventory)
        except (errors.NotSent, errors.AccessDenied) as error:
            self._broken = error
        except LedgerError as error:
            self._broken = errors.NotSent(str(error))
        except errors.LoxilbError as error:
            self._unknowns += 1
            entry.failures += 1
            entry.error = str(error)
            if self._unknowns >= UNKNOWNS_ALLOWED:
                self._broken = error
        else:
            self._unknowns = 0
            if outcome is Outcome.DOUBTFUL:
                self._work.verify.add(prefix)
            elif outcome is Outcome.RESTORED:
                if self._sweep_at > self._now():  # said once; the sweep finds the others
                    log.warning("target had lost a route", target=self.name, prefix=str(prefix))
                self.order_sweep()

    def _note_rest(self) -> None:
        """When nothing is left to do now, say that the sync is complete, once."""
        work = self._work
        if self._in_flight or work.verify or work.pending.ready(self._now(), least=Urgency.ADD):
            return
        waiting = len(work.pending) - work.pending.count(Urgency.CHECK)
        self._state = TargetState.SYNCING if waiting else TargetState.SYNCED
        if self._sync_began is None:
            return
        began, self._sync_began = self._sync_began, None
        posted, deleted = self._changes.totals
        self._sink.emit(
            SyncCompleted(
                target=self.name,
                routes=sum(1 for entry in self.entries.values() if entry.ours),
                posted=posted - self._sync_base[0],
                deleted=deleted - self._sync_base[1],
                duration_s=round(self._now() - began, 3),
            )
        )

    def view(self) -> TargetView:
        """How this target stands, for status and metrics."""
        work = self._work
        return TargetView(
            name=self.name,
            url=self._client.url,
            state=self._state,
            version=self._version,
            error=self._error,
            wanted=work.tally.wanted,
            phases=work.tally.phases.copy(),
            waiting=len(work.pending) + len(work.verify) + len(self._in_flight),
            oldest_s=work.pending.oldest_s(self._now()),
            braked=work.brake.held,
            urgencies={urgency: work.pending.count(urgency) for urgency in Urgency},
            occupied=work.occupied.copy(),
            capacity={family: self._limits.capacity(family) for family in Family},
            requests=self._client.requests,
            measures=self._measures,
        )

    @property
    def facts(self) -> TargetFacts:
        """What is known of the target's own place in the network."""
        return self._work.facts

    @property
    def entries(self) -> Mapping[Prefix, Entry]:
        """What is known of each prefix; to read only."""
        return self._work.entries
