"""The replica of the kernel's tables: of each prefix the routes that the rules keep, in order of preference.

One flat dictionary from prefix to slots (one slot per key), all of immutable tuples. Slots do not contain the prefix,
so equal ones are one object: a prefix costs 170 bytes, its own and its place in the dictionary, and one that the rules
drop costs nothing. The dirty set beside it is level-triggered: it says which prefixes differ from what the consumer
has, never how they came to, so it stays below what was kept when the consumer last looked plus what is kept now,
however far the consumer lags behind.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple, cast

from routesync.kernel.update import PLACEHOLDER, Siblings
from routesync.route import Evaluated, Prefix, past_throws

_SHARED: Final = 1 << 14
"""So many slots are kept to be shared; a table has a few hundred distinct ones."""


class Subkey(NamedTuple):
    """What a key has beside its prefix, in the order of `preference`."""

    source: bytes  # the source prefix, its length first; empty for a route that is not source-specific
    tos: int
    rank: int  # position of the table in the list of tables
    metric: int


Key = tuple[Prefix, Subkey]
Slot = tuple[Subkey, Siblings]
Slots = tuple[Slot, ...]
Candidates = tuple[Evaluated, ...]


def candidates_of(slots: Slots) -> Candidates:
    """All candidates of a prefix, the preferred one first.

    A sibling whose verdict is not to keep it is held only because that may change without an event of its own.
    """
    if not slots:
        return ()
    if len(slots) == 1 and len(slots[0][1]) == 1:  # nearly always; and one alone is no placeholder
        (only,) = siblings = cast("tuple[Evaluated]", slots[0][1])
        return siblings if only.verdict.keep else ()
    kept = [
        sibling
        for _, siblings in slots
        for sibling in siblings
        if sibling is not PLACEHOLDER and sibling.verdict.keep
    ]
    return past_throws(kept)


def siblings_at(slots: Slots, subkey: Subkey) -> Siblings:
    """The routes that share one key; () where nothing is held."""
    for at, siblings in slots:
        if at == subkey:
            return siblings
    return ()


def with_slot(slots: Slots, subkey: Subkey, siblings: Siblings) -> Slots:
    """The slots with one key's routes set; none takes the key out."""
    if not slots:
        return ((subkey, siblings),) if siblings else ()
    others = [slot for slot in slots if slot[0] != subkey]
    if siblings:
        others.append((subkey, siblings))
        others.sort(key=_subkey_of)
    return tuple(others)


def _subkey_of(slot: Slot) -> Subkey:
    return slot[0]


class Changes:
    """Prefixes that changed, each with its candidates as they are when the iteration comes to it.

    No candidates means that the prefix is gone. To be gone through once.
    """

    def __init__(self, replica: Replica, prefixes: Collection[Prefix]) -> None:
        self._replica = replica
        self._prefixes = prefixes

    def __iter__(self) -> Iterator[tuple[Prefix, Candidates]]:
        return self._replica.deliver(self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._prefixes


class Replica:
    """Candidates per prefix, and which prefixes changed since the consumer last asked."""

    def __init__(self) -> None:
        self._slots: dict[Prefix, Slots] = {}
        self.holds = self._slots.__contains__
        """Whether anything is held of a prefix."""
        self._alone: dict[int, Slots] = {}  # by id() of the one route, which they keep alive
        self._several: dict[Slots, Slots] = {}
        self._unkept: set[Prefix] = set()  # held, without a candidate
        self._dirty: dict[Prefix, bool] = {}  # value: whether the consumer has candidates of it
        self.dirty_since = 0.0
        """When the oldest change that the consumer has not taken was made, in monotonic seconds."""

    @property
    def kept(self) -> int:
        """How many prefixes have candidates."""
        return len(self._slots) - len(self._unkept)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._slots)

    def slots(self, prefix: Prefix) -> Slots:
        """What is held of a prefix."""
        return self._slots.get(prefix, ())

    def alone(self, subkey: Subkey, evaluated: Evaluated) -> Slots:
        """The slots of a prefix that has this one route; the same object for the same route."""
        slots = self._alone.get(id(evaluated))
        if slots is None:
            if len(self._alone) >= _SHARED:
                self._alone.clear()
            slots = self._alone[id(evaluated)] = ((subkey, (evaluated,)),)
        return slots

    def _shared(self, slots: Slots) -> Slots:
        if len(slots) == 1:
            subkey, siblings = slots[0]
            if len(siblings) == 1 and (only := siblings[0]) is not PLACEHOLDER:
                return self.alone(subkey, only)
        if len(self._several) >= _SHARED:
            self._several.clear()
        return self._several.setdefault(slots, slots)

    def begin(self, prefix: Prefix, slots: Slots) -> None:
        """Hold a prefix of which nothing was held."""
        if len(slots) > 1 or len(slots[0][1]) > 1:  # else they are shared already
            slots = self._shared(slots)
        self._slots[prefix] = slots
        if candidates_of(slots):
            self._mark(prefix, known=False)
        else:
            self._unkept.add(prefix)

    def mark(self, prefix: Prefix, slots: Slots) -> None:
        """Hold these equal slots of a prefix instead of those that are held."""
        self._slots[prefix] = slots

    def put(self, prefix: Prefix, subkey: Subkey, siblings: Siblings) -> bool:
        """Set the routes of one key; return whether the candidates of its prefix changed."""
        before = self._slots.get(prefix, ())
        after = with_slot(before, subkey, siblings)
        if after == before:
            return False
        if after:
            after = self._slots[prefix] = self._shared(after)
        else:
            del self._slots[prefix]
        had_candidates, has_candidates = candidates_of(before), candidates_of(after)
        if after and not has_candidates:
            self._unkept.add(prefix)
        elif self._unkept:
            self._unkept.discard(prefix)
        if had_candidates == has_candidates:
            return False
        had = self._mark(prefix, known=bool(had_candidates))
        if not had and not has_candidates:
            del self._dirty[prefix]  # came and went: the consumer never knew of it
        return True

    def _mark(self, prefix: Prefix, *, known: bool) -> bool:
        """Mark a prefix dirty; return whether the consumer has candidates of it."""
        if not self._dirty:
            self.dirty_since = time.monotonic()
        return self._dirty.setdefault(prefix, known)

    @property
    def dirty(self) -> bool:
        """Whether there is a change that the consumer has not taken."""
        return bool(self._dirty)

    @property
    def lag_s(self) -> float:
        """Age of the oldest change that the consumer has not taken, in seconds."""
        return time.monotonic() - self.dirty_since if self._dirty else 0.0

    def take(self) -> Changes:
        """What changed since the last call; empties the dirty set."""
        taken, self._dirty = self._dirty, {}
        return Changes(self, taken)

    def deliver(self, prefixes: Iterable[Prefix]) -> Iterator[tuple[Prefix, Candidates]]:
        """Give the consumer the present candidates of each prefix; what changed before does not matter any more."""
        slots = self._slots.get
        for prefix in prefixes:
            if self._dirty:
                self._dirty.pop(prefix, None)
            yield prefix, candidates_of(slots(prefix, ()))

    def candidates(self) -> Iterator[tuple[Prefix, Candidates]]:
        """All that is held, prefix by prefix."""
        for prefix, slots in self._slots.items():
            if candidates := candidates_of(slots):
                yield prefix, candidates
