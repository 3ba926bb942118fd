"""Sends one request to loxilb, once, and says what came of it."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.ledger import Ledger
from routesync.mirror.state import Answer, Kind, Outcome, Request

CONNECTIONS: Final = 8
"""Requests on their way to one target at a time."""

_CREATED: Final = Outcome(Answer.CREATED)
_DELETED: Final = Outcome(Answer.DELETED)
_TOO_LATE: Final = Outcome(Answer.WITHHELD, "what proves that DELETE takes our route is too old by now")
_ANSWERS: Final[tuple[tuple[type[errors.LoxilbError], Answer], ...]] = (
    (errors.AlreadyExists, Answer.EXISTS),
    (errors.NoSuchRoute, Answer.ABSENT),
    (errors.NextHopUnreachable, Answer.UNREACHABLE),
    (errors.Unexplained, Answer.UNEXPLAINED),
    (errors.AccessDenied, Answer.DENIED),
    (errors.Rejected, Answer.REJECTED),
    (errors.Withheld, Answer.WITHHELD),
    (errors.NotSent, Answer.NOT_SENT),
)


class Applier:
    """Sends requests to one target. A POST that may create a route leaves only when its intent is on disk."""

    def __init__(self, client: LoxilbClient, ledger: Ledger) -> None:
        self.sending = 0
        """Requests on their way."""
        self._client = client
        self._ledger = ledger
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def send(self, request: Request) -> Outcome:
        """Send a request and return what came of it; no failure of the target is raised."""
        if request.intent is not None:
            await self.committed()
        async with self._slots:
            if monotonic() > request.not_after:
                return _TOO_LATE
            self.sending += 1
            try:
                if request.kind is Kind.DELETE:
                    await self._client.delete(request.prefix)
                    return _DELETED
                await self._client.add(request.prefix, request.gateway)
            except errors.LoxilbError as error:
                return outcome_of(error)
            finally:
                self.sending -= 1
            return _CREATED

    async def committed(self) -> None:
        """Return when all that was noted is on disk, or cannot be written."""
        if (committed := self._ledger.committed()) is not None:
            await committed


def outcome_of(error: errors.LoxilbError) -> Outcome:
    """What a failure means for the route."""
    answer = next((answer for kind, answer in _ANSWERS if isinstance(error, kind)), Answer.UNKNOWN)
    if isinstance(error, errors.Rejected) and answer is not Answer.DENIED:
        return Outcome(answer, error.words, error.status)
    return Outcome(answer, str(error))
