"""What is known of each prefix at one target: what is wanted, what of ours stands there, how sure that is."""

from __future__ import annotations

import time
from collections import Counter
from enum import StrEnum
from typing import Final

from routesync.loxilb.wire import InventoryRow
from routesync.mirror.eligibility import Desired, Ineligible
from routesync.mirror.pending import Urgency
from routesync.route import Address, Candidate, Prefix, format_address

NEVER: Final = float("-inf")
STATIC: Final = frozenset({"static", "4"})
STATIC_OR_BOOT: Final = STATIC | {"boot", "3"}


def our_protocols(version: str) -> frozenset[str]:
    """What a route of ours is shown as: we post with protocol static, which is honoured since v0.9.5."""
    return STATIC_OR_BOOT if version.startswith("before") else STATIC


class Phase(StrEnum):
    """Where a route stands in its life at a target."""

    PENDING = "pending"
    ACCEPTED = "accepted"  # 2xx
    CONFIRMED = "confirmed"  # its table showed it with our gateway
    PRESENT = "present"  # an equal route stands there that is not ours to remove
    REFUSED = "refused"
    CONFLICTING = "conflicting"
    INELIGIBLE = "ineligible"
    OVER_CAPACITY = "over-capacity"
    WITHDRAWING = "withdrawing"


class Tally:
    """How many entries are in which phase, and how many are wanted: kept as it changes, for many look at it often."""

    def __init__(self) -> None:
        self.phases: Counter[Phase] = Counter()
        self.wanted = 0


class Entry:
    """One prefix at one target. Times are monotonic seconds.

    Attributes:
        candidate: the elected route; None: there is none.
        ours: gateway of the route of ours that stands there.
        claim: gateway of one that may stand there: the answer was lost, or the ledger says so.
        hold_until: a withdrawal waits until then.
        failures: in a row; they make the next try wait.
        gap_since: of a replacement: the old route is deleted since then, the new one not there yet.
        changed_at: of the last request that may have changed something.
        since: when it came into its present phase.
        error: why it is not as it is wanted, for people.
        asked_at: when the kernel's change was read that what is being done goes back to; None: it goes back to none.
    """

    __slots__ = (
        "_judgement",
        "_phase",
        "_tally",
        "asked_at",
        "candidate",
        "changed_at",
        "claim",
        "error",
        "failures",
        "gap_since",
        "hold_until",
        "ours",
        "since",
    )

    def __init__(self, tally: Tally) -> None:
        self.candidate: Candidate | None = None
        self.ours: Address | None = None
        self.claim: Address | None = None
        self.hold_until = NEVER
        self.failures = 0
        self.gap_since: float | None = None
        self.changed_at = NEVER
        self.error = ""
        self.asked_at: float | None = None
        self._tally = tally
        self._judgement: Desired | Ineligible | None = None
        self._phase = Phase.PENDING
        self.since = time.monotonic()
        tally.phases[Phase.PENDING] += 1

    def drop(self) -> None:
        """The entry is thrown away: it no longer counts."""
        self.judgement = None
        self._tally.phases[self._phase] -= 1

    @property
    def phase(self) -> Phase:
        """Where the route stands in its life."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        if phase is not self._phase:
            self._tally.phases[self._phase] -= 1
            self._tally.phases[phase] += 1
            self._phase = phase
            self.since = time.monotonic()

    @property
    def judgement(self) -> Desired | Ineligible | None:
        """What shall stand there, or why nothing shall; None: there is no route."""
        return self._judgement

    @judgement.setter
    def judgement(self, judgement: Desired | Ineligible | None) -> None:
        self._tally.wanted += isinstance(judgement, Desired) - isinstance(self._judgement, Desired)
        self._judgement = judgement

    @property
    def wanted(self) -> Desired | None:
        """What shall stand there."""
        return self._judgement if isinstance(self._judgement, Desired) else None

    @property
    def known(self) -> Address | None:
        """Gateway of what is, or may be, ours there."""
        return self.ours or self.claim

    def need(self, prefix: Prefix) -> Urgency | None:
        """What is to be done, by its urgency; None: nothing."""
        wanted = self.wanted
        if wanted is None:
            return Urgency.WITHDRAW if self.known else None
        if self.ours == wanted.gateway or self.phase is Phase.PRESENT:
            return None
        if self.must_delete or self.gap_since is not None:
            return Urgency.REPLACE
        return Urgency.DEFAULT if prefix.is_default else Urgency.ADD

    @property
    def must_delete(self) -> bool:
        """Whether what is ours there has to go before, or instead of, anything else."""
        known = self.known
        return known is not None and (self.wanted is None or known != self.wanted.gateway)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to say of this prefix."""
        return self.judgement is None and self.known is None


class Finding(StrEnum):
    """What an inventory says of an entry."""

    CONFIRMED = "confirmed"
    LOST = "lost"
    FOREIGN = "foreign"
    UNTOUCHED = "untouched"


def is_ours(row: InventoryRow, gateway: Address, protocols: frozenset[str] = STATIC) -> bool:
    """Whether a row looks as a route of ours with this gateway would."""
    return row.gateways == (gateway,) and row.protocol in protocols


def describe_row(row: InventoryRow) -> str:
    """Say who holds a prefix, for people."""
    gateways = ", ".join(format_address(gateway) for gateway in row.gateways) or "no gateway"
    return f"held there by a route via {gateways}, protocol {row.protocol or 'unknown'}"


def compare(entry: Entry, known: Address, row: InventoryRow | None, protocols: frozenset[str]) -> Finding:
    """Hold an entry against a table that was read after its last change, when nothing was being ingested.

    Ownership follows from it: what is shown as ours is ours, what is not shown is gone, and what is shown otherwise has
    become somebody else's, and is never touched again.
    """
    if row is not None and is_ours(row, known, protocols):
        entry.ours, entry.claim = known, None
        return Finding.CONFIRMED
    entry.ours = entry.claim = None
    return Finding.LOST if row is None else Finding.FOREIGN
