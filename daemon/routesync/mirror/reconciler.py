"""The reconciler of one target: level-triggered, paced, and careful with what is not ours.

It is told the elected route of each prefix (`consider`), as often as that changes, and works towards a target that
has exactly the wanted ones. It never replays events: at the moment of doing, only the present wish counts.

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
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from routesync.events.models import EventSink, SyncCompleted, SyncFailed, SyncStarted, TargetDown, TargetUp
from routesync.kernel.surroundings import Link
from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.wire import Inventory
from routesync.mirror.book import NEVER, Entry, Finding, Phase, compare, count_phases, describe_row
from routesync.mirror.changes import Changes, Outcome
from routesync.mirror.ledger import Ledger, LedgerError
from routesync.mirror.pace import Ingestion, TokenBucket
from routesync.mirror.pending import Pending, Urgency
from routesync.mirror.status import TargetState, TargetView
from routesync.mirror.topology import Sharing, sharing
from routesync.mirror.wanted import TargetFacts, TargetRules, Wanted, judge
from routesync.route import Address, Candidate, Prefix

log = structlog.get_logger(__name__)

CONCURRENCY: Final = 8
FRESH_S: Final = 5.0
"""For so long a reading justifies a DELETE."""
READ_GAP_S: Final = 1.5
"""Between two readings: longer than the steps in which loxilb's table fills after a start."""
FLAP_S: Final = 1.0
"""At most one change per prefix in this time."""
RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 300.0
RECONNECT_MOST_S: Final = 30.0
UNKNOWNS_ALLOWED: Final = 3
"""So many answers in a row that make no sense, and the connection is begun anew."""


def backoff(failures: int, most_s: float, *, first_s: float = RETRY_FIRST_S) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, with jitter so that many do not return at once."""
    return min(most_s, first_s * 2.0 ** min(failures - 1, 16)) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)


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
        ledger: Ledger,
        sink: EventSink,
        links: Callable[[], Mapping[int, Link]],
        rate: float,
        burst: int,
        inventory_interval_s: float,
        startup_hold_s: float,
        target_addresses: Callable[[], frozenset[Address]] = frozenset,
    ) -> None:
        self.name = name
        self.contacted = asyncio.Event()  # answered, or failed to, at least once
        self.facts = TargetFacts()
        self._client = client
        self._rules = rules
        self._ledger = ledger
        self._sink = sink
        self._links = links
        self._target_addresses = target_addresses
        self._inventory_interval_s = inventory_interval_s
        self._startup_hold_s = startup_hold_s
        self._entries: dict[Prefix, Entry] = {}
        self._pending = Pending()
        self._verify: set[Prefix] = set()  # these wait for a reading
        self._inventory = Inventory({}, 0)
        self._read_at = float("-inf")
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
        self._bucket = TokenBucket(rate, burst, self._now())
        self._changes = Changes(
            name, client=client, ledger=ledger, sink=sink, ingestion=self._ingestion, bucket=self._bucket
        )
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
        if candidate is not None:
            entry.hold_until = NEVER  # the kernel has it: from now on its going means something
        entry.candidate = candidate
        self._rejudge(prefix, entry)
        self._wake.set()

    def retain(self, prefixes: Iterable[Prefix]) -> None:
        """Take what is not among these prefixes as gone: for a table that is given as a whole."""
        for prefix in self._entries.keys() - set(prefixes):
            self.consider(prefix, None)

    def load_ledger(self, now: float) -> None:
        """Take up what the ledger says may be ours. What nobody wants is withdrawn after the start-up hold."""
        for prefix, row in self._ledger.owned(self.name).items():
            entry = self._entries.setdefault(prefix, Entry())
            entry.claim = row.gateway
            entry.hold_until = now + self._startup_hold_s
            self._schedule(prefix, entry)

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
            self._pending.discard(prefix)
            self._verify.discard(prefix)
            if entry.idle:
                self._entries.pop(prefix, None)
            elif entry.wanted is None:
                entry.phase = Phase.BLOCKED
            elif entry.phase not in {Phase.CONFIRMED, Phase.PRESENT}:
                entry.phase = Phase.ACCEPTED
            return
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
            not_before = now + backoff(entry.failures, RETRY_MOST_S)
        elif entry.changed_at + FLAP_S > now:
            not_before = entry.changed_at + FLAP_S
        self._pending.put(prefix, need, not_before=not_before)

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
        delay = backoff(self._failures, RECONNECT_MOST_S, first_s=0.5)
        text = str(error)
        if self._state is not TargetState.UNREACHABLE:
            hint = "; set token_file for this target" if isinstance(error, errors.AccessDenied) else ""
            log.warning("target down", target=self.name, url=self._client.url, error=text + hint)
            self._sink.emit(TargetDown(target=self.name, url=self._client.url, error=text))
            if self._sync_began is not None:
                self._sink.emit(SyncFailed(target=self.name, error=text, retry_in_s=round(delay, 1)))
        self._state, self._error, self._broken = TargetState.UNREACHABLE, text, None
        self._sync_began = None
        self.contacted.set()
        await asyncio.sleep(delay)

    async def _connect(self) -> None:
        version = await self._client.version()
        while (shared := await self._shares_namespace()) is not Sharing.NO:
            self._say_waiting(shared)
            self.contacted.set()
            await asyncio.sleep(READ_GAP_S if shared is Sharing.UNKNOWN else RECONNECT_MOST_S)
        await self._settle()
        if self._state is TargetState.UNREACHABLE or self._version is None:
            log.info("target up", target=self.name, url=self._client.url, version=version)
            self._sink.emit(TargetUp(target=self.name, url=self._client.url, version=version))
        self._version, self._failures, self._unknowns, self._error = version, 0, 0, None
        self._state = TargetState.SYNCING
        self._sync_began, self._sync_base = self._now(), self._changes.totals
        wanted = sum(1 for entry in self._entries.values() if entry.wanted)
        self._sink.emit(SyncStarted(target=self.name, wanted=wanted))
        self.contacted.set()

    async def _shares_namespace(self) -> Sharing:
        return sharing(await self._client.ports(), self._links())

    def _say_waiting(self, shared: Sharing) -> None:
        state, text = {
            Sharing.YES: (
                TargetState.SHARED_NAMESPACE,
                "it shares this host's network namespace and reads its routes by itself; nothing is mirrored into it",
            ),
            Sharing.UNKNOWN: (TargetState.STARTING, "it lists no ports yet, so where it lives is not known"),
        }[shared]
        if self._state is not state:
            log.warning("target not mirrored into", target=self.name, url=self._client.url, why=text)
        self._state, self._error = state, text

    async def _settle(self) -> None:
        """Read its table until two readings agree and are not empty: after a start it is empty, then fills.

        Reading while it fills is dangerous, too, so it is done ever more seldom.
        """
        count, gap_s = -1, READ_GAP_S
        while True:
            await self._sleep_quiet()
            started = self._now()
            inventory = await self._client.inventory()
            if inventory.rows and len(inventory.rows) == count:
                self._absorb(inventory, started)
                return
            count = len(inventory.rows)
            if not count and self._state is not TargetState.STARTING:
                self._state, self._error = TargetState.STARTING, "its table is empty: it is still starting"
            await asyncio.sleep(gap_s)
            gap_s = min(gap_s * 1.5, RECONNECT_MOST_S)

    async def _sleep_quiet(self) -> None:
        while (wait := self._ingestion.quiet_in(self._now())) > 0:  # noqa: ASYNC110 (the clock is what we wait for)
            await asyncio.sleep(wait)

    async def _work(self) -> None:
        """Serve the waiting work until the connection is found broken."""
        while True:
            if self._broken is not None:
                raise self._broken
            now = self._now()
            waits: list[float] = []
            if self._reading_due(now):
                wait = max(self._ingestion.quiet_in(now), self._read_at + READ_GAP_S - now)
                if self._in_flight:
                    pass  # the last of them wakes us
                elif wait > 0:
                    waits.append(wait)
                else:
                    await self._read()
                    continue
            least = Urgency.REPLACE if self._verify else Urgency.ADD
            if len(self._in_flight) < CONCURRENCY and self._pending.ready(now, least=least):
                wait = self._bucket.take(now)
                if wait <= 0:
                    self._launch(now, least)
                    continue
                waits.append(wait)
            elif (due := self._pending.next_due()) is not None and due > now:
                waits.append(due - now)
            self._note_rest()
            waits.append(self._inventory_interval_s)
            await self._rest(min(waits))

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
        age = now - self._read_at
        return age >= self._inventory_interval_s and not self._in_flight and not self._pending.ready(now)

    async def _read(self) -> None:
        started = self._now()
        inventory = await self._client.inventory()
        if not inventory.rows:
            raise errors.OutcomeUnknown("GET /config/route/all: an empty table: it was restarted")
        self._absorb(inventory, started)

    def _launch(self, now: float, least: Urgency) -> None:
        job = self._pending.pop(now, least=least)
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
        try:
            await self._try(prefix, self._entries[prefix])
        finally:
            self._busy.discard(prefix)
        self._schedule(prefix, self._entries[prefix])

    async def _try(self, prefix: Prefix, entry: Entry) -> None:
        need = entry.need(prefix)
        if need is None or (need <= Urgency.REPLACE and not self._proven(prefix, entry)):
            self._bucket.give_back(self._now())
            if need is not None:
                self._verify.add(prefix)
            return
        try:
            outcome = await self._changes.make(prefix, entry, need, self._inventory)
        except (errors.NotSent, errors.AccessDenied) as error:
            self._broken = error
        except LedgerError as error:
            self._broken = errors.NotSent(str(error))
        except errors.OutcomeUnknown as error:
            self._unknowns += 1
            entry.failures += 1
            entry.error = str(error)
            if self._unknowns >= UNKNOWNS_ALLOWED:
                self._broken = error
        else:
            self._unknowns = 0
            if outcome is Outcome.DOUBTFUL:
                self._verify.add(prefix)

    def _proven(self, prefix: Prefix, entry: Entry) -> bool:
        """Whether a fresh reading shows the route with our gateway, so that a DELETE takes ours."""
        return (
            entry.ours is not None
            and self._read_at > entry.changed_at
            and self._now() - self._read_at <= FRESH_S
            and self._inventory.shows(prefix, entry.ours)
        )

    # -- what a reading says ----------------------------------------------------------------------------------------

    def _absorb(self, inventory: Inventory, started: float) -> None:
        self._inventory, self._read_at = inventory, started
        waiting, self._verify = self._verify, set()
        facts = TargetFacts.from_inventory(inventory)
        facts_changed = facts != self.facts
        self.facts = facts
        for prefix, entry in list(self._entries.items()):
            finding = compare(entry, prefix, inventory, started)
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
                    self._changes.note_foreign(prefix, entry, describe_row(inventory.rows[prefix]))
                case Finding.UNTOUCHED:
                    pass
            if facts_changed:
                if entry.phase is Phase.REFUSED:
                    entry.failures = 0  # its next hop may be on-link there by now
                self._rejudge(prefix, entry)
            elif prefix in waiting or finding in {Finding.LOST, Finding.FOREIGN}:
                self._schedule(prefix, entry)

    def _note_rest(self) -> None:
        """When nothing is left to do now, say that the sync is complete, once."""
        if self._in_flight or self._verify or self._pending.ready(self._now()):
            return
        self._state = TargetState.SYNCED if not len(self._pending) else TargetState.SYNCING
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
        )

    @property
    def entries(self) -> Mapping[Prefix, Entry]:
        """What is known of each prefix; to read only."""
        return self._entries
