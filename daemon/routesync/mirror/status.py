"""How a target stands, as values for status, metrics and output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, Self

from routesync.loxilb.client import LoxilbClient
from routesync.measure import Histogram
from routesync.mirror.book import Phase
from routesync.mirror.measures import Measures
from routesync.mirror.pending import Urgency
from routesync.route import Address, Family


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
    PAUSED = "paused"

    @property
    def healthy(self) -> bool:
        """Whether an operator may sleep."""
        return self in {TargetState.SYNCED, TargetState.SYNCING, TargetState.GUARDED}


Breaker = Literal["closed", "open", "half-open"]
"""Whether requests go out: yes; no, after a failure or while it is held; only those that make contact anew."""


@dataclass(slots=True)
class Counters:
    """What has come to pass at a target since the start."""

    connections: int = 0  # contact made anew
    readings: int = 0  # of its table
    canaries: int = 0
    sweeps: int = 0
    lost: int = 0  # routes of ours that it lost by itself
    repaired: int = 0  # of these, made again
    ghosts: int = 0  # removed from its table
    conflicts: int = 0  # somebody else's route found in the place of ours
    posted: int = 0  # routes made
    deleted: int = 0  # routes taken out


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
    paused: bool  # somebody holds it: it is left as it is
    paused_since: float | None  # wall-clock seconds since 1970
    held_at_start: int  # withdrawals that the start-up hold holds back
    over_capacity: int  # routes that wait for room
    overdue: bool  # work has waited for longer than it should
    unreachable_gateways: tuple[
        Address, ...
    ]  # its kernel does not reach them: what stands there cannot be told
    by_urgency: Mapping[Urgency, int]  # what waits, also what may not go yet
    in_flight: int  # requests under way
    breaker: Breaker
    counters: Counters
    requests: Mapping[tuple[str, str], int]  # by method and outcome, since the start
    durations: Mapping[str, Histogram]  # of requests by method; they count on
    occupied: Mapping[Family, int]  # routes that are, or may be, ours there
    capacity: Mapping[Family, int]  # how many it shall have of us
    measures: Measures  # counts on
    token_wait_s: float  # for how long work has waited for a token, since the start

    @classmethod
    def unmirrored(
        cls,
        name: str,
        client: LoxilbClient,
        *,
        state: TargetState,
        version: str | None,
        error: str | None,
        counters: Counters,
    ) -> Self:
        """A target that nothing is mirrored into."""
        return cls(
            name=name,
            url=client.url,
            state=state,
            version=version,
            error=error,
            wanted=0,
            phases=Counter(),
            waiting=0,
            oldest_s=0,
            braked=0,
            paused=False,
            paused_since=None,
            held_at_start=0,
            over_capacity=0,
            overdue=False,
            unreachable_gateways=(),
            by_urgency={},
            in_flight=0,
            breaker="open" if state is TargetState.UNREACHABLE else "closed",
            counters=counters,
            requests=client.requests.copy(),
            durations=client.durations,
            occupied={},
            capacity={},
            measures=Measures(),
            token_wait_s=0,
        )
