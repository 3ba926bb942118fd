"""The status of the daemon: one value for MQTT and the control API, one line for systemd, a few numbers for the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from routesync import __version__
from routesync.best_routes import BestRoutes
from routesync.characters import many
from routesync.config.models import Settings
from routesync.events.hub import EventHub
from routesync.events.models import AlarmKind
from routesync.events.node_status import AlarmStatus, GuardStatus, KernelStatus, State, Status, TargetStatus
from routesync.mirror.reporting import Alarm
from routesync.mirror.state import MIRRORED, Phase
from routesync.mirror.status import TargetView
from routesync.mirror.targets import Targets
from routesync.route import format_address
from routesync.service.event_sinks import EventSinks
from routesync.service.guarding import Guarding


class StatusBuilder:
    """Builds the status from all parts of the daemon.

    Args:
        hub: identifies the stream of events.
        best_routes: follows the kernel.
        targets: that are mirrored into.
        guarding: the guard, in its mode.
        sinks: has the broker.
        problems: returns why the daemon is degraded beside its targets and its broker, one line each.
        settings: the active ones; a reload sets them.
    """

    def __init__(
        self,
        hub: EventHub,
        best_routes: BestRoutes,
        targets: Targets,
        guarding: Guarding,
        sinks: EventSinks,
        *,
        problems: Callable[[], Sequence[str]],
        settings: Settings,
    ) -> None:
        self.settings = settings
        self.started = datetime.now(UTC)
        self._since: tuple[State | None, datetime] = None, self.started
        self._hub = hub
        self._best_routes = best_routes
        self._targets = targets
        self._guarding = guarding
        self._sinks = sinks
        self._problems = problems

    def views(self) -> list[TargetView]:
        """Each target."""
        return self._targets.views() + self._guarding.views()

    def guard(self) -> GuardStatus | None:
        """The guard; None in other modes."""
        return self._guarding.status()

    def build(self) -> Status:
        """The whole status, as it is now."""
        reasons = self.reasons()
        views = self.views()
        publisher = self._sinks.publisher
        source = self._best_routes.source
        stats = source.stats
        guard = self._guarding.guard
        alarms: list[tuple[str | None, AlarmKind, Alarm]] = [
            (view.name, kind, alarm) for view in views for kind, alarm in view.alarms.items()
        ]
        if guard is not None and guard.alarm is not None:
            alarms.append((None, "contended", guard.alarm))
        state: State = "degraded" if reasons else "online"
        if state != self._since[0]:
            self._since = state, datetime.fromtimestamp(time.time(), UTC)
        return Status(
            state=state,
            since=self._since[1],
            labels=self.settings.node.labels,
            node=self._hub.identity.node,
            version=__version__,
            epoch=self._hub.identity.epoch,
            mode=self.settings.mode,
            started=self.started,
            time=datetime.fromtimestamp(time.time(), UTC),
            kernel=KernelStatus(
                state=self._best_routes.state,
                routes=stats.kept,
                dropped=sum(stats.table.values()),
                overruns=stats.overruns,
                resyncs=sum(stats.resyncs.values()),
                receive_buffer=stats.receive_buffer,
                lag_ms=round(stats.lag_s * 1e3, 3),
                skip_notify_on_dev_down=stats.sysctls.skip_notify_on_dev_down,
                nexthop_compat_mode=stats.sysctls.nexthop_compat_mode,
            ),
            targets=tuple(_target_status(view) for view in views),
            alarms=(
                *(
                    AlarmStatus(
                        kind=kind,
                        target=target,
                        detail=alarm.detail,
                        count=alarm.routes,
                        prefixes=alarm.prefixes,
                    )
                    for target, kind, alarm in alarms
                ),
                *([duplicate] if (duplicate := self._sinks.namesakes.alarm) is not None else ()),
            ),
            verdicts=self.verdicts(),
            guard=self.guard(),
            broker=publisher.state if publisher is not None else None,
            held=publisher.held if publisher is not None else (),
            reasons=tuple(reasons),
        )

    def reasons(self) -> list[str]:
        """Why the daemon is degraded, one line each; none: it is not."""
        found = list(self._problems())
        for view in self.views():
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
                f"target {view.name}: {many(count, 'route')} {phase}"
                for phase in (Phase.REFUSED, Phase.CONFLICTING, Phase.CONTENDED)
                if (count := view.phases[phase])
            ]
        if (publisher := self._sinks.publisher) is not None:
            found += [f"broker: {trouble}" for trouble in publisher.troubles]
        return found

    def verdicts(self) -> dict[str, int]:
        """How many routes each rule decided: best routes that it keeps now, and those that the last resync dropped."""
        kept, dropped = self._best_routes.table.by_rule, Counter(self._best_routes.source.stats.table)
        return dict(sorted((kept + dropped).items()))

    def figures(self) -> dict[str, int]:
        """The most important numbers."""
        views = self.views()
        return {
            "kept": len(self._best_routes.table),
            "dropped": sum(self._best_routes.source.stats.table.values()),
            "desired": sum(view.desired for view in views),
            "mirrored": sum(_mirrored(view) for view in views),
        }

    def line(self) -> str:
        """One line for people."""
        figures = self.figures()
        text = f"{many(figures['kept'], 'route')} kept, {figures['dropped']:,} dropped"
        for view in self.views():
            text += f"; {view.name} {view.state}, {_mirrored(view)}/{view.desired} mirrored"
            if view.waiting:
                text += f", {view.waiting} waiting"
        if (guard := self.guard()) is not None:
            word = "would be removed" if guard.dry_run else "to be removed"
            text += f"; guard: {guard.redundant} {word}, {guard.removed} removed"
        reasons = self.reasons()
        return f"degraded: {reasons[0]}; {text}" if reasons else text


def _mirrored(view: TargetView) -> int:
    return sum(view.phases[phase] for phase in MIRRORED)


def _target_status(view: TargetView) -> TargetStatus:
    return TargetStatus(
        name=view.name,
        url=view.url,
        state=view.state.value,
        instance=view.instance,
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
