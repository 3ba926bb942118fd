"""What the kernel side tells of itself: values that the service turns into events, log lines and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from routesync.kernel.netlink import Sysctls
from routesync.route import Prefix, Route, Verdict


class ResyncDone(NamedTuple):
    """A full reading of the tables was compared with what was held."""

    causes: tuple[str, ...]
    duration_s: float
    routes: int  # routes of the tables, dropped ones too
    kept: int  # prefixes held now
    corrected: int  # prefixes that had to be changed


@dataclass(frozen=True, slots=True)
class Drift:
    """A reading without a cause (the audit) found that what was held was wrong: this should never come."""

    prefixes: tuple[Prefix, ...]  # the first hundred
    count: int


class Overrun(NamedTuple):
    """The kernel could not queue events for us; a full reading follows."""

    lost: int  # messages since the last report, as far as the kernel counts them
    receive_buffer: int


class Dropped(NamedTuple):
    """A route was dropped by a rule that wants its drops followed; said once for each change."""

    route: Route
    verdict: Verdict


class DropEnded(NamedTuple):
    """A drop that was told holds no longer: the route is gone, or kept, or another stands in its place."""

    prefix: Prefix


class BadMessage(NamedTuple):
    """A message that could not be read; each sort is told once, all are counted."""

    error: str


KernelReport = ResyncDone | Drift | Overrun | Dropped | DropEnded | BadMessage


@dataclass(slots=True)
class KernelStats:
    """Counters since start, and present figures."""

    events: int = 0  # route events of the tables read
    dropped: Counter[str] = field(default_factory=Counter)  # events that ended in a drop, by rule
    table: Mapping[str, int] = field(
        default_factory=dict
    )  # routes that the last full reading dropped, by rule
    table_routes: int = 0  # routes that the last full reading saw
    kept: int = 0  # prefixes with candidates
    resyncs: Counter[str] = field(default_factory=Counter)  # full readings, by cause
    void_readings: int = 0  # readings that had to be done again: loss or interruption while they ran
    overruns: int = 0  # ENOBUFS
    lost: int = 0  # messages lost by overruns
    bad_messages: int = 0
    drift: int = 0  # prefixes that the audit had to correct
    receive_buffer: int = 0  # bytes that the kernel accounts for (socket(7): twice what one can ask for)
    lag_s: float = 0  # age of the oldest change when the consumer last took changes
    dump_s: float = 0  # duration of the last full reading
    readings: int = 0  # full readings that counted, whatever and however many their causes
    readings_s: float = 0  # time that they took together
    sysctls: Sysctls = field(default_factory=Sysctls)
