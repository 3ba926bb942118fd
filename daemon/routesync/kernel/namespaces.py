"""Network namespaces other than our own (network_namespaces(7)), by name or by path."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from routesync.kernel.errors import KernelError

CHECK_S: Final = 1.0
"""How often a named namespace is checked."""

_CLONE_NEWNET: Final = 0x40000000

Identity = tuple[int, int]
T = TypeVar("T")


def namespace_path(netns: str) -> Path:
    """Where a network namespace given by name or path is bound (ip-netns(8))."""
    return Path(netns) if "/" in netns else Path("/run/netns") / netns


def namespace_identity(netns: str) -> Identity | None:
    """Which namespace a name or path refers to now (namespaces(7): device and inode); None: to none."""
    try:
        found = namespace_path(netns).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def in_namespace(netns: str | None, work: Callable[[], T]) -> T:
    """Run `work` inside a network namespace, in a thread of its own that ends with it.

    Args:
        netns: a name below /run/netns, or a path; None runs it where we are.
        work: makes what shall live there, e.g. a socket; it then works from anywhere.

    Raises:
        KernelError: there is no such namespace, or we may not enter it (CAP_SYS_ADMIN, setns(2)).
    """
    if netns is None:
        return work()
    path = namespace_path(netns)
    outcome: list[T] = []
    trouble: list[Exception] = []

    def enter() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(descriptor)
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - carried over to the calling thread
            trouble.append(error)

    thread = threading.Thread(target=enter, name="routesync-netns")
    thread.start()
    thread.join()
    if trouble:
        error = trouble[0]
        if isinstance(error, OSError):
            remedy = {
                errno.ENOENT: "; `ip netns list` shows the names",
                errno.EPERM: "; entering one needs CAP_SYS_ADMIN, or hand the socket over by systemd",
            }.get(error.errno or 0, "")
            raise KernelError(f"network namespace {str(path)!r}: {error.strerror}{remedy}") from error
        raise error
    return outcome[0]


async def until_replaced(netns: str, identity: Identity | None) -> None:
    """Watch that a name or path refers to the same namespace. Returns never.

    A socket keeps its namespace alive when the name is gone or refers to another one (a container that was recreated):
    then it shows a namespace that nothing uses any more. The kernel announces that nowhere.

    Raises:
        KernelError: it refers to none, or to another one.
    """
    while (now := namespace_identity(netns)) == identity:  # noqa: ASYNC110 - see above
        await asyncio.sleep(CHECK_S)
    what = "is gone" if now is None else "was recreated: another one has its name"
    raise KernelError(f"network namespace {netns!r} {what}")
