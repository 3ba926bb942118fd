"""The service manager: readiness, status and watchdog by sd_notify(3), socket activation by sd_listen_fds(3).

Both without a library. A notification is one datagram of `KEY=value` lines to a unix socket. Nothing here blocks or
raises when systemd does not listen, and without systemd every call is a no-op.

A netlink socket of a .socket unit has the receive buffer that the unit asks for, which a service without CAP_NET_ADMIN
could not give it; and it may live in another network namespace (NetworkNamespacePath=), which a service without
CAP_SYS_ADMIN could not enter. Sockets are distinguished by name (FileDescriptorName=): `kernel`, whose routes are
mirrored, which is also the default for a socket without a name of its own, and `witness-TARGET`, the kernel beneath a
loxilb. All others are closed and logged.

systemd keeps each socket open, too, and it is subscribed to events already. What nobody reads would fill its buffer, so
each is unsubscribed at once; a `KernelSource` subscribes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final, NamedTuple, Self

import structlog

from routesync.kernel.netlink import unsubscribe

log = structlog.get_logger(__name__)

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START"""
KERNEL: Final = "kernel"
UNNAMED: Final = "routesync.socket"
"""systemd names a descriptor by its unit where the unit does not say otherwise."""
WITNESS: Final = "witness-"


class Notifier:
    """Notifies the service manager, if there is one.

    Attributes:
        watchdog_interval_s: how often to call `watchdog`: half the time that systemd waits, as sd_watchdog_enabled(3)
            advises; None when it expects none, or expects it from another process.
    """

    def __init__(self, address: str | None, watchdog_interval_s: float | None = None) -> None:
        self.watchdog_interval_s = watchdog_interval_s
        self._address = _socket_address(address)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        return cls(environment.get("NOTIFY_SOCKET"), _watchdog_interval_s(environment))

    def ready(self, status: str = "") -> None:
        """Start-up or reload is done."""
        self._send("READY=1", *_status_lines(status))

    def reloading(self, status: str = "") -> None:
        """A reload begins; `ready` must follow.

        MONOTONIC_USEC lets systemd 253 and later (Type=notify-reload) tell this reload from an earlier one.
        """
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", *_status_lines(status))

    def stopping(self, status: str = "") -> None:
        """The orderly stop begins."""
        self._send("STOPPING=1", *_status_lines(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status_lines(text))

    def watchdog(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    async def feed_watchdog(self) -> None:
        """Give signs of life as often as systemd expects them, for good: each shows that the event loop runs."""
        if self.watchdog_interval_s is None:
            await asyncio.Event().wait()
            return
        while True:
            self.watchdog()
            await asyncio.sleep(self.watchdog_interval_s)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        with (
            # gone, full, refused, or no free descriptor: sd_notify's own callers ignore that, too
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        ):
            sock.sendto("\n".join(lines).encode(), self._address)


def _socket_address(text: str | None) -> str | bytes | None:
    """Turn NOTIFY_SOCKET into what the socket module wants; None for what is no unix socket (vsock:…)."""
    if text is None or len(text) < 2:
        return None
    if text[0] == "@":
        return b"\0" + os.fsencode(text[1:])
    return text if text[0] == "/" else None


def _status_lines(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _watchdog_interval_s(environment: Mapping[str, str]) -> float | None:
    wanted_of = environment.get("WATCHDOG_PID")
    if wanted_of is not None and wanted_of != str(os.getpid()):
        return None
    interval_us = environment.get("WATCHDOG_USEC", "")
    if not interval_us.isdecimal() or int(interval_us) == 0:
        return None
    return int(interval_us) / 1e6 / 2


# -- socket activation -------------------------------------------------------------------------------------------------


class ActivatedSockets(NamedTuple):
    """Bound NETLINK_ROUTE sockets, by what they are for."""

    kernel: socket.socket | None = None
    witnesses: dict[str, socket.socket] = {}  # noqa: RUF012 - by target; the default is never changed


def take_activated_sockets(environ: MutableMapping[str, str] = os.environ) -> ActivatedSockets:
    """Take the descriptors passed to this process, and remove the variables that announce them from the environment."""
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return ActivatedSockets()
    kernel: socket.socket | None = None
    witnesses: dict[str, socket.socket] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) else ""
        sock = _route_socket(FIRST_DESCRIPTOR + index, name)
        if sock is None:
            continue
        if name.startswith(WITNESS):
            witnesses[name.removeprefix(WITNESS)] = sock
        elif name in (KERNEL, UNNAMED, "") and kernel is None:
            kernel = sock
        else:
            _refuse(sock, name, f"expected {KERNEL!r}, once, or '{WITNESS}TARGET'")
    return ActivatedSockets(kernel, witnesses)


def _route_socket(descriptor: int, name: str) -> socket.socket | None:
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - its own
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # a FIFO or a file
        log.warning("descriptor_not_taken", name=name, reason="it is not a socket")
        os.close(descriptor)
        return None
    kind = (sock.family, sock.type, sock.proto)
    if kind == (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE):
        unsubscribe(sock)
        return sock
    _refuse(sock, name, "it is not a netlink socket for routes; write ListenNetlink=route …")
    return None


def _refuse(sock: socket.socket, name: str, why: str) -> None:
    log.warning("descriptor_not_taken", name=name, reason=why)
    sock.close()
