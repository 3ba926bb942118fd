"""Each target: whether it answers, what stands there, what waits, and how long changes take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, get_args

from prometheus_client.metrics_core import InfoMetricFamily, Metric, StateSetMetricFamily

from routesync.events.models import AlarmKind
from routesync.mirror.reporting import Fate
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState, TargetView
from routesync.service.metrics.families import PREFIX, counters, gauges, histograms

_ONE: Final = ("target",)
_COUNTERS: Final = (
    ("target_inventories", "Inventories: its table was read.", "inventories"),
    ("target_probes", "Single routes posted again as a proof.", "probes"),
    ("target_verifications", "Times at which all routes were posted again as a proof.", "verifications"),
    ("target_lost_routes", "Routes of ours that it lost by itself.", "lost"),
    ("target_repaired_routes", "Of these, added again.", "repaired"),
    ("target_conflicts", "Another writer's route found in the place of ours.", "conflicts"),
    (
        "target_stale_entries",
        "Routes removed that its table went on showing although its kernel had lost them.",
        "stale_removed",
    ),
)


def metrics(views: Sequence[TargetView]) -> Iterator[Metric]:
    """Everything of the targets."""
    yield from _contact(views)
    yield from _routes(views)
    yield from _doings(views)


def _contact(views: Sequence[TargetView]) -> Iterator[Metric]:
    info = InfoMetricFamily(f"{PREFIX}_target", "The target; always 1.", labels=_ONE)
    states = StateSetMetricFamily(
        f"{PREFIX}_target_state", "What is being done about the target.", labels=_ONE
    )
    for view in views:
        info.add_metric((view.name,), {"url": view.url, "version": view.version or ""})
        states.add_metric((view.name,), {state.value: view.state is state for state in TargetState})
    yield info
    yield states
    yield gauges(
        "target_up",
        "1 while it answers and is mirrored into.",
        _ONE,
        (((view.name,), view.state.healthy) for view in views),
    )
    yield gauges(
        "target_paused",
        "1 while somebody holds it, and it is left as it is.",
        _ONE,
        (((view.name,), view.paused) for view in views),
    )
    yield counters(
        "target_connections",
        "Times at which contact was made anew.",
        _ONE,
        (((view.name,), view.connections) for view in views),
    )


def _routes(views: Sequence[TargetView]) -> Iterator[Metric]:
    yield gauges(
        "target_desired_routes",
        "Routes that it should have.",
        _ONE,
        (((view.name,), view.desired) for view in views),
    )
    yield gauges(
        "target_routes",
        "Prefixes by phase; they add up to all that is known of the target.",
        ("target", "phase"),
        (((view.name, phase.value), view.phases[phase]) for view in views for phase in Phase),
    )
    yield gauges(
        "target_pending_routes",
        "Routes that wait for a request, by urgency; verify: to be proved, not changed.",
        ("target", "urgency"),
        (
            ((view.name, urgency.name.lower()), count)
            for view in views
            for urgency, count in view.by_urgency.items()
        ),
    )
    yield gauges(
        "target_oldest_pending_seconds",
        "How long the oldest of those that may go has waited.",
        _ONE,
        (((view.name,), view.oldest_s) for view in views),
    )
    yield gauges(
        "target_waiting_routes",
        "What waits: requests, proofs, judgements, checks; 0: the target is synced.",
        _ONE,
        (((view.name,), view.waiting) for view in views),
    )
    yield gauges(
        "target_complete",
        "1 while everything desired is there, and nothing else of ours.",
        _ONE,
        (((view.name,), view.complete) for view in views),
    )
    yield gauges(
        "target_alarm",
        "1 while the alarm is raised.",
        ("target", "kind"),
        (((view.name, kind), kind in view.alarms) for view in views for kind in get_args(AlarmKind)),
    )
    yield gauges(
        "target_holes",
        "More specific routes that it does not get, inside prefixes that it gets.",
        _ONE,
        (((view.name,), view.holes[1]) for view in views),
    )
    yield gauges(
        "target_held_withdrawals",
        "Withdrawals that the mass-withdrawal limit holds back.",
        _ONE,
        (((view.name,), view.held) for view in views),
    )
    yield gauges(
        "target_held_at_start",
        "Withdrawals of routes that the kernel does not have yet, held back after the start.",
        _ONE,
        (((view.name,), view.held_at_start) for view in views),
    )
    yield gauges(
        "target_requests_in_flight",
        "Requests under way.",
        _ONE,
        (((view.name,), view.in_flight) for view in views),
    )
    yield gauges(
        "target_occupied_routes",
        "Routes of ours that stand there, or may.",
        ("target", "family"),
        (((view.name, family.label), count) for view in views for family, count in view.occupied.items()),
    )
    yield gauges(
        "target_max_routes",
        "How many routes of ours it shall have at most.",
        ("target", "family"),
        (((view.name, family.label), count) for view in views for family, count in view.capacity.items()),
    )


def _doings(views: Sequence[TargetView]) -> Iterator[Metric]:
    yield histograms(
        "target_convergence_seconds",
        "Time from reading a change off the kernel until the target accepted it, showed it, or had let go of it.",
        ("target", "stage"),
        (
            ((view.name, stage), histogram)
            for view in views
            for stage, histogram in view.measures.convergence.items()
        ),
    )
    yield counters(
        "target_route_events",
        "What was said of routes there, as in the events of the same names.",
        ("target", "event"),
        (((view.name, fate), view.measures.fates[fate]) for view in views for fate in get_args(Fate)),
    )
    yield counters(
        "target_changes",
        "Requests that changed something there.",
        ("target", "change"),
        (
            ((view.name, change), count)
            for view in views
            for change, count in (("post", view.counters.posted), ("delete", view.counters.deleted))
        ),
    )
    for name, text, field in _COUNTERS:
        yield counters(name, text, _ONE, (((view.name,), getattr(view.counters, field)) for view in views))
    yield counters(
        "target_token_wait_seconds",
        "For how long work has waited for its turn in the pace that loxilb can take.",
        _ONE,
        (((view.name,), view.token_wait_s) for view in views),
    )
    yield counters(
        "target_requests",
        "Requests to its API by outcome; `exists` (409) and `absent` (404) are answers, not failures.",
        ("target", "method", "outcome"),
        (
            ((view.name, method, outcome), count)
            for view in views
            for (method, outcome), count in view.requests.items()
        ),
    )
    yield histograms(
        "target_request_seconds",
        "How long requests to its API took.",
        ("target", "method"),
        (((view.name, method), histogram) for view in views for method, histogram in view.durations.items()),
    )
