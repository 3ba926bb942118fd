"""Checks of what the daemon keeps and publishes: state directory, ledger, outbox, broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from routesync.characters import many
from routesync.config.resolve import address_in
from routesync.doctor.facts import NOT_CHECKED, BrokerFacts, DatabaseFacts, Facts, Finding, fail, ok, warn
from routesync.events.fleet import BEATS
from routesync.events.node_status import Status

BROKER: Final = "broker: "
"""How reasons of a status begin that are about the broker."""
_LITTLE: Final = 64 * 2**20
"""Bytes below which a disk is nearly full; the outbox alone may take 256 MiB by default."""
_IN_MEMORY: Final = (
    "changes of ownership and events are kept in memory. A crash loses them, a restart is not needed."
)


def directory(facts: Facts) -> Iterator[Finding]:
    """Can the daemon write its state?"""
    state = facts.state
    path = str(state.directory)
    free = f"{state.free_bytes // 2**20:,} MiB"
    if not state.exists:
        yield ok(f"{path} does not exist yet; systemd, or the first start, makes it", subject=path)
    elif state.read_only:
        yield fail(
            f"{path} is on a read-only file system",
            _IN_MEMORY,
            "remount it read-write",
            subject=path,
        )
    elif not state.writable:
        yield fail(
            f"{path} is not writable by {state.user}",
            _IN_MEMORY,
            f"chown {state.user}: {path}; chmod u+rwx {path}",
            subject=path,
        )
    elif state.free_bytes < _LITTLE:
        yield warn(
            f"{path}: {free} are free",
            f"Soon it may be full. {_IN_MEMORY}",
            "make room, or lower events.outbox_bytes",
            subject=path,
        )
    else:
        yield ok(f"{path} is writable by {state.user}, {free} free", subject=path)


def ledger(facts: Facts) -> Iterator[Finding]:
    """Is the ledger, which says what is owned, sound, and does it belong to the daemon's user?"""
    found, aside = facts.state.ledger, facts.state.ledger_aside
    path = str(found.path)
    if found.error is not None:
        yield fail(
            f"{path}: {found.error}",
            "Routes that are not known as owned are neither replaced nor withdrawn.",
            f"leave {path} where it is: the daemon reads it without a restart as soon as it can",
            "routesync adopt --target NAME claims desired routes that a damaged ledger no longer knows",
            subject=path,
        )
    elif aside is not None:
        yield warn(
            f"{aside}: this ledger was damaged or missing",
            "Routes that only it knew are not known as owned, and stay in loxilb.",
            "routesync adopt --target NAME claims those that equal desired routes",
            f"then delete {aside}",
            subject=str(aside),
        )
    elif not found.writable:
        yield _not_writable(facts, found)
    elif not found.exists:
        yield ok("there is no ledger yet: nothing is mirrored", subject=path)
    else:
        owned = facts.state.owned
        yield ok(
            f"the ledger is sound: {many(sum(owned.values()), 'owned route')} in {many(len(owned), 'target')}",
            subject=path,
        )


def _not_writable(facts: Facts, file: DatabaseFacts) -> Finding:
    user = facts.state.user
    return fail(
        f"{file.path} belongs to {file.owner}, and is not writable by {user}",
        f"A run as {file.owner} made it, perhaps a `sudo routesync run`. {_IN_MEMORY}",
        f"chown {user}: {file.path}*",
        subject=str(file.path),
    )


def orphans(facts: Facts) -> Iterator[Finding]:
    """Are there owned routes in targets that are no longer configured?"""
    if facts.config.state != "read":
        return
    answer = facts.daemon.answer
    configured = {target.name for target in facts.config.loaded.settings.targets}
    configured |= {target.name for target in answer.status.targets} if answer else set()
    unresolved = [it.target for it in facts.config.unresolved]
    owned = {name: count for name, count in facts.state.owned.items() if name not in configured}
    left = {
        name: count for name, count in owned.items() if not any(address_in(name, it) for it in unresolved)
    }
    for name, count in left.items():
        yield warn(
            f"{many(count, 'owned route')} in {name}, which is no longer configured",
            "They stay there for good, and send traffic where it once belonged.",
            f"routesync withdraw --target {name} --url URL removes them",
            f"routesync forget --target {name} gives up ownership; the routes stay",
            subject=name,
        )
    if not left:
        rest = ", or in addresses of a name that does not resolve" if owned else ""
        yield ok(f"all owned routes are in configured targets{rest}")


def outbox(facts: Facts) -> Iterator[Finding]:
    """Is the outbox sound, and is there room in it?"""
    found, settings = facts.state.outbox, facts.config.loaded.settings
    path = str(found.path)
    if settings.mqtt is None:
        return
    most, waiting = settings.events.outbox_events, facts.state.outbox_events
    text = f"{many(waiting, 'event')} waiting for the broker, room for {most:,}"
    if not found.exists:
        yield ok("there is no outbox yet: no event waits", subject=path)
    elif found.error is not None:
        yield warn(
            f"{path}: {found.error}",
            "The daemon puts a damaged outbox aside and begins a new epoch: subscribers read the table again.",
            subject=path,
        )
    elif not found.writable:
        yield _not_writable(facts, found)
    elif facts.daemon.running is not False:
        yield ok(
            "the daemon has the outbox open; `routesync status` shows what is wrong with it", subject=path
        )
    elif waiting > most / 2:
        yield warn(text, "When it is full, the oldest events are dropped.", subject=path)
    else:
        yield ok(text, subject=path)


def broker(facts: Facts) -> Iterator[Finding]:
    """Does the broker accept what this node publishes, and does no other node have its name?"""
    if facts.daemon.answer is not None:
        yield _as_the_daemon_reports(facts.daemon.answer.status)
    elif not facts.config.known:
        yield NOT_CHECKED
    elif facts.broker is None:
        yield ok("no broker is configured: events go to the log only")
    else:
        node = facts.config.loaded.settings.node.name
        mqtt = facts.config.loaded.settings.mqtt
        yield _as_tried(facts.broker, f"{mqtt.root if mqtt else ''}/{node}", node)
    if facts.broker is not None and facts.broker.speaks_v5:
        yield warn(
            f"{facts.broker.place} accepts MQTT 5, and mqtt.protocol is 3.1.1",
            "By 3.1.1 a broker cannot tell the daemon that a message is denied or too large.",
            'set protocol = "5.0" in [mqtt]',
            subject=facts.broker.place,
        )


def _as_the_daemon_reports(status: Status) -> Finding:
    if status.broker is None:
        return ok("the daemon has no broker configured: events go to the log only")
    troubles = [reason.removeprefix(BROKER) for reason in status.reasons if reason.startswith(BROKER)]
    why = "Events wait in the outbox, and the oldest are dropped when it is full."
    if status.broker != "connected":
        return fail(f"the daemon is not connected: {'; '.join(troubles) or status.broker}", why)
    if troubles:
        return fail(f"the daemon is connected, but {'; '.join(troubles)}", why)
    return ok("the daemon is connected, and the broker accepts what it publishes")


def _as_tried(broker: BrokerFacts, root: str, node: str) -> Finding:
    allow = f"let this user write to {root}/# in the broker's access rules"
    place = broker.place
    if broker.trouble is not None:
        why = "Events wait in the outbox, and the oldest are dropped when it is full."
        return fail(broker.trouble, why, subject=place)
    match broker.publish:
        case "accepted":
            return ok(
                f"{place} accepts publishes to {root}/status",
                "Tried with one message that says that this node is offline, which it is; it is not retained. Topics "
                "of events and tables are tried when the daemon publishes to them.",
                subject=place,
            )
        case "denied":
            why = "Denied messages wait while the broker denies them; the oldest are dropped when the outbox is full."
            return fail(
                f"{place} denies publishing to {root}/status: {broker.denial}", why, allow, subject=place
            )
        case "not-back":
            return warn(
                f"what is published to {root}/status does not come back",
                "MQTT 3.1.1 does not report a denied publish: it is denied, or this user may not read it.",
                f"{allow}, and read {root}/status",
                subject=place,
            )
        case "other-node":
            return warn(
                f"a node named {node!r} is {broker.status} at this broker, and no daemon runs here",
                "Two nodes of one name overwrite each other's status and table, and take each other's connection. Or "
                f"this is the last status of the daemon here, less than {BEATS} heartbeats old or, by MQTT 3.1.1, of "
                "unknown age.",
                "look again in a few minutes: a node that ended is silent then, except by MQTT 3.1.1",
                "give each node a name of its own: [node] name",
                subject=place,
            )
        case "running":
            why = f"Nothing was published: a daemon may run. Its retained status is {broker.status or 'not visible'}."
            return ok(f"{place} accepts the login", why, subject=place)
        case "not-asked":
            return ok(f"{place} was not asked", subject=place)
        case "unknown":
            return ok(
                f"{place} accepts the login; whether {root}/status may be published to is not known",
                "It gave no answer in time; or, by MQTT 3.1.1, which reports no denial, this user may not read that.",
                subject=place,
            )
