"""Checks of the configuration, the daemon and what it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from routesync.doctor.facts import Facts
from routesync.doctor.finding import Check, Finding, Level

CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21
_NAMES: Final = {CAP_NET_ADMIN: "CAP_NET_ADMIN", CAP_SYS_ADMIN: "CAP_SYS_ADMIN"}
_OLDEST_SYSTEMD: Final = 247
"""LoadCredential= came with it (systemd.exec(5))."""


def config(facts: Facts) -> Iterator[Finding]:
    """Is there a configuration, and does it hold?"""
    found = facts.config
    path = str(found.path)
    if found.state == "absent":
        yield Finding(
            Check.CONFIG,
            Level.WARN,
            f"there is no {path}",
            "The shipped rules are taken for the other checks. The daemon does not start without a file.",
            (f"write {path}; config/routesync.toml of the distribution is a beginning",),
            path,
        )
    for problem in found.problems:
        yield Finding(
            Check.CONFIG,
            Level.FAIL,
            problem,
            "The daemon does not start with it, and does not take it at a reload.",
            (f"correct it; `routesync check {path}` tells all that is wrong",),
            path,
        )
    for warning in found.loaded.warnings if found.state == "read" else ():
        yield Finding(Check.CONFIG, Level.WARN, warning, subject=path)
    if found.state == "read" and not found.loaded.warnings:
        settings = found.loaded.settings
        targets, rules = len(settings.targets), len(settings.policy.rules)
        text = f"{path} holds: mode {settings.mode}, {targets} targets, {rules} rules"
        yield Finding(Check.CONFIG, Level.OK, text, subject=path)


def daemon(facts: Facts) -> Iterator[Finding]:
    """Does it run?"""
    found, directory = facts.daemon, facts.state.directory
    if found.running:
        pid = f", process {found.pid}" if found.pid else ""
        yield Finding(Check.DAEMON, Level.OK, f"the daemon runs on {directory}{pid}")
    elif found.running is None:
        yield Finding(
            Check.DAEMON,
            Level.WARN,
            f"whether a daemon runs on {directory} cannot be told",
            "The directory cannot be looked into.",
            ("run doctor as root or as the daemon's user",),
        )
    else:
        yield Finding(
            Check.DAEMON,
            Level.WARN,
            f"no daemon runs on {directory}",
            "Nothing is mirrored or published. Routes that were mirrored stay in loxilb as they are.",
            ("systemctl start routesync", "journalctl -u routesync says why it ended"),
        )


def capabilities(facts: Facts) -> Iterator[Finding]:
    """Does the configuration ask for what needs a capability, and is that there?"""
    settings = facts.config.loaded.settings
    needs: list[tuple[int, str]] = []
    if settings.mode == "guard":
        needs.append((CAP_NET_ADMIN, 'mode = "guard" takes routes out of the kernel'))
    if settings.kernel.netns is not None:
        needs.append((CAP_SYS_ADMIN, f"kernel.netns = {settings.kernel.netns!r} enters that namespace"))
    needs += [
        (CAP_SYS_ADMIN, f"the witness of target {target.name} enters {target.witness.netns!r}")
        for target in settings.targets
        if target.witness is not None
    ]
    if not needs:
        yield Finding(Check.CAPABILITIES, Level.OK, "nothing in the configuration needs a capability")
        return
    held = facts.daemon.capabilities
    whose = "the daemon has" if held is not None else "this shell has"
    effective = facts.own_capabilities if held is None else held
    for number, what in needs:
        name = _NAMES[number]
        if effective >> number & 1:
            yield Finding(Check.CAPABILITIES, Level.OK, f"{what}; {whose} {name}")
            continue
        sure = held is not None
        yield Finding(
            Check.CAPABILITIES,
            Level.FAIL if sure else Level.WARN,
            f"{what}, which needs {name}; {whose} it not",
            "" if sure else "No daemon runs, so what its unit gives it is not seen.",
            (
                "copy guard.conf of the examples to /etc/systemd/system/routesync.service.d/"
                if number == CAP_NET_ADMIN
                else f"systemctl edit routesync: [Service] AmbientCapabilities={name} CapabilityBoundingSet={name} "
                "PrivateUsers=no; or have systemd hand the socket over",
                "systemctl daemon-reload; systemctl restart routesync",
            ),
        )


def systemd(facts: Facts) -> Iterator[Finding]:
    """Is systemd, where it runs, new enough for the unit?"""
    version = facts.systemd
    if version is None:
        yield Finding(Check.SYSTEMD, Level.OK, "systemd does not run here; the unit is not used")
    elif version < _OLDEST_SYSTEMD:
        yield Finding(
            Check.SYSTEMD,
            Level.WARN,
            f"systemd {version} is older than {_OLDEST_SYSTEMD}",
            "The unit's LoadCredential= is not known to it, so secrets given that way are missing.",
            ("give secrets by files that only the daemon's user may read",),
        )
    else:
        yield Finding(Check.SYSTEMD, Level.OK, f"systemd {version}")
