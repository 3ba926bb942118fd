"""Checks of the configuration, the daemon, and the kernel that it runs on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from routesync.characters import many, whole
from routesync.control.client import NotRunning, NotUnderstood
from routesync.doctor.daemon import why_it_ended
from routesync.doctor.facts import Facts, Finding, fail, ok, warn
from routesync.doctor.state import BROKER

CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21
_OLDEST_SYSTEMD: Final = 247
"""The first with LoadCredential= (systemd.exec(5))."""
_OLDEST_KERNEL: Final = (5, 3)
"""The first with nexthop objects and their notifications."""
_NOTHING: Final = "Nothing is mirrored or published. Routes that were mirrored stay in loxilb as they are."
_SHIPPED: Final = "The checks of the kernel and its routes use the shipped rules."
_ROUTE_MESSAGE: Final = 833
"""What one queued IPv4 route message takes of the buffer, in bytes as the kernel accounts them (on Linux 6.18)."""


def config(facts: Facts) -> Iterator[Finding]:
    """Is there a configuration, and is it valid?"""
    found = facts.config
    path = whole(str(found.path))
    if found.state == "absent":
        yield warn(
            f"there is no {path}",
            f"The daemon does not start without a file. {_SHIPPED}",
            f"`routesync init {path}` writes one",
            subject=path,
        )
    if found.state == "unreadable":
        for unread in found.problems or (f"{path} may not be read by this user",):
            yield warn(
                unread,
                f"The daemon may have what doctor lacks here. {_SHIPPED}",
                "run doctor as root or as the daemon's user, with the environment that the daemon has",
                subject=path,
            )
    for problem in found.problems if found.state == "invalid" else ():
        yield fail(
            problem,
            f"The daemon does not start with this file, and rejects it at a reload. {_SHIPPED}",
            f"correct it; `routesync check {path}` lists every fault",
            subject=path,
        )
    answer = facts.daemon.answer
    changed = answer is not None and (answer.config.path, answer.config.digest) != (path, found.loaded.digest)
    if found.state == "read":
        if changed and answer is not None:
            yield warn(
                f"{path} is not what the daemon runs with",
                "It was changed since the daemon read it."
                if answer.config.path == path
                else f"The daemon runs with {answer.config.path}.",
                "routesync reload" if answer.config.path == path else "routesync doctor without --config",
                subject=path,
            )
        for warning in found.loaded.warnings:
            yield warn(warning, "The daemon starts with it; it is probably a mistake.", subject=path)
        if not found.loaded.warnings:
            settings = found.loaded.settings
            size = f"{many(len(settings.targets), 'target')}, {many(len(settings.policy.rules), 'rule')}"
            yield ok(f"{path} is valid: mode {settings.mode}, {size}", subject=path)


def daemon(facts: Facts) -> Iterator[Finding]:
    """Does it run, and is it well? Is systemd, where it runs, new enough for the unit?"""
    found, directory = facts.daemon, facts.state.directory
    runs = f"the daemon runs on {directory}" + (f", process {found.pid}" if found.pid else "")
    if found.answer is not None:
        # the check of the broker has these
        reasons = [it for it in found.answer.status.reasons if not it.startswith(BROKER)]
        if reasons:
            yield warn(f"{runs}, and is {found.answer.status.state}", "; ".join(reasons), "routesync status")
        else:
            yield ok(runs)
    elif found.stopped:
        yield fail(f"{runs}, and a signal or a debugger has stopped it", _NOTHING, f"kill -CONT {found.pid}")
    elif isinstance(found.error, NotUnderstood):
        yield fail(
            f"{runs}, and gives no answer",
            f"{found.error}. {_NOTHING}",
            "journalctl -u routesync",
            "systemctl restart routesync",
        )
    elif found.running and isinstance(found.error, NotRunning):
        yield warn(f"{runs}, and does not serve its control socket", f"No command reaches it. {found.error}")
    elif found.running:
        yield ok(runs, f"It was not asked: {found.error}")
    elif found.running is None:
        yield warn(
            f"whether a daemon runs on {directory} is not known",
            "This user may not look into the directory.",
            "run doctor as root or as the daemon's user",
        )
    else:
        yield _not_running(facts)
    if facts.systemd is not None and facts.systemd < _OLDEST_SYSTEMD:
        yield warn(
            f"systemd {facts.systemd} is older than {_OLDEST_SYSTEMD}",
            "It does not know LoadCredential= of the unit, so secrets given that way are missing.",
            "give secrets by files that only the daemon's user may read",
        )


def _not_running(facts: Facts) -> Finding:
    summary = f"no daemon runs on {facts.state.directory}"
    if isinstance(facts.daemon.error, NotRunning):
        return warn(summary, str(facts.daemon.error))
    if facts.unit is None or (ended := why_it_ended(facts.unit)) is None:
        return warn(
            summary, _NOTHING, "systemctl start routesync", "journalctl -u routesync shows why it ended"
        )
    why, remedy = ended
    return fail(f"{summary}: {why}", _NOTHING, remedy, "systemctl restart routesync")


def capabilities(facts: Facts) -> Iterator[Finding]:
    """Does the daemon have the capabilities that the configuration needs?"""
    settings = facts.config.loaded.settings
    needs: list[tuple[int, str, str]] = []
    if settings.mode == "guard":
        needs.append((CAP_NET_ADMIN, "CAP_NET_ADMIN", 'mode = "guard" removes routes from the kernel'))
    if settings.kernel.netns is not None:
        needs.append(
            (
                CAP_SYS_ADMIN,
                "CAP_SYS_ADMIN",
                f"kernel.netns = {settings.kernel.netns!r} enters that namespace",
            )
        )
    needs += [
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", f"the witness of target {it.name} enters {it.witness.netns!r}")
        for it in settings.targets
        if it.witness is not None
    ]
    if not needs:
        yield ok("nothing in the configuration needs a capability")
    held = facts.daemon.capabilities
    for number, name, what in needs:
        remedy = (
            f"systemctl edit routesync: [Service] AmbientCapabilities={name} CapabilityBoundingSet={name} "
            "PrivateUsers=no"
        )
        remedy += "" if number == CAP_NET_ADMIN else "; or have systemd hand the socket over"
        restart = "systemctl daemon-reload; systemctl restart routesync"
        if held is None and facts.own_capabilities >> number & 1:
            yield ok(f"{what}; this shell has {name}")
        elif held is None:
            why = "The daemon's capabilities are not known, as it does not run or is not visible."
            yield warn(f"{what}, which needs {name}; this shell lacks it", why, remedy, restart)
        elif held >> number & 1:
            yield ok(f"{what}; the daemon has {name}")
        else:
            yield fail(f"{what}, which needs {name}; the daemon lacks it", "", remedy, restart)


def kernel(facts: Facts) -> Iterator[Finding]:
    """Can the routes be dumped, and does the kernel announce their changes?"""
    release, dump = facts.kernel.release, facts.kernel.dump
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < _OLDEST_KERNEL:
        yield fail(
            f"Linux {release} is older than 5.3",
            "It has no notifications of nexthop objects, so the daemon cannot follow its routes.",
            "run a newer kernel",
        )
        return
    if dump is None:
        yield fail(
            f"the kernel's routes cannot be read: {facts.kernel.error}",
            "Reading routes needs no privilege, only AF_NETLINK.",
            "look for a sandbox or seccomp filter around this process; check kernel.netns",
        )
        return
    why = []
    if dump.sysctls.skip_notify_on_dev_down:
        why.append(
            "net.ipv6.route.skip_notify_on_dev_down = 1: the kernel does not announce that IPv6 routes went with their "
            "link; the daemon resyncs when the link goes down."
        )
    if dump.sysctls.nexthop_compat_mode is False:
        why.append(
            "net.ipv4.nexthop_compat_mode = 0: routes name their nexthop object only; the daemon follows the objects."
        )
    yield ok(f"Linux {release}; {many(len(dump.routes), 'route')} read", " ".join(why))


def receive_buffer(facts: Facts) -> Iterator[Finding]:
    """Is the netlink socket's buffer as large as configured?"""
    wanted = 2 * facts.config.loaded.settings.kernel.receive_buffer  # the kernel doubles it (socket(7))
    granted, limit = facts.kernel.buffer_granted, facts.kernel.buffer_max
    answer, held = facts.daemon.answer, facts.daemon.capabilities
    known = (
        answer is not None and answer.status.kernel is not None and answer.status.kernel.receive_buffer > 0
    )
    if answer is not None and answer.status.kernel is not None and known:
        granted = answer.status.kernel.receive_buffer
    elif limit is not None and not (held is not None and held >> CAP_NET_ADMIN & 1):
        granted = min(granted, 2 * limit)  # what this process got shows nothing if it has the capability
    what = "what is configured" if facts.config.known else "the default"
    text = f"{granted:,} bytes for the daemon's socket, {wanted:,} wanted (twice {what}, socket(7))"
    if granted >= wanted:
        yield ok(text)
    elif facts.kernel.socket_unit and not known:
        why = "routesync.socket is installed and opens the daemon's socket with a buffer of its own."
        yield ok(f"{text}, if the daemon opens one itself", why)
    else:
        cap = f" net.core.rmem_max = {limit:,} caps it for processes without CAP_NET_ADMIN." if limit else ""
        yield warn(
            text,
            f"It takes {granted // _ROUTE_MESSAGE:,} route changes at once; more are lost, and cause a resync.{cap}",
            f"sysctl -w net.core.rmem_max={wanted // 2}, and the same line in /etc/sysctl.d/routesync.conf",
            "or use routesync.socket, which needs no sysctl",
        )
