"""The calls as an application: routing, permissions, errors, and the calls that change something."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from aiohttp import web
from pydantic import ValidationError

from routesync.config.models import TargetSettings
from routesync.control import models
from routesync.control.calls import CALLS, Call
from routesync.control.context import Context
from routesync.control.models import Problem, ProblemError
from routesync.control.reads import Reads
from routesync.control.requests import explain_mistakes, read_body, respond, respond_problem
from routesync.mirror.reconciler import Reconciler

log = structlog.get_logger(__name__)

LARGEST_BODY: Final = 4 * 2**20
"""Bytes: a request may name each of a target's routes."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ELSEWHERE: Final = "GET /v1/openapi.json lists the calls, and `routesync --help` the commands for them"
_ELSEWHERE_TCP: Final = (
    "over TCP there are /metrics, /health/live and /health/ready; use the control socket for the rest"
)


# -- permissions ---------------------------------------------------------------------------------------------

_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid} ({_user_name(self.uid)}), process {self.pid}"


def peer_of(transport: asyncio.BaseTransport | None) -> Peer | None:
    """The peer of a connection (SO_PEERCRED); None: not over a Unix socket, or the connection is gone."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return Peer(
        *_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


def may_change(peer: Peer | None, own_uid: int) -> bool:
    """Whether this peer may change anything: root may, and the daemon's own user.

    In a user namespace (PrivateUsers= of systemd) every unmapped user has the same uid, the overflow uid. It identifies
    nobody, so it gives no permission, even if the daemon has it too.
    """
    return peer is not None and (peer.uid == 0 or (peer.uid == own_uid and peer.uid != overflow_uid()))


def overflow_uid() -> int:
    """The uid of all users that have none in this user namespace."""
    try:
        return int(_OVERFLOW.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "unknown"


def _who_may() -> str:
    own = os.geteuid()
    return "root" if own == 0 else f"root and uid {own} ({_user_name(own)}), which the daemon runs as,"


# -- the application -----------------------------------------------------------------------------------------


class Api:
    """All calls on one daemon. Everything runs in its event loop."""

    def __init__(self, context: Context) -> None:
        self._reads = Reads(context)
        self._changes = Changes(context)

    def application(self, *, over_tcp: bool) -> web.Application:
        """All calls, or only those that are open to anyone who reaches the TCP port."""

        @web.middleware
        async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await _with_problems(request, handler, _ELSEWHERE_TCP if over_tcp else _ELSEWHERE)

        app = web.Application(middlewares=[problems], client_max_size=LARGEST_BODY)
        app.on_shutdown.append(self._end_streams)
        for call in CALLS:
            if call.open or not over_tcp:
                handler = self._guarded(call) if call.changes else getattr(self._reads, call.name)
                app.router.add_route(call.method, call.path, handler)
        return app

    async def _end_streams(self, _app: web.Application) -> None:
        self._reads.end_streams()

    def _guarded(self, call: Call) -> Handler:
        carry_out: Handler = getattr(self._changes, call.name)

        async def guarded(request: web.Request) -> web.StreamResponse:
            peer = peer_of(request.transport)
            if not may_change(peer, os.geteuid()):
                log.warning("control_refused", call=call.name, peer=str(peer))
                raise ProblemError("not-permitted", f"only {_who_may()} may {call.name}; you are {peer}")
            log.info("control_call", call=call.name, peer=str(peer))
            return await carry_out(request)

        return guarded


async def _with_problems(request: web.Request, handler: Handler, elsewhere: str) -> web.StreamResponse:
    """Respond to every failure with a problem."""
    try:
        return await handler(request)
    except ProblemError as error:
        return respond_problem(error.problem)
    except web.HTTPNotFound:
        return respond_problem(Problem.of("not-found", f"there is no {request.path}; {elsewhere}"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}, not {request.method}"
        return respond_problem(Problem.of("wrong-method", detail), {"Allow": allowed})
    except web.HTTPRequestEntityTooLarge:
        return respond_problem(Problem.of("too-large", f"a request body has at most {LARGEST_BODY} bytes"))
    except web.HTTPException as error:
        return respond_problem(Problem.of("bad-request", error.reason))
    except (ConnectionError, TimeoutError):  # the client is gone, or takes nothing: there is nobody to answer
        raise
    except Exception as error:
        log.exception("control_call_failed", path=request.path)
        return respond_problem(Problem.of("internal", f"{type(error).__name__}; see the daemon's log"))


# -- calls that change something -----------------------------------------------------------------------------


class Changes:
    """The calls that change something, by their names in `CALLS`. `Api` has checked the permission."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def _chosen(self, request: web.Request) -> Sequence[Reconciler]:
        return self._context.chosen((await read_body(request, models.TargetRequest)).target)

    async def resync(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, models.ResyncRequest)
        targets = self._context.chosen(body.target)
        self._context.source().request_resync("command")
        for target in targets:
            target.verify(force=body.force)
        done = {
            it.name: "paused: verified after that" if it.paused else "verification ordered" for it in targets
        }
        return respond(models.Done(targets=done))

    async def release(self, request: web.Request) -> web.StreamResponse:
        targets = await self._chosen(request)
        return respond(models.Released(released={target.name: target.release() for target in targets}))

    async def pause(self, request: web.Request) -> web.StreamResponse:
        targets = await self._chosen(request)
        done = {it.name: _result("paused", already=it.paused, trouble=it.pause()) for it in targets}
        return respond(models.Done(targets=done))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        targets = await self._chosen(request)
        done = {it.name: _result("resumed", already=not it.paused, trouble=it.resume()) for it in targets}
        return respond(models.Done(targets=done))

    async def adopt(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, models.AdoptRequest)
        (target,) = self._context.chosen(body.target)
        return respond(models.OwnedRoutes(target=body.target, routes=target.adopt(body.prefixes)))

    async def repair(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, models.RepairRequest)
        (target,) = self._context.chosen(body.target)
        return respond(models.OwnedRoutes(target=body.target, routes=target.repair(body.prefixes)))

    async def forget(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, models.ForgetRequest)
        for target in self._context.targets():
            if target.name == body.target and body.prefixes:
                return respond(models.OwnedRoutes(target=body.target, routes=target.forget(body.prefixes)))
        self._require_not_mirrored(body.target, "forget")
        forgotten = await self._context.ownership.forget(body.target, body.prefixes)
        return respond(models.OwnedRoutes(target=body.target, routes=forgotten))

    async def withdraw(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, models.WithdrawRequest)
        self._require_not_mirrored(body.target, "withdraw from")
        done = await self._context.ownership.withdraw(self._settings(body))
        if done.left:
            left = f"{done.left} route{'s' if done.left > 1 else ''} left, and still owned"
            detail = f"target {body.target}: {done.error}; {left}"
            raise ProblemError("unavailable", detail)
        return respond(models.OwnedRoutes(target=body.target, routes=done.withdrawn))

    async def reload(self, _request: web.Request) -> web.StreamResponse:
        self._context.require_ready()
        problems = await self._context.reload()
        if problems:
            raise ProblemError("rejected", "\n".join(problems))
        return respond(models.Reloaded(config=self._context.active_config()))

    def _require_not_mirrored(self, target: str, action: str) -> None:
        """Go on only with a target that has owned routes and that the daemon does not mirror into."""
        if any(it.name == target for it in self._context.targets()):
            detail = (
                f"target {target} is mirrored into: its routes would be added again at once; to {action} it, take it "
                "out of the configuration and `routesync reload` first"
            )
            if action == "forget":
                detail += "; routes that are left behind can be forgotten one by one, with --prefix"
            raise ProblemError("conflict", detail)
        owned = self._context.ownership.owned()
        if target not in owned:
            known = ", ".join(f"{name} ({count})" for name, count in sorted(owned.items())) or "none"
            raise ProblemError(
                "unknown-target", f"no route in {target} is owned; targets with owned routes: {known}"
            )

    def _settings(self, body: models.WithdrawRequest) -> TargetSettings:
        """How to reach the target: as configured, or at the URL of the request."""
        for settings in self._context.loaded().settings.targets:
            if settings.name == body.target:
                return settings
        if body.url is None:
            detail = f"target {body.target} is not configured; give its URL: --url http://…:11111"
            raise ProblemError("bad-request", detail)
        try:
            return TargetSettings.model_validate({"name": body.target, "url": body.url})
        except ValidationError as error:
            raise ProblemError("bad-request", explain_mistakes(error, TargetSettings)) from None


def _result(done: str, *, already: bool, trouble: str | None) -> str:
    """What was done; `trouble`: why it does not last over a restart."""
    if already:
        return f"{done} already"
    return f"{done}, but not over a restart: {trouble}" if trouble else done
