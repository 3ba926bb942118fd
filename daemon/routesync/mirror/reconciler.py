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

import structlog

from routesync.events.models import EventSink, TargetPaused, TargetResumed
from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.alarms import LOOK_S, Alarms
from routesync.mirror.announce import Announcer
from routesync.mirror.book import NEVER, Entry
from routesync.mirror.brakes import Limits
from routesync.mirror.changes import Changes
from routesync.mirror.contact import Reading
from routesync.mirror.hold import Hold
from routesync.mirror.horizon import Horizon
from routesync.mirror.ledger import Ledger, Row
from routesync.mirror.measures import Measures
from routesync.mirror.pace import Ingestion, TokenBucket
from routesync.mirror.session import Session
from routesync.mirror.status import Counters, TargetView
from routesync.mirror.tripwire import Tripwire
from routesync.mirror.wanted import Blocked, TargetFacts, TargetRules, Wanted, judge
from routesync.mirror.witness import Witness
from routesync.mirror.worklist import WITNESS_LAG_S, Worklist
from routesync.route import Address, Candidate, Family, Prefix, Route

log = structlog.get_logger(__name__)


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
        self._client = client
        self._rules = rules
        self._ledger = ledger
        self._sink = sink
        self._horizon = horizon or Horizon([client.url])
        self._hold = hold or Hold(None, name)
        self._witness = witness
        self._resumed = asyncio.Event()
        self._resumed_at = NEVER
        self._serving: asyncio.Task[None] | None = None
        self._bucket = TokenBucket(limits.rate, limits.burst, self._now())
        self._measures = Measures()
        self._say = Announcer(name, sink, self._measures)
        self._tripwire = Tripwire(self._tripped, self._now)
        self._counters = Counters()
        ingestion = Ingestion(self._now())
        changes = Changes(
            name,
            client=client,
            ledger=ledger,
            say=self._say,
            ingestion=ingestion,
            bucket=self._bucket,
            counters=self._counters,
            tripwire=self._tripwire,
        )
        self._work = Worklist(
            changes,
            self._say,
            judge=self._judge,
            limits=limits,
            now=self._now,
            request_kernel_reading=request_kernel_reading,
            witness=witness,
        )
        self._session = Session(
            name,
            client,
            self._work,
            changes,
            self._counters,
            limits=limits,
            sink=sink,
            links=links,
            horizon=self._horizon,
            ingestion=ingestion,
            bucket=self._bucket,
            witness=witness,
            tripwire=self._tripwire,
        )
        self._alarms = Alarms(name, self._work, sink)
        self._horizon.join(name, self.rejudge)
        if self._hold.since is not None:
            self._enter_hold()
        else:
            self._resumed.set()

    @property
    def contacted(self) -> asyncio.Event:
        """Set when it answered, or failed to, at least once; or when it is held."""
        return self._session.contacted

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def consider(self, prefix: Prefix, candidate: Candidate | None, asked_at: float | None = None) -> None:
        """Take the elected route of a prefix; None: there is none any more. Cheap, and never blocks.

        `asked_at` is when that change was read off the kernel, in monotonic seconds; None: it was none of the kernel.
        """
        self._work.consider(prefix, candidate, asked_at)
        self._session.wake.set()

    def retain(self, prefixes: Iterable[Prefix]) -> None:
        """Take what is not among these prefixes as gone: for a table that is given as a whole."""
        self._work.retain(prefixes)
        self._session.wake.set()

    def load_ledger(self) -> None:
        """Take up what the ledger says may be ours. What nobody wants is withdrawn after the start-up hold."""
        self._work.claim(self._ledger.owned(self.name).items())
        self._session.wake.set()

    def reconfigure(self, rules: TargetRules, limits: Limits) -> None:
        """Take other rules and limits from now on: every route is judged anew, and what differs is done.

        Routes that stand there stay, also where `max_routes` is less than their number now.
        """
        self._rules = rules
        self._bucket.change(limits.rate, limits.burst, self._now())
        self._session.reconfigure(limits)
        self._work.reconfigure(limits)
        self.rejudge()

    def overhear(self, route: Route) -> None:
        """Our own kernel says that a route was made where none had its key: is it one that we posted? Cheap."""
        self._tripwire.heard(route)

    def _tripped(self) -> None:
        self._session.crew.broken = self._tripwire.error
        self._session.wake.set()

    def rejudge(self) -> None:
        """Judge every elected route anew: what is known of targets changed."""
        self._work.rejudge()
        self._session.wake.set()

    def order_sweep(self) -> None:
        """Have all routes of ours posted again, as a proof that they stand there, when nothing else is to be done."""
        self._session.order_sweep()

    def kernel_was_read(self, began: float) -> None:
        """The kernel's table was read anew, from that moment on, and what that changed was considered."""
        self._alarms.kernel_was_read(self._now())
        held = self._work.brake.held
        if self._work.brake.second_reading(self._work.pending, began):
            self._say.released(held, "second-reading")
            self._session.wake.set()

    def release(self) -> int:
        """Let a mass withdrawal go that is held back; tell how many routes that is about."""
        held = self._work.brake.held
        if held:
            self._work.brake.release()
            self._say.released(held, "hand")
            self._session.wake.set()
        return held

    def adopt(self, prefixes: Collection[Prefix] = ()) -> int:
        """Claim the routes there that equal the wanted ones and are not ours; tell how many these are.

        They are ours when a reading shows that they stand there still. Without prefixes: all of them.
        """
        adopted = self._work.adopt(set(prefixes), self._note)
        self._session.wake.set()
        return adopted

    def _note(self, prefix: Prefix, gateway: Address) -> None:
        self._ledger.note(self.name, prefix, Row(gateway))

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
        self._session.enter_hold(
            f"paused by hand since {since:%Y-%m-%d %H:%M:%S} UTC: it is left as it is until it is resumed"
        )
        self._resumed.clear()
        if self._serving is not None:
            self._serving.cancel()

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
        self._session.leave_hold()
        self._resumed_at = self._now()
        self._resumed.set()
        return trouble

    async def at_rest(self) -> None:
        """Return when no request is under way."""
        await self._session.crew.settle()

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
                await self._session.crew.settle()
                if self.paused:  # again
                    continue
                self._serving = asyncio.create_task(self._session.run())
                await asyncio.wait([self._serving])
                if not self._serving.cancelled():
                    self._serving.result()
        finally:
            tasks = [*others, *([self._serving] if self._serving else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._session.crew.cancel()

    async def _look_out(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if not self.paused:
                self._alarms.look(self._now(), self._session.limits, self._oldest_s(), self._session.error)

    def _witnessed(self, prefix: Prefix) -> None:
        if self._work.witnessed(prefix):
            asyncio.get_running_loop().call_later(WITNESS_LAG_S, self._witnessed, prefix)
        self._session.wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # -- how it stands ----------------------------------------------------------------------------------------------

    def _oldest_s(self) -> float:
        now = self._now()
        return 0.0 if self.paused else min(self._work.oldest_s(now), now - self._resumed_at)

    def view(self) -> TargetView:
        """How this target stands, for status and metrics."""
        work, now = self._work, self._now()
        return TargetView(
            name=self.name,
            url=self._client.url,
            state=self._session.state,
            version=self._session.version,
            error=self._session.error,
            wanted=work.tally.wanted,
            phases=work.tally.phases.copy(),
            waiting=work.waiting + len(self._session.crew),
            oldest_s=self._oldest_s(),
            braked=work.brake.held,
            paused=self.paused,
            paused_since=self._hold.since,
            held_at_start=work.held_at_start(now),
            over_capacity=len(work.over),
            overdue=self._alarms.overdue and not self.paused,
            unreachable_gateways=self._session.unreachable_gateways,
            by_urgency=work.pending.counts,
            in_flight=len(self._session.crew),
            breaker=self._session.breaker,
            counters=replace(self._counters),
            requests=self._client.requests.copy(),
            durations=self._client.durations,
            occupied=work.occupied_by_family,
            capacity={family: self._session.limits.capacity(family) for family in Family},
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
