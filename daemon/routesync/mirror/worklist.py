"""What is to be done at one target: wishes in, work out. No requests are made here.

Every prefix is in one of these places: resting (`standing` when it is wanted and there), waiting in `pending`, waiting
for a reading in `verify`, waiting for room in `over`, or busy in a request. `schedule` puts it where it belongs, from
what its entry says, and is called whenever that may have changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from typing import Final

from routesync.mirror.announce import Announcer
from routesync.mirror.book import NEVER, Entry, Finding, Phase, Tally, compare, describe_row
from routesync.mirror.brakes import Limits, MassWithdrawBrake
from routesync.mirror.changes import RETRY_FIRST_S, Changes, why_unwanted
from routesync.mirror.contact import Reading
from routesync.mirror.ledger import Row
from routesync.mirror.pending import Pending, Urgency
from routesync.mirror.wanted import Blocked, TargetFacts, Wanted
from routesync.mirror.witness import Witness
from routesync.route import Address, Candidate, Family, Prefix

FRESH_S: Final = 5.0
"""For so long a reading justifies a DELETE."""
FLAP_S: Final = 1.0
"""At most one change per prefix in this time."""
RETRY_MOST_S: Final = 300.0
WITNESS_LAG_S: Final = 0.05
"""What the witness says within this time of a request of ours is looked at again after it."""

Judge = Callable[[Candidate, TargetFacts], Wanted | Blocked]


def backoff(failures: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, with jitter so that many do not return at once."""
    full_s = min(most_s, first_s * 2.0 ** min(failures - 1, 16))
    return full_s * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)


class Worklist:
    """The entries of one target, and where each of them waits. Times are monotonic seconds from `now`."""

    def __init__(
        self,
        changes: Changes,
        say: Announcer,
        *,
        judge: Judge,
        limits: Limits,
        now: Callable[[], float],
        request_kernel_reading: Callable[[], None],
        witness: Witness | None = None,
    ) -> None:
        self.entries: dict[Prefix, Entry] = {}
        self.tally = Tally()
        self.standing: dict[Prefix, None] = {}  # what is wanted and stands there
        self.pending = Pending()
        self.verify: dict[Prefix, float] = {}  # these wait for a reading, and since when
        self.busy: set[Prefix] = set()  # these are in a request
        self.over: dict[Prefix, None] = {}  # these wait for room
        self.reading: Reading | None = None
        self.facts = TargetFacts()
        self.brake = MassWithdrawBrake(limits.brake_share, limits.brake_minimum, request_kernel_reading)
        self._changes = changes
        self._say = say
        self._judge = judge
        self._limits = limits
        self._now = now
        self._occupied = dict.fromkeys(Family, 0)
        self._witness = witness
        self._start_up_until = NEVER

    # -- figures ----------------------------------------------------------------------------------------------------

    @property
    def occupied(self) -> int:
        """How many routes there are, or may be, ours."""
        return sum(self._occupied.values())

    @property
    def occupied_by_family(self) -> dict[Family, int]:
        """The same by address family."""
        return self._occupied.copy()

    @property
    def waiting(self) -> int:
        """How many prefixes wait for their turn, a time of their own or a reading."""
        return len(self.pending) + len(self.verify)

    def oldest_s(self, now: float) -> float:
        """How long the longest waiting has waited; what waits for a time of its own does not count."""
        doubtful = now - next(iter(self.verify.values())) if self.verify else 0.0
        return max(self.pending.oldest_s(now), doubtful)

    def start_up_is_over(self, now: float) -> bool:
        """Whether the start-up hold holds nothing any more."""
        return self._start_up_until <= now

    def held_at_start(self, now: float) -> int:
        """How many withdrawals the start-up hold holds back."""
        if self.start_up_is_over(now):
            return 0
        until = self._start_up_until
        return sum(self.entries[prefix].hold_until == until for prefix in self.pending.of(Urgency.WITHDRAW))

    def without_room(self) -> dict[Family, int]:
        """How many routes of each family wait for room."""
        counts = dict.fromkeys(Family, 0)
        for prefix in self.over:
            counts[prefix.family] += 1
        return counts

    # -- wishes -----------------------------------------------------------------------------------------------------

    def consider(self, prefix: Prefix, candidate: Candidate | None, asked_at: float | None = None) -> None:
        """Take the elected route of a prefix; None: there is none any more.

        `asked_at` is when that change was read off the kernel.
        """
        entry = self.entries.get(prefix)
        if entry is None:
            if candidate is None:
                return
            entry = self.entries[prefix] = Entry(self.tally)
        if candidate is not None:
            entry.hold_until = NEVER  # the kernel has it: from now on its going means something
            self.brake.forget(prefix)
        elif entry.candidate is not None and self._limits.withdraw_delay_s:
            entry.hold_until = self._now() + self._limits.withdraw_delay_s
        entry.candidate = candidate
        self._rejudge(prefix, entry)
        if entry.need(prefix) is not None:
            entry.asked_at = asked_at

    def retain(self, prefixes: Iterable[Prefix]) -> None:
        """Take what is not among these prefixes as gone: for a table that is given as a whole."""
        for prefix in self.entries.keys() - set(prefixes):
            self.consider(prefix, None)

    def claim(self, rows: Iterable[tuple[Prefix, Row]]) -> None:
        """Take up what the ledger says may be ours. What nobody wants is withdrawn after the start-up hold."""
        hold_until = self._start_up_until = self._now() + self._limits.startup_hold_s
        for prefix, row in rows:
            entry = self.entries.get(prefix)
            if entry is None:
                entry = self.entries[prefix] = Entry(self.tally)
            elif entry.known is not None or prefix in self.busy:  # the ledger became readable only later
                continue
            elif entry.phase is Phase.PRESENT:
                entry.phase = Phase.PENDING
            entry.claim = row.gateway
            entry.hold_until = hold_until
            self._occupied[prefix.family] += 1
            self.schedule(prefix, entry)

    def reconfigure(self, limits: Limits) -> None:
        """Take other limits from now on. What stands there stays, also where it is more than they allow now."""
        self._limits = limits
        self.brake.set(limits.brake_share, limits.brake_minimum)
        for prefix in tuple(self.over):  # there may be room for them now
            del self.over[prefix]
            self.entries[prefix].failures = 0
            self.schedule(prefix, self.entries[prefix])

    def rejudge(self) -> None:
        """Judge every elected route anew: the rules, or what is known of targets, changed."""
        for prefix, entry in tuple(self.entries.items()):
            self._rejudge(prefix, entry)

    def doubt(self, prefix: Prefix) -> None:
        """Let a prefix wait for a reading."""
        self.verify.setdefault(prefix, self._now())

    def adopt(self, prefixes: Collection[Prefix], intend: Callable[[Prefix, Address], None]) -> int:
        """Claim what stands there as it is wanted and is not ours, of these prefixes or of all; tell how many."""
        adopted = 0
        for prefix, entry in list(self.entries.items()):
            wanted = entry.wanted
            if entry.phase is not Phase.PRESENT or wanted is None or (prefixes and prefix not in prefixes):
                continue
            intend(prefix, wanted.gateway)
            entry.claim, entry.phase, entry.failures = wanted.gateway, Phase.PENDING, 0
            self._occupied[prefix.family] += 1
            adopted += 1
            self.schedule(prefix, entry)
        return adopted

    def _rejudge(self, prefix: Prefix, entry: Entry) -> None:
        before = entry.judgement
        entry.judgement = None if entry.candidate is None else self._judge(entry.candidate, self.facts)
        if entry.judgement != before:
            if (
                not isinstance(before, Wanted)
                or entry.wanted is None
                or before.gateway != entry.wanted.gateway
            ):
                entry.failures, entry.error = 0, ""
                if entry.phase is Phase.PRESENT:
                    entry.phase = Phase.PENDING
            self._say.judged(prefix, entry.judgement)
        self.schedule(prefix, entry)

    def schedule(self, prefix: Prefix, entry: Entry) -> None:
        """Put the prefix where it belongs: among the waiting, or to rest."""
        if prefix in self.busy:
            return  # its request does so when it ends
        need = entry.need(prefix)
        if need is None:
            self._rest(prefix, entry)
            return
        self.standing.pop(prefix, None)
        if entry.wanted is None:
            entry.phase = Phase.WITHDRAWING
        elif not entry.failures:
            entry.phase = Phase.PENDING
        if prefix in self.verify:
            return
        not_before = 0.0
        now = self._now()
        if need is Urgency.WITHDRAW and entry.hold_until > now:
            not_before = entry.hold_until
        elif entry.failures:
            not_before = now + backoff(entry.failures, RETRY_FIRST_S, RETRY_MOST_S)
        elif entry.changed_at + FLAP_S > now and entry.gap_since is None:
            not_before = entry.changed_at + FLAP_S
        self.pending.put(prefix, need, now=now, not_before=not_before)

    def _rest(self, prefix: Prefix, entry: Entry) -> None:
        self.pending.discard(prefix)
        self.verify.pop(prefix, None)
        self.over.pop(prefix, None)
        if entry.wanted is not None:
            self.standing[prefix] = None
            if entry.phase not in {Phase.CONFIRMED, Phase.PRESENT}:
                entry.phase = Phase.ACCEPTED
            return
        self.standing.pop(prefix, None)
        self._say.gone(prefix, why_unwanted(entry))
        if entry.idle:
            del self.entries[prefix]
            entry.drop()
            self.brake.forget(prefix)
            self._changes.let_go(prefix)
        else:
            entry.phase = Phase.BLOCKED

    # -- work -------------------------------------------------------------------------------------------------------

    def admitted(self, *, idle: bool) -> tuple[Urgency, Urgency]:
        """The least and the most urgent work that may go now; checks go only when nothing else does."""
        least = Urgency.CHECK if idle else Urgency.ADD
        if self.verify:  # it must become quiet, for somebody waits for a reading
            least = Urgency.REPLACE
        braked_before = self.brake.held
        if not braked_before and not self.pending.count(Urgency.WITHDRAW):
            return least, Urgency.WITHDRAW
        total = self.occupied
        if not self.brake.holds(self.pending, total, self._now()):
            if braked_before:
                self._say.released(self.pending.count(Urgency.WITHDRAW), "kernel")
            return least, Urgency.WITHDRAW
        if not braked_before:
            self._say.braked(self.brake.held, total)
        return least, Urgency.REPLACE

    def may_go(self, prefix: Prefix, entry: Entry) -> bool:
        """Whether a request may be made now; if not, see to it that it will."""
        need = entry.need(prefix)
        if need is None:
            return prefix in self.standing
        if entry.must_delete:
            if not self._proven(prefix, entry):
                self.doubt(prefix)
                return False
        elif entry.known is None and self._occupied[prefix.family] >= self._limits.capacity(prefix.family):
            entry.phase, entry.error = Phase.OVER_CAPACITY, "max_routes is reached"
            entry.failures = max(entry.failures, 1)
            self.over[prefix] = None
            return False
        return True

    def _proven(self, prefix: Prefix, entry: Entry) -> bool:
        """Whether the witness, or a fresh reading, shows the route with our gateway, so that a DELETE takes ours."""
        if entry.ours is None:
            return False
        if self._witness is not None and self._witness.ready:
            return self._witness.shows(prefix, entry.ours)
        return (
            self.reading is not None
            and self.reading.started > entry.changed_at
            and self._now() - self.reading.started <= FRESH_S
            and self.reading.inventory.shows(prefix, entry.ours)
        )

    def begin(self, prefix: Prefix, entry: Entry) -> None:
        """A request begins: make room for what it may make."""
        if entry.known is None:
            self._occupied[prefix.family] += 1

    def end(self, prefix: Prefix, entry: Entry) -> None:
        """A request has ended: where nothing of ours stands, let one in that waits for room."""
        if entry.known is not None:
            return
        if self.reading is not None:  # what we took out is not to be taken for somebody else's
            self.reading.inventory.rows.pop(prefix, None)
        self._occupied[prefix.family] -= 1
        waiting = next((other for other in self.over if other.family is prefix.family), None)
        if waiting is not None:
            del self.over[waiting]
            self.entries[waiting].failures = 0
            self.schedule(waiting, self.entries[waiting])

    # -- what a reading says ----------------------------------------------------------------------------------------

    def absorb(self, reading: Reading) -> None:
        """Hold every entry against a table that was read."""
        self.reading = reading
        waiting, self.verify = self.verify, {}
        facts = TargetFacts.from_inventory(reading.inventory)
        facts_changed = facts != self.facts
        self.facts = facts
        for prefix, entry in list(self.entries.items()):
            finding = self._find(prefix, entry, reading)
            if facts_changed:
                if entry.phase is Phase.REFUSED:
                    entry.failures = 0  # its next hop may be on-link there by now
                self._rejudge(prefix, entry)
            elif prefix in waiting or finding is not Finding.UNTOUCHED:
                self.schedule(prefix, entry)
        self._occupied = dict.fromkeys(Family, 0)
        for prefix, entry in self.entries.items():
            if entry.known is not None:
                self._occupied[prefix.family] += 1

    def _find(self, prefix: Prefix, entry: Entry, reading: Reading) -> Finding:
        known = entry.known
        if known is None or entry.changed_at >= reading.started:
            return Finding.UNTOUCHED
        finding = compare(entry, known, reading.inventory.rows.get(prefix), self._changes.protocols)
        match finding:
            case Finding.CONFIRMED:
                if entry.wanted and entry.wanted.gateway == entry.ours and entry.phase is not Phase.CONFIRMED:
                    self._confirmed(prefix, entry, known)
                elif (
                    self._say.standing(prefix) != known
                ):  # of before the start, and to be changed or withdrawn
                    self._say.confirmed(prefix, known)
            case Finding.LOST:
                self._changes.note_lost(prefix, entry, known)
            case Finding.FOREIGN:
                self._changes.note_foreign(prefix, entry, known, describe_row(reading.inventory.rows[prefix]))
        return finding

    def _confirmed(self, prefix: Prefix, entry: Entry, gateway: Address) -> None:
        entry.phase = Phase.CONFIRMED
        self._say.measures.reached("confirmed", entry.asked_at, self._now())
        entry.asked_at = None
        self._say.confirmed(prefix, gateway)

    # -- what the witness says --------------------------------------------------------------------------------------

    def witnessed(self, prefix: Prefix) -> bool:
        """Its kernel's routes of this prefix changed; tell whether it is too early to say what that means."""
        entry = self.entries.get(prefix)
        if entry is None or self._witness is None or not self._witness.ready:
            return False
        if prefix in self.busy or entry.changed_at + WITNESS_LAG_S > self._now():
            return True  # it may be our own doing, and the answer still under way
        known = entry.known
        if known is None:
            if entry.phase in {Phase.CONFLICTING, Phase.PRESENT}:  # whoever was there may be gone
                entry.phase, entry.failures = Phase.PENDING, 0
                self.schedule(prefix, entry)
            return False
        if self._witness.shows(prefix, known):
            entry.ours, entry.claim = known, None
            if entry.wanted and entry.wanted.gateway == known and entry.phase is not Phase.CONFIRMED:
                self._confirmed(prefix, entry, known)
            elif self._say.standing(prefix) != known:
                self._say.confirmed(prefix, known)
        else:
            entry.ours = entry.claim = None
            self._occupied[prefix.family] -= 1
            if self._witness.first(prefix) is None:
                self._changes.note_lost(prefix, entry, known)
            else:
                self._changes.note_foreign(prefix, entry, known, "its kernel has another route there now")
        self.schedule(prefix, entry)
        return False
