"""What is to be done at one target: wishes in, work out. No requests are made here.

Every prefix is in one of these places: resting (`standing` when it is wanted and there), waiting in `pending`, waiting
for a reading in `verify`, waiting for room in `over`, or busy in a request. `schedule` puts it where it belongs, from
what its entry says, and is called whenever that may have changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from routesync.mirror.announce import Announcer
from routesync.mirror.book import NEVER, Entry, Finding, Phase, Tally, compare, describe_row
from routesync.mirror.brakes import Limits, MassWithdrawBrake
from routesync.mirror.changes import RETRY_FIRST_S, Changes, why_unwanted
from routesync.mirror.contact import Reading
from routesync.mirror.ledger import Row
from routesync.mirror.pending import Pending, Urgency
from routesync.mirror.wanted import Blocked, TargetFacts, Wanted
from routesync.mirror.witness import Witness
from routesync.route import Candidate, Family, Prefix

log = structlog.get_logger(__name__)

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
        target: str,
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
        self.verify: set[Prefix] = set()  # these wait for a reading
        self.busy: set[Prefix] = set()  # these are in a request
        self.over: dict[Prefix, None] = {}  # these wait for room
        self.reading: Reading | None = None
        self.facts = TargetFacts()
        self.brake = MassWithdrawBrake(limits.brake_share, limits.brake_minimum, request_kernel_reading)
        self._target = target
        self._changes = changes
        self._say = say
        self._judge = judge
        self._limits = limits
        self._now = now
        self._occupied = dict.fromkeys(Family, 0)
        self._witness = witness

    # -- wishes -----------------------------------------------------------------------------------------------------

    def consider(self, prefix: Prefix, candidate: Candidate | None) -> None:
        """Take the elected route of a prefix; None: there is none any more."""
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

    def retain(self, prefixes: Iterable[Prefix]) -> None:
        """Take what is not among these prefixes as gone: for a table that is given as a whole."""
        for prefix in self.entries.keys() - set(prefixes):
            self.consider(prefix, None)

    def claim(self, rows: Iterable[tuple[Prefix, Row]]) -> None:
        """Take up what the ledger says may be ours. What nobody wants is withdrawn after the start-up hold."""
        hold_until = self._now() + self._limits.startup_hold_s
        for prefix, row in rows:
            entry = self.entries[prefix] = Entry(self.tally)
            entry.claim = row.gateway
            entry.hold_until = hold_until
            self._occupied[prefix.family] += 1
            self.schedule(prefix, entry)

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
        self.verify.discard(prefix)
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
        else:
            entry.phase = Phase.BLOCKED

    # -- work -------------------------------------------------------------------------------------------------------

    def admitted(self, *, idle: bool) -> tuple[Urgency, Urgency]:
        """The least and the most urgent work that may go now; checks go only when nothing else does."""
        least = Urgency.CHECK if idle else Urgency.ADD
        if self.verify:  # it must become quiet, for somebody waits for a reading
            least = Urgency.REPLACE
        braked_before = self.brake.held
        total = sum(self._occupied.values())
        if not self.brake.holds(self.pending, total):
            return least, Urgency.WITHDRAW
        if not braked_before:
            log.warning(
                "mass withdrawal held back",
                target=self._target,
                routes=self.brake.held,
                of=total,
                remedy="it goes when a second reading of the kernel asks for the same, or by hand",
            )
        return least, Urgency.REPLACE

    def may_go(self, prefix: Prefix, entry: Entry) -> bool:
        """Whether a request may be made now; if not, see to it that it will."""
        need = entry.need(prefix)
        if need is None:
            return prefix in self.standing
        if entry.must_delete:
            if not self._proven(prefix, entry):
                self.verify.add(prefix)
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
        waiting, self.verify = self.verify, set()
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
                    entry.phase = Phase.CONFIRMED
                    self._say.confirmed(prefix, known)
            case Finding.LOST:
                self._changes.note_lost(prefix, entry, known)
            case Finding.FOREIGN:
                self._changes.note_foreign(prefix, entry, known, describe_row(reading.inventory.rows[prefix]))
        return finding

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
                entry.phase = Phase.CONFIRMED
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
