"""The crew: the requests that are under way at one target.

At most `CONCURRENCY` at a time, never two for one prefix, each with a token of the bucket. A worker goes on with the
next prefix as long as there is one that may go, without a new task for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from routesync.loxilb import errors
from routesync.loxilb.wire import Inventory
from routesync.mirror.book import Entry
from routesync.mirror.changes import Changes, Outcome
from routesync.mirror.pace import TokenBucket
from routesync.mirror.worklist import Worklist
from routesync.route import Prefix

log = structlog.get_logger(__name__)

CONCURRENCY: Final = 8
UNKNOWNS_ALLOWED: Final = 3
"""So many answers in a row that make no sense, and the connection is begun anew."""


class Crew:
    """Carries out the waiting work.

    Attributes:
        broken: why the connection has to be begun anew; nothing more is sent then.
        halted: nothing more is begun; what is under way is finished.
    """

    def __init__(
        self,
        target: str,
        work: Worklist,
        changes: Changes,
        bucket: TokenBucket,
        *,
        now: Callable[[], float],
        landed: Callable[[], None],
        reading_due: Callable[[float], bool],
        checked: Callable[[Prefix, Entry, Outcome], None],
    ) -> None:
        self.broken: errors.LoxilbError | None = None
        self.halted = False
        self._target = target
        self._work = work
        self._changes = changes
        self._bucket = bucket
        self._now = now
        self._tell_landed = landed
        self._reading_due = reading_due
        self._checked = checked
        self._unknowns = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start_anew(self) -> None:
        """Contact was made: what went wrong before no longer counts."""
        self.broken, self._unknowns = None, 0

    async def settle(self) -> None:
        """Wait for what is under way; each request has a deadline of its own."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def cancel(self) -> None:
        """Give up what is under way; what became of it is left to the next life."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def send(self, now: float) -> float:
        """Set workers on whatever may go now; return the seconds until there is a token for more, 0 for no wait."""
        while len(self._tasks) < CONCURRENCY:
            prefix, token_in = self._next(now, others=len(self._tasks))
            if prefix is None:
                return token_in
            task = asyncio.get_running_loop().create_task(self._work_on(prefix))
            self._tasks.add(task)
            task.add_done_callback(self._landed)
        return 0.0

    def _next(self, now: float, *, others: int) -> tuple[Prefix | None, float]:
        """The next prefix to work on, with a token taken for it; or none, and the seconds until there is a token."""
        least, most = self._work.admitted(idle=not others)
        pending = self._work.pending
        if self.halted or not pending.ready(now, least=least, most=most):
            return None, 0.0
        token_in = self._bucket.take(now)
        if token_in > 0:
            return None, token_in
        job = pending.pop(now, least=least, most=most)
        return (job[0], 0.0) if job else (None, 0.0)

    async def _work_on(self, first: Prefix) -> None:
        prefix: Prefix | None = first
        while prefix is not None:
            self._work.busy.add(prefix)
            await self._carry_out(prefix)
            now = self._now()
            if self.broken is not None or self._reading_due(now):
                return
            prefix, _ = self._next(now, others=len(self._tasks) - 1)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reconciler_error", target=self._target, error=repr(error), exc_info=error)
            self.broken = errors.OutcomeUnknown(f"internal error: {error!r}")
        self._tell_landed()

    async def _carry_out(self, prefix: Prefix) -> None:
        entry = self._work.entries[prefix]
        try:
            if self._work.may_go(prefix, entry):
                self._work.begin(prefix, entry)
                await self._request(prefix, entry)
                self._work.end(prefix, entry)
            else:
                self._bucket.give_back(self._now())
        finally:
            self._work.busy.discard(prefix)
        self._work.schedule(prefix, entry)

    async def _request(self, prefix: Prefix, entry: Entry) -> None:
        try:
            if entry.need(prefix) is None:
                self._checked(prefix, entry, await self._changes.check(prefix, entry))
            else:
                inventory = self._work.reading.inventory if self._work.reading else Inventory({}, 0)
                if await self._changes.make(prefix, entry, inventory) is Outcome.DOUBTFUL:
                    self._work.doubt(prefix)
        except (errors.NotSent, errors.AccessDenied) as error:
            self.broken = error
        except errors.LoxilbError as error:
            self._unknowns += 1
            entry.failures += 1
            entry.error = str(error)
            if self._unknowns >= UNKNOWNS_ALLOWED:
                self.broken = error
        else:
            self._unknowns = 0
