"""Telling systemd how we are: sd_notify(3) over $NOTIFY_SOCKET, without a library.

The protocol is one datagram of `KEY=value` lines to a unix socket. Nothing here blocks or raises when systemd
does not listen: a daemon goes on without its manager. Not running under systemd, every call is a no-op.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Self

_ABSTRACT = "@"


class Notifier:
    """The way to the service manager, or to nobody.

    Attributes:
        watchdog_interval_s: how often systemd wants a sign of life, halved as sd_watchdog_enabled(3) advises;
            None when it wants none, or wants it of another process.
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

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wire:
            try:
                wire.sendto("\n".join(lines).encode(), self._address)
            except OSError:  # gone, full or refused: sd_notify's own callers ignore that too
                return False
        return True


async def feed_watchdog(notifier: Notifier, alive: Callable[[], bool]) -> None:
    """Give signs of life as often as systemd wants them, while `alive` says so; never returns.

    Being called at all shows that the event loop turns; `alive` speaks for what the loop cannot see.
    """
    if notifier.watchdog_interval_s is None:
        await asyncio.Event().wait()
        return
    while True:
        if alive():
            notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_interval_s)


def _socket_address(text: str | None) -> str | bytes | None:
    """Turn NOTIFY_SOCKET into what the socket module wants; None for what is no unix socket (vsock:…)."""
    if text is None or len(text) < 2:
        return None
    if text[0] == _ABSTRACT:
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
