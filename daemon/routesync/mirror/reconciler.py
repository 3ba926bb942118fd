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
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import structlog

from routesync.events.models import EventSink, SyncCompleted, SyncFailed, SyncStarted, TargetDown, TargetUp
from routesync.kernel import Link
from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.wire import Inventory
from routesync.mirror.book import NEVER, Entry, Finding, Phase, compare, count_phases, describe_row
from routesync.mirror.brakes import Limits, MassWithdrawBrake
from routesync.mirror.changes import Changes, Outcome
from routesync.mirror.contact import Contact, Reading
from routesync.mirror.ledger import Ledger, LedgerError
from routesync.mirror.pace import Ingestion, TokenBucket
from routesync.mirror.pending import Pending, Urgency
from routesync.mirror.status import TargetState, TargetView
from routesync.mirror.wanted import TargetFacts, TargetRules, Wanted, judge
from routesync.route import Address, Candidate, Family, Prefix

log = structlog.get_logger(__name__)

CONCURRENCY: Final = 8
FRESH_S: Final = 5.0
"""For so long a reading justifies a DELETE."""
FLAP_S: Final = 1.0
"""At most one change per prefix in this time."""
RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 300.0
RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 30.0
UNKNOWNS_ALLOWED: Final = 3
"""So many answers in a row that make no sense, and the connection is begun anew."""


def backoff(failures: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, with jitter so that many do not return at once."""
    full_s = min(most_s, first_s * 2.0 ** min(failures - 1, 16))
    return full_s * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)


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
    ) -> None:
        self.name = name
        self.contacted = asyncio.Event()  # answered, or failed to, at least once
        self.facts = TargetFacts()
        self._client = client
        self._rules = rules
        self._limits = limits
        self._ledger = ledger
        self._sink = sink
        self._target_addresses = target_addresses
        self._entries: dict[Prefix, Entry] = {}
        self._standing: dict[Prefix, None] = {}  # what is wanted and stands there
        self._pending = Pending()
        self._verify: set[Prefix] = set()  # these wait for a reading
        self._over: dict[Prefix, None] = {}  # these wait for room
        self._occupied = dict.fromkeys(Family, 0)
        self._reading = Reading(Inventory({}, 0), NEVER)
        self._state = TargetState.CONNECTING
        self._error: str | None = None
        self._version: str | None = None
        self._failures = 0
        self._unknowns = 0
        self._broken: errors.LoxilbError | None = None
        self._wake = asyncio.Event()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._busy: set[Prefix] = set()  # the prefixes of these tasks
        self._ingestion = Ingestion(self._now())
        self._bucket = TokenBucket(limits.rate, limits.burst, self._now())
        self._brake = MassWithdrawBrake(limits.brake_share, limits.brake_minimum, request_kernel_reading)
        self._contact = Contact(
            client, links, self._ingestion, gap_s=limits.reading_gap_s, say=self._say_waiting
        )
        self._changes = Changes(
            name, client=client, ledger=ledger, sink=sink, ingestion=self._ingestion, bucket=self._bucket
        )
        self._canaries: Iterator[Prefix] = iter(())
        self._canary_at = NEVER
        self._sweep_at = NEVER
        self._sync_began: float | None = None
        self._sync_base = (0, 0)

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def consider(self, prefix: Prefix, candidate: Candidate | None) -> None:
        """Take the elected route of a prefix; None: there is none any more. Cheap, and never blocks."""
        entry = self._entries.get(prefix)
        if entry is None:
            if candidate is None:
                return
            entry = self._entries[prefix] = Entry()
        now = self._now()
        if candidate is not None:
            entry.hold_until = NEVER  # the kernel has it: from now on its going means something
            self._brake.forget(prefix)
        elif entry.candidate is not None and self._limits.withdraw_delay_s:
            entry.hold_until = now + self._limits.withdraw_delay_s
        entry.candidate = candidate
        self._rejudge(prefix, entry)
        self._wake.set()

    def retain(self, prefixes: Iterable[Prefix]) -> None:
        """Take what is not among these prefixes as gone: for a table that is given as a whole."""
        for prefix in self._entries.keys() - set(prefixes):
            self.consider(prefix, None)

    def load_ledger(self) -> None:
        """Take up what the ledger says may be ours. What nobody wants is withdrawn after the start-up hold."""
        now = self._now()
        for prefix, row in self._ledger.owned(self.name).items():
            entry = self._entries.setdefault(prefix, Entry())
            entry.claim = row.gateway
            entry.hold_until = now + self._limits.startup_hold_s
            self._schedule(prefix, entry)

    def kernel_was_read(self) -> None:
        """The kernel's table was read anew, and what that changed was considered."""
        held = self._brake.held
        if self._brake.second_reading(self._pending):
            log.warning("mass withdrawal released", target=self.name, routes=held, by="second reading")
            self._wake.set()

    def release(self) -> int:
        """Let a mass withdrawal go that is held back; tell how many routes that is about."""
        held = self._brake.held
        if held:
            self._brake.release()
            log.warning("mass withdrawal released", target=self.name, routes=held, by="hand")
            self._wake.set()
        return held

    def _rejudge(self, prefix: Prefix, entry: Entry) -> None:
        before = entry.judgement
        if entry.candidate is None:
            entry.judgement = None
        else:
            entry.judgement = judge(entry.candidate, self._rules, self.facts, self._target_addresses())
        if entry.judgement != before:
            if (
                not isinstance(before, Wanted)
                or entry.wanted is None
                or before.gateway != entry.wanted.gateway
            ):
                entry.failures, entry.error = 0, ""
                if entry.phase is Phase.PRESENT:
                    entry.phase = Phase.PENDING
            self._changes.announce_judgement(prefix, entry)
        self._schedule(prefix, entry)

    def _schedule(self, prefix: Prefix, entry: Entry) -> None:
        """Put the prefix where it belongs: among the waiting, or to rest."""
        if prefix in self._busy:
            return  # its task does so when it ends
        need = entry.need(prefix)
        if need is None:
            self._rest_entry(prefix, entry)
            return
        self._standing.pop(prefix, None)
        if entry.wanted is None:
            entry.phase = Phase.WITHDRAWING
        elif not entry.failures:
            entry.phase = Phase.PENDING
        if prefix in self._verify:
            return
        not_before = 0.0
        now = self._now()
        if need is Urgency.WITHDRAW and entry.hold_until > now:
            not_before = entry.hold_until
        elif entry.failures:
            not_before = now + backoff(entry.failures, RETRY_FIRST_S, RETRY_MOST_S)
        elif entry.changed_at + FLAP_S > now and entry.gap_since is None:
            not_before = entry.changed_at + FLAP_S
        self._pending.put(prefix, need, now=now, not_before=not_before)

    def _rest_entry(self, prefix: Prefix, entry: Entry) -> None:
        self._pending.discard(prefix)
        self._verify.discard(prefix)
        self._over.pop(prefix, None)
        if entry.wanted is not None:
            self._standing[prefix] = None
            if entry.phase not in {Phase.CONFIRMED, Phase.PRESENT}:
                entry.phase = Phase.ACCEPTED
            return
        self._standing.pop(prefix, None)
        if entry.idle:
            self._entries.pop(prefix, None)
            self._brake.forget(prefix)
        else:
            entry.phase = Phase.BLOCKED

    # -- the eternal task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, work, and when the connection breaks begin again. Returns never."""
        try:
            while True:
                try:
                    await self._connect()
                    await self._work()
                except errors.LoxilbError as error:
                    await self._rest_after(error)
        finally:
            for task in self._in_flight:
                task.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)

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
        self._absorb(reading)
        if self._state is TargetState.UNREACHABLE or self._version is None:
            log.info("target up", target=self.name, url=self._client.url, version=version)
            self._sink.emit(TargetUp(target=self.name, url=self._client.url, version=version))
        self._version, self._failures, self._unknowns, self._error = version, 0, 0, None
        self._state = TargetState.SYNCING
        self._sync_began, self._sync_base = self._now(), self._changes.totals
        self._sweep_at = self._now()
        wanted = sum(1 for entry in self._entries.values() if entry.wanted)
        self._sink.emit(SyncStarted(target=self.name, wanted=wanted))
        self.contacted.set()

    def _say_waiting(self, state: TargetState, why: str) -> None:
        if self._state is not state:
            log.warning("target not mirrored into", target=self.name, url=self._client.url, why=why)
        self._state, self._error = state, why
        self.contacted.set()

    async def _work(self) -> None:
        """Serve the waiting work until the connection is found broken."""
        while True:
            if self._broken is not None:
                raise self._broken
            now = self._now()
            wait_s = self._limits.canary_interval_s
            if self._reading_due(now):
                quiet_in = max(
                    self._ingestion.quiet_in(now), self._reading.started + self._limits.reading_gap_s - now
                )
                if not self._in_flight and quiet_in <= 0:
                    await self._read()
                    continue
                wait_s = min(wait_s, quiet_in) if quiet_in > 0 else wait_s
            self._order_checks(now)
            least, most = self._admitted()
            if len(self._in_flight) < CONCURRENCY and self._pending.ready(now, least=least, most=most):
                token_in = self._bucket.take(now)
                if token_in <= 0:
                    self._launch(now, least, most)
                    continue
                wait_s = min(wait_s, token_in)
            elif (due := self._pending.next_due()) is not None and due > now:
                wait_s = min(wait_s, due - now)
            self._note_rest()
            await self._rest(wait_s)

    def _admitted(self) -> tuple[Urgency, Urgency]:
        """The least and the most urgent work that may go now."""
        least = Urgency.ADD if self._in_flight else Urgency.CHECK
        if self._verify:  # it must become quiet, for somebody waits for a reading
            least = Urgency.REPLACE
        braked_before = self._brake.held
        if not self._brake.holds(self._pending, sum(self._occupied.values())):
            return least, Urgency.WITHDRAW
        if not braked_before:
            log.warning(
                "mass withdrawal held back",
                target=self.name,
                routes=self._brake.held,
                of=sum(self._occupied.values()),
                remedy="it goes when a second reading of the kernel asks for the same, or by hand",
            )
        return least, Urgency.REPLACE

    async def _rest(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    def _reading_due(self, now: float) -> bool:
        if self._verify:
            return True
        age = now - self._reading.started
        return (
            age >= self._limits.inventory_interval_s
            and not self._in_flight
            and not self._pending.ready(now, least=Urgency.ADD)
        )

    async def _read(self) -> None:
        reading = await self._contact.read()
        if not reading.inventory.rows:
            raise errors.OutcomeUnknown("GET /config/route/all: an empty table: it was restarted")
        self._absorb(reading)

    def _order_checks(self, now: float) -> None:
        """Order the next canary, or a sweep, when it is time and nothing else is to be done."""
        if self._in_flight or len(self._pending) - self._pending.count(Urgency.WITHDRAW) > len(self._over):
            return
        if now >= self._sweep_at:
            self._sweep_at = now + self._limits.sweep_interval_s
            for prefix in self._standing:
                self._pending.put(prefix, Urgency.CHECK, now=now)
        elif now >= self._canary_at and self._standing:
            self._canary_at = now + self._limits.canary_interval_s
            canary = next(self._canaries, None)
            if canary is None or canary not in self._standing:
                self._canaries = iter(tuple(self._standing))
                canary = next(self._canaries)
            self._pending.put(canary, Urgency.CHECK, now=now)

    def _launch(self, now: float, least: Urgency, most: Urgency) -> None:
        job = self._pending.pop(now, least=least, most=most)
        if job is None:
            self._bucket.give_back(now)
            return
        prefix, _ = job
        self._busy.add(prefix)
        task = asyncio.get_running_loop().create_task(self._carry_out(prefix))
        self._in_flight.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reconciler error", target=self.name, error=repr(error), exc_info=error)
            self._broken = errors.OutcomeUnknown(f"internal error: {error!r}")

    async def _carry_out(self, prefix: Prefix) -> None:
        entry = self._entries[prefix]
        try:
            await self._try(prefix, entry)
        finally:
            self._busy.discard(prefix)
        self._schedule(prefix, entry)

    async def _try(self, prefix: Prefix, entry: Entry) -> None:
        if not self._may_go(prefix, entry):
            self._bucket.give_back(self._now())
            return
        if entry.known is None:
            self._occupied[prefix.family] += 1  # room for what it may become
        try:
            if entry.need(prefix) is None:
                outcome = await self._changes.check(prefix, entry)
            else:
                outcome = await self._changes.make(prefix, entry, self._reading.inventory)
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
                self._verify.add(prefix)
            elif outcome is Outcome.RESTORED:
                log.warning("target had lost a route", target=self.name, prefix=str(prefix))
                self._sweep_at = self._now()
        if entry.known is None:
            self._make_room(prefix.family)

    def _may_go(self, prefix: Prefix, entry: Entry) -> bool:
        """Whether a change may be made now; if not, see to it that it will."""
        need = entry.need(prefix)
        if need is None:
            return prefix in self._standing
        if entry.must_delete:
            if not self._proven(prefix, entry):
                self._verify.add(prefix)
                return False
        elif entry.known is None and self._occupied[prefix.family] >= self._limits.capacity(prefix.family):
            entry.phase, entry.error = Phase.OVER_CAPACITY, "max_routes is reached"
            entry.failures = max(entry.failures, 1)
            self._over[prefix] = None
            return False
        return True

    def _make_room(self, family: Family) -> None:
        """One route less is, or may be, ours there: let one in that waits for room."""
        self._occupied[family] -= 1
        waiting = next((prefix for prefix in self._over if prefix.family is family), None)
        if waiting is not None:
            del self._over[waiting]
            self._entries[waiting].failures = 0
            self._schedule(waiting, self._entries[waiting])

    def _proven(self, prefix: Prefix, entry: Entry) -> bool:
        """Whether a fresh reading shows the route with our gateway, so that a DELETE takes ours."""
        return (
            entry.ours is not None
            and self._reading.started > entry.changed_at
            and self._now() - self._reading.started <= FRESH_S
            and self._reading.inventory.shows(prefix, entry.ours)
        )

    # -- what a reading says ----------------------------------------------------------------------------------------

    def _absorb(self, reading: Reading) -> None:
        self._reading = reading
        waiting, self._verify = self._verify, set()
        facts = TargetFacts.from_inventory(reading.inventory)
        facts_changed = facts != self.facts
        self.facts = facts
        for prefix, entry in list(self._entries.items()):
            finding = compare(entry, prefix, reading.inventory, reading.started)
            match finding:
                case Finding.CONFIRMED:
                    if (
                        entry.wanted
                        and entry.wanted.gateway == entry.ours
                        and entry.phase is not Phase.CONFIRMED
                    ):
                        entry.phase = Phase.CONFIRMED
                        self._changes.announce_confirmed(prefix, entry)
                case Finding.LOST:
                    self._changes.note_lost(prefix, entry)
                case Finding.FOREIGN:
                    self._changes.note_foreign(prefix, entry, describe_row(reading.inventory.rows[prefix]))
                case Finding.UNTOUCHED:
                    pass
            if facts_changed:
                if entry.phase is Phase.REFUSED:
                    entry.failures = 0  # its next hop may be on-link there by now
                self._rejudge(prefix, entry)
            elif prefix in waiting or finding is not Finding.UNTOUCHED:
                self._schedule(prefix, entry)
        self._occupied = dict.fromkeys(Family, 0)
        for prefix, entry in self._entries.items():
            if entry.known is not None:
                self._occupied[prefix.family] += 1

    def _note_rest(self) -> None:
        """When nothing is left to do now, say that the sync is complete, once."""
        if self._in_flight or self._verify or self._pending.ready(self._now(), least=Urgency.ADD):
            return
        waiting = len(self._pending) - self._pending.count(Urgency.CHECK)
        self._state = TargetState.SYNCING if waiting else TargetState.SYNCED
        if self._sync_began is None:
            return
        began, self._sync_began = self._sync_began, None
        posted, deleted = self._changes.totals
        self._sink.emit(
            SyncCompleted(
                target=self.name,
                routes=sum(1 for entry in self._entries.values() if entry.ours),
                posted=posted - self._sync_base[0],
                deleted=deleted - self._sync_base[1],
                duration_s=round(self._now() - began, 3),
            )
        )

    def view(self) -> TargetView:
        """How this target stands, for status and metrics."""
        return TargetView(
            name=self.name,
            url=self._client.url,
            state=self._state,
            version=self._version,
            error=self._error,
            wanted=sum(1 for entry in self._entries.values() if entry.wanted),
            phases=count_phases(self._entries),
            waiting=len(self._pending) + len(self._verify) + len(self._in_flight),
            oldest_s=self._pending.oldest_s(self._now()),
            braked=self._brake.held,
        )

    @property
    def entries(self) -> Mapping[Prefix, Entry]:
        """What is known of each prefix; to read only."""
        return self._entries
