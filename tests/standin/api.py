"""The route API itself: what each request does, and what is answered."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from aiohttp import web

from standin import requests, rtnl, wire
from standin.auth import Gate
from standin.ears import Ears
from standin.faults import Fault, Faults
from standin.kernel import KernelRoutes
from standin.options import StandinOptions
from standin.requests import FailedError, RefusedError
from standin.table import RouteTable
from standin.wire import Answer

BASE_PATH: Final = "/netlox/v1"
_GO_PANIC_STATUS: Final = 2
_DEATH_PER_CHANGE: Final = 1e-5
"""Odds that one GET dies, per route change during the second before it.

From the original: 5 GET/s died after 81 s at 200 changes/s, 20 GET/s after 9 s at about 1,000/s.
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Requests:
    """Requests answered so far."""

    posts: int = 0
    deletes: int = 0
    route_reads: int = 0
    port_reads: int = 0


class Api:
    """loxilb's REST API, as far as routes go."""

    def __init__(self, options: StandinOptions, kernel: KernelRoutes, table: RouteTable, ears: Ears) -> None:
        self._options = options
        self._release = options.release
        self._kernel = kernel
        self._table = table
        self._ears = ears
        self._requests = Requests()
        self._faults = Faults(options.seed)
        self._random = random.Random(options.seed)

    def application(self) -> web.Application:
        """Build the aiohttp application."""
        gate = Gate(self._options.manual_token, self._options.userservice)
        application = web.Application(
            middlewares=[self._faults.middleware, self._put_errors_in_words, gate.middleware]
        )
        routes = [
            web.post(f"{BASE_PATH}/config/route", self._post),
            web.delete(f"{BASE_PATH}/config/route/destinationIPNet/{{address}}/{{length}}", self._delete),
            web.get(f"{BASE_PATH}/config/route/all", self._get_routes, allow_head=False),
            web.get(f"{BASE_PATH}/config/port/all", self._get_ports, allow_head=False),
            web.get("/standin/state", self._get_state, allow_head=False),
            web.put("/standin/faults", self._put_faults),
        ]
        if self._release.tells_version:
            routes.append(web.get(f"{BASE_PATH}/version", self._get_version, allow_head=False))
        application.router.add_routes(routes)
        return application

    async def _post(self, request: web.Request) -> web.Response:
        self._requests.posts += 1
        if request.content_type != "application/json":
            kind = request.content_type
            message = f'unsupported media type "{kind}", only [application/json] are allowed'
            raise RefusedError(wire.refusal(415, 415, message))
        try:
            async with asyncio.timeout(self._options.read_s):
                raw = await request.read()
        except TimeoutError:
            raise requests.body_timeout() from None
        wish = requests.parse_body(raw, complete=self._release.requires_gateway)
        prefix = requests.parse_cidr(wish.destination)
        gateway = requests.parse_gateway(wish.gateway, prefix)
        static = wish.protocol == "static" and self._release.honours_static
        protocol = rtnl.RTPROT_STATIC if static else rtnl.RTPROT_BOOT
        return self._outcome(request, self._kernel.add(prefix, gateway, protocol=protocol))

    async def _delete(self, request: web.Request) -> web.Response:
        self._requests.deletes += 1
        prefix = requests.parse_path_prefix(request.match_info["address"], request.match_info["length"])
        return self._outcome(request, self._kernel.delete(prefix))

    def _outcome(self, request: web.Request, number: int) -> web.Response:
        if number:
            raise FailedError(wire.kernel_words(number))
        self._ears.hear_change(request.remote or "")
        return _respond(wire.SUCCESS)

    async def _get_routes(self, request: web.Request) -> web.Response:
        self._requests.route_reads += 1
        if self._meets_ingestion(request.remote or ""):
            sys.stderr.write("fatal error: concurrent map iteration and map write\n")
            sys.stderr.flush()
            os._exit(_GO_PANIC_STATUS)
        return _respond(Answer(200, wire.route_rows(self._table.entries(), self._release)))

    def _meets_ingestion(self, client: str) -> bool:
        """Whether this client's GET is the one that kills."""
        self._ears.hear()
        match self._options.fragile:
            case "off":
                return False
            case "likely":
                return self._random.random() < _DEATH_PER_CHANGE * self._ears.changes_last_second()
            case "strict":
                return self._ears.changes_waiting(client) > 0

    async def _get_ports(self, _request: web.Request) -> web.Response:
        self._requests.port_reads += 1
        return _respond(Answer(200, wire.port_rows(self._ears.ports.values())))

    async def _get_version(self, _request: web.Request) -> web.Response:
        return _respond(Answer(200, {"buildInfo": "stand-in", "version": str(self._release)}))

    async def _get_state(self, _request: web.Request) -> web.Response:
        """Not of the original: what tests need to know of the stand-in."""
        self._ears.hear()
        state = asdict(self._requests) | asdict(self._ears.hearing)
        state["waiting"] = self._ears.waiting
        state["entries"] = len(self._table)
        state["unprogrammed"] = self._table.unprogrammed()
        state["faults_done"] = self._faults.done
        return _respond(Answer(200, state))

    async def _put_faults(self, request: web.Request) -> web.Response:
        """Not of the original: replace the faults in force by those of the body, a list of Fault's fields."""
        try:
            self._faults.replace([Fault(**fields) for fields in json.loads(await request.read())])
        except (TypeError, ValueError) as error:
            raise RefusedError(wire.refusal(400, 400, f"not a list of faults: {error}")) from None
        return _respond(wire.SUCCESS)

    @web.middleware
    async def _put_errors_in_words(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer loxilb's errors as this release does, and what aiohttp itself refuses as go-openapi does."""
        try:
            return await handler(request)
        except FailedError as failed:
            by_status = self._release.tells_errors_by_status
            return _respond(wire.failure(str(failed)) if by_status else wire.OLD_FAILURE)
        except RefusedError as refused:
            return _respond(refused.answer)
        except web.HTTPMethodNotAllowed as error:
            allowed = ",".join(sorted(error.allowed_methods))
            message = f"method {request.method} is not allowed, but [{allowed}] are"
            response = _respond(wire.refusal(405, 405, message))
            response.headers["Allow"] = allowed
            return response
        except web.HTTPNotFound:
            return _respond(wire.refusal(404, 404, f"path {request.path} was not found"))


def _respond(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=wire.encode(answer.body), content_type="application/json")
