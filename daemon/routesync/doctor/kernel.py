"""Checks of the kernel's side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from routesync.doctor.facts import Facts
from routesync.doctor.finding import Check, Finding, Level
from routesync.doctor.host import CAP_NET_ADMIN

_OLDEST: Final = (5, 3)
"""Nexthop objects and their notifications came with it."""
_ROUTE_MESSAGE: Final = 833
"""What one queued IPv4 route message takes of the buffer, in bytes as the kernel accounts them (seen on Linux 6.18)."""


def readable(facts: Facts) -> Iterator[Finding]:
    """Can the routes be read, and does the kernel tell of their changes?"""
    kernel = facts.kernel
    found = re.match(r"(\d+)\.(\d+)", kernel.release)
    if found and (int(found[1]), int(found[2])) < _OLDEST:
        yield Finding(
            Check.KERNEL,
            Level.FAIL,
            f"Linux {kernel.release} is older than 5.3",
            "It has no notifications of nexthop objects, so the daemon cannot follow its routes.",
            ("run a newer kernel",),
        )
    elif kernel.reading is None:
        yield Finding(
            Check.KERNEL,
            Level.FAIL,
            f"the kernel's routes cannot be read: {kernel.error}",
            "Reading routes needs no privilege, only AF_NETLINK.",
            ("look for a sandbox or seccomp filter around this process; check kernel.netns",),
        )
    else:
        count = len(kernel.reading.routes)
        yield Finding(Check.KERNEL, Level.OK, f"Linux {kernel.release}; {count} routes read")


def receive_buffer(facts: Facts) -> Iterator[Finding]:
    """Is the netlink socket's buffer as large as configured?"""
    wanted = facts.config.loaded.settings.kernel.receive_buffer
    granted, limit = facts.kernel.buffer_granted, facts.kernel.buffer_max
    privileged = facts.daemon.capabilities is not None and bool(
        facts.daemon.capabilities >> CAP_NET_ADMIN & 1
    )
    if limit is not None and not privileged:  # what this process got says nothing, if it has the capability
        granted = min(granted, 2 * limit)
    text = f"{granted:,} bytes for the daemon's socket, {2 * wanted:,} wanted (twice what is asked for, socket(7))"
    if granted >= 2 * wanted:
        yield Finding(Check.RECEIVE_BUFFER, Level.OK, text)
    elif facts.kernel.socket_unit:
        why = "routesync.socket is installed and opens the daemon's socket with a buffer of its own."
        yield Finding(Check.RECEIVE_BUFFER, Level.OK, f"{text}, if it opens one itself", why)
    else:
        cap = f" net.core.rmem_max = {limit:,} caps it for processes without CAP_NET_ADMIN." if limit else ""
        yield Finding(
            Check.RECEIVE_BUFFER,
            Level.WARN,
            text,
            f"About {granted // _ROUTE_MESSAGE:,} route changes at once fit in; more are lost, and everything is read "
            f"anew.{cap}",
            (
                f"sysctl -w net.core.rmem_max={wanted}, and the same line in /etc/sysctl.d/routesync.conf",
                "or use routesync.socket, which needs no sysctl",
            ),
        )


def sysctls(facts: Facts) -> Iterator[Finding]:
    """How do the two switches stand that change what the kernel announces?"""
    reading = facts.kernel.reading
    if reading is None:
        return
    switches = reading.sysctls
    if switches.skip_notify_on_dev_down is None and switches.nexthop_compat_mode is None:
        yield Finding(
            Check.SYSCTLS,
            Level.OK,
            "the switches of the namespace cannot be read; both settings are dealt with",
        )
        return
    skip = {None: "unknown", True: "1", False: "0"}[switches.skip_notify_on_dev_down]
    compat = {None: "unknown", True: "1", False: "0"}[switches.nexthop_compat_mode]
    why = []
    if switches.skip_notify_on_dev_down:
        why.append(
            "IPv6 routes go without a word when their link goes down: the link's own message leads to a reading."
        )
    if switches.nexthop_compat_mode is False:
        why.append(
            "Routes name their nexthop object only: its hops are followed by the objects' own messages."
        )
    yield Finding(
        Check.SYSCTLS,
        Level.OK,
        f"net.ipv6.route.skip_notify_on_dev_down = {skip}, net.ipv4.nexthop_compat_mode = {compat}",
        " ".join(why),
    )
