"""Flood control: under churn, drops are told as one summary a second instead of one by one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from routesync.events.models import RouteDropped, RouteSummary

PER_SECOND: Final = 10
"""Drops that are told one by one, in any second."""
WINDOW_S: Final = 1.0


class DropGate:
    """Lets the first drops of a second through and counts the others.

    Args:
        summarise: Takes the summary at the end of a window that had others.
    """

    def __init__(self, summarise: Callable[[RouteSummary], None]) -> None:
        self._summarise = summarise
        self._passed = 0
        self._counted: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def admits(self, event: RouteDropped) -> bool:
        """Whether this drop is told by itself; if not, it is counted."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_S, self._close)
        if self._passed < PER_SECOND:
            self._passed += 1
            return True
        self._counted[event.rule] += 1
        return False

    def flush(self) -> None:
        """Tell now what was counted: there will be no later."""
        if self._timer is not None:
            self._timer.cancel()
            self._close()

    def _close(self) -> None:
        self._timer, self._passed = None, 0
        if self._counted:
            counted, self._counted = dict(self._counted), Counter()
            self._summarise(RouteSummary(window_s=WINDOW_S, dropped=counted))
