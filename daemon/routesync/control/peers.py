"""Who is at the other end of the socket, and what that allows (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")


class Peer(NamedTuple):
    """A process that has connected, as it was then."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid} ({user_name(self.uid)}), process {self.pid}"


def peer_of(transport: asyncio.BaseTransport | None) -> Peer | None:
    """Tell who connected; None: over something else than a Unix socket, or it is gone already."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return Peer(
        *_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


def may_change(peer: Peer | None, own_uid: int) -> bool:
    """Whether this peer may change anything: root may, and the daemon's own user.

    In a user namespace (PrivateUsers= of systemd) all strangers have the same uid, the overflow one; so whoever has
    that is nobody in particular, even where the daemon has it too.
    """
    return peer is not None and (peer.uid == 0 or (peer.uid == own_uid and peer.uid != overflow_uid()))


def overflow_uid() -> int:
    """The uid that stands for all that have none in this user namespace."""
    try:
        return int(_OVERFLOW.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534


def user_name(uid: int) -> str:
    """The user's name, or `unknown`."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "unknown"


def who_may() -> str:
    """Say who may change anything here."""
    own = os.geteuid()
    return "root" if own == 0 else f"root and uid {own} ({user_name(own)}), which the daemon runs as,"
