"""Long work in slices, so that no step holds the event loop for more than some milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Generator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

SLICE_S: Final = 0.005
"""After so long other tasks run. By time and not by number: what one item costs differs a hundredfold."""


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate, and let other tasks run between slices. What `items` is taken from must not change meanwhile."""
    until = time.perf_counter() + SLICE_S
    for item in items:
        yield item
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S


async def finish_in_slices(steps: Generator[None, None, T]) -> T:
    """Run a generator that yields between its steps, and let other tasks run between slices; return its value."""
    until = time.perf_counter() + SLICE_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S
