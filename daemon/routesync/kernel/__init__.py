"""The kernel's routes over rtnetlink: a source that follows them, one-off dumps, and the removal of a single route.

Everything in netlink is pyroute2's work, but for two things: route messages, which are the hot path (`decode`), and the
event socket (`netlink`).

namespaces, netlink  where a socket lives; the event socket, and dumps over it
decode, links        messages, from bytes to values: routes; links, addresses, nexthop objects
update, replica      what one event does to the routes that share a key; what is held
evaluate             the rules, as injected; which host routes lead to a gateway (`link_gateway`)
dump, fib            a dump of the tables; events and dumps applied to what is held
source, reports      all of it, for one namespace: the resync schedule, and what it reports
query, delete        one-off dumps and look-ups; the one change that is ever made
"""

from __future__ import annotations

from routesync.kernel.decode import RouteDetails
from routesync.kernel.delete import Removal, may_change_routes, removable, remove_route, would_match
from routesync.kernel.errors import DecodeError, KernelError, NotPermittedError
from routesync.kernel.evaluate import Evaluate, EvaluateHeader, Rules
from routesync.kernel.links import InterfaceAddress, Link, Links
from routesync.kernel.netlink import Sysctls, in_own_namespace, open_route_socket
from routesync.kernel.query import TableDump, dump_tables, dump_tables_sync
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

__all__ = [
    "BadMessage",
    "DecodeError",
    "Drift",
    "DropEnded",
    "Dropped",
    "Evaluate",
    "EvaluateHeader",
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
    "Rules",
    "Sysctls",
    "TableDump",
    "dump_tables",
    "dump_tables_sync",
    "in_own_namespace",
    "may_change_routes",
    "open_route_socket",
    "removable",
    "remove_route",
    "would_match",
]
