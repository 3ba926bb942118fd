"""Readings of the kernel for those who ask: one at a time, and at most half of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from routesync.control.problems import ProblemError
from routesync.kernel import KernelError, KernelSource
from routesync.kernel.details import RouteDetails
from routesync.route import Prefix, Route

READINGS: Final = 3
"""So often a reading that the kernel's changes interrupt is tried."""

T = TypeVar("T")


class Lookups:
    """Reads the kernel over the source that follows it."""

    def __init__(self, source: Callable[[], KernelSource]) -> None:
        self._source = source
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def read(
        self,
        begin: Callable[[], T],
        take: Callable[[T, Route, Callable[[], RouteDetails]], None],
        covering: Prefix | None,
    ) -> tuple[T, bool]:
        """Read the kernel anew into something that takes its routes; tell also whether the reading was whole.

        One at a time, and then for as long nobody: whoever asks without end gets half of the time at most.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._free_at - loop.time()))
            started = loop.time()
            try:
                for _ in range(READINGS - 1):
                    into = begin()
                    if await self._source().look_up(partial(take, into), covering):
                        return into, True
                into = begin()
                return into, await self._source().look_up(partial(take, into), covering)
            except KernelError as error:
                raise ProblemError("unavailable", str(error)) from None
            finally:
                self._free_at = 2 * loop.time() - started
