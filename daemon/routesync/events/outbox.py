"""The outbox: events wait here, in order, until the broker has them.

`put` only appends to a queue in memory. One thread owns the SQLite file: it encodes what has come meanwhile and writes
it in one transaction (group commit), so that neither the encoding nor the disk takes time from the event loop's work on
routes. Whatever does not fit is dropped and counted; the count is kept on disk, too, until it was told as an event.

Where the disk fails (full, read-only), events go on through memory, within narrower bounds, and `trouble` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog

from routesync.events.cloudevents import Identity, Record, encode
from routesync.events.losses import Loss, LossBook, LossReason, loss_told_by
from routesync.events.models import EventsLost
from routesync.events.store import REMEDY, Bounds, Message, Store, open_store

T = TypeVar("T")

QUEUE_LIMIT: Final = 50_000
"""Events that may wait for the thread."""
MEMORY_LIMIT: Final = 20_000
"""Events that are held in memory while the disk fails."""
_BATCH: Final = 2_000
_IDLE_S: Final = 1.0
"""Acknowledgements wait this long at most for a transaction to go with."""
_RETRY_S: Final = 1.0
HEALED_S: Final = 3.0
"""The disk is said to be well when it has been for so long: one that is nearly full takes some and refuses some."""
_CLOSE_S: Final = 5.0

log = structlog.get_logger("routesync.events")


def message_of(record: Record, identity: Identity) -> Message:
    """Make an event ready to be sent."""
    event = record.event
    target, prefix = getattr(event, "target", None), getattr(event, "prefix", None)
    return Message(
        record.sequence, event.type_name(), event.topic(), target, prefix, encode(record, identity)
    )


class Outbox:
    """Events on their way to the broker. An `Outlet`; all but `open` belong to the event loop's thread."""

    def __init__(
        self, store: Store, node: str, bounds: Bounds, *, place: str = "memory", trouble: str | None = None
    ) -> None:
        self.identity = Identity(node, store.epoch)
        self.first_sequence = store.sequence
        """Where the hub's counting goes on."""
        self.trouble = trouble
        """What is wrong with the disk; None where all is well."""
        self._place = place
        self._store = store
        self._bounds = bounds
        self._queue: queue.SimpleQueue[Record | Callable[[], None] | None] = queue.SimpleQueue()
        self._given = store.sequence
        self._acknowledged = 0
        self._losses = LossBook(store.losses())
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._defect: Exception | None = None
        self._asked: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._guarded, name="outbox", daemon=True)
        # the thread's own:
        self._unwritten: deque[Message] = deque()
        self._deleted = 0
        self._handed_out = 0
        self._retry_at = 0.0
        self._failed_at: float | None = None  # last; None: the disk is well

    @classmethod
    def open(
        cls,
        path: Path | None,
        node: str,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 - immutable
        epoch: str | None = None,
    ) -> Self:
        """Open the outbox in this file, or in memory for None.

        A damaged file is put aside and a new epoch begins. Where the file cannot be had at all (no directory, no
        permission), memory takes its place, and `trouble` says why.
        """
        store, trouble = open_store(path, epoch)
        if trouble is not None:
            log.error("outbox_not_opened", error=trouble)
        outbox = cls(store, node, bounds, place=str(path or "memory"), trouble=trouble)
        outbox._thread.start()
        return outbox

    @property
    def backlog(self) -> int:
        """Events that the broker does not have yet, about."""
        return self._store.count + len(self._unwritten) + self._queue.qsize()

    @property
    def size(self) -> int:
        """What the waiting events take in the file, in bytes, about."""
        return self._store.size

    @property
    def bounds(self) -> Bounds:
        """What it may hold."""
        return self._bounds

    def put(self, record: Record, /) -> None:
        """Take an event, or count it as lost when too many wait for the disk."""
        self._given = record.sequence
        if self._queue.qsize() < QUEUE_LIMIT:
            self._queue.put(record)
            return
        self.lose("queue-full", record.time)
        if isinstance(record.event, EventsLost):
            told = record.event
            self._losses.add(Loss(told.reason, told.count, told.since.timestamp()))

    def limit(self, bounds: Bounds) -> None:
        """Hold it to other bounds from now on."""
        self._bounds = bounds

    def lose(self, reason: LossReason, since: float, count: int | None = 1) -> None:
        """Count events as lost; None: nobody knows how many."""
        self._losses.add(Loss(reason, count, since))
        self._losses.count(reason, 1 if count is None else count)

    @property
    def lost(self) -> Mapping[LossReason, int]:
        """Events that were lost since the start; where nobody knows how many, one."""
        return self._losses.total

    @property
    def untold(self) -> tuple[Loss, ...]:
        """Losses that wait for being told as events."""
        return self._losses.untold

    def told(self, losses: Iterable[Loss]) -> None:
        """Forget these losses: events that tell them were emitted just now."""
        self._losses.told(losses)
        self._queue.put(_nothing)

    @property
    def acknowledged(self) -> int:
        """The number up to which the broker has all events."""
        return self._acknowledged

    def acknowledge(self, sequence: int) -> None:
        """Forget the events up to this number: the broker has them."""
        self._acknowledged = sequence

    async def read(self, after: int, limit: int) -> list[Message]:
        """The next events behind this number, as soon as there is one."""
        while True:
            self._news.clear()
            try:
                messages = await self._call(lambda: self._read(after, limit))
            except sqlite3.Error:  # skipping what cannot be read would lose it
                await asyncio.sleep(_RETRY_S)
                continue
            if messages:
                return messages
            await self._news.wait()

    async def retained(self) -> frozenset[str]:
        """The retained topics that the broker may hold from us."""
        with contextlib.suppress(
            sqlite3.Error
        ):  # then something may be left behind after a rename; nothing worse
            return await self._call(self._store.retained)
        return frozenset()

    async def remember_retained(self, topics: Iterable[str]) -> None:
        """Remember these as the retained topics that the broker may hold from us, and no others."""
        remembered = frozenset(topics)
        with contextlib.suppress(sqlite3.Error):
            await self._call(lambda: self._store.remember_retained(remembered))

    async def flush(self) -> int:
        """Wait until all that was put is written (or the disk has failed).

        Returns:
            The number of the last event that waits for the broker; 0 for none, or where it cannot be known.
        """
        with contextlib.suppress(sqlite3.Error):
            return await self._call(self._last)
        return 0

    async def close(self) -> None:
        """Write what waits, mark an orderly end, close the file; a disk that hangs is left to itself after a while."""
        self.end()
        await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def end(self) -> None:
        """Do as `close`, and do not wait for it."""
        self._queue.put(None)

    async def _call(self, function: Callable[[], T]) -> T:
        if self._defect is not None:
            raise self._defect
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._asked.add(answer)
        answer.add_done_callback(self._asked.discard)

        def settle(outcome: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(outcome)  # type: ignore[arg-type]  # T may itself be optional

        def call() -> None:
            try:
                outcome = function()
            except sqlite3.Error as error:
                self._failed(error)
                self._tell_loop(settle, None, error)
            else:
                self._tell_loop(settle, outcome, None)

        self._queue.put(call)
        return await answer

    def _tell_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        if self._loop is None:
            return  # nobody has asked for anything yet
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _fail(self, error: Exception) -> None:
        """End those who wait for the thread, which has died; the publisher dies of it, and is not silent about it."""
        self._defect = error
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(error)

    # ---- below runs in the thread ----

    def _guarded(self) -> None:
        try:
            self._work()
        except Exception as error:
            log.exception("outbox_defect")
            self._tell_loop(self._fail, error)

    def _work(self) -> None:
        while True:
            records, calls, closing = self._collect(_IDLE_S)
            self._unwritten.extend(message_of(record, self.identity) for record in records)
            self._write()
            if records:
                self._tell_loop(self._news.set)
            for call in calls:
                call()
            if closing:
                with contextlib.suppress(sqlite3.Error):
                    # what could not be written is missed at the next start, as after a kill
                    self._store.close(None if self._unwritten else self._given)
                return

    def _collect(self, timeout_s: float) -> tuple[list[Record], list[Callable[[], None]], bool]:
        """Take what waits, or wait for something: records up to the first call, then calls only."""
        records: list[Record] = []
        calls: list[Callable[[], None]] = []
        try:
            item = self._queue.get(timeout=timeout_s)
            while item is not None:
                if callable(item):
                    calls.append(item)
                else:
                    records.append(item)
                if len(records) >= _BATCH:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            return records, calls, False
        return records, calls, item is None

    def _write(self) -> None:
        acknowledged = self._acknowledged
        losses, told = self._losses.unwritten()
        if not (self._unwritten or losses or told or acknowledged > self._deleted):
            self._note_well()
            return
        if time.monotonic() >= self._retry_at:
            try:
                stored = self._store.write(
                    self._unwritten,
                    acknowledged=acknowledged,
                    losses=losses,
                    told=told,
                    bounds=self._bounds,
                    handed_out=self._handed_out,
                )
            except sqlite3.Error as error:
                self._failed(error)
            else:
                self._losses.written(losses, told, stored)
                self._losses.count("outbox-full", self._store.take_trimmed())
                self._deleted = acknowledged
                self._unwritten.clear()
                self._note_well()
                return
        while self._unwritten and self._unwritten[0].sequence <= acknowledged:
            self._unwritten.popleft()
        on_its_way = sum(1 for _ in takewhile(lambda m: m.sequence <= self._handed_out, self._unwritten))
        while len(self._unwritten) > MEMORY_LIMIT:
            dropped = self._unwritten[on_its_way]
            del self._unwritten[on_its_way]
            self.lose("storage", time.time())
            if (loss := loss_told_by(dropped.type, dropped.payload)) is not None:
                self._losses.add(loss)

    def _failed(self, error: sqlite3.Error) -> None:
        self._failed_at = time.monotonic()
        self._retry_at = self._failed_at + _RETRY_S
        if self.trouble is None:
            self.trouble = (
                f"{self._place}: {error}; events go on through memory and would not survive a restart; "
                f"{REMEDY}"
            )
            log.error("outbox_failing", error=str(error))

    def _note_well(self) -> None:
        if self._failed_at is not None and time.monotonic() - self._failed_at > HEALED_S:
            self._failed_at = None
            self.trouble = None
            log.info("outbox_recovered")

    def _read(self, after: int, limit: int) -> list[Message]:
        messages = self._store.read(after, limit)
        messages.extend(m for m in self._unwritten if m.sequence > after)
        found = messages[:limit]
        if found:
            self._handed_out = found[-1].sequence
        return found

    def _last(self) -> int:
        return self._unwritten[-1].sequence if self._unwritten else self._store.last()


def _nothing() -> None:
    return None
