"""The eternal task that keeps the control socket open, and the TCP listener where one is configured.

Neither is worth the daemon's end: what cannot be had is said once, stands among the reasons why the daemon is degraded,
and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from routesync.config.parsers import Listen
from routesync.control.api import Api
from routesync.control.listeners import ListenError, UnixListener, listen_tcp
from routesync.control.peers import may_change, peer_of
from routesync.control.subject import Subject

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
"""So often it is looked whether the sockets are as they should be."""
CONNECTIONS: Final = 128
"""So many may be open at each socket; more are closed at once, so that no caller can take the daemon's descriptors."""
RESERVED: Final = 16
"""Connections beyond these for those who may change something: readers cannot keep them out."""
FAREWELL_S: Final = 1.0
"""For so long what is being answered may go on when the daemon stops."""

_SILENT: Final = logging.getLogger("routesync.control.requests")
"""For aiohttp: what a caller does wrong is told to the caller."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class ControlServer:
    """Serves the calls on one daemon."""

    def __init__(self, subject: Subject, runtime: Path) -> None:
        self._subject = subject
        self._runtime = runtime
        self._troubles: dict[str, str] = {}
        self._unix: UnixListener | None = None
        self._unix_server: asyncio.Server | None = None
        self._tcp: Listen | None = None
        self._tcp_server: asyncio.Server | None = None

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why the daemon cannot be asked, one line each; none: it can."""
        return tuple(self._troubles.values())

    async def run(self) -> None:
        """Serve until cancelled."""
        api = Api(self._subject)
        unix = await _runner(api.application(over_tcp=False))
        tcp = await _runner(api.application(over_tcp=True))
        try:
            while True:
                await self._keep_unix(unix)
                await self._keep_tcp(tcp)
                await asyncio.sleep(LOOK_S)
        finally:
            self._close_unix()
            self._close_tcp()
            await asyncio.gather(unix.cleanup(), tcp.cleanup())

    async def _keep_unix(self, runner: web.AppRunner) -> None:
        if self._unix is not None:
            if self._unix.stands:
                return
            log.warning("control_socket_taken_away", path=str(self._unix.path), consequence="made again")
            self._close_unix()
        try:
            self._unix = UnixListener(self._runtime)
        except ListenError as error:
            self._note("control socket", str(error))
            return
        loop = asyncio.get_running_loop()
        self._unix_server = await loop.create_unix_server(_gate(runner), sock=self._unix.socket)
        self._note("control socket", None)

    def _close_unix(self) -> None:
        if self._unix_server is not None:
            self._unix_server.close()
        if self._unix is not None:
            self._unix.close()
        self._unix = self._unix_server = None

    async def _keep_tcp(self, runner: web.AppRunner) -> None:
        wanted = self._subject.loaded().settings.control.listen
        if wanted == self._tcp:
            return
        self._close_tcp()
        if wanted is None:
            self._note("control listener", None)
            return
        try:
            sock = listen_tcp(wanted)
        except ListenError as error:
            self._note("control listener", str(error))
            return
        self._tcp_server = await asyncio.get_running_loop().create_server(_gate(runner), sock=sock)
        self._tcp = wanted
        self._note("control listener", None)

    def _close_tcp(self) -> None:
        if self._tcp_server is not None:
            self._tcp_server.close()
        self._tcp = self._tcp_server = None

    def _note(self, what: str, trouble: str | None) -> None:
        """Say it once when it breaks and once when it heals."""
        before = self._troubles.get(what)
        if trouble is None:
            if self._troubles.pop(what, None) is not None:
                log.info("control_serves_again", what=what)
            return
        self._troubles[what] = f"{what}: {trouble}"
        if before != self._troubles[what]:
            log.warning(
                "control_not_served",
                what=what,
                error=trouble,
                consequence="the daemon works on without it",
            )


async def _runner(app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(
        app, access_log=None, logger=_SILENT, shutdown_timeout=FAREWELL_S, handler_cancellation=True
    )
    await runner.setup()
    return runner


class _Gate(asyncio.Protocol):
    """Meets a new connection, and hands it on or turns it away."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in while there is room."""
        trusted = may_change(peer_of(transport), os.geteuid())
        if len(self._server.connections) >= CONNECTIONS + (RESERVED if trusted else 0):
            transport.close()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _gate(runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
    """Makes what meets each new connection."""
    server = runner.server
    assert server is not None  # noqa: S101 - it was set up
    return partial(_Gate, server)
