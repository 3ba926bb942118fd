"""How a target fares, as values for status, metrics and output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from routesync.events.models import AlarmKind
from routesync.loxilb.client import LoxilbClient
from routesync.measure import Histogram
from routesync.mirror.queue import Urgency
from routesync.mirror.reporting import Alarm, Measures
from routesync.mirror.state import Counters, Phase
from routesync.route import Address, Family, Prefix


class TargetState(StrEnum):
    """What the reconciler of a target is doing."""

    CONNECTING = "connecting"
    STARTING = "starting"
    SHARED_NAMESPACE = "shared-namespace"
    SYNCING = "syncing"
    SYNCED = "synced"
    UNREACHABLE = "unreachable"
    GUARDED = "guarded"  # mode guard: it shares our namespace, and its table is read after each removal
    ELSEWHERE = "elsewhere"  # mode guard: it does not, so there is nothing to do for it
    PAUSED = "paused"

    @property
    def healthy(self) -> bool:
        """Whether the target is served as it should be."""
        return self in {TargetState.SYNCED, TargetState.SYNCING, TargetState.GUARDED}


@dataclass(frozen=True, slots=True)
class TargetView:
    """One target at one moment.

    Attributes:
        instance: names the loxilb, whatever its name and URL here; None: not known yet.
        desired: routes that the target should have, those without room too.
        phases: prefixes by phase; they add up to all that is known.
        waiting: what waits for us: requests, proofs, judgements, checks.
        oldest_s: age of the oldest work that could be sent but for the rate limit or trouble.
        rate: changes a second that may be sent.
        remaining_s: how long the waiting work takes at that rate; None: nothing waits, or nothing is sent.
        complete: whether everything desired is there, and nothing else of ours.
        proved_s: age of the last proof that something of this is true at the target; None: there was none yet.
        held: withdrawals that the mass-withdrawal limit holds back.
        held_at_start: withdrawals that the start-up hold holds back.
        paused_since: wall-clock seconds since 1970; None: it is not paused.
        unreachable_gateways: the target's kernel does not reach them, so whether their routes exist is not known.
        reasons: ineligible routes by reason.
        holes: more specific routes that the target does not get, inside prefixes that it gets; and their number.
        by_urgency: what waits, also what may not be sent yet.
        in_flight: requests on their way.
        requests: since the start, by method and outcome.
        occupied: routes that are, or may be, ours there.
        token_wait_s: for how long work has waited for a token, since the start.
    """

    name: str
    url: str
    state: TargetState
    version: str | None = None
    error: str | None = None
    instance: str | None = None
    desired: int = 0
    phases: Counter[Phase] = field(default_factory=Counter)
    waiting: int = 0
    oldest_s: float = 0
    rate: float = 0
    remaining_s: float | None = None
    complete: bool = False
    proved_s: float | None = None
    held: int = 0
    held_at_start: int = 0
    paused_since: float | None = None
    unreachable_gateways: tuple[Address, ...] = ()
    alarms: Mapping[AlarmKind, Alarm] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    holes: tuple[tuple[Prefix, ...], int] = ((), 0)
    by_urgency: Mapping[Urgency, int] = field(default_factory=dict)
    in_flight: int = 0
    connections: int = 0
    counters: Counters = field(default_factory=Counters)
    requests: Mapping[tuple[str, str], int] = field(default_factory=dict)
    durations: Mapping[str, Histogram] = field(default_factory=dict)
    occupied: Mapping[Family, int] = field(default_factory=dict)
    capacity: Mapping[Family, int] = field(default_factory=dict)
    measures: Measures = field(default_factory=Measures)
    token_wait_s: float = 0

    @property
    def paused(self) -> bool:
        """Whether an operator paused it: it is left as it is."""
        return self.paused_since is not None


def unmirrored(
    name: str,
    client: LoxilbClient,
    state: TargetState,
    *,
    version: str | None,
    error: str | None,
    connections: int,
) -> TargetView:
    """A target that nothing is mirrored into."""
    return TargetView(
        name,
        client.url,
        state,
        version,
        error=error,
        connections=connections,
        requests=client.requests.copy(),
        durations=client.durations,
    )
