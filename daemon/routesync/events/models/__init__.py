"""The events: one frozen model each, with its group, its name and its meaning.

They are a promise to subscribers (docs/events.md): a field may be added, none is taken away or changes its
meaning within a revision. A change that breaks this makes a new class with a higher `revision`, beside the
old one.
"""

from __future__ import annotations

from typing import Final

from routesync.events.models.alarms import AlarmCleared, AlarmKind, AlarmRaised
from routesync.events.models.base import TYPE_PREFIX, Event, EventSink, Group
from routesync.events.models.daemons import ConfigLoaded, ConfigRejected, EventsLost
from routesync.events.models.guards import (
    GuardFailed,
    GuardRemoved,
    GuardReturned,
    GuardSkipped,
    GuardStuck,
    GuardVerified,
    GuardWouldRemove,
)
from routesync.events.models.kernels import KernelDrift, KernelOverrun, KernelResynced
from routesync.events.models.routes import (
    RouteAccepted,
    RouteConfirmed,
    RouteConflicting,
    RouteDropped,
    RouteIneligible,
    RouteRefused,
    RouteSummary,
    RouteWithdrawn,
)
from routesync.events.models.syncs import (
    SyncCompleted,
    SyncFailed,
    SyncLost,
    SyncStarted,
)
from routesync.events.models.targets import (
    TargetDown,
    TargetRefused,
    TargetUp,
)

__all__ = [
    "EVENTS",
    "TYPE_PREFIX",
    "AlarmCleared",
    "AlarmKind",
    "AlarmRaised",
    "ConfigLoaded",
    "ConfigRejected",
    "Event",
    "EventSink",
    "EventsLost",
    "Group",
    "GuardFailed",
    "GuardRemoved",
    "GuardReturned",
    "GuardSkipped",
    "GuardStuck",
    "GuardVerified",
    "GuardWouldRemove",
    "KernelDrift",
    "KernelOverrun",
    "KernelResynced",
    "RouteAccepted",
    "RouteConfirmed",
    "RouteConflicting",
    "RouteDropped",
    "RouteIneligible",
    "RouteRefused",
    "RouteSummary",
    "RouteWithdrawn",
    "SyncCompleted",
    "SyncFailed",
    "SyncLost",
    "SyncStarted",
    "TargetDown",
    "TargetRefused",
    "TargetUp",
]

EVENTS: Final[tuple[type[Event], ...]] = (
    RouteAccepted,
    RouteConfirmed,
    RouteWithdrawn,
    RouteRefused,
    RouteIneligible,
    RouteConflicting,
    RouteDropped,
    RouteSummary,
    SyncStarted,
    SyncCompleted,
    SyncFailed,
    SyncLost,
    TargetUp,
    TargetDown,
    TargetRefused,
    AlarmRaised,
    AlarmCleared,
    KernelResynced,
    KernelOverrun,
    KernelDrift,
    GuardWouldRemove,
    GuardRemoved,
    GuardReturned,
    GuardSkipped,
    GuardFailed,
    GuardVerified,
    GuardStuck,
    ConfigLoaded,
    ConfigRejected,
    EventsLost,
)
"""Every event there is, in the order of the documentation."""
