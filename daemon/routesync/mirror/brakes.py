"""Brakes: what keeps a mistake elsewhere from becoming an outage here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from routesync.mirror.pending import Pending, Urgency
from routesync.route import Family, Prefix


class Limits(NamedTuple):
    """How a target is treated. Times in seconds."""

    rate: float = 240  # changes a second
    burst: int = 64
    inventory_interval_s: float = 600
    reading_gap_s: float = (
        1.5  # between two readings: longer than the steps in which its table fills after a start
    )
    canary_interval_s: float = 5
    sweep_interval_s: float = 3600
    startup_hold_s: float = 60
    withdraw_delay_s: float = 0
    max_inet: int = 30_000
    max_inet6: int = 8_000
    brake_share: float = 0.5
    brake_minimum: int = 50

    def capacity(self, family: Family) -> int:
        """How many routes of a family the target shall have of us."""
        return self.max_inet if family is Family.INET else self.max_inet6


class MassWithdrawBrake:
    """Holds back a mass of withdrawals until a second reading of the kernel asks for the same, or a hand releases it.

    A mass is more than `share` of what stands there, and at least `minimum`. A routing daemon that crashed, or a dump
    that went wrong, looks like that; so does a real change, which the second reading confirms within moments.
    """

    def __init__(self, share: float, minimum: int, request_reading: Callable[[], None]) -> None:
        self._share = share
        self._minimum = minimum
        self._request_reading = request_reading
        self._held: frozenset[Prefix] = frozenset()
        self._held_at = 0.0
        self._released: set[Prefix] = set()

    @property
    def held(self) -> int:
        """Withdrawals that wait for a second reading; 0: the brake is open."""
        return len(self._held)

    def set(self, share: float, minimum: int) -> None:
        """Take other limits from now on."""
        self._share, self._minimum = share, minimum

    def holds(self, pending: Pending, standing: int, now: float) -> bool:
        """Whether withdrawals shall wait. `standing`: routes of ours there, those to be withdrawn among them."""
        count = pending.count(Urgency.WITHDRAW)
        if count < self._minimum or count <= self._share * standing:
            self._held = frozenset()
            return False
        waiting = pending.of(Urgency.WITHDRAW)
        if waiting <= self._released:
            return False
        if not self._held:
            self._held_at = now
            self._request_reading()
        self._held = waiting
        return True

    def second_reading(self, pending: Pending, began: float) -> bool:
        """The kernel was read, and what that changed is known: tell whether the same set is released by it.

        A reading that began before the hold may be the very one that went wrong.
        """
        if not self._held or began < self._held_at:
            return False
        if pending.of(Urgency.WITHDRAW) <= self._held:
            self.release()
            return True
        self._request_reading()
        return False

    def release(self) -> None:
        """Let what is held go; what joins it later is looked at anew."""
        self._released |= self._held
        self._held = frozenset()

    def forget(self, prefix: Prefix) -> None:
        """The prefix is wanted again, or done with: a release does not hold for its next withdrawal."""
        self._released.discard(prefix)
