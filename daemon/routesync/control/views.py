"""The daemon's values as models of the API."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from routesync.control.models import (
    EvaluatedRoute,
    Hop,
    PlanOutcome,
    PlanRow,
    TargetDetail,
    TargetRoute,
)
from routesync.kernel import Links
from routesync.kernel.details import RouteDetails
from routesync.loxilb.wire import InventoryRow
from routesync.mirror.eligibility import Desired, Ineligible
from routesync.mirror.reconciler import RouteView
from routesync.mirror.state import MIRRORED, Phase
from routesync.mirror.status import TargetView
from routesync.names import Names, scope_name, type_name
from routesync.plan import Fate, Outcome
from routesync.route import Address, Route, Verdict, flag_names, format_address


class RouteNames(NamedTuple):
    """Names of the kernel's numbers: this host's, and those of its links at one moment."""

    names: Names
    interfaces: Mapping[int, str]

    @classmethod
    def of(cls, names: Names, links: Links) -> RouteNames:
        return cls(names, {ifindex: link.name for ifindex, link in links.items()})

    def evaluated(self, route: Route, verdict: Verdict, *, elected: bool) -> EvaluatedRoute:
        return EvaluatedRoute.model_validate(self.fields(route, verdict, elected=elected))

    def planned(
        self,
        route: Route,
        verdict: Verdict,
        *,
        elected: bool,
        details: RouteDetails,
        outcomes: Iterable[PlanOutcome],
    ) -> PlanRow:
        fields = self.fields(route, verdict, elected=elected) | details_fields(details)
        return PlanRow.model_validate({**fields, "targets": tuple(outcomes)})

    def fields(self, route: Route, verdict: Verdict, *, elected: bool) -> dict[str, object]:
        """Fields of an `EvaluatedRoute`."""
        return {
            "prefix": str(route.prefix),
            "family": route.prefix.family.label,
            "table": self.names.table(route.table),
            "protocol": self.names.protocol(route.protocol),
            "metric": route.metric,
            "type": type_name(route.type),
            "scope": scope_name(route.scope),
            "tos": route.tos,
            "source": _text(route.prefsrc),
            "source_prefix": None if route.source is None else str(route.source),
            "hops": tuple(
                Hop(
                    gateway=_text(hop.gateway),
                    interface=self.interfaces.get(hop.ifindex),
                    weight=hop.weight,
                    flags=tuple(flag_names(hop.flags)),
                )
                for hop in route.hops
            ),
            "verdict": "keep" if verdict.keep else "drop",
            "rule": verdict.rule,
            "elected": elected,
        }


def details_fields(details: RouteDetails) -> dict[str, object]:
    """Fields that a `DetailedRoute` has beside those of an `EvaluatedRoute`."""
    return {**details._asdict(), "metrics": dict(details.metrics)}


def _text(address: Address | None) -> str | None:
    return None if address is None else format_address(address)


def wall_clock(monotonic_s: float | None) -> datetime | None:
    """The wall-clock time of a monotonic time; None and minus infinity: never."""
    if monotonic_s is None or monotonic_s == float("-inf"):
        return None
    return datetime.fromtimestamp(time.time() - (time.monotonic() - monotonic_s), UTC)


def target_route(target: str, view: RouteView) -> TargetRoute:
    return TargetRoute.model_validate(target_fields(target, view))


def target_fields(target: str, view: RouteView) -> dict[str, object]:
    """Fields of a `TargetRoute`."""
    evaluation = view.evaluation
    desired = evaluation if isinstance(evaluation, Desired) else None
    ineligible = evaluation if isinstance(evaluation, Ineligible) else None
    return {
        "target": target,
        "phase": view.phase.value,
        "since": wall_clock(view.since),
        "desired": _text(desired.gateway) if desired else None,
        "owned": _text(view.owned),
        "rule": evaluation.rule if evaluation else None,
        "code": ineligible.reason.value if ineligible else None,
        "detail": ineligible.detail if ineligible and view.phase is Phase.INELIGIBLE else view.error,
        "degraded": bool(desired and desired.degraded),
    }


def plan_outcome(outcome: Outcome) -> PlanOutcome:
    """What a plan made without the daemon says of a route at a target."""
    return PlanOutcome(
        target=outcome.target,
        fate=outcome.fate.value,
        gateway=_text(outcome.gateway),
        code=outcome.code,
        detail=outcome.detail,
        degraded=outcome.degraded,
    )


def next_outcome(target: str, view: RouteView) -> PlanOutcome | None:
    """What the daemon will do with an elected route at a target; None: it has not evaluated the route yet."""
    evaluation = view.evaluation
    if evaluation is None:
        return None
    if isinstance(evaluation, Ineligible):
        fate = Fate.UNREPRESENTABLE if evaluation.reason.unrepresentable else Fate.REFUSED
        return PlanOutcome(
            target=target, fate=fate.value, code=evaluation.reason.value, detail=evaluation.detail
        )
    return PlanOutcome(
        target=target,
        fate=_fate(view, evaluation.gateway).value,
        gateway=_text(evaluation.gateway),
        code=evaluation.rule,
        detail=view.error,
        degraded=evaluation.degraded,
    )


def _fate(view: RouteView, gateway: Address) -> Fate:
    if view.phase is Phase.CONFLICTING:
        return Fate.CONFLICT
    if view.phase in MIRRORED and view.owned in {None, gateway}:
        return Fate.STANDS
    if view.owned is not None and view.owned != gateway:
        return Fate.REPLACE
    return Fate.POST


def row_text(row: InventoryRow) -> str:
    """One row of a target's inventory, in words."""
    gateways = ", ".join(f"via {format_address(gateway)}" for gateway in row.gateways)
    flags = f" flags {' '.join(sorted(row.flags))}" if row.flags else ""
    return f"{gateways or 'on its link'} protocol {row.protocol or 'unknown'}{flags}"


def target_detail(view: TargetView) -> TargetDetail:
    return TargetDetail(
        name=view.name,
        url=view.url,
        state=view.state.value,
        version=view.version,
        error=view.error,
        desired=view.desired,
        phases={phase.value: count for phase, count in sorted(view.phases.items()) if count},
        waiting=view.waiting,
        oldest_s=round(view.oldest_s, 3),
        rate=view.rate,
        remaining_s=None if view.remaining_s is None else round(view.remaining_s, 1),
        complete=view.complete,
        proved_s=None if view.proved_s is None else round(view.proved_s, 1),
        reasons=dict(view.reasons),
        holes=tuple(map(str, view.holes[0])),
        holes_count=view.holes[1],
        held=view.held,
        paused_since=None if view.paused_since is None else datetime.fromtimestamp(view.paused_since, UTC),
    )
