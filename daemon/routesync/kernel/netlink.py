"""The raw netlink socket: open it, subscribe, read events, request dumps (rtnetlink(7)).

One socket serves both events and dumps. The kernel then queues the answers to a dump among the events, in the order in
which they became true, which a second socket would lose; and a socket that systemd handed over may live in a namespace
in which we could not open another.

It is not pyroute2's socket, because pyroute2 moves datagrams into a queue without a bound: a consumer that lags turns
into memory instead of ENOBUFS, and after ENOBUFS its object cannot be used any more. Everything else goes through
pyroute2: see `links`, `query`, `delete`.

Concurrency: everything happens in the event loop's thread. Reading stops after a slice of time, so that no other task
in the loop waits longer than that; what is not read waits in the kernel's bounded buffer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyroute2.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_GET_STRICT_CHK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_MIN_TYPE,
    SOL_NETLINK,
    nlmsg,
)
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE

from routesync.kernel.errors import DecodeError, KernelError
from routesync.kernel.namespaces import in_namespace
from routesync.slices import SLICE_S

RTM_NEWNEXTHOP: Final = 104  # pyroute2 has none of these three
RTM_DELNEXTHOP: Final = 105
RTM_GETNEXTHOP: Final = 106

_RTA_TABLE: Final = 15
_IFLA_EXT_MASK: Final = 29
_RTEXT_FILTER_SKIP_STATS: Final = 8

_NETLINK_LIST_MEMBERSHIPS: Final = 9  # since Linux 4.2
_MEMBERSHIPS: Final = struct.Struct("=I")  # for 32 groups a bit each
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55  # since Linux 4.12
_SO_NETNS_COOKIE: Final = 71  # since Linux 5.14
_SK_MEMINFO_DROPS: Final = 8
_MEMINFO: Final = struct.Struct("9I")

GROUPS: Final = (1, 5, 9, 7, 11, 32)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE, IPV6_ROUTE, NEXTHOP: as a bind mask, 0x80000551."""

HEADER: Final = struct.Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
HEADER_SIZE: Final = HEADER.size
READ_SIZE: Final = 1 << 16
"""Bytes to offer per read: dumps come in datagrams of up to 32 KiB (netlink_dump() of net/netlink/af_netlink.c)."""

EMPTY_ERRORS: Final = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
"""Answers to a dump that mean: there is nothing of the kind (no such table, no nexthop objects in this kernel)."""


class Sysctls(NamedTuple):
    """Switches of the namespace that change what the kernel announces; None: not readable."""

    skip_notify_on_dev_down: bool | None = None  # net.ipv6.route.…: IPv6 routes go silently with their link
    nexthop_compat_mode: bool | None = None  # net.ipv4.…: routes carry the hops of their nexthop object


def open_route_socket(netns: str | None = None) -> socket.socket:
    """Open a NETLINK_ROUTE socket, bound, not yet subscribed to anything.

    It is of type SOCK_DGRAM, which is the same as SOCK_RAW to netlink(7); asyncio, and so pyroute2, takes no other.

    Raises:
        KernelError: the namespace cannot be entered, or the kernel gives no socket.
    """

    def open_and_bind() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        sock.bind((0, 0))
        return sock

    try:
        return in_namespace(netns, open_and_bind)
    except OSError as error:
        raise KernelError(f"no netlink socket: {error.strerror}; is AF_NETLINK allowed?") from error


def prepare(sock: socket.socket) -> None:
    """Ask for strictly checked, and so filtered, dumps.

    Raises:
        KernelError: the kernel is older than 4.20.
    """
    try:
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
    except OSError as error:
        raise KernelError(f"filtered dumps need Linux 4.20 or newer: {error.strerror}") from error


def subscribe(sock: socket.socket) -> None:
    """Join the multicast groups of links, addresses, routes and nexthops; joining twice does no harm.

    Raises:
        KernelError: the kernel refuses one; nexthops need Linux 5.3.
    """
    for group in GROUPS:
        try:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            raise KernelError(
                f"netlink group {group} refused: {error.strerror}; Linux 5.3 or newer is needed"
            ) from error


def unsubscribe(sock: socket.socket) -> None:
    """Leave all multicast groups and discard what is queued: a socket that nobody reads fills its buffer for good."""
    listed = sock.getsockopt(SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, 8 * _MEMBERSHIPS.size)
    for place, (word,) in enumerate(_MEMBERSHIPS.iter_unpack(listed)):
        for bit in range(32):
            if word & 1 << bit:
                sock.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, place * 32 + bit + 1)
    while True:
        try:
            sock.recv(1, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # which is reported once, before what is queued
                return


def widen_receive_buffer(sock: socket.socket, size: int) -> int:
    """Raise the receive buffer towards `size` bytes, never lower it; return what the kernel accounts (socket(7)).

    SO_RCVBUFFORCE needs CAP_NET_ADMIN in the initial user namespace's sense; without it net.core.rmem_max caps.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2 * size:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def lost_messages(sock: socket.socket) -> int:
    """How many messages the kernel could not put into this socket's queue so far (sk_drops).

    ENOBUFS is reported once per congestion; this number grows with each loss, reported or not.
    """
    lost: int = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[
        _SK_MEMINFO_DROPS
    ]
    return lost


def in_own_namespace(sock: socket.socket) -> bool:
    """Whether the socket lives in the network namespace of this process; kernels before 5.14 leave it unknown: no."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as own:
            mine = own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) == mine
    except OSError:
        return False


def read_sysctls(netns: str | None = None) -> Sysctls:
    """Read the active switches; /proc/sys/net shows those of the reading thread's namespace."""

    def switch(path: str) -> bool | None:
        try:
            return Path("/proc/sys/net", path).read_text(encoding="ascii").strip() != "0"
        except OSError:
            return None

    def read() -> Sysctls:
        return Sysctls(switch("ipv6/route/skip_notify_on_dev_down"), switch("ipv4/nexthop_compat_mode"))

    return in_namespace(netns, read)


class DumpRequest(NamedTuple):
    """What to ask the kernel for, whole: links, addresses, nexthops, or one routing table of one family."""

    message_type: int
    family: int = 0
    table: int = 0

    def body(self) -> bytes:
        """The request without its header; strict checking wants exact bodies (rtnetlink.h: ifinfomsg, ifaddrmsg, …)."""
        if self.message_type == RTM_GETROUTE:
            return struct.pack("=B11xHHI", self.family, 8, _RTA_TABLE, self.table)
        if self.message_type == RTM_GETLINK:
            return struct.pack("=16xHHI", 8, _IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
        return bytes(8)

    def encode(self, sequence: int) -> bytes:
        """Make the whole request."""
        return _message(self.message_type, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0, self.body())


def _message(message_type: int, flags: int, sequence: int, port: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER_SIZE + len(body), message_type, flags, sequence, port) + body


class RawMessage(nlmsg):  # type: ignore[misc]
    """A message for pyroute2 to send, whose body is encoded already."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def encode(self) -> None:
        """Put the header before it that pyroute2 has filled in."""
        header = self["header"]
        self.data = _message(
            header["type"], header["flags"], header["sequence_number"], header["pid"], self._body
        )


LINK_REQUESTS: Final = (DumpRequest(RTM_GETLINK), DumpRequest(RTM_GETADDR), DumpRequest(RTM_GETNEXTHOP))
"""Links, addresses and nexthop objects: dumped before the routes, which refer to them."""


def route_requests(tables: tuple[int, ...]) -> tuple[DumpRequest, ...]:
    """One request for each of the tables in each family."""
    return tuple(
        DumpRequest(RTM_GETROUTE, int(family), table)
        for table in tables
        for family in (socket.AF_INET, socket.AF_INET6)
    )


def error_number(data: bytes, position: int) -> int:
    """The errno of an NLMSG_ERROR or NLMSG_DONE at a position; 0: none."""
    body = data[position + HEADER_SIZE : position + HEADER_SIZE + 4]
    return -int.from_bytes(body, sys.byteorder, signed=True)


STALL_S: Final = 30.0
"""A dump without an answer for so long is abandoned; the kernel answers at once, so this is for broken answers."""

OnEvent = Callable[[int, int, bytes, int, int], None]
"""Takes message type, flags, the datagram, and where the message's body starts and ends."""

Take = Callable[[bytes, int], int]
"""Takes a datagram and the position of a message of a dump; returns the position of the first message not taken."""

_AGAIN: Final = (errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN)


class NetlinkSocket:
    """Reads a socket in the loop; one dump at a time, others wait for their turn."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_event: OnEvent,
        on_overrun: Callable[[], None],
        on_bad: Callable[[DecodeError], None],
        on_slice: Callable[[], None],
    ) -> None:
        """Take over a bound and subscribed socket.

        Args:
            sock: the socket; it stays its owner's to close.
            on_event: called for each message that is no answer to a dump.
            on_overrun: called when the kernel reports that it could not queue events.
            on_bad: called for datagrams that cannot be split into messages.
            on_slice: called after each slice of reading.
        """
        self._sock = sock
        self._port: int = sock.getsockname()[0]
        self._on_event = on_event
        self._on_overrun = on_overrun
        self._on_bad = on_bad
        self._on_slice = on_slice
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        # A socket that was handed over may still carry answers to its former owner.
        self._sequence = time.monotonic_ns() & 0x7FFFFFFF
        self._take: Take | None = None
        self._done: asyncio.Future[int] | None = None
        self._complete = True
        self._answered_at = 0.0
        self._turn = asyncio.Lock()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Begin to read."""
        self._sock.settimeout(0)
        asyncio.get_running_loop().add_reader(self._sock, self._advance)

    def stop(self) -> None:
        """Stop reading."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self.failed.cancel()

    @property
    def lost(self) -> int:
        """Messages lost so far, reported by ENOBUFS or not."""
        return lost_messages(self._sock)

    async def catch_up(self) -> None:
        """Return when everything was read that was queued when this was called.

        Raises:
            KernelError: the socket fails.
        """
        while not self._advance():  # noqa: ASYNC110 - it is the work; other tasks run between slices
            await asyncio.sleep(0)
        self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if self.failed.cancelled():
            raise KernelError("the kernel's routes are followed no longer")
        if self.failed.done() and (error := self.failed.exception()):
            raise KernelError(str(error)) from error

    async def dump(self, request: DumpRequest, take: Take) -> bool:
        """Ask for a dump and feed its messages to `take` until it is done.

        Returns:
            Whether it is complete and consistent, as far as the kernel says.

        Raises:
            KernelError: the kernel refuses it for good, or the socket is read no longer.
        """
        async with self._turn:
            self._raise_if_ended()
            return await self._dump(request, take)

    async def _dump(self, request: DumpRequest, take: Take) -> bool:
        loop = asyncio.get_running_loop()
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        self._take = take
        self._done = loop.create_future()
        self._complete = True
        self._answered_at = loop.time()
        try:
            self._sock.send(request.encode(self._sequence))
            while True:
                ends: tuple[asyncio.Future[Any], ...] = (self._done, self.failed)
                await asyncio.wait(ends, timeout=STALL_S, return_when=asyncio.FIRST_COMPLETED)
                if self._done.done():
                    break
                self._raise_if_ended()
                if loop.time() - self._answered_at > STALL_S:
                    return False
            code = self._done.result()
        finally:
            self._take = self._done = None
        if code == 0 or code in EMPTY_ERRORS:
            return self._complete
        if code in _AGAIN:
            return False
        raise KernelError(f"the kernel refuses to list {request}: {os.strerror(code)}")

    def _advance(self) -> bool:
        """Read for a slice of time; return whether nothing is left to read."""
        if self.failed.done():  # one who has not noticed yet: the socket may be another reader's now
            return True
        try:
            drained = self._read_slice()
            self._on_slice()
        except Exception as error:  # noqa: BLE001 - for the one who awaits `failed`; a loop callback has no caller
            asyncio.get_running_loop().remove_reader(self._sock)
            if not self.failed.done():
                self.failed.set_exception(error)
            return True
        return drained

    def _read_slice(self) -> bool:
        until = time.monotonic() + SLICE_S
        receive, buffer, view, truncated = self._sock.recv_into, self._buffer, self._view, socket.MSG_TRUNC
        while True:
            try:
                size = receive(buffer, 0, truncated)
            except BlockingIOError:
                return True
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(f"netlink socket: {error.strerror}") from error
                self._complete = False
                self._on_overrun()
                continue
            try:
                self._datagram(view[:size].tobytes(), size)
            except DecodeError as error:
                self._complete = False
                self._on_bad(error)
            if time.monotonic() > until:
                return False

    def _datagram(self, data: bytes, size: int) -> None:
        position, end = 0, len(data)
        if size > end:  # MSG_TRUNC gives the real size, even where there was no room for it
            raise DecodeError(f"datagram of {size} bytes, longer than {end}")
        while position + HEADER_SIZE <= end:
            length, kind, flags, sequence, port = HEADER.unpack_from(data, position)
            if length < HEADER_SIZE or position + length > end:
                raise DecodeError(f"message of length {length} exceeds its datagram")
            if port == self._port:
                if sequence == self._sequence and self._done is not None and not self._done.done():
                    if flags & NLM_F_DUMP_INTR:
                        self._complete = False
                    if kind >= NLMSG_MIN_TYPE and self._take is not None:
                        self._answered_at = asyncio.get_running_loop().time()
                        if (taken := self._take(data, position)) > position:
                            position = taken
                            continue
                        # not of the kind that was asked for: passed over
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        self._done.set_result(error_number(data, position))
            elif kind >= NLMSG_MIN_TYPE:
                self._on_event(kind, flags, data, position + HEADER_SIZE, position + length)
            position += length + 3 & ~3
