"""The events and their way to the broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client.metrics_core import Metric

from routesync.events.hub import EventHub
from routesync.events.models import EVENTS, LostReason
from routesync.events.publisher import MqttPublisher
from routesync.service.metrics.families import counter, counters, gauge


def metrics(hub: EventHub, publisher: MqttPublisher | None) -> Iterator[Metric]:
    """Everything of the events; without a broker, only how many there were."""
    yield counters(
        "events",
        "Events by their type.",
        ("group", "name"),
        (((event.group, event.name), hub.emitted[event]) for event in EVENTS),
    )
    if publisher is not None:
        yield from _broker(publisher)


def _broker(publisher: MqttPublisher) -> Iterator[Metric]:
    outbox, measures = publisher.outbox, publisher.measures
    yield gauge("mqtt_connected", "1 while the broker is connected.", publisher.state == "connected")
    yield counter("mqtt_connections", "Connections that were made to it.", measures.connections)
    yield counter(
        "mqtt_connection_failures", "Connections that broke, or could not be made.", measures.failures
    )
    yield gauge("mqtt_denied_topics", "Topics that its access rules deny us.", publisher.denied)
    yield counter("mqtt_published_events", "Events that it took.", measures.published)
    yield counters(
        "mqtt_lost_events",
        "Events that no subscriber will see, by reason.",
        ("reason",),
        (((reason,), outbox.lost[reason]) for reason in get_args(LostReason) if reason != "killed"),
    )
    yield gauge("mqtt_outbox_events", "Events that wait for the broker.", outbox.backlog)
    yield gauge("mqtt_outbox_bytes", "What they take in the outbox.", outbox.size)
    yield gauge("mqtt_outbox_max_events", "How many may wait.", outbox.bounds.events)
    yield gauge("mqtt_outbox_max_bytes", "How much they may take.", outbox.bounds.size)
    yield gauge(
        "mqtt_outbox_failing",
        "1 while the outbox cannot be written and events go through memory.",
        outbox.trouble is not None,
    )
