"""What is known of each prefix at one target: what is wanted, what of ours stands there, how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from routesync.loxilb.wire import InventoryRow
from routesync.mirror.pending import Urgency
from routesync.mirror.wanted import Blocked, Wanted
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
    BLOCKED = "blocked"
    OVER_CAPACITY = "over-capacity"
    WITHDRAWING = "withdrawing"


@dataclass(slots=True)
class Entry:
    """One prefix at one target. Times are monotonic seconds."""

    candidate: Candidate | None = None
    judgement: Wanted | Blocked | None = None
    ours: Address | None = None  # gateway of the route of ours that stands there
    claim: Address | None = (
        None  # gateway of one that may stand there: the answer was lost, or the ledger says so
    )
    phase: Phase = Phase.PENDING
    hold_until: float = NEVER  # start-up hold: of the ledger, and not seen in the kernel yet
    failures: int = 0
    gap_since: float | None = None  # of a replacement: the old route is deleted, the new one not there yet
    changed_at: float = NEVER  # of the last request that may have changed something
    error: str = ""

    @property
    def wanted(self) -> Wanted | None:
        """What shall stand there."""
        return self.judgement if isinstance(self.judgement, Wanted) else None

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


def count_phases(entries: Mapping[Prefix, Entry]) -> Counter[Phase]:
    """How many entries are in which phase."""
    return Counter(entry.phase for entry in entries.values())
