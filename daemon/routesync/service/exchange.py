"""An eternal task whose work can be exchanged for other work while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

Work = Callable[[], Coroutine[object, object, None]]


class Exchangeable:
    """Does one work at a time; the former has ended before the next begins.

    Work is eternal, too: when it ends by itself, so does `run`, with its error.
    """

    def __init__(self) -> None:
        self._work: Work | None = None
        self._exchanged = asyncio.Event()

    def exchange(self, work: Work) -> None:
        """Have this done from now on. Returns at once."""
        self._work = work
        self._exchanged.set()

    async def run(self) -> None:
        """Do what there is to do, until cancelled."""
        while True:
            await self._exchanged.wait()
            self._exchanged.clear()
            if self._work is not None and await self._do(self._work):
                return

    async def _do(self, work: Work) -> bool:
        """Return True when the work ended by itself, False when there is other work."""
        doing = asyncio.create_task(_coroutine(work))
        other = asyncio.create_task(self._exchanged.wait())
        try:
            await asyncio.wait({doing, other}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
                return True
        finally:
            for task in (doing, other):
                task.cancel()
            await asyncio.gather(doing, other, return_exceptions=True)
        return False


async def _coroutine(work: Work) -> None:
    await work()
