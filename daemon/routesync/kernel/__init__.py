"""The kernel's routes by RTNL: a source that follows them, and a one-off reading.

decode, details, surroundings   messages, from bytes to values
namespaces, netlink    where the socket lives; the socket
wire, once             events and dumps over it
update, replica        what an event does; what is held
judge, gateways        the rules, as injected; which host routes lead to a gateway (`link_gateway`)
reading, fib, schedule full readings, how they are believed, and when they are due
removal                the one change that is ever made: taking a single route out
lookup                 routes looked up for somebody who asks
source                 all of it, for one namespace
"""

from __future__ import annotations

from routesync.kernel.details import RouteDetails
from routesync.kernel.errors import DecodeError, KernelError, NotPermittedError
from routesync.kernel.judge import Admit, AdmitHeader
from routesync.kernel.netlink import Sysctls, in_own_namespace, open_route_socket
from routesync.kernel.once import TableReading, read_table
from routesync.kernel.removal import Removal, may_change_routes, removable, remove_route, would_match
from routesync.kernel.reports import (
    BadMessage,
    Drift,
    DropEnded,
    Dropped,
    KernelReport,
    KernelStats,
    Overrun,
    ResyncDone,
)
from routesync.kernel.source import KernelSource
from routesync.kernel.surroundings import InterfaceAddress, Link, Links

__all__ = [
    "Admit",
    "AdmitHeader",
    "BadMessage",
    "DecodeError",
    "Drift",
    "DropEnded",
    "Dropped",
    "InterfaceAddress",
    "KernelError",
    "KernelReport",
    "KernelSource",
    "KernelStats",
    "Link",
    "Links",
    "NotPermittedError",
    "Overrun",
    "Removal",
    "ResyncDone",
    "RouteDetails",
    "Sysctls",
    "TableReading",
    "in_own_namespace",
    "may_change_routes",
    "open_route_socket",
    "read_table",
    "removable",
    "remove_route",
    "would_match",
]
