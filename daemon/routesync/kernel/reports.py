"""What the kernel side reports: values that the service turns into events, log lines and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from routesync.kernel.netlink import Sysctls
from routesync.kernel.replica import Key
from routesync.kernel.update import Identity, identity
from routesync.route import Attributes, Evaluated, Prefix, Route, Verdict

_REPORTED_DROPS: Final = 1 << 16
"""So many reported drops are remembered; drops beyond are counted, not reported."""


class ResyncDone(NamedTuple):
    """A dump of the tables was compared with what was held."""

    causes: tuple[str, ...]
    duration_s: float
    routes: int  # routes of the tables, dropped ones too
    kept: int  # prefixes held now
    corrected: int  # prefixes that had to be changed


@dataclass(frozen=True, slots=True)
class Drift:
    """A periodic resync, one without a cause, found that what was held was wrong: this should never come."""

    prefixes: tuple[Prefix, ...]  # the first hundred
    count: int


class Overrun(NamedTuple):
    """The kernel could not queue events for us; a resync follows."""

    lost: int  # messages since the last report, as far as the kernel counts them
    receive_buffer: int


class Dropped(NamedTuple):
    """A route was dropped by a rule that wants its drops followed; reported once for each change."""

    route: Route
    verdict: Verdict


class DropEnded(NamedTuple):
    """A reported drop is over: the route is gone, or kept, or another has its key."""

    prefix: Prefix


class BadMessage(NamedTuple):
    """A message that could not be decoded; each sort is reported once, all are counted."""

    error: str


KernelReport = ResyncDone | Drift | Overrun | Dropped | DropEnded | BadMessage
Report = Callable[[KernelReport], None]


@dataclass(slots=True)
class KernelStats:
    """Counters since start, and present figures."""

    events: int = 0  # route events of the tables followed
    dropped: Counter[str] = field(default_factory=Counter)  # events that ended in a drop, by rule
    table: Mapping[str, int] = field(default_factory=dict)  # routes that the last dump dropped, by rule
    table_routes: int = 0  # routes that the last dump saw
    kept: int = 0  # prefixes with candidates
    resyncs: Counter[str] = field(default_factory=Counter)  # by cause
    void_dumps: int = 0  # dumps that had to be repeated: loss or interruption while they ran
    overruns: int = 0  # ENOBUFS
    lost: int = 0  # messages lost by overruns
    bad_messages: int = 0
    drift: int = 0  # prefixes that periodic resyncs had to correct
    receive_buffer: int = 0  # bytes that the kernel accounts for (socket(7): twice what one can ask for)
    lag_s: float = 0  # age of the oldest change when the consumer last took changes
    dump_s: float = 0  # duration of the last dump
    dumps: int = 0  # dumps that counted, whatever and however many their causes
    dumps_s: float = 0  # time that they took together
    sysctls: Sysctls = field(default_factory=Sysctls)


class DropReports:
    """Which drops were reported, so that each is reported once, and so is its end."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._reported: dict[Prefix, dict[Key, tuple[Identity, Verdict]]] = {}
        self._count = 0
        self.has_reported = self._reported.__contains__
        """Whether a drop of this prefix was reported, and did not end."""

    def __iter__(self) -> Iterator[tuple[Prefix, Verdict]]:
        for prefix, known in self._reported.items():
            for _, verdict in known.values():
                yield prefix, verdict

    def dropped(self, key: Key, attributes: Attributes, verdict: Verdict, *, announced: bool) -> None:
        """Report a drop if its rule wants that: when an event announced the route, or else if it is not known yet."""
        if not verdict.followed:
            return
        known = self._reported.get(key[0], {})
        drop = (identity(attributes), verdict)
        if known.get(key) == drop and not announced:
            return
        if key not in known:
            if self._count >= _REPORTED_DROPS:
                return
            self._count += 1
        self._reported.setdefault(key[0], known)[key] = drop
        self._report(Dropped(attributes.at(key[0]), verdict))

    def ended(self, key: Key) -> None:
        """What was dropped is gone or kept; report it if the drop was reported."""
        known = self._reported.get(key[0])
        if known is not None and known.pop(key, None) is not None:
            self._count -= 1
            if not known:
                del self._reported[key[0]]
            self._report(DropEnded(key[0]))

    def settle(self, dropped: Mapping[Key, Evaluated]) -> None:
        """Compare with the drops that a dump showed."""
        for key, (attributes, verdict) in dropped.items():
            self.dropped(key, attributes, verdict, announced=False)
        gone = [key for known in self._reported.values() for key in known if key not in dropped]
        for key in gone:
            self.ended(key)
