"""What happened in the examples of the documentation, where the fields' own examples would not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from routesync.events.models import (
    Event,
    RouteAccepted,
    RouteConflicting,
    RouteDropped,
    RouteIneligible,
    RouteRefused,
    RouteSummary,
    RouteWithdrawn,
    SyncCompleted,
    SyncFailed,
    SyncLost,
    TargetDown,
    TargetRefused,
)

STORY: Final[Mapping[type[Event], Mapping[str, object]]] = {
    RouteAccepted: {"rule": "pod-networks"},
    RouteWithdrawn: {"reason": "no-route"},
    RouteRefused: {"retry_in_s": 1.0},
    RouteIneligible: {
        "prefix": "192.168.10.128/25",
        "reason": "connected-at-target",
        "detail": "the target is connected to 192.168.10.0/24",
        "rule": "default",
    },
    RouteConflicting: {"detail": "another writer has it there: via 192.168.10.7, protocol bird"},
    RouteDropped: {"prefix": "192.168.10.1/32", "protocol": "dhcp", "metric": 100},
    RouteSummary: {"window_s": 1.0},
    SyncCompleted: {"routes": 4, "posted": 4, "deleted": 0, "duration_s": 0.021},
    SyncFailed: {"error": "POST /config/route: connection reset by peer", "retry_in_s": 0.5},
    SyncLost: {"detail": "a repeated POST was accepted: its kernel had lost the route, and has it again"},
    TargetRefused: {"url": "http://127.0.0.1:11111"},
    TargetDown: {"error": "cannot connect: [Errno 111] Connection refused"},
}
"""Event to the fields in which its example differs from the examples of the fields."""
