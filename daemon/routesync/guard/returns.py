"""Routes that come back after their removal, and how long they are left alone then.

A lease renewal brings a host route back, every half lease: that is as it should be, and it is removed again. One that
is back within moments, again and again, is wanted by somebody: it is left standing ever longer, never fought over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple, TypeAlias

from routesync.backoff import doubled_s

NEVER: Final = float("inf")

Key: TypeAlias = tuple[int, int, int]
"""What tells the routes of one prefix apart: table, metric, ifindex."""


class Patience(NamedTuple):
    """How long routes are left alone. Times in seconds."""

    settle_s: float  # a route has to have stood this long before it is looked at
    check_interval_s: float  # one that stays is looked at again this often
    contended_within_s: float  # back sooner than this after its removal: contended
    contended_delay_s: float  # a contended route stays this long the first time
    contended_delay_most_s: float

    def stays_s(self, contended: int) -> float:
        """How long a route is left standing that came back at once so many times in a row."""
        if not contended:
            return self.settle_s
        doubled = doubled_s(contended, self.contended_delay_s, self.contended_delay_most_s)
        return max(self.settle_s, doubled)


class Return(NamedTuple):
    """A route is back."""

    away_s: float
    contended: int  # how often in a row it came back at once
    stays_s: float


class Case:
    """One guarded prefix, over its comings and goings. Times are monotonic seconds.

    Attributes:
        standing: whether it stands in the kernel, by the last look.
        redundant: whether it would go, by the last look.
        contended: how often in a row it came back at once after its removal.
        due_at: when to look at it (again).
        said: what was told of each of its routes last, so that it is told once.
    """

    __slots__ = (
        "_came_at",
        "_not_before",
        "_patience_in_force",
        "_removed_at",
        "contended",
        "due_at",
        "redundant",
        "said",
        "standing",
    )

    def __init__(self, patience: Callable[[], Patience]) -> None:
        self.standing = False
        self.redundant = False
        self.contended = 0
        self.due_at = NEVER
        self.said: dict[Key, str] = {}
        self._patience_in_force = patience
        self._came_at: float | None = None
        self._removed_at: dict[Key, float] = {}
        self._not_before = 0.0

    @property
    def _patience(self) -> Patience:
        return self._patience_in_force()

    @property
    def forgettable(self) -> bool:
        """Whether nothing is lost when it is forgotten."""
        return not self.standing and self.due_at == NEVER and not self._removed_at

    def stirred(self, now: float, *, came: bool, delay_s: float = 0) -> None:
        """Something was announced: have a look when it has settled, and after `delay_s` at the earliest."""
        if came and self._came_at is None:
            self._came_at = now
        delay_s = max(delay_s, self._patience.settle_s)
        self.due_at = min(self.due_at, max(now + delay_s, self._not_before))

    def ended(self, now: float) -> None:
        """It was announced that it is gone, or another stands in its place: what comes now is new."""
        self.said.clear()
        self.stirred(now, came=False)

    def missing(self) -> None:
        """By a look, it does not stand there."""
        self.standing = self.redundant = False
        self.due_at = NEVER
        self.said.clear()
        self._came_at = None

    def found(self, now: float, keys: Collection[Key]) -> Return | None:
        """By a look, these routes of it stand there; tell whether that is a return, of which nothing was told yet."""
        self.standing = True
        came_at, self._came_at = self._came_at, now
        self.due_at = now + self._patience.check_interval_s
        back = [self._removed_at.pop(key) for key in keys if key in self._removed_at]
        if not back:
            return None
        came_at = now if came_at is None else came_at
        away_s = max(0.0, came_at - max(back))
        self.contended = self.contended + 1 if away_s < self._patience.contended_within_s else 0
        stays_s = self._patience.stays_s(self.contended)
        if came_at + stays_s > now:
            self.due_at = self._not_before = came_at + stays_s
        return Return(away_s, self.contended, stays_s)

    def waits(self, now: float) -> bool:
        """Whether it is to be left alone for now, because it came back."""
        return self._not_before > now

    def leave_alone(self, now: float, seconds: float) -> None:
        """Do not look at it for so long, whatever is announced."""
        self.due_at = self._not_before = now + seconds

    def removed(self, now: float, key: Key) -> None:
        """We took one of its routes out."""
        self.standing = self.redundant = False
        self.due_at = NEVER
        self.said.clear()
        self._came_at = None
        self._removed_at[key] = now
