"""The reconciler of one target: level-triggered, paced, and careful with what is not ours.

It is told the elected route of each prefix (`consider`), as often as that changes, and works towards a target that has
exactly the wanted ones. It never replays events: at the moment of doing, only the present wish counts.

Concurrency: one task (a session of `run`) decides everything; requests run as child tasks (the crew), never two for one
prefix. All of it, `consider` included, belongs to one event loop.

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
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal

import structlog

from routesync.events.models import (
    EventSink,
    SyncCompleted,
    SyncFailed,
    SyncStarted,
    TargetDown,
    TargetPaused,
    TargetRefused,
    TargetResumed,
    TargetUp,
)
from routesync.kernel import Link
from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.alarms import LOOK_S, Alarms
from routesync.mirror.announce import Announcer
from routesync.mirror.book import NEVER, STATIC, Entry, our_protocols
from routesync.mirror.brakes import Limits
from routesync.mirror.changes import Changes
from routesync.mirror.checks import Checks
from routesync.mirror.contact import PATIENCE_S, Contact, Reading
from routesync.mirror.crew import Crew
from routesync.mirror.hold import Hold
from routesync.mirror.horizon import Horizon
from routesync.mirror.ledger import Ledger
from routesync.mirror.measures import Measures
from routesync.mirror.pace import Ingestion, TokenBucket
from routesync.mirror.pending import Urgency
from routesync.mirror.status import Breaker, Counters, TargetState, TargetView
from routesync.mirror.tripwire import OwnRouteSeenError, Tripwire
from routesync.mirror.wanted import Blocked, TargetFacts, TargetRules, Wanted, judge
from routesync.mirror.witness import Witness
from routesync.mirror.worklist import WITNESS_LAG_S, Worklist, backoff
from routesync.names import PROTOCOLS
from routesync.route import Address, Candidate, Family, Prefix, Route

log = structlog.get_logger(__name__)

RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 30.0


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
        horizon: Horizon | None = None,
        request_kernel_reading: Callable[[], None] = lambda: None,
        witness: Witness | None = None,
        hold: Hold | None = None,
    ) -> None:
        self.name = name
        self.contacted = asyncio.Event()  # answered, or failed to, at least once; or is held
        self._client = client
        self._rules = rules
        self._limits = limits
        self._ledger = ledger
        self._sink = sink
        self._horizon = horizon or Horizon([client.url])
        self._hold = hold or Hold(None, name)
        self._state = TargetState.CONNECTING
        self._error: str | None = None
        self._version: str | None = None
        self._failures = 0
        self._resumed_at = NEVER
        self._wake = asyncio.Event()
        self._session: asyncio.Task[None] | None = None
        self._resumed = asyncio.Event()
        self._ingestion = Ingestion(self._now())
        self._bucket = TokenBucket(limits.rate, limits.burst, self._now())
        self._contact = Contact(
            client, links, self._ingestion, gap_s=limits.reading_gap_s, say=self._say_waiting
        )
        self._measures = Measures()
        self._say = Announcer(name, sink, self._measures)
        self._counters = Counters()
        self._tripwire = Tripwire(self._tripped, self._now)
        self._changes = Changes(
            name,
            client=client,
            ledger=ledger,
            say=self._say,
            ingestion=self._ingestion,
            bucket=self._bucket,
            counters=self._counters,
            tripwire=self._tripwire,
        )
        self._work = Worklist(
            self._changes,
            self._say,
            judge=self._judge,
            limits=limits,
            now=self._now,
            request_kernel_reading=request_kernel_reading,
            witness=witness,
        )
        self._crew = Crew(
            name,
            self._work,
            self._changes,
            self._bucket,
            now=self._now,
            landed=self._wake.set,
            reading_due=self._reading_due,
            restored=self._restored,
        )
        self._checks = Checks(self._work, self._counters)
        self._alarms = Alarms(name, self._work, sink)
        self._witness = witness
        self._sync_began: float | None = None
        self._sync_base = (0, 0)
        self._horizon.join(name, self.rejudge)
        if self._hold.since is not None:
            self._enter_hold()
        else:
            self._resumed.set()

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

    def reconfigure(self, rules: TargetRules, limits: Limits) -> None:
        """Take other rules and limits from now on: every route is judged anew, and what differs is done.

        Routes that stand there stay, also where `max_routes` is less than their number now.
        """
        self._rules, self._limits = rules, limits
        self._bucket.change(limits.rate, limits.burst, self._now())
        self._checks.reconfigure(self._now(), limits)
        self._work.reconfigure(limits)
        self.rejudge()

    def overhear(self, route: Route) -> None:
        """Our own kernel says that a route was made where none had its key: is it one that we posted? Cheap."""
        self._tripwire.heard(route)

    def rejudge(self) -> None:
        """Judge every elected route anew: what is known of targets changed."""
        self._work.rejudge()
        self._wake.set()

    def order_sweep(self) -> None:
        """Have all routes of ours posted again, as a proof that they stand there, when nothing else is to be done."""
        self._checks.sweep_soon(self._now())
        self._wake.set()

    def kernel_was_read(self, began: float) -> None:
        """The kernel's table was read anew, from that moment on, and what that changed was considered."""
        self._alarms.kernel_was_read(self._now())
        held = self._work.brake.held
        if self._work.brake.second_reading(self._work.pending, began):
            self._say.released(held, "second-reading")
            self._wake.set()

    def release(self) -> int:
        """Let a mass withdrawal go that is held back; tell how many routes that is about."""
        held = self._work.brake.held
        if held:
            self._work.brake.release()
            self._say.released(held, "hand")
            self._wake.set()
        return held

    def adopt(self, prefixes: Collection[Prefix] = ()) -> int:
        """Claim the routes there that equal the wanted ones and are not ours; tell how many these are.

        They are ours when a reading shows that they stand there still. Without prefixes: all of them.

        Raises:
            LedgerError: the claim cannot be written.
        """
        adopted = self._work.adopt(set(prefixes), partial(self._ledger.intend, self.name))
        self._wake.set()
        return adopted

    def _judge(self, candidate: Candidate, facts: TargetFacts) -> Wanted | Blocked:
        return judge(candidate, self._rules, facts, self._horizon.addresses)

    # -- a hold -----------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether somebody holds the target."""
        return self._hold.since is not None

    def pause(self) -> str | None:
        """Leave the target exactly as it is until `resume`, over restarts of the daemon too.

        Nothing is begun any more, neither written nor read; what is under way is finished, the second half of a
        replacement too (`at_rest` tells when). Changes are considered all the while, so that afterwards only the
        difference is made.

        Returns:
            Why the hold would not survive a restart, or None.

        """
        trouble = None
        if self._hold.since is None:
            trouble = self._hold.set()
            self._enter_hold()
            self._say_paused(trouble)
        return trouble

    def _say_paused(self, trouble: str | None) -> None:
        log.warning("target_paused", target=self.name, url=self._client.url, trouble=trouble)
        self._sink.emit(TargetPaused(target=self.name))

    def _enter_hold(self) -> None:
        since = datetime.fromtimestamp(self._hold.since or time.time(), UTC)
        self._state = TargetState.PAUSED
        self._error = (
            f"paused by hand since {since:%Y-%m-%d %H:%M:%S} UTC: it is left as it is until it is resumed"
        )
        self._crew.halted = True
        self._sync_began = None
        self._resumed.clear()
        self.contacted.set()
        if self._session is not None:
            self._session.cancel()

    def resume(self) -> str | None:
        """End the hold: make contact anew, and make the difference that has come up.

        Returns:
            Why the hold would come back with a restart, or None.

        """
        if self._hold.since is None:
            return None
        held_s = max(0.0, time.time() - self._hold.since)
        trouble = self._hold.lift()
        log.warning("target_resumed", target=self.name, url=self._client.url, trouble=trouble)
        self._sink.emit(TargetResumed(target=self.name, paused_s=round(held_s, 1)))
        self._state, self._error, self._failures = TargetState.CONNECTING, None, 0
        self._resumed_at = self._now()
        self._resumed.set()
        return trouble

    async def at_rest(self) -> None:
        """Return when no request is under way."""
        await self._crew.settle()

    # -- the eternal task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, work, and when the connection breaks begin again. Returns never."""
        if self.paused:  # since an earlier life
            self._say_paused(None)
        others = [asyncio.create_task(self._look_out())]
        if self._witness is not None:
            others.append(asyncio.create_task(self._witness.run(self._witnessed)))
        try:
            while True:
                await self._resumed.wait()
                await self._crew.settle()
                if self.paused:  # again
                    continue
                self._crew.halted = False
                self._session = asyncio.create_task(self._serve_on())
                await asyncio.wait([self._session])
                if not self._session.cancelled():
                    self._session.result()
        finally:
            tasks = [*others, *([self._session] if self._session else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._crew.cancel()

    async def _serve_on(self) -> None:
        """One session, from a start or the end of a hold until the next hold."""
        while True:
            try:
                await self._connect()
                await self._serve()
            except OwnRouteSeenError as error:
                await self._refuse(error)
            except errors.LoxilbError as error:
                await self._rest_after(error)

    async def _look_out(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if not self.paused:
                self._alarms.look(self._now(), self._limits, self._oldest_s(), self._error)

    def _witnessed(self, prefix: Prefix) -> None:
        if self._work.witnessed(prefix):
            asyncio.get_running_loop().call_later(WITNESS_LAG_S, self._witnessed, prefix)
        self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _rest_after(self, error: errors.LoxilbError) -> None:
        await self._crew.settle()  # what they learn is worth the wait
        self._failures += 1
        delay = backoff(self._failures, RECONNECT_FIRST_S, RECONNECT_MOST_S)
        text = str(error)
        if isinstance(error, errors.AccessDenied):
            text += "; set token_file for this target"
        if self._state is not TargetState.UNREACHABLE:
            log.warning("target_down", target=self.name, url=self._client.url, error=text)
            self._sink.emit(TargetDown(target=self.name, url=self._client.url, error=text))
            if self._sync_began is not None:
                self._sink.emit(SyncFailed(target=self.name, error=text, retry_in_s=round(delay, 1)))
        self._state, self._error = TargetState.UNREACHABLE, text
        self._sync_began = None
        self.contacted.set()
        await asyncio.sleep(delay)

    def _tripped(self) -> None:
        self._crew.broken = self._tripwire.error
        self._wake.set()

    async def _refuse(self, error: OwnRouteSeenError) -> None:
        """It lives in our own namespace after all: undo what came up here, and begin anew with its ports."""
        await self._crew.settle()
        self._contact.disprove()
        seen, self._tripwire.seen = self._tripwire.seen, {}
        left = [str(prefix) for prefix, gateway in seen.items() if not await self._take_back(prefix, gateway)]
        log.error("target_refused", target=self.name, url=self._client.url, reason=str(error), left=left)
        self._state = TargetState.SHARED_NAMESPACE
        self._error = str(error)
        self._sync_began = None
        self._say_refused("own-route-seen", str(error))
        self.contacted.set()
        await asyncio.sleep(PATIENCE_S)

    async def _take_back(self, prefix: Prefix, gateway: Address) -> bool:
        """Delete a route of ours that came up here; tell whether it is gone.

        Of IPv4 it is the only one with metric 0, as it could be made, so DELETE takes it. Of IPv6 there may be one with
        a lower metric than 1024, which DELETE would take instead.
        """
        entry = self.entries.get(prefix)
        if entry is None or entry.ours != gateway or prefix.family is not Family.INET:
            return False
        try:
            await self._changes.take_back(prefix, entry)
        except errors.LoxilbError as error:
            log.warning("route_not_taken_back", target=self.name, prefix=str(prefix), error=str(error))
            return False
        self._work.schedule(prefix, entry)
        return True

    def _say_refused(self, reason: Literal["shared-namespace", "own-route-seen"], detail: str) -> None:
        self._sink.emit(TargetRefused(target=self.name, url=self._client.url, reason=reason, detail=detail))

    async def _connect(self) -> None:
        version, reading = await self._contact.make()
        self._counters.connections += 1
        self._counters.readings += 2
        self._changes.protocols = our_protocols(version)
        self._tripwire.protocols = frozenset(PROTOCOLS.get(word, -1) for word in self._changes.protocols)
        if self._witness is not None:
            self._witness.honours_static = self._changes.protocols == STATIC
        self._absorb(reading)
        if self._state in {TargetState.UNREACHABLE, TargetState.SHARED_NAMESPACE} or self._version is None:
            log.info("target_up", target=self.name, url=self._client.url, version=version)
            self._sink.emit(TargetUp(target=self.name, url=self._client.url, version=version))
        self._version, self._failures, self._error = version, 0, None
        self._crew.start_anew()
        self._state = TargetState.SYNCING
        self._sync_began, self._sync_base = self._now(), (self._counters.posted, self._counters.deleted)
        self._checks.sweep_soon(self._now())
        self._sink.emit(SyncStarted(target=self.name, wanted=self._work.tally.wanted))
        self.contacted.set()

    def _say_waiting(self, state: TargetState, why: str) -> None:
        if self._state is not state:
            log.warning("target_not_mirrored", target=self.name, url=self._client.url, reason=why)
            if state is TargetState.SHARED_NAMESPACE:
                self._say_refused("shared-namespace", why)
        self._state, self._error = state, why
        self.contacted.set()

    async def _serve(self) -> None:
        """Serve the waiting work until the connection is found broken."""
        pending = self._work.pending
        while True:
            if (error := self._tripwire.error or self._crew.broken) is not None:
                raise error
            now = self._now()
            wait_s = self._limits.canary_interval_s
            if self._reading_due(now):
                quiet_in = max(
                    self._ingestion.quiet_in(now), self._read_at + self._limits.reading_gap_s - now
                )
                if not len(self._crew) and quiet_in <= 0:
                    await self._read()
                    continue
                wait_s = min(wait_s, quiet_in) if quiet_in > 0 else wait_s
            if not len(self._crew):
                self._checks.order(now, self._limits)
            token_in = self._crew.send(now)
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
        return old and not len(self._crew) and not self._work.pending.ready(now, least=Urgency.ADD)

    async def _read(self) -> None:
        reading = await self._contact.read()
        self._counters.readings += 1
        if not reading.inventory.rows:
            raise errors.OutcomeUnknown("GET /config/route/all: an empty table: it was restarted")
        self._absorb(reading)

    def _absorb(self, reading: Reading) -> None:
        self._work.absorb(reading)
        self._horizon.see(self.name, self._work.facts.addresses)

    def _restored(self, prefix: Prefix) -> None:
        """A check made a route anew that had been lost: a sweep finds the others."""
        if self._checks.sweep_soon(self._now()):
            log.warning("target_lost_route", target=self.name, prefix=str(prefix))
        self._wake.set()

    def _note_rest(self) -> None:
        """When nothing is left to do now, say that the sync is complete, once."""
        work = self._work
        if len(self._crew) or work.verify or work.pending.ready(self._now(), least=Urgency.ADD):
            return
        waiting = len(work.pending) - work.pending.count(Urgency.CHECK)
        self._state = TargetState.SYNCING if waiting else TargetState.SYNCED
        if self._sync_began is None:
            return
        began, self._sync_began = self._sync_began, None
        self._sink.emit(
            SyncCompleted(
                target=self.name,
                routes=sum(1 for entry in self.entries.values() if entry.ours),
                posted=self._counters.posted - self._sync_base[0],
                deleted=self._counters.deleted - self._sync_base[1],
                duration_s=round(self._now() - began, 3),
            )
        )

    # -- how it stands ----------------------------------------------------------------------------------------------

    def _oldest_s(self) -> float:
        now = self._now()
        return 0.0 if self.paused else min(self._work.oldest_s(now), now - self._resumed_at)

    @property
    def _breaker(self) -> Breaker:
        if self._state in {TargetState.UNREACHABLE, TargetState.PAUSED}:
            return "open"
        return "closed" if self._state in {TargetState.SYNCING, TargetState.SYNCED} else "half-open"

    def view(self) -> TargetView:
        """How this target stands, for status and metrics."""
        work, now = self._work, self._now()
        return TargetView(
            name=self.name,
            url=self._client.url,
            state=self._state,
            version=self._version,
            error=self._error,
            wanted=work.tally.wanted,
            phases=work.tally.phases.copy(),
            waiting=work.waiting + len(self._crew),
            oldest_s=self._oldest_s(),
            braked=work.brake.held,
            paused=self.paused,
            paused_since=self._hold.since,
            held_at_start=work.held_at_start(now),
            over_capacity=len(work.over),
            overdue=self._alarms.overdue and not self.paused,
            by_urgency=work.pending.counts,
            in_flight=len(self._crew),
            breaker=self._breaker,
            counters=replace(self._counters),
            requests=self._client.requests.copy(),
            durations=self._client.durations,
            occupied=work.occupied_by_family,
            capacity={family: self._limits.capacity(family) for family in Family},
            measures=self._measures,
            token_wait_s=self._bucket.waited_s,
        )

    @property
    def facts(self) -> TargetFacts:
        """What is known of the target's own place in the network."""
        return self._work.facts

    @property
    def reading(self) -> Reading | None:
        """Its table as it was last read; None: not yet."""
        return self._work.reading

    def witness_shows(self, prefix: Prefix) -> bool | None:
        """Whether its kernel has the route of ours now; None: there is no witness, or nothing of ours to look for."""
        entry = self.entries.get(prefix)
        if self._witness is None or not self._witness.ready or entry is None or entry.known is None:
            return None
        return self._witness.shows(prefix, entry.known)

    @property
    def entries(self) -> Mapping[Prefix, Entry]:
        """What is known of each prefix; to read only."""
        return self._work.entries
