"""Wait on conditions with a deadline, never on the clock alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from support.measured import MEASURED

_PATIENCE: Final = 4 if MEASURED else 1
"""Measured code runs at a quarter of its speed."""


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 30, what: str = "condition"
) -> None:
    """Return when the condition holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + within_s * _PATIENCE
    while True:
        asked = time.monotonic()
        outcome = condition()
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        if outcome:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {within_s * _PATIENCE} s")
        await asyncio.sleep(_pause_s(asked))


def eventually_sync(
    condition: Callable[[], bool],
    *,
    within_s: float = 30,
    what: str = "condition",
    but: Callable[[], str] = str,
) -> None:
    """The same, for tests without an event loop; `but` says what is there instead."""
    deadline = time.monotonic() + within_s * _PATIENCE
    while True:
        asked = time.monotonic()
        if condition():
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {within_s * _PATIENCE} s; {but()}")
        time.sleep(_pause_s(asked))


def _pause_s(asked: float) -> float:
    """Until a condition is asked again: four times what it took, for some start processes to find out."""
    return min(max(0.01, 4 * (time.monotonic() - asked)), 0.25)
