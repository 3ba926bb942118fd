"""A log that stays readable: lines of one kind that come in a flood are cut short, and how many is said.

Everything that breaks is said once, and once when it heals; that is for those who log. This here is for what is said of
single routes (a conflict each, when somebody takes a thousand prefixes), and for what nobody thought of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from structlog.typing import EventDict, WrappedLogger

LINES: Final = 50
"""Lines of one kind in a row of `WINDOW_S`; what comes beyond is left out."""
WINDOW_S: Final = 60.0
HINT: Final = "more lines of this kind are left out; their number follows with the next one after a while"


@dataclass(slots=True)
class _Kind:
    began: float
    lines: int = 0
    left_out: int = 0


class FloodGate:
    """A processor that lets `lines` lines of each event name pass in a window, and drops further ones.

    Debug lines all pass, for somebody looks at them; so do those that carry the number of an event (`sequence`): then
    the log is the only outlet that events have.
    """

    def __init__(
        self, lines: int = LINES, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lines = lines
        self._window_s = window_s
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Let a line pass, or drop it."""
        name = str(event.get("event"))
        if "sequence" in event or method == "debug":
            return event
        now = self._clock()
        kind = self._kinds.get(name)
        if kind is None or now - kind.began >= self._window_s:
            left_out = kind.left_out if kind is not None else 0
            self._forget(now)
            self._kinds[name] = _Kind(now, lines=1)
            if left_out:
                event["left_out_before"] = left_out
            return event
        kind.lines += 1
        if kind.lines > self._lines:
            kind.left_out += 1
            raise structlog.DropEvent
        if kind.lines == self._lines:
            event["flood"] = HINT
        return event

    def _forget(self, now: float) -> None:
        """Names of libraries' messages are not few: forget those whose window is over."""
        over = [
            name
            for name, kind in self._kinds.items()
            if now - kind.began >= self._window_s and not kind.left_out
        ]
        for name in over:
            del self._kinds[name]
