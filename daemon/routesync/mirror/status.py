"""How a target stands, as values for status, metrics and output."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from routesync.mirror.book import Phase


class TargetState(StrEnum):
    """What the reconciler of a target is doing."""

    CONNECTING = "connecting"
    STARTING = "starting"
    SHARED_NAMESPACE = "shared-namespace"
    SYNCING = "syncing"
    SYNCED = "synced"
    UNREACHABLE = "unreachable"
    GUARDED = "guarded"  # mode guard: it shares our namespace, and is read after each removal
    ELSEWHERE = "elsewhere"  # mode guard: it does not, so there is nothing to do for it

    @property
    def healthy(self) -> bool:
        """Whether an operator may sleep."""
        return self in {TargetState.SYNCED, TargetState.SYNCING, TargetState.GUARDED}


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
