"""The events of the daemon on this host, over its socket: the same messages as over MQTT, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from pydantic import ValidationError

from routesync.control.client import ControlError, NotAllowed, explain_os_error, problem_of, url_of
from routesync.events.reader import Message, Selection

RETRY_S: Final = 1.0
LOST: Final = "stream.lost"
"""The kind of the message that tells of events which this reader has lost."""


async def follow_local(
    path: Path, selection: Selection, trouble: Callable[[str | None], None]
) -> AsyncIterator[Message]:
    """The wanted messages, for good: first the status, then what comes; after a restart from where it was.

    Args:
        path: The socket.
        selection: What is wanted.
        trouble: Called with words when the daemon is gone, with None when it is there.

    Raises:
        ControlError: at the first try nobody serves the socket; or it may not be opened.
    """
    after: str | None = None
    was_there = False
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        while True:
            said = f"{path}: the daemon has gone away; waiting for it to come back"
            try:
                url = f"http://routesync{url_of('/v1/events', _parameters(selection, after))}"
                async with session.get(url) as answer:
                    if answer.status != HTTPStatus.OK:
                        raise problem_of(answer.status, await answer.read(), path)
                    was_there = True
                    trouble(None)
                    async for message in _messages(answer.content):
                        if message.sequence is not None:
                            after = message.id
                        if message.kind == LOST or _is_wanted(selection, message):
                            yield message
            except aiohttp.ClientConnectorError as error:
                found = explain_os_error(error.os_error, path)
                if not was_there or isinstance(found, NotAllowed):
                    raise found from None
            except (aiohttp.ClientError, OSError):
                if not was_there:
                    raise explain_os_error(OSError(0, "the connection broke"), path) from None
            except ControlError as error:
                if not was_there:
                    raise
                said = str(error)
            trouble(said)
            await asyncio.sleep(RETRY_S)


def _parameters(selection: Selection, after: str | None) -> list[tuple[str, object]]:
    kinds = [*selection.kinds, "status"] if selection.kinds and selection.with_status else selection.kinds
    within = None if selection.with_status else selection.within  # a status lies in no prefix
    return [*(("type", kind) for kind in kinds), ("within", within), ("after", after)]


def _is_wanted(selection: Selection, message: Message) -> bool:
    return (not selection.nodes or message.node in selection.nodes) and selection.wants(message)


async def _messages(content: aiohttp.StreamReader) -> AsyncIterator[Message]:
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                message = Message.model_validate_json(line)
            except ValidationError:
                continue  # of a later version
            yield message.model_copy(update={"text": line.decode()})
