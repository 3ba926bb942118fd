"""How the daemon fares: one value for MQTT, one line for systemd, a few figures for the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from routesync import __version__
from routesync.events.hub import EventHub
from routesync.events.status import KernelStatus, Status, TargetStatus
from routesync.kernel import KernelSource
from routesync.mirror.book import Phase
from routesync.mirror.status import TargetView
from routesync.settings import Settings
from routesync.table import Table

OVERDUE_S: Final = 300.0
"""Work that has waited longer than this, neither for a time of its own nor for an answer, is worth an alarm."""


class StatusBuilder:
    """Puts the status together from all rooms, when asked.

    Attributes:
        table: the table that the pump keeps.
        standing_reasons: why the daemon is degraded until it is restarted, one line each.
        storage_trouble: tells in one line why what is written would not outlive a crash; None: it would.
        broker: tells in one line how the broker is reached; None: no broker is configured.
        broker_troubles: why events do not get through, one line each.
    """

    def __init__(
        self,
        settings: Settings,
        source: KernelSource,
        hub: EventHub,
        targets: Callable[[], Sequence[TargetView]],
    ) -> None:
        self.table = Table()
        self.standing_reasons: list[str] = []
        self.storage_trouble: Callable[[], str | None] = lambda: None
        self.broker: Callable[[], str | None] = lambda: None
        self.broker_troubles: Callable[[], Sequence[str]] = tuple
        self._settings = settings
        self._source = source
        self._hub = hub
        self._targets = targets
        self._started = datetime.now(UTC)

    def build(self) -> Status:
        """The whole status, as it is now."""
        reasons = self.reasons()
        stats = self._source.stats
        return Status(
            state="degraded" if reasons else "online",
            node=self._hub.identity.node,
            version=__version__,
            epoch=self._hub.identity.epoch,
            mode=self._settings.mode,
            started=self._started,
            time=datetime.fromtimestamp(time.time(), UTC),
            kernel=KernelStatus(
                state="synced" if self._source.synced.is_set() else "reading",
                routes=stats.kept,
                dropped=sum(stats.table.values()),
                overruns=stats.overruns,
                resyncs=sum(stats.resyncs.values()),
                receive_buffer=stats.receive_buffer,
                lag_ms=round(stats.lag_s * 1e3, 3),
                skip_notify_on_dev_down=stats.sysctls.skip_notify_on_dev_down,
                nexthop_compat_mode=stats.sysctls.nexthop_compat_mode,
            ),
            targets=tuple(_target_status(view) for view in self._targets()),
            verdicts=self.verdicts(),
            broker=self.broker(),
            reasons=tuple(reasons),
        )

    def reasons(self) -> list[str]:
        """Why the daemon is degraded, one line each; none: all is well."""
        found = list(self.standing_reasons)
        if (trouble := self.storage_trouble()) is not None:
            found.append(f"ledger: {trouble}")
        for view in self._targets():
            if not view.state.healthy:
                found.append(f"target {view.name}: {view.error or view.state}")
            if view.braked:
                found.append(f"target {view.name}: a mass withdrawal of {view.braked} routes is held back")
            if view.oldest_s > OVERDUE_S:
                found.append(f"target {view.name}: work has waited for {view.oldest_s:.0f} s")
            found += [
                f"target {view.name}: {count} routes {phase}"
                for phase in (Phase.REFUSED, Phase.CONFLICTING, Phase.OVER_CAPACITY)
                if (count := view.phases[phase])
            ]
        found += [f"broker: {trouble}" for trouble in self.broker_troubles()]
        return found

    def verdicts(self) -> dict[str, int]:
        """How many routes each rule decided on: those it keeps now, and those it dropped at the last reading."""
        counts = Counter(candidate.verdict.rule for _, candidate in self.table)
        return dict(sorted((counts + Counter(self._source.stats.table)).items()))

    def figures(self) -> dict[str, int]:
        """The numbers that one looks at first."""
        views = self._targets()
        return {
            "kept": len(self.table),
            "dropped": sum(self._source.stats.table.values()),
            "wanted": sum(view.wanted for view in views),
            "mirrored": sum(_mirrored(view) for view in views),
        }

    def line(self) -> str:
        """One line for people."""
        figures = self.figures()
        text = f"{figures['kept']} routes kept, {figures['dropped']} dropped"
        for view in self._targets():
            text += f"; {view.name} {view.state}, {_mirrored(view)}/{view.wanted} mirrored"
        reasons = self.reasons()
        return f"degraded: {reasons[0]}; {text}" if reasons else text


def _mirrored(view: TargetView) -> int:
    return sum(view.phases[phase] for phase in (Phase.ACCEPTED, Phase.CONFIRMED, Phase.PRESENT))


def _target_status(view: TargetView) -> TargetStatus:
    return TargetStatus(
        name=view.name,
        url=view.url,
        state=view.state.value,
        wanted=view.wanted,
        accepted=view.phases[Phase.ACCEPTED],
        confirmed=view.phases[Phase.CONFIRMED],
        refused=view.phases[Phase.REFUSED],
        blocked=view.phases[Phase.BLOCKED],
        conflicting=view.phases[Phase.CONFLICTING],
        pending=view.waiting,
        error=view.error,
    )
