"""When to read the tables anew.

Causes come in bursts (one `ip link set down` makes several), so a reading waits until they pause, but not for long.
Readings take at most a share of the time, so constant churn can not turn into constant dumping.
"""

from __future__ import annotations

import asyncio
from typing import Final

PAUSE_S: Final = 0.05
PATIENCE_S: Final = 0.5
SHARE: Final = 0.2


class Schedule:
    """Collects causes; says when a reading is due, and for what."""

    def __init__(self, audit_interval_s: float) -> None:
        self._audit_interval_s = audit_interval_s
        self._causes: dict[str, None] = {}
        self._first = self._last = 0.0
        self._not_before = 0.0
        self._audit_at = 0.0
        self._wake = asyncio.Event()

    def order(self, cause: str) -> None:
        """Note a cause to read anew."""
        now = asyncio.get_running_loop().time()
        if not self._causes:
            self._first = now
        self._last = now
        self._causes[cause] = None
        self._wake.set()

    @property
    def pending(self) -> frozenset[str]:
        """The causes for which a reading is ordered."""
        return frozenset(self._causes)

    async def due(self) -> tuple[str, ...]:
        """Wait until a reading is due; return its causes, `audit` alone when nothing else called for it."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            at = self._audit_at
            if self._causes:
                at = max(min(self._last + PAUSE_S, self._first + PATIENCE_S), self._not_before)
                if self._causes.keys() <= {"start"}:
                    at = now
            if now >= at:
                causes = tuple(self._causes) or ("audit",)
                self._causes.clear()
                return causes
            self._wake.clear()
            try:
                async with asyncio.timeout(at - now):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def took(self, seconds: float) -> None:
        """Say how long a reading took, at its end."""
        now = asyncio.get_running_loop().time()
        self._not_before = now + seconds * (1 / SHARE - 1)
        self._audit_at = max(now + self._audit_interval_s, self._not_before)
