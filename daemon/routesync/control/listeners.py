"""The sockets: the Unix one, which is ours alone as long as we live, and the optional TCP one.

The lock file beside the Unix socket tells a daemon that lives from one that crashed: the lock goes with its holder,
the socket does not. So a socket whose lock is free is stale and replaced, and one whose lock is held is never touched.
It has its mode from its first moment: Linux takes that of the unbound socket, less the umask (unix_bind_bsd()).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from routesync.config.parsers import Listen
from routesync.control.place import SOCKET_NAME

LOCK_NAME: Final = "control.lock"
MODE: Final = 0o660
_LONGEST: Final = 107
"""Bytes of a Unix socket's path, of 108 in struct sockaddr_un one is the NUL."""
_BACKLOG: Final = 512


class ListenError(Exception):
    """A socket that cannot be had now; the message says which, why, and what to do."""


class UnixListener:
    """The control socket in a directory; listening from its making until it is closed.

    Raises:
        ListenError: there is no such directory and none can be made, we may not write there, or another daemon serves.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / SOCKET_NAME
        if len(os.fsencode(self.path)) > _LONGEST:
            raise ListenError(
                f"{self.path}: longer than a socket's path can be; set RUNTIME_DIRECTORY to a shorter one"
            )
        try:
            directory.mkdir(mode=0o750, exist_ok=True)
            self._lock = _lock(directory / LOCK_NAME)
        except OSError as error:
            remedy = f"make it, for user id {os.geteuid()}, or set RUNTIME_DIRECTORY"
            raise ListenError(f"{directory}: {error.strerror}; {remedy}") from None
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
                raise ListenError(f"{self.path}: stands there and is no socket; take it away")
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
    def stands(self) -> bool:
        """Whether the path still leads to this socket."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Take the socket away, if it is still this one that stands there."""
        if self.stands:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.socket.close()
        os.close(self._lock)


def _lock(path: Path) -> int:
    """Take the lock for as long as the descriptor is open.

    Raises:
        ListenError: somebody holds it.
        OSError: it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ListenError(
                f"{path.with_name(SOCKET_NAME)}: another routesync serves there; "
                "set RUNTIME_DIRECTORY to a directory of this one's own"
            ) from None
        raise
    return descriptor


def listen_tcp(at: Listen) -> socket.socket:
    """Listen over TCP.

    Raises:
        ListenError: the address is not ours, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in at.address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((at.address, at.port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise ListenError(f"[control] listen {at}: {error.strerror}") from None
    return made
