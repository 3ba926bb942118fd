"""How a target stands, as values for status, metrics and output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from routesync.loxilb.client import Requests
from routesync.mirror.book import Phase
from routesync.mirror.measures import Measures
from routesync.mirror.pending import Urgency
from routesync.route import Family


class TargetState(StrEnum):
    """What the reconciler of a target is doing."""

    CONNECTING = "connecting"
    STARTING = "starting"
    SHARED_NAMESPACE = "shared-namespace"
    SYNCING = "syncing"
    SYNCED = "synced"
    UNREACHABLE = "unreachable"

    @property
    def healthy(self) -> bool:
        """Whether an operator may sleep."""
        return self in {TargetState.SYNCED, TargetState.SYNCING}


class TargetView(NamedTuple):
    """One target at one moment."""

    name: str
    url: str
    state: TargetState
    version: str | None
    error: str | None
    wanted: int
    phases: Counter[Phase]
    waiting: int
    oldest_s: float  # age of the oldest work that could go but for pace or trouble
    braked: int  # withdrawals that the brake holds back
    urgencies: Mapping[Urgency, int]  # what waits, also for a time of its own
    occupied: Mapping[Family, int]  # routes that are, or may be, ours there
    capacity: Mapping[Family, int]  # how many it shall have of us
    requests: Requests  # counts on
    measures: Measures  # counts on
