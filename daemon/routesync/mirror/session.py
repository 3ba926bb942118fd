"""A session with one target: contact, then work until the connection breaks, then contact anew.

Complicating factors, observed on a real loxilb: 2xx means that its kernel took the route, and its table shows it later,
at 256 a second; reading the table before it has can crash it. So reading waits for quiet, and while somebody waits for
a reading, new routes wait too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog

from routesync.events.models import (
    EventSink,
    SyncCompleted,
    SyncFailed,
    SyncStarted,
    TargetDown,
    TargetRefused,
    TargetUp,
)
from routesync.kernel import Link
from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.book import NEVER, STATIC, Entry, our_protocols
from routesync.mirror.brakes import Limits
from routesync.mirror.changes import Changes, Outcome
from routesync.mirror.checks import Checks
from routesync.mirror.contact import PATIENCE_S, Contact, Reading
from routesync.mirror.crew import Crew
from routesync.mirror.pace import Ingestion, TokenBucket, rest
from routesync.mirror.pending import Urgency
from routesync.mirror.status import Breaker, Counters, TargetState
from routesync.mirror.targets_addresses import TargetsAddresses
from routesync.mirror.tripwire import OwnRouteSeenError, Tripwire
from routesync.mirror.witness import Witness
from routesync.mirror.worklist import Worklist, backoff
from routesync.names import PROTOCOLS
from routesync.route import Address, Family, Prefix, format_address

log = structlog.get_logger(__name__)

RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 30.0


class Session:
    """The sessions with one target, one after the other.

    Attributes:
        state: what it is doing.
        error: why it is not doing better, in one line.
        version: of the target, once it was contacted.
        limits: how the target is treated; may be replaced.
        contacted: it answered, or failed to, at least once; or it is held.
        wake: set whenever something changed that the session may wait for.
        crew: the requests under way.
    """

    def __init__(
        self,
        name: str,
        client: LoxilbClient,
        work: Worklist,
        changes: Changes,
        counters: Counters,
        *,
        limits: Limits,
        sink: EventSink,
        links: Callable[[], Mapping[int, Link]],
        targets_addresses: TargetsAddresses,
        ingestion: Ingestion,
        bucket: TokenBucket,
        witness: Witness | None,
        tripwire: Tripwire,
    ) -> None:
        self.state = TargetState.CONNECTING
        self.error: str | None = None
        self.version: str | None = None
        self.limits = limits
        self.contacted = asyncio.Event()
        self.wake = asyncio.Event()
        self._name = name
        self._client = client
        self._work = work
        self._changes = changes
        self._counters = counters
        self._sink = sink
        self._targets_addresses = targets_addresses
        self._ingestion = ingestion
        self._witness = witness
        self._tripwire = tripwire
        self._failures = 0
        self._said: set[TargetState] = set()  # the troubles that were said since there was contact
        self._sync_began: float | None = None
        self._sync_base = (0, 0)
        self._contact = Contact(client, links, ingestion, gap_s=limits.reading_gap_s, say=self._say_waiting)
        self._checks = Checks(work, counters)
        self.crew = Crew(
            name,
            work,
            changes,
            bucket,
            now=_now,
            landed=self.wake.set,
            reading_due=self._reading_due,
            checked=self._checked,
        )

    @property
    def unreachable_gateways(self) -> tuple[Address, ...]:
        """Next hops that its kernel does not reach: whether their routes stand there, nothing can tell."""
        return tuple(self._checks.unreachable)

    @property
    def breaker(self) -> Breaker:
        """Whether requests go out."""
        if self.state in {TargetState.UNREACHABLE, TargetState.PAUSED}:
            return "open"
        return "closed" if self.state in {TargetState.SYNCING, TargetState.SYNCED} else "half-open"

    def reconfigure(self, limits: Limits) -> None:
        """Take other limits from now on."""
        self.limits = limits
        self._checks.reconfigure(_now(), limits)

    def order_sweep(self) -> None:
        """Have all routes of ours posted again when nothing else is to be done."""
        self._checks.sweep_soon(_now())
        self.wake.set()

    def enter_hold(self, why: str) -> None:
        """Begin nothing more; the caller cancels `run`."""
        self.state, self.error = TargetState.PAUSED, why
        self._sync_began = None
        self.crew.halted = True
        self.contacted.set()

    def leave_hold(self) -> None:
        """The next `run` begins as after a start."""
        self.state, self.error, self._failures = TargetState.CONNECTING, None, 0

    async def run(self) -> None:
        """Serve the target until cancelled; what is under way then is the crew's to finish."""
        self.crew.halted = False
        while True:
            try:
                await self._connect()
                await self._serve()
            except OwnRouteSeenError as error:
                await self._refuse(error)
            except errors.LoxilbError as error:
                await self._rest_after(error)

    async def _rest_after(self, error: errors.LoxilbError) -> None:
        await self.crew.settle()  # what they learn is worth the wait
        self._failures += 1
        delay = backoff(self._failures, RECONNECT_FIRST_S, RECONNECT_MOST_S)
        text = str(error)
        if isinstance(error, errors.AccessDenied):
            text += "; set token_file for this target"
        if self._is_news(TargetState.UNREACHABLE):
            log.warning("target_down", target=self._name, url=self._client.url, error=text)
            self._sink.emit(TargetDown(target=self._name, url=self._client.url, error=text))
            if self._sync_began is not None:
                self._sink.emit(SyncFailed(target=self._name, error=text, retry_in_s=round(delay, 1)))
        self.state, self.error = TargetState.UNREACHABLE, text
        self._sync_began = None
        self.contacted.set()
        await asyncio.sleep(delay)

    async def _refuse(self, error: OwnRouteSeenError) -> None:
        """It lives in our own namespace after all: undo what came up here, and begin anew with its ports."""
        await self.crew.settle()
        self._contact.disprove()
        seen, self._tripwire.seen = self._tripwire.seen, {}
        left = [str(prefix) for prefix, gateway in seen.items() if not await self._take_back(prefix, gateway)]
        log.error("target_refused", target=self._name, url=self._client.url, reason=str(error), left=left)
        self._said.add(TargetState.SHARED_NAMESPACE)
        self.state, self.error = TargetState.SHARED_NAMESPACE, str(error)
        self._sync_began = None
        self._say_refused("own-route-seen", str(error))
        self.contacted.set()
        await asyncio.sleep(PATIENCE_S)

    async def _take_back(self, prefix: Prefix, gateway: Address) -> bool:
        """Delete a route of ours that came up here; tell whether it is gone.

        Of IPv4 it is the only one with metric 0, as it could be made, so DELETE takes it. Of IPv6 there may be one with
        a lower metric than 1024, which DELETE would take instead.
        """
        entry = self._work.entries.get(prefix)
        if entry is None or entry.ours != gateway or prefix.family is not Family.INET:
            return False
        try:
            await self._changes.take_back(prefix, entry)
        except errors.LoxilbError as error:
            log.warning("route_not_taken_back", target=self._name, prefix=str(prefix), error=str(error))
            return False
        self._work.schedule(prefix, entry)
        return True

    def _say_refused(self, reason: Literal["shared-namespace", "own-route-seen"], detail: str) -> None:
        self._sink.emit(TargetRefused(target=self._name, url=self._client.url, reason=reason, detail=detail))

    async def _connect(self) -> None:
        version, reading = await self._contact.make()
        self._counters.connections += 1
        self._counters.readings += 2
        self._changes.protocols = our_protocols(version)
        self._tripwire.protocols = frozenset(PROTOCOLS.get(word, -1) for word in self._changes.protocols)
        if self._witness is not None:
            self._witness.honours_static = self._changes.protocols == STATIC
        self._absorb(reading, version)
        if self._said or self.version is None:
            self._said.clear()
            log.info("target_up", target=self._name, url=self._client.url, version=version)
            self._sink.emit(TargetUp(target=self._name, url=self._client.url, version=version))
        self.version, self._failures, self.error = version, 0, None
        self.crew.start_anew()
        self.state = TargetState.SYNCING
        self._sync_began, self._sync_base = _now(), (self._counters.posted, self._counters.deleted)
        self._checks.sweep_soon(_now())
        self._sink.emit(SyncStarted(target=self._name, wanted=self._work.tally.wanted))
        self.contacted.set()

    def _say_waiting(self, state: TargetState, why: str) -> None:
        if self._is_news(state):
            log.warning("target_not_mirrored", target=self._name, url=self._client.url, reason=why)
            if state is TargetState.SHARED_NAMESPACE:
                self._say_refused("shared-namespace", why)
        self.state, self.error = state, why
        self.contacted.set()

    def _is_news(self, state: TargetState) -> bool:
        """Whether this trouble was not said since there was contact; a target that restarts goes through several."""
        news = state not in self._said
        self._said.add(state)
        return news

    async def _serve(self) -> None:
        """Serve the waiting work until the connection is found broken."""
        pending = self._work.pending
        while True:
            if (error := self._tripwire.error or self.crew.broken) is not None:
                raise error
            now = _now()
            wait_s = self.limits.canary_interval_s
            if self._reading_due(now):
                quiet_in = max(self._ingestion.quiet_in(now), self._read_at + self.limits.reading_gap_s - now)
                if not len(self.crew) and quiet_in <= 0:
                    await self._read()
                    continue
                wait_s = min(wait_s, quiet_in) if quiet_in > 0 else wait_s
            if not len(self.crew):
                self._checks.order(now, self.limits)
            token_in = self.crew.send(now)
            if token_in > 0:
                wait_s = min(wait_s, token_in)
            if (due := pending.next_due()) is not None and due > now:
                wait_s = min(wait_s, due - now)
            self._note_rest()
            await rest(self.wake, wait_s)

    @property
    def _read_at(self) -> float:
        return self._work.reading.started if self._work.reading else NEVER

    def _reading_due(self, now: float) -> bool:
        if self._work.verify:
            return True
        old = now - self._read_at >= self.limits.inventory_interval_s
        return old and not len(self.crew) and not self._work.pending.ready(now, least=Urgency.ADD)

    async def _read(self) -> None:
        reading = await self._contact.read_again()
        self._counters.readings += 1
        if not reading.inventory.rows:
            raise errors.OutcomeUnknown("GET /config/route/all: an empty table: it was restarted")
        self._absorb(reading, self.version)

    def _absorb(self, reading: Reading, version: str | None) -> None:
        self._work.absorb(reading, self._client.ends, version)
        self._targets_addresses.see(self._name, self._work.facts.addresses)

    def _checked(self, prefix: Prefix, entry: Entry, outcome: Outcome) -> None:
        now = _now()
        if outcome is Outcome.RESTORED and self._checks.sweep_soon(now):  # the sweep finds the others
            log.warning("target_lost_route", target=self._name, prefix=str(prefix))
        if entry.wanted is None:
            return
        gateway = entry.wanted.gateway
        if outcome is Outcome.UNPROVEN:
            if self._checks.unproven(gateway, prefix, now):
                log.warning("next_hop_unreachable", target=self._name, gateway=format_address(gateway))
        elif outcome in {Outcome.PROVEN, Outcome.RESTORED} and self._checks.proven(gateway, prefix, now):
            log.info("next_hop_reachable", target=self._name, gateway=format_address(gateway))
        self.wake.set()

    def _note_rest(self) -> None:
        """When nothing is left to do now, say that the sync is complete, once."""
        work = self._work
        if len(self.crew) or work.verify or work.pending.ready(_now(), least=Urgency.ADD):
            return
        waiting = len(work.pending) - work.pending.count(Urgency.CHECK)
        self.state = TargetState.SYNCING if waiting else TargetState.SYNCED
        if self._sync_began is None:
            return
        began, self._sync_began = self._sync_began, None
        self._sink.emit(
            SyncCompleted(
                target=self._name,
                routes=sum(1 for entry in self._work.entries.values() if entry.ours),
                posted=self._counters.posted - self._sync_base[0],
                deleted=self._counters.deleted - self._sync_base[1],
                duration_s=round(_now() - began, 3),
            )
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
