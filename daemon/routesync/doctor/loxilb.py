"""Checks of the targets: do they answer, which version are they, whose routes do they read, is there room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from routesync.characters import many
from routesync.doctor.facts import Facts, Finding, TargetFacts, fail, ok, warn
from routesync.mirror.namespace import Sharing

_ROOM_IPV4: Final = 32_768
"""Entries of loxilb's eBPF table for IPv4, its own among them; what exceeds it is dropped silently."""
_NEARLY: Final = 0.9
_TLS_PORT: Final = 8091
_READS_ITSELF: Final = (
    "It reads this host's routes by itself. A mirror would write them back into the table that it reads, so nothing is "
    "mirrored into it."
)
_UPGRADE: Final = "upgrade loxilb to 0.9.8 or later"


class SharingLoxilb(NamedTuple):
    """A loxilb that reads the routing table of this host."""

    name: str
    version: str | None
    subject: str


def sharing_loxilbs(facts: Facts) -> list[SharingLoxilb]:
    """All that share our namespace: configured ones, or else processes that were found."""
    found = [
        SharingLoxilb(f"target {target.name}", target.version, target.name)
        for target in facts.targets
        if target.ports is not None and facts.sharing(target) is Sharing.YES
    ]
    return found or [
        SharingLoxilb(f"loxilb (process {local.pid})", local.version, f"process {local.pid}")
        for local in facts.local
        if local.shares_namespace
    ]


def _numbers(version: str) -> tuple[int, ...] | None:
    """`0.9.8.5` as numbers; None for `main` or `before 0.9.8`."""
    found = None if version.startswith("before") else re.search(r"\d+(?:\.\d+)+", version)
    return tuple(map(int, found[0].split("."))) if found else None


def has_the_bug(version: str | None) -> bool | None:
    """Whether a DHCP host route blocks a neighbour in this version (before 0.9.2); None: not known."""
    numbers = _numbers(version) if version else None
    return None if numbers is None else numbers < (0, 9, 2)


def target(facts: Facts) -> Iterator[Finding]:
    """Does each target answer, and what does its version mean? Without targets: the version of a loxilb here."""
    for missing in facts.config.unresolved:
        yield warn(
            f"{missing.target} was not checked: {missing.host} does not resolve: {missing.why}",
            "A running daemon keeps the addresses that it knows. One that starts now has no target for this name.",
            f"does the resolver of this host answer? getent ahosts {missing.host}",
            subject=missing.target,
        )
    if not facts.targets and not facts.config.unresolved:
        yield ok("no target is configured: routes are only followed and reported")
        for local in facts.local:
            if local.version is not None:
                yield _version(f"process {local.pid}", local.version)
    for it in facts.targets:
        if not it.asked:
            yield ok(f"{it.name} ({it.url}) was not asked", subject=it.name)
        elif it.error is not None:
            yield _unreachable(it)
        elif it.version is not None:
            yield _version(it.name, it.version)


def _unreachable(it: TargetFacts) -> Finding:
    if it.denied:
        return fail(
            f"{it.name} ({it.url}) denies access: {it.error}",
            "Nothing is mirrored into it. loxilb expects the bare token, without the word Bearer.",
            "put into token_file of the target what the file of loxilb's --manualtoken contains",
            subject=it.name,
        )
    error = it.error or ""
    remedies: tuple[str, ...]
    if "certificate" in error:
        remedies = (
            "name the authority that signed it by ca_file of [targets.tls], as a PEM file",
            "where its name is another than the URL's, give that by server_name of [targets.tls]",
        )
    elif it.url.startswith("https:"):
        remedies = (f"does loxilb serve TLS there? It does with --tls, on port {_TLS_PORT}",)
    elif "HTTPS" in error:
        remedies = ("write https:// in its url; over TLS it is reached there alone",)
    else:
        remedies = ("does loxilb run, with its API open to this host (--host, --port, firewall)?",)
    return fail(
        f"{it.name} is not reached: {error}",
        "Nothing is mirrored into it; the routes that it has stay.",
        *remedies,
        f"curl -v {it.url}/netlox/v1/version",
        subject=it.name,
    )


def _version(name: str, version: str) -> Finding:
    numbers = _numbers(version)
    if version.startswith("before"):
        return warn(
            f"{name} answers; it is older than 0.9.8",
            "Before 0.9.2 a DHCP host route that loxilb reads from its own kernel blocks the neighbour that it names; "
            "before 0.9.5 mirrored routes are shown with protocol boot. Its exact version is not known.",
            _UPGRADE,
            subject=name,
        )
    if numbers is None:
        return warn(
            f"{name} answers; its version {version!r} is not a number",
            "Whether a DHCP host route blocks a neighbour in it (as before 0.9.2) is not known.",
            subject=name,
        )
    if numbers < (0, 9, 2):
        return fail(
            f"{name} answers; it is {version}",
            "In it, a DHCP host route that loxilb reads from its own kernel blocks the neighbour that it names.",
            _UPGRADE,
            subject=name,
        )
    why = "A DHCP host route in its own kernel is only noise to it."
    if numbers < (0, 9, 8, 5):
        why += " It reports refusals as success with a word of failure; routesync knows these words."
    return ok(f"{name} answers; it is {version}", why, subject=name)


def shared_namespace(facts: Facts) -> Iterator[Finding]:
    """Does a loxilb read the routing table of this host?"""
    mirrors = facts.config.loaded.settings.mode == "mirror" and bool(facts.targets)
    sharing = sharing_loxilbs(facts)
    for loxilb in sharing:
        summary = f"{loxilb.name} shares this network namespace"
        if not mirrors:
            yield ok(summary, _READS_ITSELF, subject=loxilb.subject)
            continue
        yield warn(
            f"{summary}, and mode is mirror",
            _READS_ITSELF,
            'set mode = "observe" to watch and report only, or "guard" to remove DHCP host routes from the kernel',
            "or run loxilb in a namespace of its own (its container without host network)",
            subject=loxilb.subject,
        )
    answering = [it for it in facts.targets if it.ports is not None]
    for it in answering:
        match facts.sharing(it):
            case Sharing.UNKNOWN:
                yield warn(
                    f"{it.name} lists no ports yet, so its network namespace is not known",
                    "While it starts, ports are missing. Until they come, nothing is mirrored into it.",
                    "look again in a minute",
                    subject=it.name,
                )
            case Sharing.NO:
                yield ok(f"{it.name} runs in a network namespace of its own", subject=it.name)
    if answering:
        return
    for local in facts.local:
        subject = f"process {local.pid}"
        if local.shares_namespace is None:
            summary = f"a loxilb runs here ({subject}), in a namespace that this user may not see"
            yield warn(summary, "", "run doctor as root", subject=subject)
        elif not local.shares_namespace:
            yield ok(f"a loxilb runs here ({subject}), in a network namespace of its own", subject=subject)
    if not facts.local:
        yield ok("no loxilb is known that shares this namespace")


def capacity(facts: Facts) -> Iterator[Finding]:
    """Is there room for what the rules keep?"""
    if facts.kernel.dump is None:
        return
    for it in facts.config.loaded.settings.targets:
        yield _room(it.name, "ipv4", facts.desired.get((it.name, "ipv4"), 0), it.max_routes_ipv4)
        yield _room(it.name, "ipv6", facts.desired.get((it.name, "ipv6"), 0), it.max_routes_ipv6)
        if it.max_routes_ipv4 > _ROOM_IPV4:
            yield warn(
                f"{it.name}: max_routes_ipv4 = {it.max_routes_ipv4:,} is more than loxilb's eBPF table holds",
                f"It has {_ROOM_IPV4:,} entries, loxilb's own among them; what exceeds them is silently not forwarded.",
                "leave it at 30,000, unless that loxilb was built with a larger table",
                subject=it.name,
            )


def _room(target: str, family: str, desired: int, most: int) -> Finding:
    text = f"{target}: {many(desired, f'desired {family} route')}, room for {most:,}"
    if desired > most:
        return fail(
            text,
            f"{desired - most:,} of them have no room; those that are there stay.",
            "narrow the rules (`routesync plan` shows what they keep)",
            f"or raise max_routes_{family}, if that loxilb takes more",
            subject=target,
        )
    if most and desired > most * _NEARLY:
        return warn(text, "More than nine tenths are taken.", "narrow the rules in time", subject=target)
    return ok(text, subject=target)
