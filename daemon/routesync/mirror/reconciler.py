"""The reconciler of one target: it puts the parts together, and is what the rest of the daemon sees of them.

    on_best_route ─► MirrorState ◄──► Session ──► Applier ──► loxilb
                      │               └ Handshake, PostedRoutes (namespace check)
                      └ Reporter ──► events, log; alarms every second

Level-triggered: desired, actual and owned routes decide, events are never replayed. Everything runs on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from time import monotonic
from typing import Final, NamedTuple

import structlog

from routesync.best_routes import OwnNode
from routesync.events.models import EventSink
from routesync.events.peers import GonePeer, Peers
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.schema import Inventory
from routesync.mirror.alarms import current_alarms
from routesync.mirror.apply import Applier
from routesync.mirror.eligibility import (
    Desired,
    Ineligible,
    NodeFacts,
    Reason,
    TargetFacts,
    TargetRules,
    beside_nearly_default,
    contains_our_end,
    evaluate,
    interface_addresses,
    self_addresses,
)
from routesync.mirror.holes import find_holes
from routesync.mirror.last_loxilb import LastLoxilb
from routesync.mirror.ledger import Ledger
from routesync.mirror.limits import Limits
from routesync.mirror.namespace import PostedRoutes
from routesync.mirror.pause import Pause
from routesync.mirror.reporting import Alarm, Reporter
from routesync.mirror.session import Session
from routesync.mirror.state import STATIC, WITNESS_LAG_S, MirrorState, Phase
from routesync.mirror.status import TargetState, TargetView
from routesync.mirror.targets_addresses import TargetsAddresses
from routesync.mirror.witness import Witness
from routesync.route import Address, Candidate, Family, Prefix, Route
from routesync.slices import finish_in_slices

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""How often alarms are computed, and what is known of this node is compared."""
HOLES_S: Final = 10.0


class RouteView(NamedTuple):
    """One prefix at one target, to read only. Times are monotonic seconds."""

    phase: Phase
    evaluation: Desired | Ineligible | None
    owned: Address | None
    since: float | None
    error: str = ""


class TakenOver(NamedTuple):
    """What came of a takeover."""

    taken: tuple[Prefix, ...]  # removed, or replaced by what this node wants
    left: int  # of these, those that are still there
    came_back: tuple[Prefix, ...]  # the other node added them again: it lives
    unproved: tuple[
        Prefix, ...
    ]  # they are there, and nothing proves that a DELETE would take them and no other


TAKEOVER_S: Final = 60.0
"""What an inventory, or the work between two, may take in a takeover."""
POLL_S: Final = 0.1


class Reconciler:
    """Keeps one target as desired. To be made within the event loop.

    `run` is endless; cancel it to stop (routes stay).
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
        node: OwnNode,
        targets: TargetsAddresses | None = None,
        witness: Witness | None = None,
        pause: Pause | None = None,
        last_loxilb: LastLoxilb | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.name = name
        self.facts = TargetFacts(known=False)
        """What is known of the target's place in the network."""
        self.contacted = asyncio.Event()
        """Set when the target answered, or failed to, or is paused, and every best route was evaluated."""
        self.report = Reporter(name, sink, node)
        self._client = client
        self._rules = rules
        self._ledger = ledger
        self._node = node
        self._targets = targets or TargetsAddresses([client.url])
        self._pause = pause or Pause(None, name)
        self._witness = witness
        self._resumed = asyncio.Event()
        self._resumed_at = 0.0
        self._serving: asyncio.Task[None] | None = None
        self._evaluating = False
        """Nothing is evaluated before the target is known, or is known not to answer: a start has many routes."""
        self._reevaluate = asyncio.Event()
        self._evaluations: dict[Desired | Ineligible, Desired | Ineligible] = {}
        self._holes: tuple[tuple[Prefix, ...], int] = ((), 0)
        self._holes_at = 0.0
        self._takes_over = False
        self._peers = peers
        self._nearly_default: dict[Prefix, int] = {}
        self._node_facts = self._gather_node_facts()
        self.state = MirrorState(
            limits,
            monotonic(),
            evaluate=self._evaluate,
            contains_our_end=lambda prefix: contains_our_end(prefix, self.facts),
            note=lambda prefix, row: ledger.note(name, prefix, row),
            report=self.report,
            request_resync=node.request_resync,
            witness=witness,
        )
        self._proof = None
        if node.follows_kernel:
            self._proof = PostedRoutes(node, lambda: self.state.protocols)
        self._applier = Applier(client, ledger)
        self._session = Session(
            name,
            client,
            self.state,
            self._applier,
            report=self.report,
            links=node.links,
            use_inventory=self._use_inventory,
            proof=self._proof,
            last_loxilb=last_loxilb or LastLoxilb(None, name),
        )
        self._targets.join(name, self.reevaluate)
        if self._pause.since is not None:
            self._enter_pause()
        else:
            self._resumed.set()

    # -- the desired state ------------------------------------------------------------------------------------------

    def on_best_route(self, prefix: Prefix, kernel_changed_at: float | None = None) -> None:
        """The best route of a prefix changed, or there is one no more. Cheap, and never blocks.

        `kernel_changed_at` is when that change was read off the kernel, in monotonic seconds, if one caused this.
        """
        if self._evaluating or prefix in self.state.routes:
            self.state.route_changed(prefix, monotonic(), kernel_changed_at)
            self._session.wake.set()

    async def load_ledger(self) -> None:
        """Take what the ledger says may be ours. What is not desired is withdrawn after the start-up hold."""
        await finish_in_slices(self.state.claim(self._ledger.owned(self.name).items(), monotonic()))
        self._session.wake.set()

    def reconfigure(self, rules: TargetRules, limits: Limits) -> None:
        """Apply other rules and limits: every route is evaluated again, and what differs is done."""
        self._rules = rules
        self._refresh_node_facts()  # they have the interfaces that rules name
        self.state.change_limits(limits, monotonic())
        self.reevaluate()

    def reevaluate(self) -> None:
        """Evaluate every elected route again, soon: what is known of targets or of this node changed."""
        self._reevaluate.set()
        self._session.wake.set()

    def _evaluate(self, prefix: Prefix, current: Address | None) -> Desired | Ineligible | None:
        if (candidate := self._node.elected(prefix)) is None:
            return None
        evaluation = evaluate(candidate, self._rules, self.facts, self._node_facts, current)
        return self._evaluations.setdefault(evaluation, evaluation)  # thousands of routes share one

    def _gather_node_facts(self) -> NodeFacts:
        of_target = self._rules.rewrite.interface if self._rules.rewrite else None
        wanted = {*self._node.next_hop_interfaces(), of_target}  # only these: others come and go
        names = {ifindex: link.name for ifindex, link in self._node.links().items() if link.name in wanted}
        return NodeFacts(
            self._targets.addresses,
            self._node.gateways(),
            self_addresses(self._node.addresses(), self.facts),
            interface_addresses(self._node.addresses(), names, self.facts),
            frozenset(self.state.suspects) if hasattr(self, "state") else frozenset(),
        )

    async def _use_inventory(self, inventory: Inventory, version: str, connected: bool) -> None:  # noqa: FBT001
        """Learn the target's place in the network; what that changes is evaluated before anything is sent."""
        facts = await finish_in_slices(
            TargetFacts.gather(inventory, self._client.ends, self.state.owned, version)
        )
        if self._witness is not None:
            self._witness.honours_static = self.state.protocols == STATIC
        changed = facts != self.facts
        self.facts = facts
        self._targets.see(self.name, facts.addresses)
        if self._refresh_node_facts() or changed or connected:
            await self._reevaluate_all()

    def _refresh_node_facts(self) -> bool:
        before, self._node_facts = self._node_facts, self._gather_node_facts()
        return before != self._node_facts

    async def _reevaluate_all(self) -> None:
        self._evaluations.clear()
        first, self._evaluating = not self._evaluating, True
        await finish_in_slices(self.state.reevaluate(monotonic(), self._node.prefixes() if first else ()))

    # -- what the kernel says ---------------------------------------------------------------------------------------

    def on_route_created(self, route: Route) -> None:
        """Our own kernel announced a route where none had its key: is it one that we posted? Cheap."""
        if self._proof is not None:
            self._proof.on_route_created(route)

    def on_resync(self, began: float) -> None:
        """The kernel's table was dumped again, from that moment on, and what that changed was taken."""
        if self.state.resynced(began):
            self.report.clear(
                "withdrawals-held", monotonic(), "a second dump of the kernel confirms the withdrawals"
            )
            self._session.wake.set()

    # -- what operators ask for -------------------------------------------------------------------------------------

    def verify(self, *, force: bool = False) -> None:
        """Have all our routes posted again, as a proof that they exist; `force`: and send suspected prefixes again."""
        if force and self.state.suspects:
            self.state.suspects.clear()
            self.reevaluate()
        self.state.verify_soon(monotonic())
        self.state.inventory_at = min(
            self.state.inventory_at, monotonic() - self.state.limits.inventory_interval_s
        )
        self._session.wake.set()

    def release(self) -> int:
        """Let a held mass withdrawal go; tell how many routes that is about."""
        released = self.state.withdrawal_limit.release()
        if released:
            self.report.clear("withdrawals-held", monotonic(), "released by the operator")
            self._session.wake.set()
        return released

    def adopt(self, prefixes: Collection[Prefix] = ()) -> int:
        """See `MirrorState.adopt`."""
        self._session.wake.set()
        return self.state.adopt(prefixes, monotonic())

    def forget(self, prefixes: Collection[Prefix]) -> int:
        """See `MirrorState.forget`."""
        return self.state.forget(prefixes, monotonic())

    def repair(self, prefixes: Collection[Prefix] = ()) -> int:
        """See `MirrorState.heal`."""
        self._session.wake.set()
        return self.state.heal(prefixes, monotonic())

    async def take_over(self, node: str, routes: Mapping[Prefix, Address]) -> TakenOver | None:
        """Remove or replace these routes of a node that is gone; see `MirrorState.take_over`.

        An inventory comes before: it also shows whether routes that were taken before came back. None: the target does
        not answer in time, is paused, or another takeover is at work.
        """
        state = self.state
        if self._takes_over or self.paused:
            return None
        self._takes_over = True
        state.begin_takeover(node, monotonic())
        before = {*state.taken_over}
        try:
            if not await self._fresh_inventory():
                return None
            unproved = tuple(state.take_over(routes, monotonic()))
            taken = tuple(state.taken_over.keys() - before)
            self._session.wake.set()
            deadline = monotonic() + TAKEOVER_S
            while state.taking_over and monotonic() < deadline:  # noqa: ASYNC110 (progress comes from many events)
                await asyncio.sleep(POLL_S)
            return TakenOver(taken, state.taking_over, tuple(state.came_back), unproved)
        finally:
            self._takes_over = False
            state.end_takeover(monotonic())

    async def _fresh_inventory(self) -> bool:
        """Have the table read, and wait for that; tell whether it was."""
        asked, state = monotonic(), self.state
        while state.inventory_at < asked:
            if monotonic() > asked + TAKEOVER_S:
                return False
            state.inventory_at = min(state.inventory_at, asked - state.limits.inventory_interval_s)
            self._session.wake.set()
            await asyncio.sleep(POLL_S)
        return True

    @property
    def paused(self) -> bool:
        """Whether an operator paused the target."""
        return self._pause.since is not None

    def pause(self) -> str | None:
        """Leave the target exactly as it is until `resume`, over restarts of the daemon too.

        Nothing new is sent, neither written nor read; what was begun is finished, the second half of a replacement too
        (`at_rest` tells when). Route changes are taken all the while, so that afterwards only the difference is made.

        Returns:
            Why the pause would not survive a restart, or None.

        """
        trouble = None
        if self._pause.since is None:
            trouble = self._pause.begin()
            self._enter_pause()
            log.warning("target_paused", target=self.name, url=self._client.url, trouble=trouble)
        return trouble

    def _enter_pause(self) -> None:
        since = datetime.fromtimestamp(self._pause.since or time.time(), UTC)
        text = f"paused since {since:%Y-%m-%d %H:%M:%S} UTC: it is left as it is until `routesync resume`"
        self._session.pause(text)
        self.report.raise_("paused", Alarm(text), monotonic())
        self._resumed.clear()
        if self._serving is not None:
            self._serving.cancel()

    def resume(self) -> str | None:
        """End the pause: connect, and make the difference that has come up.

        Returns:
            Why the pause would come back with a restart, or None.

        """
        if self._pause.since is None:
            return None
        trouble = self._pause.end()
        log.warning("target_resumed", target=self.name, url=self._client.url, trouble=trouble)
        self.report.clear("paused", monotonic())
        self._session.resume()
        self._resumed_at = monotonic()
        self._resumed.set()
        return trouble

    async def at_rest(self) -> None:
        """Return when no request is being sent."""
        await self._session.settle()

    # -- the endless task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, work, and when the session ends begin again. Returns never."""
        others = [asyncio.create_task(self._look()), asyncio.create_task(self._reevaluate_when_asked())]
        if self._witness is not None:
            others.append(asyncio.create_task(self._witness.run(self._on_witness_event)))
        try:
            while True:
                await self._resumed.wait()
                await self._session.settle()
                if self.paused:  # again
                    continue
                self._serving = asyncio.create_task(self._session.run())
                done, _ = await asyncio.wait([self._serving, *others], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task is not self._serving or not task.cancelled():
                        task.result()
        finally:
            tasks = [*others, *([self._serving] if self._serving else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._session.cancel()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now = monotonic()
            if self._refresh_node_facts():
                self.reevaluate()
            if self.paused or not self.contacted.is_set():  # before that, what is desired is not known
                continue
            gone: Sequence[GonePeer] = ()
            if self._peers is not None:
                self._peers.set_instance(self.name, self.instance)
                gone = self._peers.gone(self.name, now)
            self.report.set_alarms(
                current_alarms(
                    self.name,
                    self.state,
                    self._session.error,
                    self._oldest_s(),
                    now,
                    beside=self._nearly_default,
                    gone=gone,
                ),
                now,
            )
            if now >= self._holes_at:
                self._holes_at = now + HOLES_S
                self._holes = await find_holes(self.state)
                self._nearly_default = beside_nearly_default(self._evaluated())

    def _evaluated(self) -> Iterator[tuple[Candidate, Desired | Ineligible]]:
        """Elected routes that are desired or refused as nearly a default; none if none is refused so."""
        state = self.state
        if not state.reasons[Reason.NEARLY_DEFAULT]:
            return
        evaluations: dict[Prefix, Desired | Ineligible | None] = {
            it: one.desired for it, one in state.routes.items()
        }
        evaluations |= {
            it: why for it, why in state.ineligible.items() if why.reason is Reason.NEARLY_DEFAULT
        }
        for prefix, evaluation in evaluations.items():
            candidate = self._node.elected(prefix)
            if candidate is not None and evaluation is not None:
                yield candidate, evaluation

    async def _reevaluate_when_asked(self) -> None:
        await self._session.contacted.wait()
        if not self._evaluating:
            await self._reevaluate_all()
        self.contacted.set()
        while True:
            await self._reevaluate.wait()
            self._reevaluate.clear()
            self._refresh_node_facts()
            await self._reevaluate_all()
            self._session.wake.set()

    def _on_witness_event(self, prefix: Prefix, *, foreign_removed: bool = False) -> None:
        if self.state.witness_changed(prefix, monotonic(), foreign_removed=foreign_removed):
            asyncio.get_running_loop().call_later(WITNESS_LAG_S, self._on_witness_event, prefix)
        self._session.wake.set()

    # -- how it fares -----------------------------------------------------------------------------------------------

    def _oldest_s(self) -> float:
        now = monotonic()
        return 0.0 if self.paused else min(self.state.oldest_s(now), now - self._resumed_at)

    def route(self, prefix: Prefix) -> RouteView | None:
        """One prefix at this target; None: it is not known here."""
        state = self.state
        if (route := state.routes.get(prefix)) is not None:
            return RouteView(route.phase, route.desired, route.owned, route.since, route.error)
        if (evaluation := state.ineligible.get(prefix)) is not None:
            return RouteView(Phase.INELIGIBLE, evaluation, None, None)
        if prefix in state.over[prefix.family]:
            evaluated = self._evaluate(prefix, None)
            return RouteView(Phase.OVER_CAPACITY, evaluated, None, None, "max_routes is reached")
        return None

    def prefixes(self) -> tuple[Prefix, ...]:
        """Every prefix that is known here."""
        state = self.state
        return (*state.routes, *state.ineligible, *chain.from_iterable(state.over.values()))

    @property
    def inventory(self) -> Inventory | None:
        """The target's table as it was last read; None: not yet."""
        return self.state.inventory if self.state.counters.inventories else None

    @property
    def inventory_at(self) -> float:
        """When reading that began, in monotonic seconds."""
        return self.state.inventory_at

    @property
    def instance(self) -> str | None:
        """Which loxilb the target is; None: not known yet."""
        return self._session.instance

    def witness_shows(self, prefix: Prefix) -> bool | None:
        """Whether the target's kernel has our route now; None: there is no witness, or nothing of ours to look for."""
        route = self.state.routes.get(prefix)
        if self._witness is None or not self._witness.ready or route is None or route.owned is None:
            return None
        return self._witness.shows(prefix, route.owned)

    def view(self) -> TargetView:
        """How this target fares, for status and metrics."""
        state, session, now = self.state, self._session, monotonic()
        target_state = session.target_state
        served = target_state in {TargetState.SYNCED, TargetState.SYNCING}
        return TargetView(
            name=self.name,
            url=self._client.url,
            state=target_state,
            version=session.version,
            error=session.error,
            instance=self.instance,
            desired=state.desired + state.over_capacity,
            phases=state.all_phases(),
            waiting=state.waiting,
            oldest_s=self._oldest_s(),
            rate=state.limits.rate,
            remaining_s=state.waiting / state.limits.rate if state.waiting and served else None,
            complete=served and state.complete,
            proved_s=now - state.proved_at if state.counters.inventories else None,
            held=len(state.withdrawal_limit.held),
            held_at_start=state.held_at_start(now),
            paused_since=self._pause.since,
            unreachable_gateways=tuple(state.unreachable),
            alarms=self.report.alarms.copy(),
            reasons={reason.value: count for reason, count in sorted(state.reasons.items()) if count},
            holes=self._holes,
            by_urgency=state.queue.counts,
            in_flight=self._applier.sending,
            connections=session.connections,
            counters=state.counters,
            requests=self._client.requests.copy(),
            durations=self._client.durations,
            occupied=state.occupied,
            capacity={family: state.limits.capacity(family) for family in Family},
            measures=self.report.measures,
            token_wait_s=state.bucket.waited_s,
        )
