"""Sockets and requests of rtnetlink(7): the part that is the same for every message.

Constants are those of linux/netlink.h, linux/rtnetlink.h and linux/nexthop.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple

from routesync.kernel.errors import KernelError
from routesync.kernel.namespaces import in_namespace

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEXTHOP: Final = 104
RTM_DELNEXTHOP: Final = 105
RTM_GETNEXTHOP: Final = 106

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_MIN_TYPE: Final = 16

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLM_F_DUMP: Final = 0x300

RTA_TABLE: Final = 15

_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_GET_STRICT_CHK: Final = 12
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
    """Open a raw NETLINK_ROUTE socket, bound, not yet subscribed to anything.

    Raises:
        KernelError: the namespace cannot be entered, or the kernel gives no socket.
    """

    def make() -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        made.bind((0, 0))
        return made

    try:
        return in_namespace(netns, make)
    except OSError as error:
        raise KernelError(f"no netlink socket: {error.strerror}; is AF_NETLINK allowed?") from error


def prepare(sock: socket.socket) -> None:
    """Ask for strictly checked, and so filtered, dumps.

    Raises:
        KernelError: the kernel is older than 4.20.
    """
    try:
        sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
    except OSError as error:
        raise KernelError(f"filtered dumps need Linux 4.20 or newer: {error.strerror}") from error


def subscribe(sock: socket.socket) -> None:
    """Join the multicast groups of links, addresses, routes and nexthops; again is no harm.

    Raises:
        KernelError: the kernel refuses one; nexthops need Linux 5.3.
    """
    for group in GROUPS:
        try:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            raise KernelError(
                f"netlink group {group} refused: {error.strerror}; Linux 5.3 or newer is needed"
            ) from error


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

    ENOBUFS is told once per congestion; this number grows with each loss, told or not.
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

    def encode(self, sequence: int) -> bytes:
        """Make the request's bytes; strict checking wants exact headers (rtnetlink.h: ifinfomsg, ifaddrmsg, …)."""
        if self.message_type == RTM_GETROUTE:
            body = struct.pack("=8BI", self.family, 0, 0, 0, 0, 0, 0, 0, 0) + struct.pack(
                "=HHI", 8, RTA_TABLE, self.table
            )
        elif self.message_type == RTM_GETLINK:
            body = bytes(16)
        else:
            body = bytes(8)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        return HEADER.pack(HEADER_SIZE + len(body), self.message_type, flags, sequence, 0) + body


SURROUNDINGS: Final = (DumpRequest(RTM_GETLINK), DumpRequest(RTM_GETADDR), DumpRequest(RTM_GETNEXTHOP))
"""What routes are understood by; read before them."""


def route_requests(tables: tuple[int, ...]) -> tuple[DumpRequest, ...]:
    """Ask for each of the tables in both families."""
    return tuple(
        DumpRequest(RTM_GETROUTE, int(family), table)
        for table in tables
        for family in (socket.AF_INET, socket.AF_INET6)
    )


def error_number(data: bytes, position: int) -> int:
    """The errno of an NLMSG_ERROR or NLMSG_DONE at a position; 0: none."""
    body = data[position + HEADER_SIZE : position + HEADER_SIZE + 4]
    return -int.from_bytes(body, sys.byteorder, signed=True)
