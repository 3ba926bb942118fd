"""Checks of the targets: contact, version, whose namespace, room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from routesync.doctor.facts import Facts
from routesync.doctor.finding import Check, Finding, Level
from routesync.loxilb.schema import Port
from routesync.mirror.namespace import Sharing, sharing

_ROOM_IPV4: Final = 32_768
"""Entries of loxilb's eBPF table for IPv4, its own among them; what exceeds it is dropped without a word."""
_NEARLY: Final = 0.9


class SharingLoxilb(NamedTuple):
    """A loxilb that reads the very table that we read."""

    name: str
    version: str | None


def sharing_loxilbs(facts: Facts) -> list[SharingLoxilb]:
    """All that share our namespace: configured ones, or else processes that were found."""
    found = [
        SharingLoxilb(f"target {target.name}", target.version)
        for target in facts.targets
        if target.ports is not None and _sharing(facts, target.ports) is Sharing.YES
    ]
    return found or [
        SharingLoxilb(f"loxilb (process {local.pid})", local.version)
        for local in facts.local
        if local.shares_namespace
    ]


def _sharing(facts: Facts, ports: tuple[Port, ...]) -> Sharing:
    return sharing(ports, facts.kernel.reading.links if facts.kernel.reading else {})


def _numbers(version: str) -> tuple[int, ...] | None:
    found = re.search(r"\d+(?:\.\d+)+", version)
    return tuple(map(int, found[0].split("."))) if found else None


def has_the_bug(version: str | None) -> bool | None:
    """Whether a DHCP host route blocks a neighbour in this version (before 0.9.2); None: it cannot be told."""
    if version is None or version.startswith("before"):
        return None
    numbers = _numbers(version)
    return None if numbers is None else numbers < (0, 9, 2)


def reachable(facts: Facts) -> Iterator[Finding]:
    """Does each target answer?"""
    if not facts.targets:
        text = "no target is configured: routes are watched and told of only"
        yield Finding(Check.TARGET, Level.OK, text)
    for target in facts.targets:
        subject = target.name
        if not target.asked:
            yield Finding(
                Check.TARGET, Level.OK, f"{target.name} ({target.url}) was not asked", subject=subject
            )
        elif target.denied:
            yield Finding(
                Check.TARGET,
                Level.FAIL,
                f"{target.name} ({target.url}) denies access: {target.error}",
                "Nothing is mirrored into it. loxilb wants its token as it is, without the word Bearer.",
                ("token_file of the target is to hold what the file of loxilb's --manualtoken holds",),
                subject,
            )
        elif target.error is not None:
            yield Finding(
                Check.TARGET,
                Level.FAIL,
                f"{target.name} is not reached: {target.error}",
                "Nothing is mirrored into it; routes that it holds stay.",
                (
                    "does loxilb run, with its API open to this host (--host, --port, firewall)?",
                    f"curl -v {target.url}/netlox/v1/version",
                ),
                subject,
            )
        else:
            yield Finding(Check.TARGET, Level.OK, f"{target.name} ({target.url}) answers", subject=subject)


def version(facts: Facts) -> Iterator[Finding]:
    """What does each loxilb's version mean?"""
    named = [(target.name, target.version) for target in facts.targets]
    if not named:
        named = [(f"process {local.pid}", local.version) for local in facts.local]
    for name, its in named:
        if its is not None:
            yield _version(name, its)


def _version(name: str, its: str) -> Finding:
    numbers = _numbers(its)
    if its.startswith("before"):
        return Finding(
            Check.LOXILB_VERSION,
            Level.WARN,
            f"{name} is older than 0.9.8",
            "Before 0.9.2 a DHCP host route that loxilb reads from its own kernel blocks the neighbour that it names; "
            "before 0.9.5 what is mirrored is shown with protocol boot. It does not say which it is.",
            ("upgrade loxilb to 0.9.8 or later",),
            name,
        )
    if numbers is None:
        return Finding(
            Check.LOXILB_VERSION,
            Level.WARN,
            f"{name} says {its!r} for its version, which says nothing",
            "Whether it is one in which a DHCP host route blocks a neighbour (before 0.9.2) cannot be told.",
            subject=name,
        )
    if numbers < (0, 9, 2):
        return Finding(
            Check.LOXILB_VERSION,
            Level.FAIL,
            f"{name} is {its}",
            "In it, a DHCP host route that loxilb reads from its own kernel blocks the neighbour that it names.",
            ("upgrade loxilb to 0.9.8 or later",),
            name,
        )
    why = "A DHCP host route in its own kernel is only noise to it."
    if numbers < (0, 9, 8, 5):
        why += " It tells refusals as success with a word of failure; that is dealt with."
    return Finding(Check.LOXILB_VERSION, Level.OK, f"{name} is {its}", why, subject=name)


def shared_namespace(facts: Facts) -> Iterator[Finding]:
    """Does a loxilb read the very table that we read?"""
    said = False
    for target in facts.targets:
        if target.ports is None:
            continue
        said = True
        match _sharing(facts, target.ports):
            case Sharing.YES:
                yield _shares(facts, f"target {target.name}", target.name)
            case Sharing.UNKNOWN:
                yield Finding(
                    Check.SHARED_NAMESPACE,
                    Level.WARN,
                    f"{target.name} lists no ports yet, so where it lives is not known",
                    "While it starts, ports are missing. Until they come, nothing is mirrored into it.",
                    ("look again in a minute",),
                    target.name,
                )
            case Sharing.NO:
                yield Finding(
                    Check.SHARED_NAMESPACE,
                    Level.OK,
                    f"{target.name} lives in a network namespace of its own",
                    subject=target.name,
                )
    if said:
        return
    for local in facts.local:
        if local.shares_namespace:
            yield _shares(facts, f"loxilb (process {local.pid})", f"process {local.pid}")
        elif local.shares_namespace is None:
            yield Finding(
                Check.SHARED_NAMESPACE,
                Level.WARN,
                f"a loxilb runs here (process {local.pid}), in a namespace that we may not look at",
                remedy=("run doctor as root",),
                subject=f"process {local.pid}",
            )
        else:
            text = f"a loxilb runs here (process {local.pid}), in a network namespace of its own"
            yield Finding(Check.SHARED_NAMESPACE, Level.OK, text, subject=f"process {local.pid}")
    if not facts.local:
        yield Finding(Check.SHARED_NAMESPACE, Level.OK, "no loxilb is known that shares this namespace")


def _shares(facts: Facts, name: str, subject: str) -> Finding:
    why = (
        "It reads this host's routes by itself. A mirror would write them back into the table that it reads, so "
        "nothing is mirrored into it."
    )
    mode = facts.config.loaded.settings.mode
    if mode != "mirror" or not facts.targets:
        return Finding(
            Check.SHARED_NAMESPACE, Level.OK, f"{name} shares this network namespace", why, subject=subject
        )
    return Finding(
        Check.SHARED_NAMESPACE,
        Level.WARN,
        f"{name} shares this network namespace, and mode is mirror",
        why,
        (
            'set mode = "observe" to watch and report only, or "guard" to take DHCP host routes out of the kernel',
            "or run loxilb in a namespace of its own (its container without host network)",
        ),
        subject,
    )


def capacity(facts: Facts) -> Iterator[Finding]:
    """Is there room for what the rules keep?"""
    if facts.kernel.reading is None:
        return
    for target in facts.config.loaded.settings.targets:
        limits = {"ipv4": target.max_routes_ipv4, "ipv6": target.max_routes_ipv6}
        for family, most in limits.items():
            yield _room(target.name, family, facts.desired.get((target.name, family), 0), most)
        if target.max_routes_ipv4 > _ROOM_IPV4:
            yield Finding(
                Check.CAPACITY,
                Level.WARN,
                f"{target.name}: max_routes_ipv4 = {target.max_routes_ipv4:,} is more than loxilb's eBPF table holds",
                f"It has {_ROOM_IPV4:,} entries, loxilb's own among them; what exceeds them is not forwarded, without "
                "a word.",
                ("leave it at 30,000, unless that loxilb was built with a larger table",),
                target.name,
            )


def _room(target: str, family: str, desired: int, most: int) -> Finding:
    text = f"{target}: {desired:,} desired {family} routes, room for {most:,}"
    if desired > most:
        return Finding(
            Check.CAPACITY,
            Level.FAIL,
            text,
            f"{desired - most:,} of them have no room; those that are there stay.",
            (
                "narrow the rules (`routesync plan` shows what they keep)",
                "or raise max_routes, if that loxilb takes more",
            ),
            target,
        )
    if most and desired > most * _NEARLY:
        why = "More than nine tenths are taken."
        return Finding(Check.CAPACITY, Level.WARN, text, why, ("narrow the rules in time",), target)
    return Finding(Check.CAPACITY, Level.OK, text, subject=target)
