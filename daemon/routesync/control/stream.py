"""The events as a stream over the socket: one CloudEvent a line.

A reader has a bounded queue. What does not fit is lost to it and counted; it is told so where the gap is. A reader that
takes nothing at all is let go, and may come back with the `id` of the last event that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from aiohttp import web
from pydantic import BaseModel

from routesync.control.calls import NDJSON
from routesync.control.models import EventsQuery
from routesync.control.requests import streaming, write
from routesync.events.cloudevents import Identity, Record, encode, encode_state
from routesync.events.hub import EventHub
from routesync.events.models import TYPE_PREFIX, Event
from routesync.events.retained import encode_status
from routesync.events.status import Status
from routesync.route import Prefix

QUEUE: Final = 5000
"""Events that may wait for one reader."""
BATCH: Final = 200
"""Events that are written before others have their turn; one costs some 20 us."""
TICK_S: Final = 1.0
"""The status is looked at so often."""
LOST_TYPE: Final = f"{TYPE_PREFIX}.stream.lost.v1"
_STATUS_KIND: Final = "status"


class StreamLost(BaseModel):
    """Events that this reader will not see."""

    count: int | None  # None: it cannot be known


class Reader:
    """An outlet to one reader: what waits for it, and where something is missing, a number that says how much."""

    def __init__(self, limit: int = QUEUE) -> None:
        self._limit = limit
        self._waiting: deque[Record | int] = deque()
        self._news = asyncio.Event()

    def put(self, record: Record, /) -> None:
        """Take a record, or count it where it is missing."""
        if len(self._waiting) < self._limit:
            self._waiting.append(record)
            self._news.set()
        elif isinstance(last := self._waiting[-1], int):
            self._waiting[-1] = last + 1
        else:
            self._waiting.append(1)

    async def take(self, most: int, within_s: float) -> list[Record | int]:
        """The next of what waits; nothing, when nothing comes in time."""
        if not self._waiting:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._news.wait()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


class _Telling(NamedTuple):
    """What of a status is worth telling when it changes."""

    state: str
    reasons: tuple[str, ...]
    targets: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, status: Status) -> _Telling:
        return cls(
            status.state, status.reasons, tuple((target.name, target.state) for target in status.targets)
        )


async def stream_events(
    request: web.Request, query: EventsQuery, hub: EventHub, build_status: Callable[[], Status]
) -> web.StreamResponse:
    """Follow the events for as long as the reader does."""
    async with streaming(request, NDJSON) as response:
        await _follow(response, query, hub, build_status)
    return response


async def _follow(
    response: web.StreamResponse, query: EventsQuery, hub: EventHub, build_status: Callable[[], Status]
) -> None:
    wants_status = _is_wanted_kind(query, _STATUS_KIND)
    reader = Reader()
    with hub.attached(reader):
        lines = _missed_lines(query, hub)
        told: _Telling | None = None
        look_at = 0.0
        while True:
            if wants_status and time.monotonic() >= look_at:
                look_at = time.monotonic() + TICK_S
                status = build_status()
                if (now := _Telling.of(status)) != told:
                    told = now
                    lines = encode_status(status, hub) + b"\n" + lines
            await write(response, lines)
            await asyncio.sleep(0)  # neither of the others need have waited
            lines = _written(await reader.take(BATCH, TICK_S), query, hub.identity)


def _missed_lines(query: EventsQuery, hub: EventHub) -> bytes:
    """What the reader has missed since the event that it names, as far as it is remembered."""
    if query.after is None:
        return b""
    epoch, _, number = query.after.rpartition("-")
    tail = hub.tail
    if epoch != hub.identity.epoch or not number.isdecimal():
        # the numbers begin anew: what there was between is not known
        return _lost(None, hub.identity) + _written(tail, query, hub.identity)
    after = int(number)
    first = tail[0].sequence if tail else hub.sequence + 1
    lost = max(0, first - after - 1)
    lines = _lost(lost, hub.identity) if lost else b""
    return lines + _written((record for record in tail if record.sequence > after), query, hub.identity)


def _written(records: Iterable[Record | int], query: EventsQuery, identity: Identity) -> bytes:
    return b"".join(
        _lost(record, identity) if isinstance(record, int) else encode(record, identity) + b"\n"
        for record in records
        if isinstance(record, int) or _is_wanted(query, record.event)
    )


def _is_wanted(query: EventsQuery, event: Event) -> bool:
    if not _is_wanted_kind(query, f"{event.group}.{event.name}"):
        return False
    if query.within is None:
        return True
    prefix = getattr(event, "prefix", None)
    return isinstance(prefix, str) and query.within.covers(Prefix.parse(prefix))


def _is_wanted_kind(query: EventsQuery, kind: str) -> bool:
    return not query.type or any(fnmatchcase(kind, wanted) for wanted in query.type)


def _lost(count: int | None, identity: Identity) -> bytes:
    at = time.time()
    data = StreamLost(count=count)
    return encode_state(LOST_TYPE, identity, data, at=at, subject="stream", serial=f"{at:.6f}") + b"\n"
