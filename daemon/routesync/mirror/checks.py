"""Checks: repeated POSTs of what stands there, as a proof that it does.

loxilb's table goes on showing routes that the kernel beneath it has lost. A repeated POST tells: 409, it stands; 200,
it was gone, and is there again. So one route is posted again every few seconds (the canary), and all of them every
hour, at each new connection, and when one had been lost (the sweep).
"""

from __future__ import annotations

from collections.abc import Iterator

from routesync.mirror.book import NEVER
from routesync.mirror.brakes import Limits
from routesync.mirror.pending import Urgency
from routesync.mirror.status import Counters
from routesync.mirror.worklist import Worklist
from routesync.route import Address, Prefix


class Checks:
    """Puts checks among the waiting work, when nothing else is to be done. Times are monotonic seconds."""

    def __init__(self, work: Worklist, counters: Counters) -> None:
        self._work = work
        self._counters = counters
        self._canaries: Iterator[Prefix] = iter(())
        self._canary_at = NEVER
        self._sweep_at = NEVER
        self.unreachable: dict[Address, Prefix] = {}
        """Next hops that its kernel does not reach, each with the route by which that is looked at again."""
        self._look_at = NEVER

    def unproven(self, gateway: Address, prefix: Prefix, now: float) -> bool:
        """A next hop is unreachable there, so nobody knows whether its routes stand; tell whether that is new."""
        if gateway in self.unreachable:
            return False
        self.unreachable[gateway] = prefix
        self._look_at = max(self._look_at, now)
        return True

    def proven(self, gateway: Address, prefix: Prefix, now: float) -> bool:
        """A route stands there; tell whether that ends what was unproven, so that a sweep looks after all others."""
        if self.unreachable.get(gateway) != prefix:
            return False
        del self.unreachable[gateway]
        self._sweep_at = now
        return True

    def sweep_soon(self, now: float) -> bool:
        """Have all routes of ours posted again; tell whether that was not due anyway."""
        news = self._sweep_at > now
        self._sweep_at = now
        return news

    def reconfigure(self, now: float, limits: Limits) -> None:
        """Take other intervals from now on."""
        self._canary_at = min(self._canary_at, now + limits.canary_interval_s)
        self._sweep_at = min(self._sweep_at, now + limits.sweep_interval_s)

    def order(self, now: float, limits: Limits) -> None:
        """Order the next canary, or a sweep, when it is time."""
        work = self._work
        others = len(work.pending) - work.pending.count(Urgency.WITHDRAW)
        if others > len(work.over):
            return
        if now >= self._sweep_at:
            self._sweep_at = now + limits.sweep_interval_s
            self._counters.sweeps += 1
            for prefix in work.standing:
                work.pending.put(prefix, Urgency.CHECK, now=now)
        elif self.unreachable and now >= self._look_at:
            self._look_at = now + limits.canary_interval_s
            for gateway, prefix in tuple(self.unreachable.items()):
                wanted = work.entries[prefix].wanted if prefix in work.standing else None
                if wanted is None or wanted.gateway != gateway:  # another one, if there is any, will tell
                    del self.unreachable[gateway]
                else:
                    work.pending.put(prefix, Urgency.CHECK, now=now)
        elif now >= self._canary_at and work.standing:
            self._canary_at = now + limits.canary_interval_s
            self._counters.canaries += 1
            canary = next(self._canaries, None)
            if canary is None or canary not in work.standing:
                self._canaries = iter(tuple(work.standing))
                canary = next(self._canaries)
            work.pending.put(canary, Urgency.CHECK, now=now)
