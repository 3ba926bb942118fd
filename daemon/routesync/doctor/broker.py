"""Checks of the broker."""

from __future__ import annotations

from collections.abc import Iterator

from routesync.doctor.facts import Facts
from routesync.doctor.finding import Check, Finding, Level


def reachable(facts: Facts) -> Iterator[Finding]:
    """Does the broker let us in?"""
    broker = facts.broker
    if broker is None:
        yield Finding(Check.BROKER, Level.OK, "no broker is configured: events go to the log only")
    elif broker.trouble is not None:
        yield Finding(
            Check.BROKER,
            Level.FAIL,
            broker.trouble,
            "Events wait in the outbox, and the oldest go when that is full.",
            subject=broker.where,
        )
    elif broker.publish == "not-asked":
        yield Finding(Check.BROKER, Level.OK, f"{broker.where} was not asked", subject=broker.where)
    else:
        yield Finding(Check.BROKER, Level.OK, f"{broker.where} lets us in", subject=broker.where)


def access(facts: Facts) -> Iterator[Finding]:
    """May we publish there, and does nobody else do so under our name?"""
    broker = facts.broker
    if broker is None or broker.trouble is not None or broker.publish == "not-asked":
        return
    settings = facts.config.loaded.settings
    root = f"{settings.mqtt.root if settings.mqtt else ''}/{settings.node.name}"
    subject = broker.where
    match broker.publish:
        case "taken":
            yield Finding(
                Check.BROKER_ACCESS,
                Level.OK,
                f"{root}/status may be published to",
                "Tried with one message that says that this node is offline, which it is; it is not retained. Topics "
                "of events and tables are judged when the daemon publishes to them.",
                subject=subject,
            )
        case "denied":
            yield Finding(
                Check.BROKER_ACCESS,
                Level.FAIL,
                f"publishing to {root}/status is denied: {broker.denial}",
                "Denied messages are lost, and counted as such.",
                (f"let this user write to {root}/# in the broker's access rules",),
                subject,
            )
        case "not-back":
            yield Finding(
                Check.BROKER_ACCESS,
                Level.WARN,
                f"what is published to {root}/status does not come back",
                "MQTT 3.1.1 has no word for a denied publish: it is denied, or this user may not read it.",
                (f"let this user write to {root}/# in the broker's access rules, and read {root}/status",),
                subject,
            )
        case "running" if broker.reasons:
            yield Finding(
                Check.BROKER_ACCESS,
                Level.WARN,
                f"the daemon publishes, and says that it is {broker.status}",
                "; ".join(broker.reasons),
                ("routesync status",),
                subject,
            )
        case "running" if broker.status in {"online", "degraded"}:
            text = f"the daemon publishes its status ({broker.status}) under {root}"
            yield Finding(Check.BROKER_ACCESS, Level.OK, text, subject=subject)
        case "running":
            yield Finding(
                Check.BROKER_ACCESS,
                Level.OK,
                "the daemon runs, so nothing was tried; its retained status is not to be seen from here",
                "This user may have no right to read it, or the daemon's publishing is denied: its status says so.",
                ("routesync status",),
                subject,
            )
        case "other-node":
            yield Finding(
                Check.BROKER_ACCESS,
                Level.WARN,
                f"a node named {settings.node.name!r} is {broker.status} at this broker, and does not run here",
                "Two nodes of one name overwrite each other's status and table, and throw each other out.",
                ("give each node a name of its own: [node] name",),
                subject,
            )
        case _:
            yield Finding(
                Check.BROKER_ACCESS,
                Level.OK,
                f"whether {root}/status may be published to cannot be told",
                "MQTT 3.1.1 has no word for a denied publish, and we may not read what we sent.",
                subject=subject,
            )
