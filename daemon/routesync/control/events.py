"""The event stream over the control socket, one CloudEvent a line: the daemon's side, and the reader's.

A reader has a bounded queue. What does not fit is lost for this reader; a line in its place says how many events. A
reader that takes nothing at all is disconnected, and may come back with the `id` of the last event that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ValidationError

from routesync.control.client import ControlError, NotAllowed, explain_os_error, problem_of, url_of
from routesync.control.models import EventsQuery, ProblemError
from routesync.control.requests import EVENT_STREAM, NDJSON, streaming, write
from routesync.events.cloudevents import Record, encode, encode_state
from routesync.events.hub import EventHub
from routesync.events.models import TYPE_PREFIX, Event
from routesync.events.node_status import Status
from routesync.events.reader import ReceivedMessage, Selection, read_text
from routesync.events.retained import encode_status
from routesync.route import Prefix

QUEUE: Final = 5000
"""Events that may wait for one reader."""
BATCH: Final = 200
"""Events that are written before other tasks run; one costs some 20 us."""
STATUS_INTERVAL_S: Final = 1.0
"""How often the status is compared with the last one sent."""
RETRY_S: Final = 1.0
PING_S: Final = 15.0
"""Server-sent events: after so long without a message comes an empty comment, so that a dead connection is noticed."""
LOST: Final = "stream.lost"
"""The kind of the message that reports events which this reader has lost."""
_LOST_TYPE: Final = f"{TYPE_PREFIX}.{LOST}.v1"
_STATUS: Final = "status"


# -- the daemon's side ---------------------------------------------------------------------------------------


class StreamLost(BaseModel):
    """Events that this reader will not see."""

    count: int | None  # None: unknown


class ReaderQueue:
    """A sink of the event hub for one reader. A number in the queue counts the events lost at that place."""

    def __init__(self, limit: int = QUEUE) -> None:
        self._limit = limit
        self._waiting: deque[Record | int] = deque()
        self._filled = asyncio.Event()

    def put(self, record: Record, /) -> None:
        if len(self._waiting) < self._limit:
            self._waiting.append(record)
            self._filled.set()
        elif isinstance(last := self._waiting[-1], int):
            self._waiting[-1] = last + 1
        else:
            self._waiting.append(1)

    async def take(self, most: int, within_s: float) -> list[Record | int]:
        """The next records and numbers; empty if none comes in time."""
        if not self._waiting:
            self._filled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._filled.wait()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def _summary(status: Status) -> object:
    """The part of a status whose change is worth a message."""
    return status.state, status.reasons, [(target.name, target.state) for target in status.targets]


async def stream_events(
    request: web.Request, query: EventsQuery, hub: EventHub, build_status: Callable[[], Status]
) -> web.StreamResponse:
    """Send events until the reader disconnects: one a line, or as server-sent events if the request accepts these."""
    if EVENT_STREAM not in request.headers.get("Accept", ""):
        async with streaming(request, NDJSON) as response:
            await _stream(response, Lines(query, hub), build_status)
        return response
    if (
        last := request.headers.get("Last-Event-ID")
    ) is not None:  # a browser reconnects with the URL of the start
        try:
            query = EventsQuery(within=query.within, type=query.type, after=last)
        except ValidationError:
            raise ProblemError("bad-request", "Last-Event-ID is not the id of an event") from None
    async with streaming(request, EVENT_STREAM) as response:
        await _stream(response, ServerSentEvents(query, hub), build_status)
    return response


async def _stream(response: web.StreamResponse, form: Lines, build_status: Callable[[], Status]) -> None:
    wants_status = _wants_kind(form.query, _STATUS)
    queue = ReaderQueue()
    with form.hub.attached(queue):
        data = form.begin + form.missed()
        sent: object = None
        compare_at = 0.0
        ping_at = time.monotonic() + PING_S
        while True:
            if wants_status and time.monotonic() >= compare_at:
                compare_at = time.monotonic() + STATUS_INTERVAL_S
                status = build_status()
                if (now := _summary(status)) != sent:
                    sent = now
                    data = form.frame(encode_status(status, form.hub)) + data
            if not data and time.monotonic() >= ping_at:
                data = form.ping
            if data:
                ping_at = time.monotonic() + PING_S
            await write(response, data)
            await asyncio.sleep(0)  # neither the write nor take() has to wait, and other tasks must run
            data = form.encoded(await queue.take(BATCH, STATUS_INTERVAL_S))


class Lines:
    """The messages of one reader, one a line."""

    begin = b""
    ping = b""

    def __init__(self, query: EventsQuery, hub: EventHub) -> None:
        self.query = query
        self.hub = hub

    def frame(self, message: bytes, number: int | None = None) -> bytes:
        """One message; `number` is its sequence number if it is an event."""
        del number
        return message + b"\n"

    def encoded(self, records: Iterable[Record | int]) -> bytes:
        return b"".join(
            self._lost(record)
            if isinstance(record, int)
            else self.frame(encode(record, self.hub.identity), record.sequence)
            for record in records
            if isinstance(record, int) or _wants(self.query, record.event)
        )

    def missed(self) -> bytes:
        """What the reader has missed since the event that it names, as far as the hub remembers it."""
        if self.query.after is None:
            return b""
        epoch, _, number = self.query.after.rpartition("-")
        tail = self.hub.tail
        if epoch != self.hub.identity.epoch:
            # the sequence started again: how many events were in between is unknown
            return self._lost(None) + self.encoded(tail)
        after = int(number)
        first = tail[0].sequence if tail else self.hub.sequence + 1
        lost = max(0, first - after - 1)
        # of an earlier run of the daemon: the count jumps when one was killed, so it does not say how many there were
        earlier = after < self.hub.sequence - self.hub.emitted.total()
        lines = self._lost(None if earlier else lost) if lost else b""
        return lines + self.encoded(record for record in tail if record.sequence > after)

    def _lost(self, count: int | None) -> bytes:
        at = time.time()
        data = StreamLost(count=count)
        return self.frame(
            encode_state(_LOST_TYPE, self.hub.identity, data, at=at, subject="stream", serial=f"{at:.6f}")
        )


class ServerSentEvents(Lines):
    """The same for a browser's EventSource, which comes back with the `id` of the last event."""

    begin = b"retry: 1000\n\n"
    ping = b":\n\n"

    def frame(self, message: bytes, number: int | None = None) -> bytes:
        name = b"" if number is None else f"id: {self.hub.identity.epoch}-{number}\n".encode()
        return name + b"data: " + message + b"\n\n"


def _wants(query: EventsQuery, event: Event) -> bool:
    if not _wants_kind(query, f"{event.group}.{event.name}"):
        return False
    if query.within is None:
        return True
    prefix = getattr(event, "prefix", None)
    return isinstance(prefix, str) and query.within.covers(Prefix.parse(prefix))


def _wants_kind(query: EventsQuery, kind: str) -> bool:
    return not query.type or any(fnmatchcase(kind, wanted) for wanted in query.type)


# -- the reader's side ---------------------------------------------------------------------------------------


async def follow_local(
    path: Path, selection: Selection, trouble: Callable[[str | None], None]
) -> AsyncIterator[ReceivedMessage]:
    """The selected messages, without end: first the status, then what comes; after a reconnect from the last event on.

    Args:
        path: The socket.
        selection: Which messages.
        trouble: Called with a message when the daemon is gone, with None when it is back.

    Raises:
        ControlError: at the first try the daemon does not run, or the socket may not be opened.
    """
    after: str | None = None
    connected_once = False
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        while True:
            problem = f"{path}: the daemon is gone; waiting for it to come back"
            try:
                url = f"http://routesync{url_of('/v1/events', _parameters(selection, after))}"
                async with session.get(url) as response:
                    if response.status != HTTPStatus.OK:
                        raise problem_of(response.status, await response.read(), path)
                    connected_once = True
                    trouble(None)
                    async for message in _messages(response.content):
                        if message.sequence is not None:
                            after = message.id
                        if message.kind == LOST or _selected(selection, message):
                            yield message
            except aiohttp.ClientConnectorError as error:
                found = explain_os_error(error.os_error, path)
                if not connected_once or isinstance(found, NotAllowed):
                    raise found from None
            except (aiohttp.ClientError, OSError):
                if not connected_once:
                    raise explain_os_error(OSError(0, "the connection broke"), path) from None
            except ControlError as error:
                if not connected_once:
                    raise
                problem = str(error)
            trouble(problem)
            await asyncio.sleep(RETRY_S)


def _parameters(selection: Selection, after: str | None) -> list[tuple[str, object]]:
    kinds = [*selection.kinds, _STATUS] if selection.kinds and selection.with_status else selection.kinds
    within = None if selection.with_status else selection.within  # a status belongs to no prefix
    return [*(("type", kind) for kind in kinds), ("within", within), ("after", after)]


def _selected(selection: Selection, message: ReceivedMessage) -> bool:
    return (not selection.nodes or message.node in selection.nodes) and selection.wants(message)


async def _messages(content: aiohttp.StreamReader) -> AsyncIterator[ReceivedMessage]:
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if (message := read_text(line)) is not None:  # else it is from a later version
                yield message
