"""Sockets that systemd handed over at the start: sd_listen_fds(3), without a library.

A netlink socket of a .socket unit has the receive buffer that the unit asks for, which a service without CAP_NET_ADMIN
could not give it; and it may live in another network namespace (NetworkNamespacePath=), which a service without
CAP_SYS_ADMIN could not enter. They are told apart by name (FileDescriptorName=): `kernel`, whose routes are mirrored,
which is also what a socket gets that has no name of its own, and `witness-TARGET`, the kernel beneath a loxilb. What is
none of these is closed, and said.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final, NamedTuple

import structlog

log = structlog.get_logger(__name__)

FIRST: Final = 3
"""SD_LISTEN_FDS_START"""
KERNEL: Final = "kernel"
UNNAMED: Final = "routesync.socket"
"""systemd names a descriptor by its unit where the unit does not say otherwise."""
WITNESS: Final = "witness-"


class Handed(NamedTuple):
    """Bound NETLINK_ROUTE sockets, by what they are for."""

    kernel: socket.socket | None = None
    witnesses: dict[str, socket.socket] = {}  # noqa: RUF012 - by target; nobody writes to the default


def take_handed(environ: MutableMapping[str, str] = os.environ) -> Handed:
    """Take over what was handed to this process, and take the variables that say so out of the environment."""
    meant = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if meant != str(os.getpid()) or not count.isdecimal():
        return Handed()
    kernel: socket.socket | None = None
    witnesses: dict[str, socket.socket] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) else ""
        sock = _route_socket(FIRST + index, name)
        if sock is None:
            continue
        if name.startswith(WITNESS):
            witnesses[name.removeprefix(WITNESS)] = sock
        elif name in (KERNEL, UNNAMED, "") and kernel is None:
            kernel = sock
        else:
            _refuse(sock, name, f"expected {KERNEL!r}, once, or '{WITNESS}TARGET'")
    return Handed(kernel, witnesses)


def _route_socket(descriptor: int, name: str) -> socket.socket | None:
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - its own
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # a FIFO or a file
        log.warning("descriptor_not_taken", name=name, reason="it is no socket")
        os.close(descriptor)
        return None
    kind = (sock.family, sock.type, sock.proto)
    if kind == (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE):
        return sock
    _refuse(sock, name, "it is no netlink socket for routes; write ListenNetlink=route …")
    return None


def _refuse(sock: socket.socket, name: str, why: str) -> None:
    log.warning("descriptor_not_taken", name=name, reason=why)
    sock.close()
