"""How gently a target is written to: rate limit, backlog estimate, repair window, mass-withdrawal limit.

loxilb ingests 256 changes a second, stops ingesting for good with about 50,000 waiting, and can crash when its table is
read while it ingests (observed on a real one). Nothing here reads a clock: `now` is monotonic seconds, passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Self

from routesync.config.models import TargetSettings
from routesync.route import Family, Prefix

INGEST_RATE: Final = 256.0
"""Changes per second that loxilb takes from its kernel (128 every 500 ms)."""
SETTLE_S: Final = 1.0
"""Two of its ticks: what was accepted before that is ingested, if nothing waits in front of it."""
FORGET_LOSS_S: Final = 600.0
"""A prefix that was not lost for this long starts again with an immediate repair."""


class Limits(NamedTuple):
    """How gently a target is treated. Times in seconds."""

    rate: float = 240  # changes a second
    burst: int = 64
    writers: int = (
        1  # daemons that write to the same loxilb; `rate` and `burst` are this daemon's share already
    )
    inventory_interval_s: float = 600
    inventory_gap_s: float = 1.5  # between two inventories: longer than the steps in which a table fills
    probe_interval_s: float = 5
    verify_interval_s: float = 3600
    startup_hold_s: float = 60
    withdraw_delay_s: float = 0
    max_inet: int = 30_000
    max_inet6: int = 8_000
    withdraw_share: float = 0.5
    withdraw_minimum: int = 50

    @classmethod
    def from_settings(cls, target: TargetSettings) -> Self:
        """The limits of a target in the configuration; its rate and burst are divided among all writers."""
        return cls(
            rate=target.rate / target.writers,
            burst=max(1, target.burst // target.writers),
            writers=target.writers,
            inventory_interval_s=target.inventory_interval_s,
            startup_hold_s=target.startup_hold_s,
            withdraw_delay_s=target.withdraw_delay_s,
            max_inet=target.max_routes_ipv4,
            max_inet6=target.max_routes_ipv6,
            withdraw_share=target.withdraw_limit_share,
        )

    def capacity(self, family: Family) -> int:
        """How many routes of a family routesync may have in the target."""
        return self.max_inet if family is Family.INET else self.max_inet6


class TokenBucket:
    """Tokens at `rate` a second, at most `burst`; empty at start, so that a crash loop cannot flood a target."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.waited_s = 0.0
        """For how long work has waited for a token so far."""
        self._dry_since: float | None = None
        self._tokens = 0.0
        self._at = now

    def _refill(self, now: float) -> None:
        self._tokens = min(float(self.burst), self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now

    def take(self, now: float, count: int = 1) -> float:
        """Take tokens and return 0, or return the seconds until there are enough.

        More tokens than fit are taken when the bucket is full; the rest is a debt, so that the rate holds.
        """
        self._refill(now)
        needed = min(count, self.burst)
        if self._tokens >= needed:
            self._tokens -= count
            if self._dry_since is not None:
                self.waited_s += now - self._dry_since
                self._dry_since = None
            return 0.0
        if self._dry_since is None:
            self._dry_since = now
        return (needed - self._tokens) / self.rate

    def change(self, rate: float, burst: int, now: float) -> None:
        """Fill at another rate from now on; the tokens in the bucket stay, up to the new burst."""
        self._refill(now)
        self.rate, self.burst = rate, burst
        self._tokens = min(float(burst), self._tokens)

    def give_back(self, now: float, count: int = 1) -> None:
        """Return tokens whose requests changed nothing."""
        self._refill(now)
        self._tokens = min(float(self.burst), self._tokens + max(0, count))


class Ingestion:
    """An estimate of what a loxilb has accepted from us and not ingested yet.

    At `start` it assumes that the previous run of this daemon left something waiting.
    """

    def __init__(self, start: float, rate: float = INGEST_RATE) -> None:
        self._rate = rate
        self._done_at = start + SETTLE_S / 2

    def note(self, now: float, changes: int = 1) -> None:
        """More changes were accepted, or may have been."""
        self._done_at = max(self._done_at, now) + changes / self._rate

    def quiet_in(self, now: float) -> float:
        """Seconds until everything is ingested for certain; 0: it is quiet."""
        return max(0.0, self._done_at + SETTLE_S - now)


class Loss(NamedTuple):
    """How often a prefix was lost in a row, when last, and the earliest next POST of it."""

    times: int
    at: float
    next_post_at: float


class RepairWindow:
    """How fast routes that the target loses are added again, and per prefix how long each further repair waits.

    Something else may delete our routes as fast as we add them; both count against loxilb's ingestion. So the rate of
    repairs follows what becomes of them: it doubles while repaired routes stay, and halves while they do not.
    """

    START: Final = 16.0
    MOST: Final = 120.0
    LEAST: Final = 1.0
    CONTENDED_BELOW: Final = 8.0
    OVER_FROM: Final = 60.0
    PERIOD_S: Final = 3.0
    SAMPLE: Final = 32
    FIRST_WAIT_S: Final = 5.0
    MOST_WAIT_S: Final = 300.0
    CONTENDED_LOSSES: Final = 3

    def __init__(self, now: float, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self.contended = False
        self.losses: dict[Prefix, Loss] = {}
        """Of prefixes that were lost within `FORGET_LOSS_S`, the latest loss last."""
        self._jitter = jitter
        self._bucket = TokenBucket(self.START, int(self.START), now)
        self._period_end = now
        self._kept = self._seen = 0

    @property
    def rate(self) -> float:
        """Repairs a second."""
        return self._bucket.rate

    def take(self, now: float) -> float:
        """Take room for one repair and return 0, or return the seconds until there is room."""
        return self._bucket.take(now)

    def give_back(self, now: float) -> None:
        """The route existed: nothing was repaired."""
        self._bucket.give_back(now)

    def lost(self, prefix: Prefix, now: float) -> Loss:
        """A route of ours was found lost: note when it may be posted next."""
        before = self.losses.pop(prefix, None)
        count = before.times + 1 if before and now - before.at < FORGET_LOSS_S else 1
        wait_s = 0.0
        if count > 1:
            full_s = min(self.MOST_WAIT_S, self.FIRST_WAIT_S * 2.0 ** min(count - 2, 16))
            wait_s = full_s * self._jitter(0.8, 1.2)
        loss = self.losses[prefix] = Loss(count, now, now + wait_s)
        return loss

    def is_contended(self, prefix: Prefix) -> bool:
        """Whether the prefix is lost again and again."""
        loss = self.losses.get(prefix)
        return loss is not None and loss.times >= self.CONTENDED_LOSSES

    def not_before(self, prefix: Prefix) -> float:
        """The earliest time of the next POST of this prefix; minus infinity: at any time."""
        loss = self.losses.get(prefix)
        return loss.next_post_at if loss is not None else float("-inf")

    def saw(self, *, kept: bool) -> None:
        """A repaired route was looked at: it is still there, or lost again."""
        self._seen += 1
        self._kept += kept

    def tick(self, now: float) -> list[Prefix]:
        """Adapt the rate; to be called at least once a `PERIOD_S`. Return prefixes whose losses are forgotten."""
        if now >= self._period_end:
            if self._seen:
                rate = self._bucket.rate
                if self._kept >= 0.9 * self._seen:
                    rate = min(self.MOST, rate * 2)
                elif self._kept < 0.5 * self._seen:
                    rate = max(self.LEAST, rate / 2)
                self._bucket.change(rate, max(1, int(rate)), now)
                self._kept = self._seen = 0
            self._period_end = now + self.PERIOD_S
        forgotten = []
        for prefix, loss in self.losses.items():
            if now - loss.at < FORGET_LOSS_S:
                break
            forgotten.append(prefix)
        for prefix in forgotten:
            del self.losses[prefix]
        if not self.losses:
            self._bucket.change(max(self.START, self._bucket.rate), int(self.START), now)
            self.contended = False
        elif self._bucket.rate < self.CONTENDED_BELOW:
            self.contended = True
        elif self._bucket.rate >= self.OVER_FROM:
            self.contended = False
        return forgotten


class MassWithdrawalLimit:
    """Holds back a mass of withdrawals until a second dump of the kernel confirms it, or an operator releases it.

    A mass is more than a share of our routes in the target, and at least a minimum. A routing daemon that crashed, or a
    dump that went wrong, looks like that; so does a real change, which the second dump confirms within moments.
    """

    def __init__(self, share: float, minimum: int, request_resync: Callable[[], None]) -> None:
        self.waiting: dict[Prefix, None] = {}
        """Withdrawals that wait, held back or not."""
        self._share = share
        self._minimum = minimum
        self._request_resync = request_resync
        self._held_at: float | None = None  # None: nothing is held back
        self._joined = False  # whether one began to wait since `holds` was asked
        self._released: set[Prefix] = set()
        self._unreleased: set[Prefix] = set()  # those of `waiting`

    @property
    def held(self) -> Collection[Prefix]:
        """Withdrawals that wait for a second dump; empty: nothing is held back."""
        return () if self._held_at is None else self.waiting.keys()

    def add(self, prefix: Prefix) -> None:
        """A withdrawal waits."""
        if prefix not in self.waiting:
            self.waiting[prefix] = None
            if prefix not in self._released:
                self._unreleased.add(prefix)
                self._joined = True

    def discard(self, prefix: Prefix) -> None:
        """It waits no more: it is sent, or not wanted any more."""
        if self.waiting:
            self.waiting.pop(prefix, None)
            self._unreleased.discard(prefix)

    def change(self, share: float, minimum: int) -> None:
        """Apply other limits from now on."""
        self._share, self._minimum = share, minimum

    def holds(self, owned: int, now: float) -> bool:
        """Whether withdrawals are held back.

        Args:
            owned: our routes in the target, those to be withdrawn among them.
            now: monotonic seconds.
        """
        count = len(self.waiting)
        if count < self._minimum or count <= self._share * owned or not self._unreleased:
            self._held_at = None
            return False
        if self._held_at is None:
            self._held_at = now
            self._request_resync()
        self._joined = False
        return True

    def resynced(self, began: float) -> int:
        """The kernel was dumped again, beginning at `began`: tell how many withdrawals that releases.

        A dump that began before the hold may be the very one that went wrong.
        """
        if self._held_at is None or began < self._held_at:
            return 0
        if not self._joined:
            return self.release()
        self._request_resync()
        return 0

    def release(self) -> int:
        """Let what is held go, and tell how many that is; what joins later is looked at again."""
        if self._held_at is None:
            return 0
        self._held_at = None
        self._released |= self._unreleased
        self._unreleased.clear()
        return len(self.waiting)

    def allow(self, prefix: Prefix) -> None:
        """An operator wants this prefix to be withdrawn, whatever else is."""
        self._released.add(prefix)
        self._unreleased.discard(prefix)

    def forget(self, prefix: Prefix) -> None:
        """The prefix is desired again, or gone: a release does not cover its next withdrawal."""
        self._released.discard(prefix)
