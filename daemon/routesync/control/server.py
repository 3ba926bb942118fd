"""The sockets: the Unix socket, which only one daemon owns, and the optional TCP listener; and their server.

The lock file beside the Unix socket distinguishes a running daemon from one that crashed: the lock disappears with its
holder, the socket does not. So a socket whose lock is free is stale and replaced, and one whose lock is held is never
touched. The socket has its mode from the first moment: Linux takes that of the unbound socket, less the umask
(unix_bind_bsd()).

The daemon goes on without a socket that it cannot have: it logs this once, shows it among the reasons why it is
degraded, and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from routesync.config.parsers import Listen
from routesync.control import SOCKET_NAME
from routesync.control.api import Api, Lookups
from routesync.control.context import Context
from routesync.control.requests import PATIENCE_S, Handler, may_change, peer_of

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 2.0
"""How often the sockets are checked against what they should be."""
CONNECTIONS: Final = 128
"""Connections at each socket. A further one takes the place of the one that is idle for longest, and is closed at once
where none is: so clients cannot use up the descriptors, and idle ones lock nobody out."""
SHUTDOWN_S: Final = 1.0
"""How long a response may still take when the daemon stops."""

LOCK_NAME: Final = "control.lock"
MODE: Final = 0o660
_LONGEST_PATH: Final = 107
"""Bytes of a Unix socket's path: struct sockaddr_un has 108, one of them for the NUL."""
_BACKLOG: Final = 512

_SILENT: Final = logging.getLogger("routesync.control.aiohttp")
"""For aiohttp: errors of a client are reported to the client, and need no log line."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class ListenError(Exception):
    """A socket is not available now; the message says which, why, and what to do."""


class UnixListener:
    """The control socket in a directory; it listens from its construction until it is closed.

    Raises:
        ListenError: the directory is missing and cannot be made, may not be written, or another daemon serves there.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / SOCKET_NAME
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            raise ListenError(
                f"{self.path}: longer than a socket's path can be; set RUNTIME_DIRECTORY to a shorter one"
            )
        lock = directory / LOCK_NAME
        try:
            directory.mkdir(mode=0o750, exist_ok=True)
            self._lock = _lock(lock)
        except OSError as error:
            place, remedy = directory, f"create it for user id {os.geteuid()}, or set RUNTIME_DIRECTORY"
            if os.path.lexists(lock):
                place, remedy = lock, "if no routesync runs there as another user, remove it"
            raise ListenError(f"{place}: {error.strerror}; {remedy}") from None
        try:
            self.socket = self._bind()
        except OSError as error:
            os.close(self._lock)
            raise ListenError(f"{self.path}: {error.strerror}") from None
        except ListenError:
            os.close(self._lock)
            raise
        self._inode = self.path.stat().st_ino

    def _bind(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise ListenError(f"{self.path}: exists and is not a socket; remove it")
            self.path.unlink()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(made.fileno(), MODE)
            made.bind(str(self.path))
            self.path.chmod(MODE)  # what the umask took off
            made.listen(_BACKLOG)
        except OSError:
            made.close()
            raise
        return made

    @property
    def exists(self) -> bool:
        """Whether the path still leads to this socket."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket, and remove it unless another one has taken its place."""
        if self.exists:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.socket.close()
        os.close(self._lock)


def _lock(path: Path) -> int:
    """Take the lock for as long as the returned descriptor is open.

    Raises:
        ListenError: another process holds it.
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ListenError(
                f"{path.with_name(SOCKET_NAME)}: another routesync serves there; "
                "set RUNTIME_DIRECTORY to another directory for this one"
            ) from None
        raise
    return descriptor


class TcpListener:
    """A TCP listener; it listens from its construction until it is closed.

    Raises:
        ListenError: this host does not have the address, or the port is taken.
    """

    exists = True

    def __init__(self, at: Listen) -> None:
        family = socket.AF_INET6 if ":" in at.address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # inherited by each connection: a client that vanished without a word is disconnected
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PATIENCE_S * 1000))
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.bind((at.address, at.port))
            self.socket.listen(_BACKLOG)
        except OSError as error:
            self.socket.close()
            raise ListenError(f"[control] listen {at}: {error.strerror}") from None

    def close(self) -> None:
        self.socket.close()


class _Served(NamedTuple):
    at: Path | Listen
    listener: UnixListener | TcpListener
    server: asyncio.Server

    def close(self) -> None:
        self.server.close()
        self.listener.close()


class ControlServer:
    """Serves the calls on one daemon."""

    def __init__(self, context: Context, runtime: Path) -> None:
        self._context = context
        self._runtime = runtime
        self._troubles: dict[str, str] = {}
        self._served: dict[str, _Served] = {}

    @property
    def troubles(self) -> tuple[str, ...]:
        """Which sockets are not available and why, one line each."""
        return tuple(self._troubles.values())

    async def run(self) -> None:
        """Serve until cancelled."""
        lookups = Lookups(self._context.best_routes)
        unix, tcp = [
            await Listening.begin(Api(self._context, lookups, over_tcp=over_tcp).application())
            for over_tcp in (False, True)
        ]
        try:
            while True:
                await self._keep("control socket", self._runtime, unix)
                await self._keep("control listener", self._context.loaded().settings.control.listen, tcp)
                for listening in (unix, tcp):
                    listening.close_idle()
                await asyncio.sleep(CHECK_INTERVAL_S)
        finally:
            for served in self._served.values():
                served.close()
            await asyncio.gather(unix.runner.cleanup(), tcp.runner.cleanup())

    async def _keep(self, what: str, at: Path | Listen | None, listening: Listening) -> None:
        """Serve there, and nowhere else; None: nowhere."""
        served = self._served.get(what)
        if served is not None:
            if served.at == at and served.listener.exists:
                return
            if served.at == at:
                log.warning(
                    "control_socket_taken_away",
                    path=str(self._runtime / SOCKET_NAME),
                    consequence="made again",
                )
            self._served.pop(what).close()
        try:
            if at is not None:
                listener = UnixListener(at) if isinstance(at, Path) else TcpListener(at)
                server = await asyncio.get_running_loop().create_server(
                    partial(_Gate, listening), sock=listener.socket
                )
                self._served[what] = _Served(at, listener, server)
        except ListenError as error:
            self._note(what, str(error))
        else:
            self._note(what, None)

    def _note(self, what: str, trouble: str | None) -> None:
        """Log a trouble once when it starts and once when it clears."""
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


class Listening:
    """What serves the connections of one socket, and which of them wait for a request."""

    def __init__(self, runner: web.AppRunner) -> None:
        self.runner = runner
        self._idle: dict[asyncio.Transport, float] = {}
        """Since when (monotonic), the longest first. A connection at work is not in it. One whose client does not take
        its answer is, even after aiohttp has closed it."""

    @classmethod
    async def begin(cls, app: web.Application) -> Listening:
        runner = web.AppRunner(
            app, access_log=None, logger=_SILENT, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
        )
        listening = cls(runner)
        app.middlewares.insert(0, listening.at_work)
        await runner.setup()
        return listening

    @property
    def server(self) -> web.Server:
        server = self.runner.server
        assert server is not None  # noqa: S101 - begin() has set it up
        return server

    @web.middleware
    async def at_work(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A middleware: the connection is not idle while its request is carried out."""
        transport = request.transport
        if transport is None:
            return await handler(request)
        self._idle.pop(transport, None)
        try:
            return await handler(request)
        finally:
            self._idle[transport] = time.monotonic()

    def admit(self, transport: asyncio.Transport) -> bool:
        """Whether a new connection may stay. Readers take no place from a client that may change something."""
        if len(self.server.connections) >= CONNECTIONS:
            self._forget_closed()
            trusted = _is_trusted(transport)
            longest = next((it for it in self._idle if trusted or not _is_trusted(it)), None)
            if longest is None:
                return False
            self._close(longest)
        self._idle[transport] = time.monotonic()
        return True

    def close_idle(self) -> None:
        """Close the connections that have sent no whole request, or taken no answer, for too long."""
        self._forget_closed()
        until = time.monotonic() - PATIENCE_S
        for transport in [transport for transport, since in self._idle.items() if since < until]:
            self._close(transport)

    def _close(self, transport: asyncio.Transport) -> None:
        del self._idle[transport]
        if transport.get_write_buffer_size():
            transport.abort()  # close() waits until the client takes these bytes, for ever if it does not
        else:
            transport.close()

    def _forget_closed(self) -> None:
        self._idle = {
            transport: since
            for transport, since in self._idle.items()
            if not transport.is_closing() or transport.get_write_buffer_size()
        }


def _is_trusted(transport: asyncio.BaseTransport) -> bool:
    """Whether the client may change something."""
    return may_change(peer_of(transport), os.geteuid())


class _Gate(asyncio.Protocol):
    """Accepts a new connection and passes it on to aiohttp, or closes it."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio makes no other for a stream
        if not self._listening.admit(transport):
            transport.close()
            return
        protocol = self._listening.server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
