"""How the daemon fares: one value for MQTT, one line for systemd, a few figures for the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from routesync import __version__
from routesync.best_routes import BestRoutes
from routesync.config.models import Settings
from routesync.events.hub import EventHub
from routesync.events.models import AlarmKind
from routesync.events.node_status import AlarmStatus, KernelStatus, Status, TargetStatus
from routesync.guard.guard import Guard
from routesync.mirror.reporting import Alarm
from routesync.mirror.state import MIRRORED, Phase
from routesync.mirror.status import TargetView
from routesync.route import format_address


class StatusBuilder:
    """Puts the status together from all rooms, when asked.

    Attributes:
        settings: the running configuration.
        standing: tell why the daemon is degraded beside what its targets and its broker say, one line each.
        broker: tells in one line how the broker is reached; None: no broker is configured.
        broker_troubles: why events do not get through, one line each.
        guard: returns the guard; None: it is not its mode.
    """

    def __init__(
        self,
        settings: Settings,
        best_routes: BestRoutes,
        hub: EventHub,
        targets: Callable[[], Sequence[TargetView]],
    ) -> None:
        self.standing: list[Callable[[], Sequence[str]]] = []
        self.broker: Callable[[], str | None] = lambda: None
        self.broker_troubles: Callable[[], Sequence[str]] = tuple
        self.guard: Callable[[], Guard | None] = lambda: None
        self.settings = settings
        self._best_routes = best_routes
        self._hub = hub
        self._targets = targets
        self.started = datetime.now(UTC)

    @property
    def mode(self) -> str:
        """What the daemon may do."""
        return self.settings.mode

    def kept(self) -> Counter[str]:
        """How many elected routes each rule keeps."""
        return self._best_routes.table.by_rule

    def build(self) -> Status:
        """The whole status, as it is now."""
        reasons = self.reasons()
        source = self._best_routes.source
        stats = source.stats
        guard = self.guard()
        alarms: list[tuple[str | None, AlarmKind, Alarm]] = [
            (view.name, kind, alarm) for view in self._targets() for kind, alarm in view.alarms.items()
        ]
        if guard is not None and guard.alarm is not None:
            alarms.append((None, "contended", guard.alarm))
        return Status(
            state="degraded" if reasons else "online",
            node=self._hub.identity.node,
            version=__version__,
            epoch=self._hub.identity.epoch,
            mode=self.settings.mode,
            started=self.started,
            time=datetime.fromtimestamp(time.time(), UTC),
            kernel=KernelStatus(
                state="synced" if source.synced.is_set() else "reading",
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
            alarms=tuple(
                AlarmStatus(
                    kind=kind,
                    target=target,
                    detail=alarm.detail,
                    count=alarm.routes,
                    prefixes=alarm.prefixes,
                )
                for target, kind, alarm in alarms
            ),
            verdicts=self.verdicts(),
            guard=guard.status() if guard else None,
            broker=self.broker(),
            reasons=tuple(reasons),
        )

    def reasons(self) -> list[str]:
        """Why the daemon is degraded, one line each; none: all is well."""
        found = [reason for reasons in self.standing for reason in reasons()]
        for view in self._targets():
            if not view.state.healthy:
                found.append(f"target {view.name}: {view.error or view.state}")
            if view.unreachable_gateways:
                names = ", ".join(map(format_address, view.unreachable_gateways[:3]))
                found.append(f"target {view.name}: its kernel does not reach the next hop {names}")
            found += [
                f"target {view.name}: {alarm.detail}"
                for kind, alarm in view.alarms.items()
                if kind != "paused"
            ]
            found += [
                f"target {view.name}: {count} routes {phase}"
                for phase in (Phase.REFUSED, Phase.CONFLICTING, Phase.CONTENDED)
                if (count := view.phases[phase])
            ]
        found += [f"broker: {trouble}" for trouble in self.broker_troubles()]
        return found

    def verdicts(self) -> dict[str, int]:
        """How many routes each rule decided on: those it keeps now, and those it dropped at the last reading."""
        return dict(sorted((self.kept() + Counter(self._best_routes.source.stats.table)).items()))

    def figures(self) -> dict[str, int]:
        """The numbers that one looks at first."""
        views = self._targets()
        return {
            "kept": len(self._best_routes.table),
            "dropped": sum(self._best_routes.source.stats.table.values()),
            "desired": sum(view.desired for view in views),
            "mirrored": sum(_mirrored(view) for view in views),
        }

    def line(self) -> str:
        """One line for people."""
        figures = self.figures()
        text = f"{figures['kept']} routes kept, {figures['dropped']} dropped"
        for view in self._targets():
            text += f"; {view.name} {view.state}, {_mirrored(view)}/{view.desired} mirrored"
            if view.waiting:
                text += f", {view.waiting} waiting"
        if (guard := self.guard()) is not None:
            counts = guard.status()
            word = "would be removed" if counts.dry_run else "to be removed"
            text += f"; guard: {counts.redundant} {word}, {counts.removed} removed"
        reasons = self.reasons()
        return f"degraded: {reasons[0]}; {text}" if reasons else text


def _mirrored(view: TargetView) -> int:
    return sum(view.phases[phase] for phase in MIRRORED)


def _target_status(view: TargetView) -> TargetStatus:
    return TargetStatus(
        name=view.name,
        url=view.url,
        state=view.state.value,
        desired=view.desired,
        phases={phase.value: count for phase, count in sorted(view.phases.items()) if count},
        waiting=view.waiting,
        rate=view.rate,
        remaining_s=None if view.remaining_s is None else round(view.remaining_s, 1),
        complete=view.complete,
        proved_s=None if view.proved_s is None else round(view.proved_s, 1),
        held=view.held + view.held_at_start,
        paused=view.paused,
        reasons=dict(view.reasons),
        holes=view.holes[1],
        error=view.error,
    )
