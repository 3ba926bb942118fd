"""Metrics for Prometheus, read from the program's own counters at the moment of a scrape.

Nothing is counted here and nothing is global: each part counts what it does anyhow, in plain integers, and does not
know who reads them. So a scrape costs what it reads, and no scrape costs nothing. No label carries a prefix or an
address: what exists once per route is a number here, and a name in `routesync explain`.

Names and units are a promise to dashboards; `make docs` writes docs/metrics.md from the tables below.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from routesync import __version__
from routesync.best_routes import BestRoutes
from routesync.events.hub import EventHub
from routesync.events.models import EVENTS, AlarmKind, LostReason
from routesync.events.node_status import GuardStatus
from routesync.events.publisher import MqttPublisher
from routesync.measure import Histogram
from routesync.mirror.reporting import Fate
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState, TargetView
from routesync.service.event_sinks import EventSinks
from routesync.service.status import StatusBuilder

Part = TypeVar("Part")
Kind = Literal["gauge", "counter", "histogram", "summary", "info", "stateset"]


@dataclass(frozen=True, slots=True)
class Durations:
    """The value of a summary."""

    count: int
    sum_s: float


Value = float | Histogram | Durations
Values = Value | Mapping[Any, Value]
"""One value, or one for each value of the label (a string), or of the labels (a tuple of strings)."""


class Family(NamedTuple, Generic[Part]):
    """One metric: how it is read from the part of the daemon that it describes."""

    kind: Kind
    name: str  # without prefix and suffix
    meaning: str
    read: Callable[[Part], Values]
    labels: tuple[str, ...]  # beside those of the table

    @property
    def full_name(self) -> str:
        return f"routesync_{self.name}"

    @property
    def suffix(self) -> str:
        """What the name of a sample ends in."""
        return {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _gauge(name: str, meaning: str, read: Callable[[Part], Values], *labels: str) -> Family[Part]:
    return Family("gauge", name, meaning, read, labels)


def _counter(name: str, meaning: str, read: Callable[[Part], Values], *labels: str) -> Family[Part]:
    return Family("counter", name, meaning, read, labels)


DAEMON: Final[tuple[Family[StatusBuilder], ...]] = (
    Family(
        "info",
        "build",
        "The running program; always 1.",
        lambda status: {(__version__, platform.python_version(), status.settings.mode): 1},
        ("version", "python", "mode"),
    ),
    _gauge(
        "start_time_seconds",
        "When the daemon started, in seconds since 1970.",
        lambda status: status.started.timestamp(),
    ),
    _gauge(
        "degraded_reasons",
        "Reasons that `routesync status` gives for being degraded.",
        lambda status: len(status.reasons()),
    ),
)

KERNEL: Final[tuple[Family[BestRoutes], ...]] = (
    _gauge(
        "routes",
        "Routes of the kernel by verdict and rule: best routes that are kept, and those dropped at the last resync.",
        lambda it: {
            **{("keep", rule): count for rule, count in it.table.by_rule.items()},
            **{("drop", rule): count for rule, count in it.source.stats.table.items()},
        },
        "verdict",
        "rule",
    ),
    _gauge(
        "kernel_synced",
        "1 after the first resync; it stays 1 while the kernel is unreadable.",
        lambda it: it.source.synced.is_set(),
    ),
    _gauge(
        "kernel_unreadable",
        "1 while the kernel's routes cannot be read and the last known ones are kept.",
        lambda it: bool(it.troubles),
    ),
    _gauge(
        "kernel_table_routes",
        "Routes that the last resync found, dropped ones too.",
        lambda it: it.source.stats.table_routes,
    ),
    _gauge(
        "kernel_prefixes",
        "Prefixes of which the rules keep a route.",
        lambda it: it.source.stats.kept,
    ),
    _counter(
        "kernel_events",
        "Route messages of the kernel in the tables that are read.",
        lambda it: it.source.stats.events,
    ),
    _counter(
        "kernel_dropped_events",
        "Route messages that a rule dropped.",
        lambda it: it.source.stats.dropped,
        "rule",
    ),
    _gauge(
        "kernel_lag_seconds",
        "Age of the oldest change that is not evaluated yet.",
        lambda it: it.source.lag_s,
    ),
    _gauge(
        "kernel_receive_buffer_bytes",
        "Receive buffer of the netlink socket as the kernel accounts it.",
        lambda it: it.source.stats.receive_buffer,
    ),
    _counter("kernel_overruns", "Overflows of that buffer.", lambda it: it.source.stats.overruns),
    _counter(
        "kernel_lost_messages",
        "Messages that the kernel reports as lost by that.",
        lambda it: it.source.stats.lost,
    ),
    _counter(
        "kernel_bad_messages",
        "Messages that could not be decoded.",
        lambda it: it.source.stats.bad_messages,
    ),
    _counter(
        "kernel_resyncs",
        "Resyncs (dumps of all tables) by cause; one resync can have several.",
        lambda it: it.source.stats.resyncs,
        "cause",
    ),
    Family(
        "summary",
        "kernel_resync_seconds",
        "Time that resyncs took.",
        lambda it: Durations(it.source.stats.dumps, it.source.stats.dumps_s),
        (),
    ),
    _counter(
        "kernel_void_resyncs",
        "Resyncs that were repeated because messages were lost or a dump was interrupted.",
        lambda it: it.source.stats.void_dumps,
    ),
    _counter(
        "kernel_drift_prefixes",
        "Prefixes that a periodic resync had to correct; should stay 0.",
        lambda it: it.source.stats.drift,
    ),
)

TARGET: Final[tuple[Family[TargetView], ...]] = (
    Family(
        "info",
        "target",
        "The target; always 1.",
        lambda view: {(view.url, view.version or ""): 1},
        ("url", "version"),
    ),
    Family(
        "stateset",
        "target_state",
        "The state of the target.",
        lambda view: {state.value: view.state is state for state in TargetState},
        ("routesync_target_state",),
    ),
    _gauge("target_up", "1 while it answers and is mirrored into.", lambda view: view.state.healthy),
    _gauge("target_paused", "1 while an operator has paused it.", lambda view: view.paused),
    _counter("target_connections", "Connections that were made to it.", lambda view: view.connections),
    _gauge("target_desired_routes", "Routes that it should have.", lambda view: view.desired),
    _gauge(
        "target_routes",
        "Prefixes by phase; they add up to all that is known of the target.",
        lambda view: {phase.value: view.phases[phase] for phase in Phase},
        "phase",
    ),
    _gauge(
        "target_pending_routes",
        "Routes that wait for a request, by urgency; verify: to be verified, not changed.",
        lambda view: {urgency.name.lower(): count for urgency, count in view.by_urgency.items()},
        "urgency",
    ),
    _gauge(
        "target_oldest_pending_seconds",
        "How long the oldest of those that may be sent has waited.",
        lambda view: view.oldest_s,
    ),
    _gauge(
        "target_waiting_routes",
        "Work that waits: requests, verifications, checks; 0: the target is synced.",
        lambda view: view.waiting,
    ),
    _gauge(
        "target_complete",
        "1 while every desired route is there, and no other owned route.",
        lambda view: view.complete,
    ),
    _gauge(
        "target_alarm",
        "1 while the alarm is raised.",
        lambda view: {kind: kind in view.alarms for kind in get_args(AlarmKind)},
        "kind",
    ),
    _gauge(
        "target_holes",
        "More specific routes that it does not get, inside prefixes that it gets.",
        lambda view: view.holes[1],
    ),
    _gauge(
        "target_held_withdrawals",
        "Withdrawals that the mass-withdrawal limit holds back.",
        lambda view: view.held,
    ),
    _gauge(
        "target_held_at_start",
        "Withdrawals of routes that the kernel does not have yet, held back after the start.",
        lambda view: view.held_at_start,
    ),
    _gauge("target_requests_in_flight", "Requests without an answer yet.", lambda view: view.in_flight),
    _gauge(
        "target_occupied_routes",
        "Owned routes that exist there, or may exist.",
        lambda view: {family.label: count for family, count in view.occupied.items()},
        "family",
    ),
    _gauge(
        "target_max_routes",
        "Owned routes that it may have at most.",
        lambda view: {family.label: count for family, count in view.capacity.items()},
        "family",
    ),
    Family(
        "histogram",
        "target_convergence_seconds",
        "Time from reading a change from the kernel until the target accepted it, showed it, or withdrew the route.",
        lambda view: view.measures.convergence,
        ("stage",),
    ),
    _counter(
        "target_route_events",
        "What happened to routes there, as in the events of the same names.",
        lambda view: {fate: view.measures.fates[fate] for fate in get_args(Fate)},
        "event",
    ),
    _counter(
        "target_changes",
        "Requests that changed something there.",
        lambda view: {"post": view.counters.posted, "delete": view.counters.deleted},
        "change",
    ),
    _counter(
        "target_inventories", "Inventories: dumps of its table.", lambda view: view.counters.inventories
    ),
    _counter(
        "target_probes",
        "Single owned routes posted again to prove that they exist.",
        lambda view: view.counters.probes,
    ),
    _counter(
        "target_verifications",
        "Verifications: all owned routes posted again.",
        lambda view: view.counters.verifications,
    ),
    _counter("target_lost_routes", "Owned routes that it lost by itself.", lambda view: view.counters.lost),
    _counter("target_repaired_routes", "Of these, added again.", lambda view: view.counters.repaired),
    _counter(
        "target_conflicts",
        "Another writer's route found in place of an owned one.",
        lambda view: view.counters.conflicts,
    ),
    _counter(
        "target_stale_entries",
        "Routes removed that its table still showed although its kernel had lost them.",
        lambda view: view.counters.stale_removed,
    ),
    _counter(
        "target_token_wait_seconds",
        "How long work has waited for the rate limit.",
        lambda view: view.token_wait_s,
    ),
    _counter(
        "target_requests",
        "Requests to its API by outcome; `exists` (409) and `absent` (404) are answers, not failures.",
        lambda view: view.requests,
        "method",
        "outcome",
    ),
    Family(
        "histogram",
        "target_request_seconds",
        "How long requests to its API took.",
        lambda view: view.durations,
        ("method",),
    ),
)

EVENTS_EMITTED: Final[tuple[Family[EventHub], ...]] = (
    _counter(
        "events",
        "Events by type.",
        lambda hub: {(event.group, event.name): hub.emitted[event] for event in EVENTS},
        "group",
        "name",
    ),
)

BROKER: Final[tuple[Family[MqttPublisher], ...]] = (
    _gauge(
        "mqtt_connected",
        "1 while the broker is connected.",
        lambda publisher: publisher.state == "connected",
    ),
    _counter(
        "mqtt_connections",
        "Connections that were made to it.",
        lambda publisher: publisher.measures.connections,
    ),
    _counter(
        "mqtt_connection_failures",
        "Connections that broke, or could not be made.",
        lambda publisher: publisher.measures.failures,
    ),
    _gauge(
        "mqtt_denied_topics",
        "Topics that the broker's access rules deny to routesync.",
        lambda publisher: publisher.denied,
    ),
    _counter(
        "mqtt_published_events",
        "Events that the broker accepted.",
        lambda publisher: publisher.measures.published,
    ),
    _counter(
        "mqtt_lost_events",
        "Events that no subscriber will see, by reason.",
        lambda publisher: {
            reason: publisher.outbox.lost[reason] for reason in get_args(LostReason) if reason != "killed"
        },
        "reason",
    ),
    _gauge(
        "mqtt_outbox_events",
        "Events that wait for the broker.",
        lambda publisher: publisher.outbox.backlog,
    ),
    _gauge(
        "mqtt_outbox_bytes",
        "Their size in the outbox.",
        lambda publisher: publisher.outbox.size,
    ),
    _gauge(
        "mqtt_outbox_max_events",
        "How many may wait.",
        lambda publisher: publisher.outbox.bounds.events,
    ),
    _gauge(
        "mqtt_outbox_max_bytes",
        "How large they may be in total.",
        lambda publisher: publisher.outbox.bounds.size,
    ),
    _gauge(
        "mqtt_outbox_failing",
        "1 while the outbox cannot be written and events are only in memory.",
        lambda publisher: publisher.outbox.trouble is not None,
    ),
)

GUARD: Final[tuple[Family[GuardStatus], ...]] = (
    _gauge(
        "guard_dry_run",
        "1 while it only reports what it would remove.",
        lambda guard: guard.dry_run,
    ),
    _gauge(
        "guard_permitted",
        "1 while it may change routes.",
        lambda guard: bool(guard.permitted),
    ),
    _gauge(
        "guard_routes",
        "Routes in the kernel that its rules name.",
        lambda guard: guard.present,
    ),
    _gauge(
        "guard_redundant_routes",
        "Of these, those that nothing needs.",
        lambda guard: guard.redundant,
    ),
    _gauge(
        "guard_contended_routes",
        "Of these, those that another program adds again at once.",
        lambda guard: guard.contended,
    ),
    _counter(
        "guard_removed_routes",
        "Routes that it removed from the kernel.",
        lambda guard: guard.removed,
    ),
    _counter(
        "guard_returned_routes",
        "Routes that came back.",
        lambda guard: guard.returned,
    ),
    _counter(
        "guard_failures",
        "Routes that it should have removed and could not.",
        lambda guard: guard.failed,
    ),
)

LABELS_OF_TARGET: Final = ("target",)


class Metrics(Collector):
    """All metrics of one daemon."""

    def __init__(
        self, status: StatusBuilder, best_routes: BestRoutes, hub: EventHub, sinks: EventSinks
    ) -> None:
        self._status = status
        self._best_routes = best_routes
        self._hub = hub
        self._sinks = sinks
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as an HTTP `Accept` header asks for them (OpenMetrics, or Prometheus's text): body and type.

        A header that makes no sense gets Prometheus's text: choose_encoder() repeats versions in the content type, and
        raises TypeError over some that are no numbers.
        """
        try:
            encode, content_type = choose_encoder(accept if accept.isascii() else "")
        except TypeError:
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: at the time of registration there may be nothing to read yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        yield from _collect(DAEMON, [({}, self._status)])
        yield from _collect(KERNEL, [({}, self._best_routes)])
        yield from _collect(TARGET, [({"target": view.name}, view) for view in self._status.views()])
        yield from _collect(EVENTS_EMITTED, [({}, self._hub)])
        if (publisher := self._sinks.publisher) is not None:
            yield from _collect(BROKER, [({}, publisher)])
        if (guard := self._status.guard()) is not None:
            yield from _collect(GUARD, [({}, guard)])


def _collect(
    families: Iterable[Family[Part]], parts: Sequence[tuple[Mapping[str, str], Part]]
) -> Iterator[Metric]:
    for family in families:
        metric = Metric(family.full_name, family.meaning, family.kind)
        for labels, part in parts:
            values = family.read(part)
            if not isinstance(values, Mapping):
                _add(metric, family, dict(labels), values)
                continue
            for key, value in values.items():
                label_values = (key,) if isinstance(key, str) else key
                _add(metric, family, {**labels, **dict(zip(family.labels, label_values, strict=True))}, value)
        yield metric


def _add(metric: Metric, family: Family[Part], labels: dict[str, str], value: Value) -> None:
    name = family.full_name + family.suffix
    if isinstance(value, Histogram):
        bounds = [*map(floatToGoString, value.bounds), "+Inf"]
        for bound, count in zip(bounds, accumulate(value.counts), strict=True):
            metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
    if isinstance(value, Histogram | Durations):
        metric.add_sample(f"{name}_count", labels, value.count)
        metric.add_sample(f"{name}_sum", labels, value.sum_s)
    else:
        metric.add_sample(name, labels, float(value))
