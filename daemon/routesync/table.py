"""The table: of each prefix the candidates that the rules keep, and the one that is elected.

Candidates arrive in the order of preference (plain routes before source-specific ones, TOS 0 before others, then by
table, metric and the kernel's order among siblings; routes of later tables before a throw route), so the first is
elected. A route that the rules drop never gets here: it is as if it were absent, and its runner-up is elected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from routesync.route import Candidate, Evaluated, Prefix


class Table:
    """Elected routes by prefix. Not for use from several threads."""

    def __init__(self) -> None:
        self._candidates: dict[Prefix, tuple[Evaluated, ...]] = {}
        self._by_rule: Counter[str] = Counter()

    def update(self, prefix: Prefix, candidates: tuple[Evaluated, ...]) -> bool:
        """Take the present candidates of a prefix (none: it is gone); return whether the best route changed."""
        held = self._candidates.get(prefix)
        before = held[0] if held else None
        after = candidates[0] if candidates else None
        if candidates:
            self._candidates[prefix] = candidates
        else:
            self._candidates.pop(prefix, None)
        if before == after:
            return False
        if before is not None:
            self._by_rule[before.verdict.rule] -= 1
        if after is not None:
            self._by_rule[after.verdict.rule] += 1
        return True

    @property
    def by_rule(self) -> Counter[str]:
        """How many elected candidates each rule keeps; counted as it changes, because it is read often."""
        return +self._by_rule

    def elected(self, prefix: Prefix) -> Candidate | None:
        """The elected candidate of exactly this prefix."""
        candidates = self._candidates.get(prefix)
        return candidates[0].at(prefix) if candidates else None

    def candidates(self, prefix: Prefix) -> tuple[Candidate, ...]:
        """All candidates of exactly this prefix, the elected one first."""
        return tuple(it.at(prefix) for it in self._candidates.get(prefix, ()))

    def prefixes(self) -> tuple[Prefix, ...]:
        """All prefixes at this moment."""
        return tuple(self._candidates)

    def __iter__(self) -> Iterator[tuple[Prefix, Candidate]]:
        for prefix, candidates in self._candidates.items():
            yield prefix, candidates[0].at(prefix)

    def __len__(self) -> int:
        return len(self._candidates)
