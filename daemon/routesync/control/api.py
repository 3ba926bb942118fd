"""The calls as an application: who may make them, and what is said when they fail."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from routesync.control.calls import CALLS, Call
from routesync.control.orders import Orders
from routesync.control.peers import may_change, peer_of, who_may
from routesync.control.problems import ProblemError, make
from routesync.control.reads import Reads
from routesync.control.requests import problem_answer
from routesync.control.subject import Subject

log = structlog.get_logger(__name__)

LARGEST_ORDER: Final = 4 * 2**20
"""Bytes of a request's body: an order may name each of a target's routes."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """All calls on one daemon. Everything happens in its event loop."""

    def __init__(self, subject: Subject) -> None:
        self._reads = Reads(subject)
        self._orders = Orders(subject)

    def application(self, *, over_tcp: bool) -> web.Application:
        """The calls as an application: all of them, or those that are open to whoever reaches a TCP port."""
        app = web.Application(
            middlewares=[_problems_over_tcp if over_tcp else _problems], client_max_size=LARGEST_ORDER
        )
        app.on_shutdown.append(self._end_streams)
        for call in CALLS:
            if call.open or not over_tcp:
                app.router.add_route(call.method, call.path, self.handler(call))
        return app

    async def _end_streams(self, _app: web.Application) -> None:
        self._reads.end_streams()

    def handler(self, call: Call) -> Handler:
        """What carries a call out."""
        if not call.changes:
            reads: Handler = getattr(self._reads, call.name)
            return reads
        carry_out: Handler = getattr(self._orders, call.name)

        async def guarded(request: web.Request) -> web.StreamResponse:
            peer = peer_of(request.transport)
            if not may_change(peer, os.geteuid()):
                log.warning("control_refused", call=call.name, peer=str(peer))
                raise ProblemError("not-permitted", f"only {who_may()} may {call.name}; you are {peer}")
            log.info("control_call", call=call.name, peer=str(peer))
            return await carry_out(request)

        return guarded


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _in_words(
        request,
        handler,
        "GET /v1/openapi.json tells what there is, and `routesync --help` the commands for it",
    )


@web.middleware
async def _problems_over_tcp(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _in_words(
        request,
        handler,
        "over TCP there are /metrics, /health/live and /health/ready; the rest is asked at the control socket",
    )


async def _in_words(request: web.Request, handler: Handler, elsewhere: str) -> web.StreamResponse:
    """Whatever fails, say it as a problem."""
    try:
        return await handler(request)
    except ProblemError as error:
        return problem_answer(error.problem)
    except web.HTTPNotFound:
        return problem_answer(make("not-found", f"there is no {request.path}; {elsewhere}"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}, not {request.method}"
        return problem_answer(make("wrong-method", detail), {"Allow": allowed})
    except web.HTTPRequestEntityTooLarge:
        return problem_answer(make("too-large", f"at most {LARGEST_ORDER} bytes are taken"))
    except web.HTTPException as error:
        return problem_answer(make("bad-request", error.reason))
    except (ConnectionError, TimeoutError):  # who asked is gone, or takes nothing
        raise
    except Exception as error:
        log.exception("control_call_failed", path=request.path)
        return problem_answer(make("internal", f"{type(error).__name__}; the log says more"))
