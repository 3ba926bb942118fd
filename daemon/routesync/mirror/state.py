"""The routes of one target, desired and actual, and everything that can happen to one of them.

This is the only writer of route state. It is pure: no I/O, no asyncio, and `now` (monotonic seconds) is always passed
in. The session (session.py) feeds it: desired routes, outcomes of requests, inventories, witness events; and asks it
for the next request. So the whole life of a route is in this file::

                     409            inventory
    PENDING ── POST ─────► UNJUDGED ─────────► PRESENT | CONFLICTING    (another writer's route: never touched)
       │  2xx
       ▼        inventory
    ACCEPTED ───────────► CONFIRMED ── lost, POST again ──► ACCEPTED | CONTENDED (lost again and again)
       │                      │
       │ no longer desired    │ the table lost it, the kernel did not: NOT_FORWARDED
       ▼                      ▼
    WITHDRAWING ── proof, DELETE ──► gone        no proof: LEFT_BEHIND

Facts that shaped it, all observed on a real loxilb:

- 2xx says that its kernel took the route; its table shows it later, at 256 changes a second. Reading the table before
  that is misleading and can crash it, so inventories wait for quiet, and requests wait for inventories.
- 409 says that *a* route with that key exists, not whose. DELETE takes the route with the lowest metric, of whichever
  writer. Our routes have metric 0 (IPv4) or 1024 (IPv6). So for IPv4 a POST directly before each DELETE makes sure that
  a route with metric 0 exists; for IPv6 that is no help. Whose it is, an inventory or the witness says.
- The table shows one row per prefix, the last event's. The row vanishes when any route of the prefix goes, and stays
  when the kernel loses its routes silently. A repeated POST tells: 409, the route exists; 2xx, it was lost, and that
  POST repaired it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from math import inf
from typing import Final, NamedTuple, Protocol

from routesync.backoff import backoff_s
from routesync.loxilb.schema import Inventory, InventoryRow
from routesync.mirror.eligibility import Desired, Evaluation, Ineligible, Reason
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Ingestion, Limits, MassWithdrawalLimit, RepairWindow, TokenBucket
from routesync.mirror.queue import WITHDRAWALS, Urgency, WorkQueue
from routesync.mirror.reporting import Reporter
from routesync.route import Address, Family, Prefix, format_address

NEVER: Final = -inf
FRESH_S: Final = 5.0
"""For so long an inventory justifies a DELETE."""
FLAP_S: Final = 1.0
"""At most one change per prefix in this time."""
RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 300.0
JUDGE_AFTER_S: Final = 5.0
"""An unexplained 409 waits so long for others, so that one inventory judges them all."""
JUDGE_GAP_S: Final = 10.0
"""Between two inventories for that reason; doubled while they change no judgement."""
CONFLICT_INVENTORY_S: Final = 120.0
"""How often the table is read while another writer has routes that are desired."""
VERIFY_GAP_S: Final = 10.0
"""Between two verifications of everything that losses ask for."""
FURTHER_S: Final = 0.001
"""After so long the search for the next request goes on, where it was long."""
WITNESS_LAG_S: Final = 0.05
"""What the witness says so soon after a request of ours is looked at again after it."""
TAKEOVER_MEMORY_S: Final = 600.0
"""For so long a route that was taken over from another node is not taken again."""
SEARCH: Final = 500
"""So many routes are looked at for the next request before others run."""
STATIC: Final = frozenset({"static", "4"})


class Phase(StrEnum):
    """Where a route is in its life at a target."""

    PENDING = "pending"
    ACCEPTED = "accepted"  # 2xx
    CONFIRMED = "confirmed"  # the target's table showed it with our gateway
    WITHDRAWING = "withdrawing"
    UNJUDGED = "unjudged"  # 409: only an inventory can tell whose route that is
    PRESENT = "present"  # an equal route exists that is not provably ours
    CONFLICTING = "conflicting"  # another writer's route
    REFUSED = "refused"
    CONTENDED = "contended"  # the target loses it again and again
    NOT_FORWARDED = "not-forwarded"  # the target's kernel has it, its table does not
    LEFT_BEHIND = "left-behind"  # ours, not desired, and nothing proves that DELETE would take ours
    OVER_CAPACITY = "over-capacity"
    INELIGIBLE = "ineligible"


MIRRORED: Final = frozenset({Phase.ACCEPTED, Phase.CONFIRMED, Phase.PRESENT})
_RESTING: Final = frozenset({Phase.PRESENT, Phase.CONFLICTING, Phase.UNJUDGED})
"""Another writer's route is there, or may be: only an inventory or the witness changes that."""
_VERIFIABLE: Final = frozenset({Phase.ACCEPTED, Phase.CONFIRMED, Phase.CONTENDED, Phase.NOT_FORWARDED})


class Kind(Enum):
    """What a request is for."""

    ADD = auto()  # POST of a route that is desired
    ASSERT = auto()  # POST directly before a DELETE: is there a route with our metric?
    VERIFY = auto()  # POST of a route that should exist: does it?
    DELETE = auto()


class Answer(Enum):
    """What came of a request."""

    CREATED = auto()  # 2xx to POST
    EXISTS = auto()  # 409 to POST
    DELETED = auto()  # 2xx to DELETE
    ABSENT = auto()  # 404 to DELETE
    UNREACHABLE = auto()  # POST: the gateway is on no connected network there that is up
    REJECTED = auto()  # it will not take this request
    UNEXPLAINED = auto()  # "fail" without a word why (before v0.9.8.5)
    UNKNOWN = auto()  # carried out or not, nobody knows
    NOT_SENT = auto()  # it never left
    WITHHELD = (
        auto()
    )  # nor did this one, on purpose: what it was decided by has expired, or the target may be another
    DENIED = auto()  # the token is wrong or missing


_EXISTS: Final = frozenset({Answer.EXISTS, Answer.UNEXPLAINED})
"""Old versions do not say why they refuse a POST: for one of a route that was seen there, it is taken as 409."""
_NO_ANSWER: Final = frozenset({Answer.UNKNOWN, Answer.NOT_SENT, Answer.WITHHELD, Answer.DENIED})


class Request(NamedTuple):
    """One request to send.

    Attributes:
        tokens: reserved for it and for those that follow it; what is not spent is given back.
        repair: the target lost the route, or may have: room in the repair window is reserved for it.
        intent: of ADD: the ledger's row; it must be on disk before the request leaves.
        desired: of ADD and VERIFY: what it is for; the wish may have changed when the answer comes.
        not_after: of DELETE: in monotonic seconds, how long the proof holds that it takes our route.
    """

    kind: Kind
    prefix: Prefix
    gateway: Address
    tokens: int = 0
    repair: bool = False
    intent: Row | None = None
    desired: Desired | None = None
    not_after: float = inf


class Outcome(NamedTuple):
    """What came of a request, and in the target's words."""

    answer: Answer
    words: str = ""
    status: int = 0  # HTTP


class WitnessView(Protocol):
    """The kernel beneath the target, read directly."""

    @property
    def ready(self) -> bool:
        """Whether what it shows is the kernel's present state."""

    def holds(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether a route of the prefix, or a hop of one, may be ours with this gateway."""

    def others(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether the prefix has a route that does not look as ours with this gateway would."""

    def shows(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether the route that DELETE would take looks as ours with this gateway."""

    def only_ours(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether ours is the only route of the prefix with its metric or a lower one, and has one hop."""


class _Proof(Enum):
    """Whether a DELETE would take our route."""

    SHOWN = auto()
    MISSING = auto()  # the table has no row: only a POST can tell
    STALE = auto()  # a newer inventory can tell
    GONE = auto()  # our route does not exist any more
    NONE = auto()


class StaleRow(NamedTuple):
    """A row that the target may have although its kernel lost the route, which was ours, and is in no ledger now."""

    gateway: Address
    since: float  # an inventory from before does not tell whether there is such a row


@dataclass(slots=True, eq=False)
class RouteState:
    """One prefix at one target. Times are monotonic seconds.

    Attributes:
        since: when it came into this phase.
        desired: what the target should have, or why it may not; None: the node has no such route.
        owned: gateway of the route that we added, or may have added.
        former: gateway of ours that may be there instead: whether `owned` replaced it was not answered.
        certain: whether it was proved since the last doubt that `owned` is there.
        clean: the inventory before our first POST had no row, and every row since was ours.
        lost: the table did not show it any more; the next POST is a repair.
        heal: it is deleted and added again, so that the target's table takes it in.
        by_hand: the operator said that it is ours.
        proved_once: a 2xx, the table, the witness or the ledger said that it was there.
        stale: the row that may be left of a route of ours that is gone.
        published: the gateway by which subscribers know it; None: they do not.
        changed_at: of the last request that may have changed something.
        hold_until: a withdrawal waits until then.
        retry_at: after a failure nothing is sent until then.
        failures: in a row.
        gap_since: of a replacement: the old route is deleted since then, the new one not added yet.
        kernel_changed_at: time of the kernel change that caused the pending action, or None.
        error: why it is not as desired, in words.
    """

    prefix: Prefix
    since: float
    phase: Phase = Phase.PENDING
    desired: Evaluation | None = None
    owned: Address | None = None
    former: Address | None = None
    certain: bool = False
    clean: bool = False
    lost: bool = False
    heal: bool = False
    by_hand: bool = False
    proved_once: bool = False
    stale: StaleRow | None = None
    published: Address | None = None
    changed_at: float = NEVER
    hold_until: float = NEVER
    retry_at: float = NEVER
    failures: int = 0
    gap_since: float | None = None
    kernel_changed_at: float | None = None
    error: str = ""

    @property
    def gateway(self) -> Address | None:
        """The gateway that the target should have; None: it should have no route."""
        desired = self.desired
        return desired.gateway if isinstance(desired, Desired) else None


class Counters:
    """What happened at the target since the start."""

    def __init__(self) -> None:
        self.posted = self.deleted = self.lost = self.repaired = 0
        self.stale_removed = self.conflicts = self.inventories = self.verifications = self.probes = 0


def is_ours(row: InventoryRow, gateway: Address, protocols: frozenset[str] = STATIC) -> bool:
    """Whether a row looks as a route of ours with this gateway would."""
    return row.gateways == (gateway,) and row.protocol in protocols


def describe_row(row: InventoryRow) -> str:
    """Say which route has a prefix, for people."""
    gateways = ", ".join(format_address(gateway) for gateway in row.gateways) or "no gateway"
    return f"another writer has it there: via {gateways}, protocol {row.protocol or 'unknown'}"


class MirrorState:
    """All routes of one target, the work that waits, and the limits on it.

    Args:
        limits: how gently the target is treated.
        now: monotonic seconds.
        evaluate: says what the target should have for the best route of a prefix, None if the node has none; also takes
            the gateway already sent, if any.
        contains_our_end: whether a prefix contains the address from which we speak to the target.
        note: writes to the ledger that a route may be ours (a row), or is not (None).
        report: takes what happens to routes.
        request_resync: asks for a second dump of the kernel.
        witness: the kernel beneath the target, if it can be read.
    """

    def __init__(  # noqa: PLR0915 (one field a line, each with its meaning)
        self,
        limits: Limits,
        now: float,
        *,
        evaluate: Callable[[Prefix, Address | None], Evaluation | None],
        contains_our_end: Callable[[Prefix], bool],
        note: Callable[[Prefix, Row | None], None],
        report: Reporter,
        request_resync: Callable[[], None] = lambda: None,
        witness: WitnessView | None = None,
    ) -> None:
        self.routes: dict[Prefix, RouteState] = {}
        self.ineligible: dict[Prefix, Ineligible] = {}
        self.reasons: Counter[Reason] = Counter()
        """How many of `ineligible` have which reason."""
        self.over: dict[Family, dict[Prefix, None]] = {family: {} for family in Family}
        """Desired routes for which there is no room."""
        self.phases: Counter[Phase] = Counter()
        """How many of `routes` are in which phase."""
        self.desired = 0
        """How many of `routes` are desired."""
        self.owning = 0
        """How many of `routes` are, or may be, ours."""
        self.queue = WorkQueue()
        self.unproved: dict[Prefix, float] = {}
        """Withdrawals and replacements that wait for an inventory as a proof, and since when."""
        self.inventory = Inventory({}, 0)
        self.inventory_at = NEVER
        self.protocols = STATIC
        """What the target's version shows our routes as."""
        self.unreachable: dict[Address, Prefix] = {}
        """Gateways that the target's kernel does not reach, each with the route by which that is looked at again."""
        self.foreign_not_forwarded: dict[Prefix, None] = {}
        """Another writer's routes whose row our DELETE may have dropped from the target's table."""
        self.suspects: dict[Prefix, None] = {}
        """Prefixes that contain our own address and whose POST made the target fall silent."""
        self.proved_at = NEVER
        """When a route, or the whole table, was last compared with the target."""
        self.halted = False
        """Nothing new is sent; what was begun is finished."""
        self.one_at_a_time = True
        """Until it is proved that the target is in another network namespace."""
        self.suspended: dict[Prefix, None] = {}
        """Routes that came up in our own kernel when they were posted: the target shares our namespace."""
        self.counters = Counters()
        self.limits = limits
        self.bucket = TokenBucket(limits.rate, limits.burst, now)
        self.ingestion = Ingestion(now)
        self.repairs = RepairWindow(now)
        self.withdrawal_limit = MassWithdrawalLimit(
            limits.withdraw_share, limits.withdraw_minimum, request_resync
        )
        self.busy: set[Prefix] = set()
        """Prefixes of which a request is being sent."""
        self.token_in = 0.0
        """Seconds until `next_request` may have one: there is a token, or it looks further; 0: nothing waits for it."""
        self.taken_over: dict[Prefix, Address] = {}
        """Routes of another node that are taken over, or were, each with its gateway; see `take_over`."""
        self.came_back: dict[Prefix, None] = {}
        """Those of them that the other node added again."""
        self._takeover_of, self._takeover_at = "", NEVER
        self._evaluate = evaluate
        self._contains_our_end = contains_our_end
        self._note = note
        self._report = report
        self._witness = witness
        self._using = dict.fromkeys(Family, 0)  # routes that exist, may exist, or are about to be added
        self._startup_until = NEVER
        self._startup_holds: set[Prefix] = set()
        """Withdrawals that wait for that time."""
        self._unjudged: dict[Prefix, float] = {}
        self._judge_gap_s = JUDGE_GAP_S
        self._silent: dict[Prefix, None] = {}
        self._verify: deque[Prefix] = deque()
        self._verify_at = NEVER
        self._verified_at = NEVER
        self._probes: Iterator[Prefix] = iter(())
        self._probe_at = NEVER
        self._look: deque[Prefix] = deque(maxlen=RepairWindow.SAMPLE)
        """Routes that were repaired, to be looked at from `_look_at` on."""
        self._look_at = NEVER
        self._looking: deque[Prefix] = deque()
        """Repaired routes that are to be looked at now."""

    # -- the desired state ------------------------------------------------------------------------------------------

    def route_changed(self, prefix: Prefix, now: float, kernel_changed_at: float | None = None) -> None:
        """Take the best route of a prefix as it is now."""
        state = self.routes.get(prefix)
        evaluation = self._evaluate(prefix, state.owned if state is not None else None)
        if evaluation is not None:
            self.withdrawal_limit.forget(prefix)
            if state is not None:
                state.hold_until = NEVER  # the kernel has it: from now on its going means something
        elif state is not None and state.desired is not None and self.limits.withdraw_delay_s:
            state.hold_until = now + self.limits.withdraw_delay_s
        self._set_evaluation(prefix, evaluation, now)
        if (state := self.routes.get(prefix)) is not None and self._action(state) is not None:
            state.kernel_changed_at = kernel_changed_at

    def _set_evaluation(self, prefix: Prefix, evaluation: Evaluation | None, now: float) -> None:
        state = self.routes.get(prefix) or self._new_state(prefix, evaluation, now)
        if state is not None:
            self._set_desired(state, evaluation, now)

    def _new_state(self, prefix: Prefix, evaluation: Evaluation | None, now: float) -> RouteState | None:
        """A state for a route that the target may get; routes that it cannot get cost no more than their reason."""
        over = self.over[prefix.family]
        if not isinstance(evaluation, Desired):
            over.pop(prefix, None)
            if self._set_ineligible(prefix, evaluation) and evaluation is not None:
                self._report.ineligible(prefix, evaluation)
            return None
        self._set_ineligible(prefix, None)
        if self._using[prefix.family] >= self.limits.capacity(prefix.family):
            over[prefix] = None
            return None
        over.pop(prefix, None)
        return self._add_state(prefix, now)

    def _set_ineligible(self, prefix: Prefix, evaluation: Ineligible | None) -> bool:
        """Note why the target may not have a route of which nothing of ours is there; tell whether that is new."""
        before = self.ineligible.get(prefix)
        if before == evaluation:
            return False
        if before is not None:
            self.reasons[before.reason] -= 1
            del self.ineligible[prefix]
        if evaluation is not None:
            self.reasons[evaluation.reason] += 1
            self.ineligible[prefix] = evaluation
        return True

    def _add_state(self, prefix: Prefix, now: float) -> RouteState:
        state = self.routes[prefix] = RouteState(prefix, now)
        self.phases[Phase.PENDING] += 1
        self._using[prefix.family] += 1
        return state

    def _remove_state(self, state: RouteState) -> None:
        self.phases[state.phase] -= 1
        self._using[state.prefix.family] -= self._uses_room(state)
        self.desired -= state.gateway is not None
        self._unjudged.pop(state.prefix, None)
        del self.routes[state.prefix]

    def _set_desired(self, state: RouteState, evaluation: Evaluation | None, now: float) -> None:
        before, gateway_before = state.desired, state.gateway
        if evaluation != before:
            state.desired = evaluation
            self.desired += (state.gateway is not None) - (gateway_before is not None)
            if state.gateway != gateway_before:
                self._clear_failures(state)
                if state.gateway is None:
                    state.gap_since = None
                elif state.gateway == state.owned:
                    state.by_hand = False  # the operator's word was for removing it
                if state.owned is None or state.phase is Phase.LEFT_BEHIND:
                    self._set_phase(state, Phase.PENDING, now)
            if isinstance(evaluation, Ineligible):
                self._report.ineligible(state.prefix, evaluation)
        self._place(state, now)

    def claim(self, rows: Iterable[tuple[Prefix, Row]], now: float) -> Generator[None, None, None]:
        """Take what the ledger says may be ours, in slices. What is not desired goes after the start-up hold.

        Also later than at the start, when a ledger can be read at last: what is known by then to be ours stays so.
        """
        self._startup_until = now + self.limits.startup_hold_s
        self._startup_holds.clear()
        for prefix, row in rows:
            state = self.routes.get(prefix)
            if state is None:
                state = self._claimed_state(prefix, now)
            is_new = state.owned is None
            if is_new:
                state.clean, state.proved_once = row.clean, True
                self._own(state, row.gateway)
            evaluation = self._evaluate(prefix, state.owned)
            if is_new:
                state.hold_until = self._startup_until if evaluation is None else NEVER
            self._set_desired(state, evaluation, now)
            yield

    def published(self) -> dict[Prefix, Address]:
        """What subscribers know: the gateway of each route."""
        return {it.prefix: it.published for it in self.routes.values() if it.published is not None}

    def continue_from(self, published: Mapping[Prefix, Address]) -> None:
        """Go on from what subscribers know by the state before this one, of the same target; after `claim`."""
        for prefix, gateway in published.items():
            state = self.routes.get(prefix)
            if state is not None and state.owned is not None:
                state.published = gateway
            else:
                self._report.lost(prefix, "the ledger does not know it any more")

    def _claimed_state(self, prefix: Prefix, now: float) -> RouteState:
        """A state for a route that is there, whatever is desired."""
        self._set_ineligible(prefix, None)
        self.over[prefix.family].pop(prefix, None)
        return self._add_state(prefix, now)

    def reevaluate(self, now: float, more: Collection[Prefix] = ()) -> Generator[None, None, None]:
        """Evaluate every known prefix again, and `more`: the rules, or what is known of targets, changed."""
        prefixes = [*self.routes, *self.ineligible, *more]
        for over in self.over.values():
            prefixes += over
        for prefix in prefixes:
            state = self.routes.get(prefix)
            evaluation = self._evaluate(prefix, state.owned if state is not None else None)
            self._set_evaluation(prefix, evaluation, now)
            yield

    def change_limits(self, limits: Limits, now: float) -> None:
        """Apply other limits from now on. Routes in the target stay, also where they are more than allowed now.

        What there is room for now is let in by `reevaluate`, in slices.
        """
        self.limits = limits
        self.bucket.change(limits.rate, limits.burst, now)
        self.withdrawal_limit.change(limits.withdraw_share, limits.withdraw_minimum)
        self._probe_at = min(self._probe_at, now + limits.probe_interval_s)
        self._verify_at = min(self._verify_at, now + limits.verify_interval_s)

    def adopt(self, prefixes: Collection[Prefix], now: float) -> int:
        """Take as ours, by the operator's word: equal routes that are desired, and what is left behind if it is named.

        They are ours when the next inventory shows them. Without prefixes: all equal routes. Returns how many.
        """
        present = [state for state in self._in_phase(Phase.PRESENT, prefixes) if state.gateway is not None]
        for state in present:
            assert state.gateway is not None  # noqa: S101 (as above)
            self._note(state.prefix, Row(state.gateway))
            self._own(state, state.gateway)
        left_behind = self._in_phase(Phase.LEFT_BEHIND, prefixes) if prefixes else []
        for state in left_behind:
            state.by_hand = True
            state.changed_at = now  # an inventory of before the operator's word does not count
        for state in (*present, *left_behind):
            state.failures, state.retry_at = 0, NEVER
            self._set_phase(state, Phase.PENDING, now)
            self._place(state, now)
        return len(present) + len(left_behind)

    def forget(self, prefixes: Collection[Prefix], now: float) -> int:
        """Give up ownership of routes that are left behind, by the operator's word; they stay. Returns how many."""
        found = self._in_phase(Phase.LEFT_BEHIND, prefixes)
        for state in found:
            self._disown(state, now)
            self._place(state, now)
        return len(found)

    def give_up_all(self, why: str, now: float) -> Generator[None, None, None]:
        """Give up ownership of all routes, in slices: the target is another loxilb than the one that has them."""
        for state in [it for it in self.routes.values() if it.owned is not None]:
            self._disown(state, now)
            if state.published is not None:
                state.published = None
                self._report.lost(state.prefix, why)
            self._place(state, now)
            yield

    def heal(self, prefixes: Collection[Prefix], now: float) -> int:
        """Delete and add again what the target does not forward, by the operator's word. Returns how many."""
        found = self._in_phase(Phase.NOT_FORWARDED, prefixes)
        for state in found:
            state.heal = state.by_hand = True
            self._place(state, now)
        return len(found)

    def take_over(self, rows: Mapping[Prefix, Address], now: float) -> list[Prefix]:
        """Take as ours, by the operator's word, routes of a node that is gone: then they are withdrawn or replaced.

        Only what a fresh inventory shows with that node's gateway, as a static route, and what a DELETE can be proved
        to take: of IPv6 that takes the witness. A route is taken at most once: one that comes back ends it all.

        Returns:
            Those that are there, and that nothing proves.
        """
        unproved: list[Prefix] = []
        for prefix, gateway in rows.items():
            row, state = self.inventory.rows.get(prefix), self.routes.get(prefix)
            if row is None or not is_ours(row, gateway, self.protocols):
                continue
            if state is not None and gateway in (state.owned, state.gateway):
                continue  # it is also what this node has there, or wants
            if not self._may_take_over(prefix, gateway, now):
                unproved.append(prefix)
                continue
            state = state or self._claimed_state(prefix, now)
            self._note(prefix, Row(gateway))
            self._own(state, gateway)
            self._clear_failures(state)
            self._set_phase(state, Phase.PENDING, now)
            self.withdrawal_limit.allow(prefix)
            self.taken_over[prefix] = gateway
            self._set_desired(state, self._evaluate(prefix, gateway), now)
        return unproved

    def _may_take_over(self, prefix: Prefix, gateway: Address, now: float) -> bool:
        state, witness = self.routes.get(prefix), self._witness_now
        if (
            prefix in self.busy
            or prefix in self.taken_over
            or (state is not None and state.owned is not None)
        ):
            return False
        if self.came_back or now - self.inventory_at > FRESH_S:
            return False
        if witness is None:
            return prefix.family is Family.INET
        return witness.only_ours(prefix, gateway)

    @property
    def taking_over(self) -> int:
        """How many routes of another node are neither gone nor replaced yet."""
        return sum(self._is_taken(prefix) is not None for prefix in self.taken_over)

    def _is_taken(self, prefix: Prefix) -> RouteState | None:
        """The state of a route that is taken over and to be removed still; None: it is gone, or it stays."""
        state, gateway = self.routes.get(prefix), self.taken_over[prefix]
        if state is None or state.owned != gateway or state.gateway == gateway:
            return None
        return None if state.phase is Phase.LEFT_BEHIND else state

    def begin_takeover(self, node: str, now: float) -> None:
        """Begin, or go on, with the routes of this node; what was taken of it in the last minutes is remembered."""
        if (node, True) != (self._takeover_of, now - self._takeover_at < TAKEOVER_MEMORY_S):
            self.taken_over.clear()
            self.came_back.clear()
        self._takeover_of, self._takeover_at = node, now

    def end_takeover(self, now: float) -> None:
        """Give up what is taken over and not removed yet; it stays, and is the other node's again."""
        self._give_back_taken(now)

    def _give_back_taken(self, now: float) -> None:
        for prefix in self.taken_over:
            state = self._is_taken(prefix)
            if state is not None and prefix not in self.busy:
                self._disown(state, now)
                self._place(state, now)

    def _note_come_back(self, inventory: Inventory, now: float) -> None:
        """The other node lives if it has added again what was deleted; nothing more of it is touched."""
        for prefix, gateway in self.taken_over.items():
            row, state = inventory.rows.get(prefix), self.routes.get(prefix)
            deleted = state is None or gateway not in (state.owned, state.gateway)
            if deleted and row is not None and is_ours(row, gateway, self.protocols):
                self.came_back[prefix] = None
        if self.came_back:
            self._give_back_taken(now)

    def _in_phase(self, phase: Phase, prefixes: Collection[Prefix]) -> list[RouteState]:
        """The routes in a phase, of these prefixes; no prefixes: all of them."""
        return [
            state
            for prefix, state in self.routes.items()
            if state.phase is phase and (not prefixes or prefix in prefixes)
        ]

    # -- where a prefix waits ---------------------------------------------------------------------------------------

    def _set_phase(self, state: RouteState, phase: Phase, now: float) -> None:
        if phase is state.phase:
            return
        used = self._uses_room(state)
        self.phases[state.phase] -= 1
        self.phases[phase] += 1
        if state.phase is Phase.UNJUDGED:
            self._unjudged.pop(state.prefix, None)
        state.phase, state.since = phase, now
        self._using[state.prefix.family] += self._uses_room(state) - used

    def _own(self, state: RouteState, gateway: Address | None) -> None:
        used = self._uses_room(state)
        self.owning += (gateway is not None) - (state.owned is not None)
        state.owned, state.certain = gateway, False
        if gateway is not None:
            state.stale = None
        self._using[state.prefix.family] += self._uses_room(state) - used

    def _disown(self, state: RouteState, now: float) -> None:
        """Nothing of ours is there any more: strike it from the ledger."""
        self._note(state.prefix, None)
        self._own(state, None)
        state.former = None
        state.clean = state.lost = state.heal = state.by_hand = state.proved_once = False
        self._set_phase(state, Phase.PENDING, now)

    @staticmethod
    def _uses_room(state: RouteState) -> bool:
        return state.owned is not None or state.phase in {Phase.PENDING, Phase.UNJUDGED}

    def _fill(self, family: Family, now: float) -> None:
        """Let routes in that wait for room."""
        over = self.over[family]
        while over and self._using[family] < self.limits.capacity(family):
            prefix = next(iter(over))
            del over[prefix]
            self.route_changed(prefix, now)

    def _action(self, state: RouteState) -> Urgency | None:
        """What has to be done, by its urgency; None: nothing."""
        prefix = state.prefix
        gateway, owned, phase = state.gateway, state.owned, state.phase
        if gateway is None:
            if (owned or state.stale) is None or phase is Phase.LEFT_BEHIND:
                return None
            return Urgency.WITHDRAW_LAST if self._contains_our_end(prefix) else Urgency.WITHDRAW
        if owned is None:
            if phase in _RESTING:
                return None
            if state.gap_since is not None:
                return Urgency.REPLACE
            return Urgency.DEFAULT if prefix.is_default else Urgency.ADD
        if owned != gateway:
            return None if phase in {Phase.LEFT_BEHIND, Phase.CONFLICTING, Phase.PRESENT} else Urgency.REPLACE
        if state.heal:
            return Urgency.REPLACE
        if state.certain or phase in _RESTING or phase is Phase.NOT_FORWARDED:
            return None
        return Urgency.DEFAULT if prefix.is_default else Urgency.ADD

    def _place(self, state: RouteState, now: float) -> None:
        """Put a prefix where it belongs: into the queue, to rest, or away."""
        prefix = state.prefix
        if prefix in self.busy:
            return  # done when its request ends
        action = self._action(state)
        if action is None:
            self._rest(state, now)
            return
        if state.gateway is None:
            self._set_phase(state, Phase.WITHDRAWING, now)
        elif state.phase is Phase.WITHDRAWING:
            self._set_phase(state, Phase.PENDING, now)
        if prefix in self.unproved:
            if action in {*WITHDRAWALS, Urgency.REPLACE}:
                return
            del self.unproved[prefix]
        not_before, parked = state.retry_at, state.phase is Phase.REFUSED
        is_held_back = action in WITHDRAWALS and state.owned is not None  # a stale row waits for nothing
        if is_held_back:
            not_before = max(not_before, state.hold_until)
        elif action in {Urgency.ADD, Urgency.DEFAULT} and (wait := self.repairs.not_before(prefix)) > now:
            not_before = max(not_before, wait)
            if self.repairs.is_contended(prefix):
                parked = True
                self._set_phase(state, Phase.CONTENDED, now)
        if state.gap_since is None and not state.heal:
            not_before = max(not_before, state.changed_at + FLAP_S)
        self.queue.put(prefix, action, now=now, not_before=not_before, parked=parked)
        if is_held_back:
            self.withdrawal_limit.add(prefix)
            if state.hold_until == self._startup_until != NEVER:
                self._startup_holds.add(prefix)
        else:
            self.withdrawal_limit.discard(prefix)
            self._startup_holds.discard(prefix)

    def _unqueue(self, prefix: Prefix) -> None:
        self.queue.discard(prefix)
        self.withdrawal_limit.discard(prefix)
        self._startup_holds.discard(prefix)

    def _rest(self, state: RouteState, now: float) -> None:
        prefix = state.prefix
        self._unqueue(prefix)
        self.unproved.pop(prefix, None)
        if state.gateway is None and state.owned is None:
            self._drop(state, now)
            return
        if state.owned == state.gateway and state.certain and state.phase not in _VERIFIABLE:
            self._set_phase(state, Phase.ACCEPTED, now)
        if self._is_verifiable(state):
            lost_again, failed = self.repairs.not_before(prefix), state.retry_at if state.failures else NEVER
            if max(lost_again, failed) > now:
                at, parked = max(lost_again, failed), lost_again > failed
                self.queue.put(prefix, Urgency.VERIFY, now=now, not_before=at, parked=parked)

    @staticmethod
    def _is_verifiable(state: RouteState) -> bool:
        return state.owned is not None and state.owned == state.gateway and state.phase in _VERIFIABLE

    def _drop(self, state: RouteState, now: float) -> None:
        """Nothing of ours is there and nothing is desired."""
        prefix = state.prefix
        self._withdrawn(state, self._why(state))
        self.withdrawal_limit.forget(prefix)
        self._remove_state(state)
        if isinstance(state.desired, Ineligible):
            self._set_ineligible(prefix, state.desired)
        self._fill(prefix.family, now)

    def _why(self, state: RouteState) -> str:
        if state.prefix in self.suspended:
            return "shared-namespace"
        return state.desired.reason.value if isinstance(state.desired, Ineligible) else "no-route"

    def _withdrawn(self, state: RouteState, reason: str) -> None:
        gateway = state.published
        state.published = None
        if gateway is not None:
            self._report.withdrawn(state.prefix, gateway, reason)

    # -- the next request -------------------------------------------------------------------------------------------

    def next_request(self, now: float) -> Request | None:
        """The next request to send now, its tokens taken; the prefix is busy until `finished`. None: nothing now."""
        self.token_in = 0.0
        if self.halted or (self.one_at_a_time and self.busy) or self.inventory_due(now):
            return None
        for _ in range(SEARCH):
            job = self._next_job(now)
            if job is None:
                return None
            prefix, urgency = job
            state = self.routes[prefix]
            repair = urgency is Urgency.VERIFY or self._is_repair(state, urgency)
            tokens = self._cost(state, urgency, repair=repair)
            if (wait := self._reserve(tokens, now, repair=repair)) > 0:
                self.token_in = wait
                return None
            self._unqueue(prefix)
            for checks in (self._looking, self._verify):
                if checks and checks[0] == prefix:
                    checks.popleft()
            request = self._begin(state, urgency, now)
            if request is not None:
                self.busy.add(prefix)
                return request._replace(tokens=tokens, repair=repair)
            self._give_back(tokens, now, repair=repair)
        self.token_in = FURTHER_S
        return None

    def has_work(self, now: float) -> bool:
        """Whether something is to be sent, now or when there are tokens."""
        return not self.halted and self._next_job(now) is not None

    def _next_job(self, now: float) -> tuple[Prefix, Urgency] | None:
        """What goes first; looks go before further repairs, whose rate follows them."""
        if self._look and now >= self._look_at:
            self._looking.extend(self._look)
            self._look.clear()
        most = Urgency.REPLACE if self.withdrawal_limit.holds(self.owning, now) else Urgency.WITHDRAW
        job = self.queue.first(now, most=most)
        if job is None or self._is_repair(self.routes[job[0]], job[1]):
            check = self._first_check(self._looking, now)
            if check is None and job is None:
                self._begin_checks(now)
                check = self._first_check(self._verify, now)
            if check is not None:
                return check, Urgency.VERIFY
        return job

    @staticmethod
    def _is_repair(state: RouteState, urgency: Urgency) -> bool:
        return state.lost and urgency in {Urgency.ADD, Urgency.DEFAULT}

    @staticmethod
    def _cost(state: RouteState, urgency: Urgency, *, repair: bool) -> int:
        """Tokens to reserve: one for each change that loxilb may have to ingest because of this work."""
        inet = state.prefix.family is Family.INET
        if repair:
            return 2  # the deletion by another writer was ingested, too
        if urgency in WITHDRAWALS:
            return 2 if inet or not state.certain else 1
        if urgency is Urgency.REPLACE and state.owned is not None:
            return 3 if inet else 2
        return 1

    def _reserve(self, tokens: int, now: float, *, repair: bool) -> float:
        """Take the tokens and return 0, or return the seconds until there are enough."""
        if repair and (wait := self.repairs.take(now)) > 0:
            return wait
        wait = self.bucket.take(now, tokens)
        if wait > 0 and repair:
            self.repairs.give_back(now)
        return wait

    def _give_back(self, tokens: int, now: float, *, repair: bool) -> None:
        self.bucket.give_back(now, tokens)
        if repair:
            self.repairs.give_back(now)

    def _begin(self, state: RouteState, urgency: Urgency, now: float) -> Request | None:
        """The first request of this work; None: it cannot be sent now, and the prefix was put where it belongs."""
        if urgency is Urgency.VERIFY:
            if state.owned is None or not self._is_verifiable(state):
                self._place(state, now)
                return None
            assert isinstance(state.desired, Desired)  # noqa: S101 (a verifiable route is desired)
            return Request(Kind.VERIFY, state.prefix, state.owned, desired=state.desired)
        if urgency in WITHDRAWALS or (urgency is Urgency.REPLACE and state.owned is not None):
            return self._begin_delete(state, now)
        if state.owned is None:
            family = state.prefix.family
            if self._blocked_by_row(state, now):
                self._fill(family, now)
                return None
            if self._using[family] + (not self._uses_room(state)) > self.limits.capacity(family):
                self._remove_state(state)
                self.over[family][state.prefix] = None
                return None
            self._set_phase(state, Phase.PENDING, now)
        return self._add_request(state)

    def _add_request(self, state: RouteState) -> Request:
        prefix, desired = state.prefix, state.desired
        assert isinstance(desired, Desired)  # noqa: S101 (only what is desired is added)
        clean = prefix not in self.inventory.rows or (state.clean and state.owned == desired.gateway)
        row = Row(desired.gateway, clean)
        self._note(prefix, row)
        return Request(Kind.ADD, prefix, desired.gateway, intent=row, desired=desired)

    def _blocked_by_row(self, state: RouteState, now: float) -> bool:
        """Whether another writer has the prefix, as far as the newest inventory shows; then nothing is posted."""
        row = self._row(state)
        if row is None or (isinstance(state.desired, Desired) and state.desired.beside):
            return False
        self._judge(state, row, now)
        return True

    def _row(self, state: RouteState) -> InventoryRow | None:
        """The table's row of a prefix of which nothing is ours; None also if the witness shows that it is stale."""
        prefix = state.prefix
        witness, gateway = self._witness_now, state.gateway
        stale = witness is not None and gateway is not None and not self._kernel_has(witness, prefix, gateway)
        return None if stale else self.inventory.rows.get(prefix)

    def _begin_delete(self, state: RouteState, now: float) -> Request | None:
        prefix, owned = state.prefix, state.owned
        if owned is None:
            return self._begin_removal_of_stale_row(state, now)
        proof = self._proof(state, owned, now)
        if proof is _Proof.STALE:
            self.unproved[prefix] = now
            return None
        if proof is _Proof.GONE:
            self._gone_by_witness(state, now, is_contention=False)
            return None
        if proof is _Proof.NONE:
            self._leave_behind(state, self._describe(prefix), now)
            return None
        if proof is _Proof.SHOWN and prefix.family is Family.INET6:
            return self._delete_request(state, owned, self._shown_at(now), now)
        if proof is _Proof.MISSING and state.gateway is not None:
            # A 2xx to the new route proves that the old one is gone: both have the same key.
            return self._add_request(state)
        if proof is _Proof.MISSING and not self._is_provable(state):
            # a POST would add it, and nothing could prove then that DELETE takes it
            self._leave_behind(state, "the target's table does not show it, its kernel may have it", now)
            return None
        return Request(Kind.ASSERT, prefix, owned)

    def _delete_request(self, state: RouteState, owned: Address, proved_at: float, now: float) -> Request:
        """A DELETE, for as long as its proof is fresh. From now on nobody can say that the route is there."""
        if state.phase in MIRRORED:  # it is to be replaced
            self._set_phase(state, Phase.PENDING, now)
        return Request(Kind.DELETE, state.prefix, owned, not_after=proved_at + FRESH_S)

    def _shown_at(self, now: float) -> float:
        """When the table, or the witness, showed what it shows."""
        return self.inventory_at if self._witness_now is None else now

    @staticmethod
    def _is_provable(state: RouteState) -> bool:
        """Whether a row that shows our route proves that DELETE takes it: reconciler.md, section 2."""
        return state.prefix.family is Family.INET or (state.clean and not state.prefix.is_default)

    def _begin_removal_of_stale_row(self, state: RouteState, now: float) -> Request | None:
        """Remove the row that is left of a route of ours: by a POST and a DELETE, while the witness shows nothing."""
        prefix, witness = state.prefix, self._witness_now
        stale = state.stale
        assert stale is not None  # noqa: S101 (the action says so)
        gateway = stale.gateway
        if self.inventory_at <= stale.since:
            self.unproved[prefix] = now
            return None
        row = self.inventory.rows.get(prefix)
        is_alone = witness is not None and not self._kernel_has(witness, prefix, gateway)
        if row is None or not is_ours(row, gateway, self.protocols) or not is_alone:
            state.stale = None
            self._place(state, now)
            return None
        intent = Row(gateway)
        self._note(prefix, intent)
        self._own(state, gateway)
        state.stale = stale  # until the answer: nothing of ours is there yet
        return Request(Kind.ASSERT, prefix, gateway, intent=intent)

    @staticmethod
    def _kernel_has(witness: WitnessView, prefix: Prefix, gateway: Address) -> bool:
        """Whether the target's kernel has any route to the prefix, ours by this gateway or another."""
        return witness.holds(prefix, gateway) or witness.others(prefix, gateway)

    def _describe(self, prefix: Prefix) -> str:
        row = self.inventory.rows.get(prefix)
        if row is not None:
            return describe_row(row)
        return "a route exists in its kernel that its table does not show"

    def _leave_behind(self, state: RouteState, why: str, now: float) -> None:
        state.error = (
            f"ours is left behind, since nothing proves that DELETE would remove it and no other: {why}"
        )
        state.heal = False
        self._set_phase(state, Phase.LEFT_BEHIND, now)
        if state.gateway is None:
            self._withdrawn(state, "left-behind")
        self._place(state, now)

    def _proof(self, state: RouteState, owned: Address, now: float) -> _Proof:
        """Whether a DELETE would take our route, by reconciler.md section 2."""
        prefix = state.prefix
        inet = prefix.family is Family.INET
        if (witness := self._witness_now) is not None:
            if witness.shows(prefix, owned) if inet else witness.only_ours(prefix, owned):
                return _Proof.SHOWN
            return _Proof.NONE if witness.holds(prefix, owned) else _Proof.GONE
        if self.inventory_at <= state.changed_at or now - self.inventory_at > FRESH_S:
            return _Proof.STALE
        row = self.inventory.rows.get(prefix)
        if state.by_hand and (row is None or row.gateways == (owned,)):
            return _Proof.SHOWN
        if row is None:
            return _Proof.MISSING
        is_shown = self._is_provable(state) and is_ours(row, owned, self.protocols)
        return _Proof.SHOWN if is_shown else _Proof.NONE

    # -- what came of a request -------------------------------------------------------------------------------------

    def finished(self, request: Request, outcome: Outcome, now: float) -> Request | None:
        """Take the outcome of a request; return one for the same prefix that has to follow at once, or None."""
        prefix, answer = request.prefix, outcome.answer
        state = self.routes[prefix]
        spent = 0
        if answer in {Answer.CREATED, Answer.DELETED, Answer.UNKNOWN}:
            state.changed_at = now
            self.ingestion.note(now)
            spent = 2 if request.repair else 1
        if answer not in _NO_ANSWER:
            self._silent.clear()
        handlers = {
            Kind.ADD: self._added,
            Kind.ASSERT: self._asserted,
            Kind.VERIFY: self._verified,
            Kind.DELETE: self._deleted,
        }
        follow = handlers[request.kind](state, request, outcome, now)
        left = max(0, request.tokens - spent)
        if follow is not None:
            return follow._replace(tokens=left)
        self._give_back(left, now, repair=request.repair and answer is not Answer.CREATED)
        self.busy.discard(prefix)
        self._place(state, now)
        self._fill(prefix.family, now)
        return None

    @staticmethod
    def _clear_failures(state: RouteState) -> None:
        state.failures, state.error, state.retry_at = 0, "", NEVER

    def _failed(self, state: RouteState, words: str, now: float) -> None:
        state.failures += 1
        state.error = words
        state.retry_at = now + backoff_s(state.failures, RETRY_FIRST_S, RETRY_MOST_S)

    def _created(self, state: RouteState, gateway: Address, now: float) -> None:
        """2xx to a POST: the route is ours and in the target's kernel."""
        prefix = state.prefix
        state.clean = prefix not in self.inventory.rows or (state.clean and state.owned == gateway)
        self._own(state, gateway)
        state.former = None
        state.certain, state.proved_once, state.lost = True, True, False
        self._clear_failures(state)
        self.foreign_not_forwarded.pop(prefix, None)
        self.counters.posted += 1
        self.proved_at = now

    def _added(self, state: RouteState, request: Request, outcome: Outcome, now: float) -> None:
        prefix, gateway, answer, before = state.prefix, request.gateway, outcome.answer, state.owned
        if answer is Answer.CREATED:
            self._created(state, gateway, now)
            if request.repair:
                self._repaired(prefix, now)
            self._accepted(state, request.desired, now)
        elif answer is Answer.UNKNOWN:
            if self._contains_our_end(prefix):
                self._silent[prefix] = None
            if before != gateway:
                state.former = before
            self._own(state, gateway)
            self._failed(state, outcome.words, now)
        elif before not in {None, gateway}:  # the route before it may be there after all
            self._note(prefix, Row(before))
            if answer is Answer.EXISTS:
                state.clean = False
                self._leave_behind(state, self._describe(prefix), now)
            else:
                self._refused(state, request.desired, outcome, now)
        else:
            if before is None:
                self._note(prefix, None)
                self._withdrawn(state, "replacement-failed")  # the route before it was deleted
            shown = before is not None and prefix in self.inventory.rows
            if answer is Answer.EXISTS or (shown and answer in _EXISTS):
                self._exists(state, outcome, now)
            else:
                self._refused(state, request.desired, outcome, now)

    def _exists(self, state: RouteState, outcome: Outcome, now: float) -> None:
        """409 to a POST of a route that is not known to exist."""
        shown = self.inventory_at <= state.changed_at or state.prefix in self.inventory.rows
        if state.owned is not None and not shown:
            self._not_forwarded(state, now)
            return
        state.error = outcome.words
        self._unjudged[state.prefix] = now
        self._set_phase(state, Phase.UNJUDGED, now)

    def _not_forwarded(self, state: RouteState, now: float) -> None:
        state.lost = False
        self._note_unclean(state)
        state.error = (
            "the target's kernel has the route, its table does not: another route to the prefix came and went"
        )
        self._set_phase(state, Phase.NOT_FORWARDED, now)
        if (witness := self._witness_now) is not None and state.owned is not None:
            state.heal = witness.only_ours(state.prefix, state.owned)

    def _note_unclean(self, state: RouteState) -> None:
        """Another writer has, or had, a route to the prefix: the next run has to know that, too."""
        if state.clean and state.owned is not None:
            self._note(state.prefix, Row(state.owned))
        state.clean = False

    def _refused(self, state: RouteState, desired: Desired | None, outcome: Outcome, now: float) -> None:
        if outcome.answer in _NO_ANSWER:
            self._failed(state, outcome.words, now)
            return
        news = state.phase is not Phase.REFUSED and not state.failures
        self._failed(state, outcome.words, now)
        self._set_phase(state, Phase.REFUSED, now)
        if news and desired is not None:
            state.published = None
            self._report.refused(state.prefix, desired, outcome.status, outcome.words, RETRY_FIRST_S)

    def _accepted(self, state: RouteState, desired: Desired | None, now: float) -> None:
        """A POST of a route that is, or was a moment ago, desired was answered with 2xx."""
        contended = self.repairs.is_contended(state.prefix)
        self._set_phase(state, Phase.CONTENDED if contended else Phase.ACCEPTED, now)
        gap_ms = None if state.gap_since is None else round((now - state.gap_since) * 1e3, 3)
        state.gap_since = None
        self._report.reached("accepted", state.kernel_changed_at, now)
        assert desired is not None  # noqa: S101 (an ADD or VERIFY has it)
        previous, state.published = state.published, desired.gateway
        self._report.accepted(
            state.prefix, desired, previous if previous != desired.gateway else None, gap_ms
        )

    def _repaired(self, prefix: Prefix, now: float) -> None:
        """A route that the target had lost is there again: how soon it may be posted next, and is it looked at?"""
        self.counters.repaired += 1
        if self.repairs.losses.get(prefix) is not None:
            self.repairs.saw(kept=False)
        if self.repairs.lost(prefix, now).times == 1:
            if not self._look:
                self._look_at = now + RepairWindow.PERIOD_S
            self._look.append(prefix)

    def _verified(self, state: RouteState, request: Request, outcome: Outcome, now: float) -> None:
        prefix, answer = state.prefix, outcome.answer
        if answer is Answer.CREATED:
            self._lost(state, "a repeated POST was accepted: its kernel had lost the route, and has it again")
            self._created(state, request.gateway, now)
            state.kernel_changed_at = None
            self._repaired(prefix, now)
            self._accepted(state, request.desired, now)
            self._verify_at = min(self._verify_at, max(now, self._verified_at + VERIFY_GAP_S))
        elif answer in _EXISTS:
            self.proved_at = now
            self._clear_failures(state)
            if prefix in self.repairs.losses:
                self.repairs.saw(kept=True)
        elif answer is Answer.UNKNOWN:  # posted or not, the route is ours: look again
            self._failed(state, outcome.words, now)
        elif answer is Answer.UNREACHABLE:
            self.unreachable.setdefault(request.gateway, prefix)
        if answer is Answer.CREATED or answer in _EXISTS:
            self._reachable(prefix, request.gateway, now)

    def _lost(self, state: RouteState, why: str) -> None:
        self.counters.lost += 1
        state.published = None
        self._report.lost(state.prefix, why)

    def _reachable(self, prefix: Prefix, gateway: Address, now: float) -> None:
        """The gateway works: if it did not before, whatever goes by it has to be verified."""
        if self.unreachable.get(gateway) == prefix:
            del self.unreachable[gateway]
            self._verify_at = now

    def _asserted(self, state: RouteState, request: Request, outcome: Outcome, now: float) -> Request | None:
        prefix, owned, answer = state.prefix, request.gateway, outcome.answer
        stale, state.stale = state.stale, None
        if answer is Answer.UNKNOWN:
            self._doubt(state, outcome.words, now)
            return None
        if stale is not None and answer is not Answer.CREATED:
            self._disown(state, now)
            if answer not in _EXISTS:  # else another writer's route came up in its place
                state.stale = stale
                self._failed(state, outcome.words, now)
            return None
        still = self._action(state) in {*WITHDRAWALS, Urgency.REPLACE}
        proved = False
        if answer is Answer.CREATED:  # it had gone: a stale row, or a loss
            self.counters.stale_removed += 1
            self._created(state, owned, now)
            proved = self._is_provable(state)
        elif answer in _EXISTS:
            proof = self._proof(state, owned, now)
            proved, still = proof is _Proof.SHOWN, still and proof is not _Proof.STALE
        if not still:
            return None
        if proved:
            proved_at = now if answer is Answer.CREATED else self._shown_at(now)  # 2xx is itself a proof
            return self._delete_request(state, owned, proved_at, now)
        if answer in _NO_ANSWER:
            self._failed(state, outcome.words, now)
        elif answer is Answer.CREATED or answer in _EXISTS:
            self._leave_behind(state, self._describe(prefix), now)
        elif not state.proved_once and prefix not in self.inventory.rows:
            self._disown(state, now)  # the lost answer to its POST was this refusal
        else:
            self._failed(state, outcome.words, now)
            self._leave_behind(state, f"a POST of it is refused: {outcome.words}", now)
        return None

    def _doubt(self, state: RouteState, words: str, now: float) -> None:
        """The answer was lost: whether our route is there has to be proved again."""
        state.certain = False
        self._failed(state, words, now)

    def _deleted(self, state: RouteState, request: Request, outcome: Outcome, now: float) -> Request | None:
        prefix, owned = state.prefix, request.gateway
        if outcome.answer is Answer.DELETED:
            self.counters.deleted += 1
        elif outcome.answer is not Answer.ABSENT or prefix.family is Family.INET:
            self._doubt(state, outcome.words, now)
            return None
        row = self.inventory.rows.pop(prefix, None)  # what we removed is not another writer's
        if self._leaves_another(state, owned, row):
            self.foreign_not_forwarded[prefix] = None
        self._disown(state, now)
        self._clear_failures(state)
        if state.gateway is not None:
            state.gap_since = now
            return self._add_request(state)
        self._report.reached("withdrawn", state.kernel_changed_at, now)
        self._withdrawn(state, self._why(state))
        return None

    def _leaves_another(self, state: RouteState, owned: Address, row: InventoryRow | None) -> bool:
        """Whether another route to the prefix remains: the target's table lost its row with ours."""
        prefix = state.prefix
        if (witness := self._witness_now) is not None:
            return witness.others(prefix, owned)
        # an IPv4 default that was added beside another one: since then the row shows ours
        beside = prefix.is_default and prefix.family is Family.INET and not state.clean
        return row is not None and (beside or not is_ours(row, owned, self.protocols))

    # -- checks: repeated POSTs of what should be there -------------------------------------------------------------

    def verify_soon(self, now: float) -> None:
        """Have all our routes posted again, as a proof that they exist, when nothing else waits."""
        self._verify_at = now

    def _begin_checks(self, now: float) -> None:
        """Begin a verification or a probe if one is due, and none is under way."""
        if self._verify:
            return
        if now >= self._verify_at:
            self._verify_at, self._verified_at = now + self.limits.verify_interval_s, now
            self._probe_at = now + self.limits.probe_interval_s
            self.counters.verifications += 1
            self._verify.extend(self.routes)
        elif now >= self._probe_at:
            self._probe_at = now + self.limits.probe_interval_s
            self._verify.extend(self._probe())

    def _first_check(self, checks: deque[Prefix], now: float) -> Prefix | None:
        """The first of these routes that can be posted again now; those before it are dropped."""
        for _ in range(SEARCH):
            if not checks:
                return None
            prefix = checks[0]
            state = self.routes.get(prefix)
            if (
                state is not None
                and self._is_verifiable(state)
                and prefix not in self.busy
                and prefix not in self.queue
                and self.repairs.not_before(prefix) <= now
            ):
                return prefix
            checks.popleft()
        self.token_in = FURTHER_S
        return None

    def _probe(self) -> list[Prefix]:
        """One of our routes, each in turn, and one by each gateway that was unreachable."""
        found = []
        for gateway, prefix in tuple(self.unreachable.items()):
            state = self.routes.get(prefix)
            if state is None or state.owned != gateway or not self._is_verifiable(state):
                del self.unreachable[gateway]  # another route by it, if there is one, will tell
            else:
                found.append(prefix)
        for _ in range(len(self.routes) + 1):
            prefix_or_none = next(self._probes, None)
            if prefix_or_none is None:
                self._probes = iter(tuple(self.routes))
                continue
            state = self.routes.get(prefix_or_none)
            if state is not None and self._is_verifiable(state):
                self.counters.probes += 1
                return [*found, prefix_or_none]
        return found

    # -- inventories ------------------------------------------------------------------------------------------------

    def _inventory_wanted_at(self, now: float) -> float:
        """When the table has to be read next, for whatever reason."""
        at = inf
        if self.unproved:
            at = now
        if self._unjudged:
            first = next(iter(self._unjudged.values()))
            idle = self.queue.first(now) is None
            at = min(at, max(now if idle else first + JUDGE_AFTER_S, self.inventory_at + self._judge_gap_s))
        interval_s = self.limits.inventory_interval_s
        if self.phases[Phase.CONFLICTING] or self.phases[Phase.PRESENT] or self.phases[Phase.LEFT_BEHIND]:
            interval_s = min(interval_s, CONFLICT_INVENTORY_S)
        periodic = self.inventory_at + interval_s
        if periodic < at and (periodic > now or self.queue.first(now, least=Urgency.ADD) is None):
            at = periodic
        return max(at, self.inventory_at + self.limits.inventory_gap_s)

    def inventory_due(self, now: float) -> bool:
        """Whether the table has to be read before anything else is sent."""
        return self._inventory_wanted_at(now) <= now

    def inventory_in(self, now: float) -> float:
        """Seconds until the table should, and may, be read."""
        return max(self._inventory_wanted_at(now) - now, self.ingestion.quiet_in(now))

    def take_inventory(
        self, inventory: Inventory, started: float, now: float, *, connected: bool = False
    ) -> Generator[None, None, None]:
        """Compare every route with a table that was read in quiet, in slices.

        Args:
            inventory: the table.
            started: when reading it began; routes changed since then are not compared.
            now: monotonic seconds.
            connected: it is the first one of a connection: what is missing was lost by a restart, not by contention.
        """
        self.inventory, self.inventory_at = inventory, started
        self.proved_at = now
        self.counters.inventories += 1
        waiting, self.unproved = self.unproved, {}
        self._note_come_back(inventory, now)
        if self._unjudged:
            self._judge_gap_s = min(self._judge_gap_s * 2, CONFLICT_INVENTORY_S)
        for prefix in list(self.foreign_not_forwarded):
            if prefix in inventory.rows:
                del self.foreign_not_forwarded[prefix]
        for prefix in list(self.routes):
            state = self.routes.get(prefix)
            if state is not None and prefix not in self.busy:
                if state.changed_at < started:
                    self._compare(state, inventory.rows.get(prefix), now, connected=connected)
                if state.phase is Phase.LEFT_BEHIND:
                    self._reconsider(state, now)
                elif prefix in waiting and prefix in self.routes:
                    self._place(state, now)
                self._fill(prefix.family, now)  # a route that is another writer's needs no room
            yield

    def _reconsider(self, state: RouteState, now: float) -> None:
        """What is left behind is removed as soon as a proof comes up."""
        if state.owned is None:
            return
        proof = self._proof(state, state.owned, now)
        tried = proof is _Proof.MISSING and (
            not (self._is_provable(state) or state.gateway is not None)
            or now < max(state.retry_at, state.since + RETRY_MOST_S)
        )
        if proof in {_Proof.SHOWN, _Proof.GONE, _Proof.MISSING} and not tried:
            self._set_phase(state, Phase.PENDING, now)
            self._place(state, now)

    def _compare(self, state: RouteState, row: InventoryRow | None, now: float, *, connected: bool) -> None:
        owned, witness = state.owned, self._witness_now
        if owned is None:
            if state.phase in _RESTING:
                self._judge(state, self._row(state), now)
        elif (
            witness is not None
            and state.phase is not Phase.LEFT_BEHIND
            and state.changed_at + WITNESS_LAG_S <= now
            and not witness.holds(state.prefix, owned)
        ):
            self._gone_by_witness(state, now, is_contention=not connected)
        elif row is None:
            self._missing(state, now, connected=connected)
        elif is_ours(row, owned, self.protocols):
            self._shown(state, owned, now)
        elif state.former is not None and is_ours(row, state.former, self.protocols):
            self._not_replaced(state, state.former, now)
        else:
            self._overlaid(state, row, now)

    def _judge(self, state: RouteState, row: InventoryRow | None, now: float) -> None:
        """Nothing of ours is there: say what the row means for a desired route."""
        before = state.phase
        if row is None and before is not Phase.UNJUDGED:
            if now < state.retry_at:
                return
            state.failures, state.error = 0, ""
            self._set_phase(state, Phase.PENDING, now)  # the other route is gone
            self._place(state, now)
            return
        if before is Phase.UNJUDGED:
            self._judge_gap_s = JUDGE_GAP_S
        if row is not None and row.gateways == (state.gateway,):
            state.failures, state.error = 0, ""
            self._set_phase(state, Phase.PRESENT, now)
            return
        if row is None:  # a 409, and the table has no row: tried again later
            state.retry_at = now + RETRY_MOST_S
        self._conflicting(state, self._describe(state.prefix), now)

    def _conflicting(self, state: RouteState, detail: str, now: float) -> None:
        state.error = detail
        if state.phase is Phase.CONFLICTING:
            return
        self._set_phase(state, Phase.CONFLICTING, now)
        self.counters.conflicts += 1
        state.published = None
        if isinstance(state.desired, Desired):
            self._report.conflicting(state.prefix, state.desired, detail)

    def _missing(self, state: RouteState, now: float, *, connected: bool) -> None:
        """The table has no row for a route of ours."""
        if state.phase in {Phase.NOT_FORWARDED, Phase.LEFT_BEHIND}:
            return
        state.certain = False
        if state.gateway is not None:
            if connected:
                state.lost = False
            elif state.phase not in {Phase.PENDING, Phase.REFUSED}:  # else it was not there before, either
                state.lost = True
            if state.published is not None:
                self._lost(state, "its table does not show the route any more")
            if state.phase is not Phase.REFUSED:
                self._set_phase(state, Phase.PENDING, now)
        self._place(state, now)

    def _shown(self, state: RouteState, owned: Address, now: float) -> None:
        """The table, or the witness, shows our route."""
        prefix = state.prefix
        state.former = None
        state.certain, state.proved_once, state.lost = True, True, False
        if state.gateway == owned:  # what the operator said was about the time when it was not
            state.heal = state.by_hand = False
        if state.gateway == owned and state.phase not in {Phase.CONTENDED, Phase.CONFIRMED}:
            self._set_phase(state, Phase.CONFIRMED, now)
            state.failures, state.error = 0, ""
            self._report.reached("confirmed", state.kernel_changed_at, now)
            state.kernel_changed_at = None
            state.published = owned
            self._report.confirmed(prefix, owned)
        elif state.published != owned and state.phase is not Phase.LEFT_BEHIND:
            state.published = owned  # added by a previous run, and to be replaced or withdrawn
            self._report.confirmed(prefix, owned)
        if state.phase in _RESTING:
            self._set_phase(state, Phase.PENDING, now)
        if state.phase is not Phase.CONFIRMED or prefix in self.queue:
            self._place(state, now)

    def _not_replaced(self, state: RouteState, former: Address, now: float) -> None:
        """An unanswered POST did not replace this route of ours."""
        self._note(state.prefix, Row(former, state.clean))
        self._own(state, former)
        self._shown(state, former, now)

    def _overlaid(self, state: RouteState, row: InventoryRow, now: float) -> None:
        """The row of a prefix of ours is another writer's: ours may still be in the kernel below it."""
        state.certain = state.lost = False
        state.by_hand = state.by_hand and row.gateways == (state.owned,)
        self._note_unclean(state)
        if row.gateways == (state.gateway,):
            self._set_phase(state, Phase.PRESENT, now)
        elif state.gateway is not None:
            self._conflicting(state, describe_row(row), now)
        self._place(state, now)

    # -- the witness ------------------------------------------------------------------------------------------------

    @property
    def _witness_now(self) -> WitnessView | None:
        """The witness, while it shows the kernel's present state."""
        return self._witness if self._witness is not None and self._witness.ready else None

    def witness_changed(self, prefix: Prefix, now: float, *, foreign_removed: bool = False) -> bool:
        """The routes of a prefix changed in the target's kernel.

        Args:
            prefix: the prefix.
            now: monotonic seconds.
            foreign_removed: another writer's route to it went. Then the target's table has no row for it any more.

        Returns:
            Whether it is too early to say what that means: call again a moment later.
        """
        state, witness = self.routes.get(prefix), self._witness_now
        if state is None or witness is None:
            return False
        if prefix in self.busy or state.changed_at + WITNESS_LAG_S > now:
            return True  # it may be our own doing, and the answer still on its way
        owned = state.owned
        if owned is None:
            if state.phase in _RESTING:  # the other writer's route may be gone
                self.inventory.rows.pop(prefix, None)
                self._set_phase(state, Phase.PENDING, now)
                self._place(state, now)
            return False
        if state.phase is Phase.LEFT_BEHIND:
            self._reconsider(state, now)
        elif witness.shows(prefix, owned):
            if foreign_removed and state.gateway == owned:
                self._not_forwarded(state, now)
                self._place(state, now)
            elif not witness.others(prefix, owned) and state.phase is not Phase.NOT_FORWARDED:
                self._shown(state, owned, now)
        elif witness.holds(prefix, owned):
            state.certain = False
            self._note_unclean(state)
            if state.gateway is not None:
                self._conflicting(state, "its kernel has another writer's route before ours", now)
            self._place(state, now)
        else:
            self._gone_by_witness(state, now)
        return False

    def _gone_by_witness(self, state: RouteState, now: float, *, is_contention: bool = True) -> None:
        """The target's kernel does not have our route any more.

        It is struck from the ledger: what looks like it from now on is another writer's. But a link that flaps takes
        IPv4 routes from the kernel in silence, and the target goes on forwarding by the row that stays.
        """
        prefix, owned, witness = state.prefix, state.owned, self._witness_now
        if witness is not None and state.former is not None and witness.shows(prefix, state.former):
            self._not_replaced(state, state.former, now)
            return
        others = witness is not None and owned is not None and witness.others(prefix, owned)
        self._disown(state, now)
        if prefix.family is Family.INET and not others:
            state.stale = None if owned is None else StaleRow(owned, now)
        if state.gateway is None:
            self._withdrawn(state, "replaced-by-other" if others else self._why(state))
        elif others:
            self._conflicting(state, "its kernel has another route to the prefix now", now)
        else:
            state.lost = is_contention
            self.inventory.rows.pop(prefix, None)
            if state.published is not None:
                self._lost(state, "its kernel does not have the route any more")
        self._place(state, now)

    # -- time, and figures ------------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A connection begins: everything has to be proved again."""
        self._verify_at = now
        self.halted, self.one_at_a_time = False, True
        self.suspended.clear()
        self._silent.clear()  # it answers
        self._verify.clear()
        self._looking.clear()
        for state in self.routes.values():
            state.lost = False  # what a restart took is no contention, though the witness saw it go before

    def suspend(self, prefix: Prefix) -> None:
        """A route that we posted came up in our own kernel: nothing more is sent."""
        self.suspended[prefix] = None
        self.halted = True

    def take_back(self, prefix: Prefix, now: float) -> Request | None:
        """Withdraw a suspended route at once; the caller has proof that DELETE takes it. None: it is not ours."""
        state = self.routes.get(prefix)
        if state is None or state.owned is None or prefix in self.busy:
            return None
        owned = state.owned
        self._set_desired(state, None, now)
        self._unqueue(prefix)
        self.busy.add(prefix)
        return Request(Kind.DELETE, prefix, owned)

    def disconnected(self) -> None:
        """The target does not answer: a POST that may have cut us off is not sent again."""
        for prefix in self._silent:
            self.suspects[prefix] = None
        self._silent.clear()
        self._verify.clear()
        self._looking.clear()

    def tick(self, now: float) -> None:
        """Let time pass; to be called every second or so."""
        for prefix in self.repairs.tick(now):
            state = self.routes.get(prefix)
            if state is not None and state.phase is Phase.CONTENDED:
                self._set_phase(state, Phase.ACCEPTED, now)

    def next_wakeup(self, now: float) -> float:
        """Seconds until something is to be done, if nothing else happens before; infinity: a request has to end."""
        due = self.inventory_due(now)
        if self.halted or (self.busy and (self.one_at_a_time or due)):
            return inf
        wake = self.inventory_in(now)
        if due:  # nothing is sent before it, whatever else is due
            return wake
        if not self._verify:  # else these come after what is verified now
            wake = min(wake, max(0.0, self._probe_at - now), max(0.0, self._verify_at - now))
        if self._look:
            wake = min(wake, max(0.0, self._look_at - now))
        if self.token_in > 0:
            wake = min(wake, self.token_in)
        if (next_due := self.queue.next_due()) is not None:
            wake = min(wake, max(0.0, next_due - now))
        return wake

    @property
    def owned(self) -> Mapping[Prefix, Address]:
        """Our routes in the target, those that may be there too."""
        return {prefix: state.owned for prefix, state in self.routes.items() if state.owned is not None}

    @property
    def occupied(self) -> dict[Family, int]:
        """How many routes are, may be, or are about to be ours there, by family."""
        return self._using.copy()

    @property
    def waiting(self) -> int:
        """What waits for us: requests, proofs, judgements, checks. What waits for its own time does not count."""
        return (
            self.queue.waiting
            + len(self.unproved)
            + len(self._unjudged)
            + len(self.busy)
            + len(self._verify)
            + len(self._looking)
        )

    @property
    def synced(self) -> bool:
        """Whether nothing waits for us."""
        return not self.waiting

    @property
    def complete(self) -> bool:
        """Whether everything desired is there, and nothing else of ours."""
        there = sum(self.phases[phase] for phase in MIRRORED)
        return (
            self.synced
            and there == self.desired
            and not self.over_capacity
            and not self.phases[Phase.LEFT_BEHIND]
            and not self.unreachable
        )

    @property
    def over_capacity(self) -> int:
        """How many desired routes wait for room."""
        return sum(map(len, self.over.values()))

    def all_phases(self) -> Counter[Phase]:
        """How many prefixes are in which phase; they add up to all that is known."""
        return self.phases + Counter(
            {Phase.INELIGIBLE: len(self.ineligible), Phase.OVER_CAPACITY: self.over_capacity}
        )

    def oldest_s(self, now: float) -> float:
        """How long the longest waiting has waited; what waits for its own time does not count."""
        unproved = now - next(iter(self.unproved.values())) if self.unproved else 0.0
        unjudged = now - next(iter(self._unjudged.values())) if self._unjudged else 0.0
        return max(self.queue.oldest_s(now), unproved, unjudged)

    def held_at_start(self, now: float) -> int:
        """How many withdrawals the start-up hold holds back."""
        return len(self._startup_holds) if self._startup_until > now else 0

    def resynced(self, began: float) -> int:
        """The kernel was dumped again: tell how many withdrawals that releases."""
        return self.withdrawal_limit.resynced(began)
