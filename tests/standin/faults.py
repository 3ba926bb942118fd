"""Faults on the way between a client and the API, switched while the stand-in runs: PUT /standin/faults.

A fault takes the place of an answer. Whether the request is carried out all the same is a matter of its own: an answer
that is lost after the kernel was changed is what a client has most to fear.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FaultKind = Literal["reset", "hang", "half", "slow", "answer"]

HIDDEN_PATH: Final = "/standin/"
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)  # closing sends RST


@dataclass(slots=True)
class Fault:
    """One fault, and which requests it befalls.

    reset: the connection is reset. hang: nothing comes back. half: the connection ends within the body. slow: the
    answer comes after `delay_s`. answer: `status` and `body` come instead.
    """

    kind: FaultKind
    method: str = ""  # "" for every one
    path: str = ""  # part of the path
    carried_out: bool = False  # the request is carried out before; with slow it always is, after the delay
    times: int | None = None  # None: until it is taken back
    share: float = 1  # of the requests that match
    delay_s: float = 0
    status: int = 500
    body: str = '{"code":500,"message":"fault"}'

    def befalls(self, request: web.Request) -> bool:
        """Whether the request is one of those."""
        return self.method in ("", request.method) and self.path in request.path


class Faults:
    """The faults in force, tried in order; the first that fits happens."""

    def __init__(self, seed: int | None) -> None:
        self._faults: list[Fault] = []
        self._random = random.Random(seed)
        self.done = 0

    def replace(self, faults: Sequence[Fault]) -> None:
        """Put these in place of those in force."""
        self._faults = list(faults)

    def _next(self, request: web.Request) -> Fault | None:
        for fault in self._faults:
            if fault.times == 0 or not fault.befalls(request) or self._random.random() >= fault.share:
                continue
            if fault.times is not None:
                fault.times -= 1
            self.done += 1
            return fault
        return None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a fault happen to the request, or pass it on."""
        fault = None if request.path.startswith(HIDDEN_PATH) else self._next(request)
        if fault is None:
            return await handler(request)
        if fault.kind == "slow":
            await request.read()  # now: what was sent is carried out, even if nobody waits for it any more
            await asyncio.sleep(fault.delay_s)
            return await handler(request)
        if fault.carried_out:
            await handler(request)
        match fault.kind:
            case "reset":
                _reset(request)
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "half":
                return await _half(request, fault)
            case "answer":
                pass
        return web.Response(status=fault.status, text=fault.body, content_type="application/json")


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


async def _half(request: web.Request, fault: Fault) -> web.StreamResponse:
    body = fault.body.encode()
    response = web.StreamResponse(status=200, headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
