"""The table of docs/metrics.md, made from the collectors themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric, StateSetMetricFamily

from routesync.best_routes import BestRoutes
from routesync.config.loader import load, shipped_configuration
from routesync.config.models import MqttSettings
from routesync.events.hub import EventHub
from routesync.events.node_status import offline
from routesync.events.outbox import Outbox
from routesync.events.publisher import MqttPublisher
from routesync.guard.guard import Guard
from routesync.names import Names
from routesync.service.metrics import Metrics
from routesync.service.metrics.families import PREFIX
from routesync.service.status import StatusBuilder
from routesync.tasks import Supervisor


class Described(NamedTuple):
    """One metric, as Prometheus sees it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def described() -> list[Described]:
    """All metrics of routesync's own, in the order in which they are served."""
    with _sample() as metrics:
        return [_describe(family) for family in metrics.collect()]


def markdown() -> str:
    """Write the list."""
    rows = (
        f"| `{it.name}` | {it.kind} | {', '.join(f'`{label}`' for label in it.labels)} | {it.meaning} |\n"
        for it in described()
    )
    return "| metric | type | labels | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _describe(family: Metric) -> Described:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels: tuple[str, ...] = tuple(getattr(family, "_labelnames", ()))
    if isinstance(family, StateSetMetricFamily):
        labels += (family.name,)
    if family.type == "info":
        labels += tuple(label for label in _INFO[family.name] if label not in labels)
    return Described(family.name + suffix, family.type, labels, family.documentation)


_INFO: Final = {f"{PREFIX}_build": ("version", "python", "mode"), f"{PREFIX}_target": ("url", "version")}


@contextmanager
def _sample() -> Iterator[Metrics]:
    """Collectors of a daemon that does nothing."""
    hub = EventHub("node")
    loaded = load(shipped_configuration(), {}, Names())
    best_routes = BestRoutes(loaded, hub, Supervisor())
    status = StatusBuilder(loaded.settings, best_routes, hub, tuple)
    guard = Guard(loaded.settings.guard, tables=(), netns=None, evaluate=best_routes.evaluate, sink=hub)
    status.guard = lambda: guard
    outbox = Outbox.open(None, "node")
    try:
        settings = MqttSettings(host="localhost")
        publisher = MqttPublisher(settings, "node", hub, lambda: offline("node"), outbox=outbox)
        yield Metrics(
            status=lambda: status,
            source=lambda: best_routes.source,
            kernel_troubles=tuple,
            targets=tuple,
            hub=lambda: hub,
            publisher=lambda: publisher,
        )
    finally:
        outbox.end()
