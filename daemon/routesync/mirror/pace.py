"""Pace: how fast a target is written to, and when it is quiet enough to be read.

loxilb ingests 256 changes a second, breaks for good with about 50,000 waiting, and can crash when it is read while it
ingests. Both classes are driven by the caller's monotonic clock, in seconds.
"""

from __future__ import annotations

import asyncio
from typing import Final

INGEST_RATE: Final = 256.0
"""Changes per second that loxilb takes from its kernel (128 per 500 ms)."""
SETTLE_S: Final = 1.0
"""Two of its ticks: what was accepted before that is ingested, if nothing waits in front of it."""


class TokenBucket:
    """Tokens at `rate` per second, `burst` at most; empty at start, so that a crash loop cannot flood a target."""

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

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        self._refill(now)
        if self._tokens >= 1:
            self._tokens -= 1
            if self._dry_since is not None:
                self.waited_s += now - self._dry_since
                self._dry_since = None
            return 0.0
        if self._dry_since is None:
            self._dry_since = now
        return (1 - self._tokens) / self.rate

    def change(self, rate: float, burst: int, now: float) -> None:
        """Fill at another rate from now on; what is there stays, up to the new burst."""
        self._refill(now)
        self.rate, self.burst = rate, burst
        self._tokens = min(float(burst), self._tokens)

    def give_back(self, now: float) -> None:
        """Return a token whose request changed nothing."""
        self._refill(now)
        self._tokens = min(float(self.burst), self._tokens + 1)


class Ingestion:
    """An estimate of what a loxilb has accepted from us and not ingested yet.

    Begun at `start`, it takes for granted that an earlier life of ours has left something waiting.
    """

    def __init__(self, start: float, rate: float = INGEST_RATE) -> None:
        self._rate = rate
        self._done_at = start + SETTLE_S / 2

    def note(self, now: float, changes: int = 1) -> None:
        """One more change was accepted, or may have been; or so many."""
        self._done_at = max(self._done_at, now) + changes / self._rate

    def quiet_in(self, now: float) -> float:
        """Seconds until everything is ingested for certain; 0: it is quiet."""
        return max(0.0, self._done_at + SETTLE_S - now)


async def rest(wake: asyncio.Event, seconds: float) -> None:
    """Wait until `wake` is set, but no longer than this; it is cleared then."""
    timer = asyncio.get_running_loop().call_later(seconds, wake.set)
    try:
        await wake.wait()
    finally:
        timer.cancel()
    wake.clear()
