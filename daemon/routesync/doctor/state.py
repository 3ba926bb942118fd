"""Checks of the state directory: the ledger, which says what is ours, and the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from routesync.doctor.facts import DatabaseFacts, Facts
from routesync.doctor.finding import Check, Finding, Level

_LITTLE: Final = 64 * 2**20
"""Bytes below which a disk is nearly full; the outbox alone may take 256 MiB by default."""


def directory(facts: Facts) -> Iterator[Finding]:
    """Can the daemon write its state?"""
    state = facts.state
    path = str(state.directory)
    if not state.exists:
        level = Level.WARN if facts.daemon.running else Level.OK
        text = f"{path} does not exist yet; systemd, or the first start, makes it"
        yield Finding(Check.STATE_DIRECTORY, level, text, subject=path)
    elif state.read_only or not state.owner_may_write:
        problem = (
            "lies on a read-only file system"
            if state.read_only
            else f"may not be written by {state.owner_name}"
        )
        yield Finding(
            Check.STATE_DIRECTORY,
            Level.FAIL,
            f"{path} {problem}",
            "Changes of ownership and events are kept in memory, and a crash loses them.",
            (f"chmod u+rwx {path}, or remount its file system read-write; then restart the daemon",),
            path,
        )
    elif state.free_bytes < _LITTLE:
        yield Finding(
            Check.STATE_DIRECTORY,
            Level.WARN,
            f"{path}: {state.free_bytes // 2**20} MiB are free",
            "When the disk is full, changes of ownership and events are kept in memory, and a crash loses them.",
            ("make room, or lower events.outbox_bytes",),
            path,
        )
    else:
        text = f"{path} belongs to {state.owner_name}, {state.free_bytes // 2**20:,} MiB free"
        yield Finding(Check.STATE_DIRECTORY, Level.OK, text, subject=path)


def ledger(facts: Facts) -> Iterator[Finding]:
    """Is the ledger sound, and the daemon's own?"""
    found = facts.state.ledger
    path = str(found.path)
    if found.error is not None:
        yield Finding(
            Check.LEDGER,
            Level.FAIL,
            f"{path}: {found.error}",
            "Routes that are not known as owned are neither replaced nor withdrawn.",
            (
                f"leave {path} where it is: the daemon reads it without a restart as soon as it can",
                "routesync adopt --target NAME claims desired routes that a damaged ledger no longer knows",
            ),
            path,
        )
    elif facts.state.ledger_aside is not None:
        aside = facts.state.ledger_aside
        yield Finding(
            Check.LEDGER,
            Level.WARN,
            f"{aside}: this ledger was damaged or missing",
            "Routes that only it knew are not known as owned, and stay in loxilb.",
            (
                "routesync adopt --target NAME claims those that equal desired routes",
                f"then delete {aside}",
            ),
            str(aside),
        )
    elif not found.exists:
        yield Finding(Check.LEDGER, Level.OK, "there is no ledger yet: nothing is mirrored", subject=path)
    elif _of_another(facts, found):
        yield _owner(Check.LEDGER, facts, found)
    else:
        total = sum(facts.state.owned.values())
        text = f"the ledger is sound: {total:,} routes in {len(facts.state.owned)} targets are ours"
        yield Finding(Check.LEDGER, Level.OK, text, subject=path)


def _of_another(facts: Facts, file: DatabaseFacts) -> bool:
    return file.owner is not None and facts.state.owner is not None and file.owner != facts.state.owner


def _owner(check: Check, facts: Facts, file: DatabaseFacts) -> Finding:
    owner = facts.state.owner_name
    return Finding(
        check,
        Level.FAIL,
        f"{file.path} does not belong to {owner}, as its directory does",
        "It was made by a run as another user (a `sudo routesync run`, perhaps); the service cannot write it.",
        (f"chown {owner}: {file.path}*, then restart the daemon",),
        str(file.path),
    )


def orphans(facts: Facts) -> Iterator[Finding]:
    """Are there routes of ours in targets that are no longer configured?"""
    if facts.config.state != "read":
        return
    configured = {target.name for target in facts.config.loaded.settings.targets}
    left = {name: count for name, count in facts.state.owned.items() if name not in configured}
    for name, count in left.items():
        yield Finding(
            Check.ORPHANS,
            Level.WARN,
            f"{count:,} routes of ours stand in {name}, which is no longer configured",
            "They stay there for good, and lead traffic by what was once right.",
            (
                f"routesync withdraw --target {name} --url URL takes them out",
                f"routesync forget --target {name} leaves them and forgets them",
            ),
            name,
        )
    if not left:
        yield Finding(Check.ORPHANS, Level.OK, "all routes of ours stand in configured targets")


def outbox(facts: Facts) -> Iterator[Finding]:
    """Is the outbox sound, and is there room in it?"""
    found = facts.state.outbox
    settings = facts.config.loaded.settings
    path = str(found.path)
    if settings.mqtt is None:
        return
    most = settings.events.outbox_events
    if not found.exists:
        yield Finding(Check.OUTBOX, Level.OK, "there is no outbox yet: no event waits", subject=path)
    elif found.busy:
        yield Finding(
            Check.OUTBOX, Level.OK, "the daemon holds the outbox; its status says how it fares", subject=path
        )
    elif found.error is not None:
        yield Finding(
            Check.OUTBOX,
            Level.WARN,
            f"{path}: {found.error}",
            "The daemon puts a damaged outbox aside and begins a new epoch: subscribers read the table again.",
            subject=path,
        )
    elif _of_another(facts, found):
        yield _owner(Check.OUTBOX, facts, found)
    else:
        waiting = facts.state.outbox_events
        level = Level.WARN if waiting > most / 2 else Level.OK
        why = "" if level is Level.OK else "When it is full, the oldest events go."
        text = f"{waiting:,} events wait for the broker, {most:,} may"
        yield Finding(Check.OUTBOX, level, text, why, subject=path)
