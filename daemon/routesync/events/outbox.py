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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog

from routesync.events.cloudevents import Identity, Record, encode
from routesync.events.store import Bounds, Loss, LossReason, Message, Store, open_store

T = TypeVar("T")

QUEUE_LIMIT: Final = 50_000
"""Events that may wait for the thread."""
MEMORY_LIMIT: Final = 20_000
"""Events that are held in memory while the disk fails."""
_BATCH: Final = 2_000
_IDLE_S: Final = 1.0
"""Acknowledgements wait this long at most for a transaction to go with."""
_RETRY_S: Final = 1.0
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

    def __init__(self, store: Store, node: str, bounds: Bounds, *, trouble: str | None = None) -> None:
        self.identity = Identity(node, store.epoch)
        self.first_sequence = store.sequence
        """Where the hub's counting goes on."""
        self.trouble = trouble
        """What is wrong with the disk; None where all is well."""
        self.untold: tuple[Loss, ...] = tuple(store.losses())
        """Losses that wait for being told as events."""
        self._store = store
        self._bounds = bounds
        self._queue: queue.SimpleQueue[Record | Callable[[], None] | None] = queue.SimpleQueue()
        self._given = store.sequence
        self._acknowledged = 0
        self._losses: deque[Loss] = deque()
        self._told: deque[Loss] = deque()
        self._lock = threading.Lock()  # over the two above
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._defect: Exception | None = None
        self._asked: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._guarded, name="outbox", daemon=True)
        # the thread's own:
        self._unwritten: deque[Message] = deque()
        self._deleted = 0
        self._retry_at = 0.0

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
            log.error("the outbox cannot be opened", error=trouble)
        outbox = cls(store, node, bounds, trouble=trouble)
        outbox._thread.start()
        return outbox

    @property
    def backlog(self) -> int:
        """Events that the broker does not have yet, about."""
        return self._store.count + len(self._unwritten) + self._queue.qsize()

    def put(self, record: Record, /) -> None:
        """Take an event, or count it as lost when too many wait for the disk."""
        self._given = record.sequence
        if self._queue.qsize() >= QUEUE_LIMIT:
            self.lose("queue-full", record.time)
        else:
            self._queue.put(record)

    def limit(self, bounds: Bounds) -> None:
        """Hold it to other bounds from now on."""
        self._bounds = bounds

    def lose(self, reason: LossReason, since: float) -> None:
        """Count an event as lost."""
        with self._lock:
            last = self._losses[-1] if self._losses else None
            if last is not None and last.reason == reason and last.lost is not None:
                self._losses[-1] = last._replace(lost=last.lost + 1)
            else:
                self._losses.append(Loss(reason, 1, since))

    def told(self, losses: Iterable[Loss]) -> None:
        """Forget these losses: events that tell them were emitted just now."""
        with self._lock:
            self._told.extend(losses)
        self.untold = ()
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
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, _CLOSE_S)

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
            log.exception("the outbox has a defect")
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
        with self._lock:
            losses, told = tuple(self._losses), tuple(self._told)
            self._losses.clear()
            self._told.clear()
        if not (self._unwritten or losses or told or acknowledged > self._deleted):
            return
        if time.monotonic() >= self._retry_at:
            try:
                self._store.write(
                    self._unwritten, acknowledged=acknowledged, losses=losses, told=told, bounds=self._bounds
                )
            except sqlite3.Error as error:
                self._failed(error)
            else:
                self._deleted = acknowledged
                self._unwritten.clear()
                self._recovered()
                return
        with self._lock:
            self._losses.extendleft(reversed(losses))
            self._told.extendleft(reversed(told))
        while self._unwritten and self._unwritten[0].sequence <= acknowledged:
            self._unwritten.popleft()
        while len(self._unwritten) > MEMORY_LIMIT:
            self._unwritten.popleft()
            self.lose("storage", time.time())

    def _failed(self, error: sqlite3.Error) -> None:
        self._retry_at = time.monotonic() + _RETRY_S
        if self.trouble is None:
            self.trouble = f"outbox: {error}; events go on through memory and would not survive a restart"
            log.error("the outbox cannot be used", error=str(error))

    def _recovered(self) -> None:
        if self._retry_at:
            self._retry_at = 0.0
            self.trouble = None
            log.info("the outbox can be used again")
        losses = tuple(self._store.losses())
        with self._lock:
            if not self._told:
                self.untold = losses

    def _read(self, after: int, limit: int) -> list[Message]:
        messages = self._store.read(after, limit)
        messages.extend(m for m in self._unwritten if m.sequence > after)
        return messages[:limit]

    def _last(self) -> int:
        return self._unwritten[-1].sequence if self._unwritten else self._store.last()


def _nothing() -> None:
    return None
