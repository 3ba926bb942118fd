"""The guard: examines the host routes that its rules name, and removes those that are redundant.

It is level-triggered. A report of the kernel side is only a hint that a prefix is worth a look. A look dumps all routes
that cover the address, and a second such dump comes right before each removal: nothing is removed from memory.

A lease renewal brings a host route back every half lease, and it is removed again. One that reappears within
`contended_within_s` is contended: another program wants it. It is left for an hour, with an alarm, and never fought
over.

Concurrency: one task (`run`) decides and acts, one route after the other; a removal that has begun is finished even
if that task is cancelled. `on_report`, `look_at`, `status` and `reconfigure` are called from the same event loop, at
any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, TypedDict

import structlog

from routesync.config.models import GuardSettings
from routesync.events.models import (
    AlarmCleared,
    AlarmRaised,
    EventSink,
    GuardFailed,
    GuardRemoved,
    GuardReturned,
    GuardSkipped,
    GuardWouldRemove,
)
from routesync.events.node_status import GuardStatus
from routesync.guard.redundancy import Needed, Redundant, assess, guarded
from routesync.guard.verify import Verifier
from routesync.kernel import (
    DropEnded,
    Dropped,
    KernelError,
    KernelReport,
    Links,
    NotPermittedError,
    Removal,
    ResyncDone,
    TableDump,
    dump_tables,
    may_change_routes,
    remove_route,
)
from routesync.mirror.limits import TokenBucket
from routesync.mirror.reporting import Alarm
from routesync.mirror.session import rest
from routesync.route import Prefix, Route, Verdict

log = structlog.get_logger(__name__)

BURST: Final = 3
"""Removals at once after a quiet time: a lease with a gateway and two DNS servers brings three host routes."""
BATCH: Final = 256
"""Prefixes that are examined with one dump."""
CHECK_INTERVAL_S: Final = 300.0
"""A route that stays is examined again so often: a safety net, as changes cause an examination at once."""
RECHECK_S: Final = 10.0
"""When links or addresses change, routes that stay are examined after this time, or after a multiple of what a dump
takes: links may change all the time, and tables may be long."""
RECHECK_SHARE: Final = 20
RETRY_S: Final = 10.0
"""After a dump that failed, or that contradicted the one just before."""
LEAVE_ALONE_S: Final = 3600.0
"""How long a route stays that is contended or had to be put back: each attempt is a moment without it, and one an hour
is harmless and finds the end of a contention."""
CASES: Final = 1 << 14
"""So many prefixes are remembered; of more, those that were removed longest ago are forgotten."""
NAMED: Final = 3
"""So many prefixes are named in the alarm."""
NEVER: Final = float("inf")
_LINKS_UNCHANGED: Final = frozenset({"start", "periodic", "doubt", "unsettled", "unconfirmed", "rules"})
"""Causes of a resync without a change of links or addresses. After `rules`, drops are reported one by one."""

NO_PERMISSION: Final = (
    "CAP_NET_ADMIN is missing: routes are examined and reported, and none is removed "
    "(systemd: AmbientCapabilities= and CapabilityBoundingSet=CAP_NET_ADMIN, PrivateUsers=no)"
)
PUT_BACK: Final = "without it packets would have gone another way, by policy rules or other tables"

Key: TypeAlias = tuple[int, int, int]
"""What tells the routes of one prefix apart: table, metric, ifindex."""


def key_of(route: Route) -> Key:
    return (route.table, route.metric, route.hops[0].ifindex if route.hops else 0)


@dataclass(slots=True)
class Case:
    """One guarded prefix, while its routes come and go. Times are monotonic seconds.

    Attributes:
        present: the kernel has a guarded route of it, by the last look.
        redundant: one of them may be removed, by the last look.
        contended: it reappeared too soon after its last removal.
        due_at: when to look at it.
        not_before: when a route of it may be removed again.
        removed_at: when each of its routes was removed that is not back yet.
        reported: what was last reported of each of its routes.
    """

    present: bool = False
    redundant: bool = False
    contended: bool = False
    due_at: float = NEVER
    not_before: float = 0.0
    removed_at: dict[Key, float] = field(default_factory=dict)
    reported: dict[Key, str] = field(default_factory=dict)

    def announced(self, now: float, settle_s: float) -> None:
        """A route of it may have come. Announcements neither put off a planned look nor hasten one that has to wait."""
        self.due_at = min(self.due_at, max(now + settle_s, self.not_before))

    def found(self, now: float, keys: Collection[Key], settings: GuardSettings) -> float | None:
        """By a look, these routes are there; return for how long one was away that is back after its removal."""
        self.present = True
        self.due_at = now + CHECK_INTERVAL_S
        removed_at = [self.removed_at.pop(key) for key in keys if key in self.removed_at]
        if not removed_at:
            return None
        away_s = max(0.0, now - settings.settle_s - max(removed_at))
        self.contended = away_s < settings.contended_within_s
        if self.contended:
            self.not_before = now + LEAVE_ALONE_S
        return away_s

    def missing(self) -> None:
        """By a look, no route of it is there, so a contention is over."""
        if self.contended:
            self.not_before = 0.0
        self.present = self.redundant = self.contended = False
        self.due_at = NEVER
        self.reported.clear()

    def removed(self, now: float, key: Key, settings: GuardSettings) -> None:
        """One of its routes was removed. Look whether there is another, or whether a contention has ended."""
        self.present = self.redundant = False
        self.reported.clear()
        self.removed_at[key] = now
        self.due_at = now + (settings.contended_within_s if self.contended else settings.settle_s)

    def is_news(self, route: Route, what: str) -> bool:
        """Whether this is not what was last reported of the route."""
        key = key_of(route)
        before, self.reported[key] = self.reported.get(key), what
        return what != before


class _About(TypedDict):
    """The fields that events of a guarded route have in common."""

    prefix: str
    family: Literal["ipv4", "ipv6"]
    interface: str | None
    rule: str


class Guard:
    """Removes redundant host routes. `run` never returns.

    Args:
        settings: of the configuration.
        tables: the routing tables that are dumped.
        netns: name or path of another network namespace to guard.
        evaluate: the active rules.
        sink: takes the events.

    Attributes:
        bucket: limits the removals.
        verifiers: of the loxilbs that must lose their entry, too.
        alarm: what is contended; None: nothing.
    """

    def __init__(
        self,
        settings: GuardSettings,
        *,
        tables: Sequence[int],
        netns: str | None,
        evaluate: Callable[[Route, Links], Verdict],
        sink: EventSink,
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._netns = netns
        self._evaluate = evaluate
        self._sink = sink
        self.bucket = TokenBucket(settings.removals_per_minute / 60, BURST, self._now())
        self.verifiers: tuple[Verifier, ...] = ()
        self.alarm: Alarm | None = None
        self._alarm_since = 0.0
        self._links: Links = {}
        self._cases: dict[Prefix, Case] = {}
        self._wake = asyncio.Event()
        self._permitted: bool | None = None
        self._dump_error: str | None = None
        self._recheck_s = RECHECK_S
        self._removed = self._returned = self._failed = 0

    _now = staticmethod(time.monotonic)

    # -- what others report and ask ----------------------------------------------------------------------------------

    def on_report(self, report: KernelReport) -> None:
        """Take a report of the kernel side. Cheap, and never blocks."""
        match report:
            case Dropped(route, verdict) if verdict.guard:
                self.look_at(route.prefix)
            case DropEnded(prefix) if prefix in self._cases:
                case = self._cases[prefix]
                case.reported.clear()
                self._look_again(case)
            case ResyncDone() if not _LINKS_UNCHANGED.issuperset(report.causes):
                for case in self._cases.values():
                    self._look_again(case)
            case _:
                pass

    def look_at(self, prefix: Prefix) -> None:
        """The kernel may have a guarded route of this prefix: look when it has settled."""
        self._case(prefix).announced(self._now(), self._settings.settle_s)
        self._wake.set()

    def _look_again(self, case: Case) -> None:
        if case.present:
            case.due_at = min(case.due_at, self._now() + self._recheck_s)
            self._wake.set()

    def _case(self, prefix: Prefix) -> Case:
        if prefix not in self._cases:
            if len(self._cases) >= CASES:
                away = [it for it, case in self._cases.items() if not case.present and case.due_at == NEVER]
                for it in away[: CASES // 2]:
                    del self._cases[it]
            self._cases[prefix] = Case()
        return self._cases[prefix]

    def status(self) -> GuardStatus:
        """The guard's part of the node's status."""
        present = [case for case in self._cases.values() if case.present]
        return GuardStatus(
            dry_run=self._settings.dry_run,
            permitted=self._permitted,
            present=len(present),
            redundant=sum(case.redundant for case in present),
            contended=sum(case.contended for case in present),
            removed=self._removed,
            returned=self._returned,
            failed=self._failed,
        )

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why the daemon is degraded by it, one line each."""
        found = [self._dump_error] if self._dump_error else []
        if self._permitted is False and not self._settings.dry_run:
            found.append(NO_PERMISSION)
        if self.alarm is not None:
            found.append(self.alarm.detail)
        found += [trouble for verifier in self.verifiers for trouble in verifier.troubles]
        return tuple(f"guard: {trouble}" for trouble in found)

    def reconfigure(self, settings: GuardSettings) -> None:
        """Apply other settings: what is known of routes stays, and all that are present are examined."""
        self._settings = settings
        self.bucket.change(settings.removals_per_minute / 60, BURST, self._now())
        for prefix, case in self._cases.items():
            if case.present:
                self.look_at(prefix)

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Examine what is due, forever."""
        await self._ask_permission()
        while True:
            now = self._now()
            due = [prefix for prefix, case in self._cases.items() if case.due_at <= now]
            if due:
                await self._examine(due[:BATCH])
                self._update_alarm()
            else:
                next_at = min((case.due_at for case in self._cases.values()), default=NEVER)
                await rest(self._wake, min(next_at - now, CHECK_INTERVAL_S))

    def ended(self) -> None:
        """The mode was left and `run` has ended: no route is contended any more."""
        self._set_alarm(None)

    async def _ask_permission(self) -> None:
        try:
            self._permitted = await may_change_routes(self._netns)
        except KernelError as error:
            log.warning("guard_permission_unknown", error=str(error))
            return
        if not self._permitted and self._settings.dry_run:
            log.info("guard_lacks_permission", reason=NO_PERMISSION, consequence="none in a dry run")
        elif not self._permitted:
            log.error("guard_not_permitted", reason=NO_PERMISSION)

    async def _dump(self, prefixes: Sequence[Prefix]) -> TableDump | None:
        """Dump what covers these prefixes; None: the dump failed, which is logged."""
        began = self._now()
        try:
            dump = await dump_tables(tables=self._tables, netns=self._netns, covering=prefixes)
        except KernelError as error:
            if self._dump_error is None:
                log.error("guard_cannot_read", error=str(error))  # noqa: TRY400
            self._dump_error = str(error)
            return None
        if self._dump_error is not None:
            log.info("guard_reads_again")
            self._dump_error = None
        self._links = dump.links
        self._recheck_s = max(RECHECK_S, RECHECK_SHARE * (self._now() - began))
        return dump

    async def _examine(self, prefixes: Sequence[Prefix]) -> None:
        dump = await self._dump(prefixes)
        for prefix in prefixes:
            case = self._cases.get(prefix)
            if case is None:
                continue
            if dump is None:
                case.due_at = self._now() + RETRY_S
            elif routes := guarded(dump, prefix, self._evaluate):
                await self._examine_routes(case, routes, dump)
            else:
                case.missing()
                if not case.removed_at and case.not_before <= self._now():
                    del self._cases[prefix]

    async def _examine_routes(self, case: Case, routes: list[tuple[Route, Verdict]], dump: TableDump) -> None:
        """Report what is new of the guarded routes of one prefix, and remove one of them if that is safe."""
        now = self._now()
        away_s = case.found(now, [key_of(route) for route, _ in routes], self._settings)
        if away_s is not None:
            self._report_return(*routes[0], case, away_s)
        checked = [(route, verdict, assess(route, dump, self._evaluate)) for route, verdict in routes]
        case.redundant = any(isinstance(result, Redundant) for *_, result in checked)
        if case.not_before > now:
            return
        for route, verdict, result in checked:
            about = self._about(route, verdict)
            if isinstance(result, Needed):
                if case.is_news(route, result.reason):
                    skipped = GuardSkipped(**about, reason=result.reason.value, detail=result.detail)
                    log.info("guard_skipped", **skipped.model_dump())
                    self._sink.emit(skipped)
            elif self._settings.dry_run:
                if case.is_news(route, "would-remove"):
                    would_remove = GuardWouldRemove(**about, covered_by=str(result.by))
                    log.info("guard_would_remove", **would_remove.model_dump())
                    self._sink.emit(would_remove)
            else:
                await self._remove_if_allowed(case, route, verdict)
                return  # one at a time: the others are examined again

    async def _remove_if_allowed(self, case: Case, route: Route, verdict: Verdict) -> None:
        if self._permitted is False:
            if case.is_news(route, "not-permitted"):
                self._fail(route, verdict, "not-permitted", NO_PERMISSION)
            return
        if (token_in_s := self.bucket.take(self._now())) > 0:
            case.due_at = self._now() + token_in_s
        elif not await self._remove(case, route, verdict):
            self.bucket.give_back(self._now())
            case.due_at = self._now() + RETRY_S

    async def _remove(self, case: Case, route: Route, verdict: Verdict) -> bool:
        """Remove a route if a second dump confirms the first; return whether anything was attempted."""
        dump = await self._dump([route.prefix])
        if dump is None or (route, verdict) not in guarded(dump, route.prefix, self._evaluate):
            return False
        result = assess(route, dump, self._evaluate)
        if isinstance(result, Needed):
            return False
        try:
            outcome = await remove_route(route, self._netns)
        except KernelError as error:
            case.not_before = self._now() + CHECK_INTERVAL_S
            reason: Literal["not-permitted", "kernel"] = (
                "not-permitted" if isinstance(error, NotPermittedError) else "kernel"
            )
            self._fail(route, verdict, reason, str(error))
            return True
        match outcome:
            case Removal.DONE:
                self._removed += 1
                case.removed(self._now(), key_of(route), self._settings)
                removed = GuardRemoved(**self._about(route, verdict), covered_by=str(result.by))
                log.warning("guard_removed", **removed.model_dump())
                self._sink.emit(removed)
                for verifier in self.verifiers:
                    verifier.expect(route.prefix)
            case Removal.PUT_BACK:
                case.not_before = self._now() + LEAVE_ALONE_S
                self._fail(route, verdict, "put-back", PUT_BACK)
            case Removal.ABSENT:
                return False
        return True

    # -- reporting ---------------------------------------------------------------------------------------------------

    def _about(self, route: Route, verdict: Verdict) -> _About:
        link = self._links.get(route.hops[0].ifindex) if route.hops else None
        return {
            "prefix": str(route.prefix),
            "family": route.prefix.family.label,
            "interface": link.name if link else None,
            "rule": verdict.rule,
        }

    def _report_return(self, route: Route, verdict: Verdict, case: Case, away_s: float) -> None:
        self._returned += 1
        returned = GuardReturned(
            **self._about(route, verdict),
            away_s=round(away_s, 3),
            contended=case.contended,
            stays_s=LEAVE_ALONE_S if case.contended else self._settings.settle_s,
        )
        if case.contended:
            log.warning("guard_contended", **returned.model_dump())
        else:
            log.info("guard_returned", **returned.model_dump())
        self._sink.emit(returned)
        for verifier in self.verifiers:
            verifier.excuse(route.prefix)

    def _fail(
        self,
        route: Route,
        verdict: Verdict,
        reason: Literal["not-permitted", "put-back", "kernel"],
        detail: str,
    ) -> None:
        self._failed += 1
        failed = GuardFailed(**self._about(route, verdict), reason=reason, detail=detail)
        log.error("guard_failed", **failed.model_dump())
        self._sink.emit(failed)

    def _update_alarm(self) -> None:
        contended = [prefix for prefix, case in self._cases.items() if case.contended]
        if not contended:
            self._set_alarm(None)
            return
        names = tuple(map(str, contended[:NAMED]))
        more = ", …" if len(contended) > NAMED else ""
        detail = (
            f"{', '.join(names)}{more} reappeared within {self._settings.contended_within_s:g} s of its removal: "
            f"another program adds it; it stays for {LEAVE_ALONE_S / 60:g} minutes at a time; stop that program from "
            "adding it (`routesync doctor` names DHCP clients)"
        )
        self._set_alarm(Alarm(detail, len(contended), names))

    def _set_alarm(self, alarm: Alarm | None) -> None:
        """Report the alarm where it begins and where it ends."""
        before, self.alarm = self.alarm, alarm
        if alarm is not None and before is None:
            self._alarm_since = self._now()
            log.warning("alarm_raised", target=None, kind="contended", detail=alarm.detail)
            self._sink.emit(
                AlarmRaised(
                    target=None,
                    kind="contended",
                    detail=alarm.detail,
                    count=alarm.routes,
                    prefixes=alarm.prefixes,
                )
            )
        elif alarm is None and before is not None:
            lasted_s = round(self._now() - self._alarm_since, 1)
            log.warning("alarm_cleared", target=None, kind="contended", lasted_s=lasted_s, detail=None)
            self._sink.emit(AlarmCleared(target=None, kind="contended", lasted_s=lasted_s))
