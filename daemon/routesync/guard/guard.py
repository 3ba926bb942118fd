"""The guard: looks at the host routes that its rules name, and removes those that are redundant.

It is level-triggered. A report of the kernel side is only a hint that a prefix is worth a look; a look is a dump of all
that covers the address, and another such dump comes right before each removal. Nothing is removed from memory.

Concurrency: one task (`run`) decides and acts, one route after the other; a removal that has begun is finished even if
that task is cancelled. `heed` and `view` are called from the same event loop, at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from routesync.events.models import EventSink
from routesync.guard.announce import Announcer
from routesync.guard.redundancy import Needed, Redundant, assess, guarded
from routesync.guard.returns import NEVER, Case, Key, Patience
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
from routesync.mirror.session import rest
from routesync.route import Prefix, Route, Verdict

log = structlog.get_logger(__name__)

BATCH: Final = 256
"""Prefixes that are looked at by one dump."""
RECHECK_S: Final = 10.0
"""When links or addresses change, routes that stay are looked at again after this time, or after a multiple of what a
dump takes: links may change all the time, and tables may be long."""
RECHECK_SHARE: Final = 20
RETRY_S: Final = 10.0
"""After a dump that failed, or that contradicts the one just before."""
PUT_BACK_REST_S: Final = 3600.0
"""A route that had to be put back is left alone this long: each try is a moment without it."""
CASES: Final = 1 << 14
"""So many prefixes are remembered; of more, those that were removed longest ago are forgotten."""
_UNMOVING: Final = frozenset({"start", "periodic", "doubt", "unsettled", "unconfirmed", "rules"})
"""Causes of a resync that leave the answer as it was: neither links nor addresses changed. `rules` reports drops."""

NO_PERMISSION: Final = (
    "CAP_NET_ADMIN is missing: routes are judged and told, and none is removed "
    "(systemd: AmbientCapabilities= and CapabilityBoundingSet=CAP_NET_ADMIN, PrivateUsers=no)"
)


class GuardView(NamedTuple):
    """How the guard stands."""

    dry_run: bool
    permitted: bool | None  # None: not known yet
    standing: int
    redundant: int
    contended: int
    removed: int
    returned: int
    failed: int
    troubles: tuple[str, ...]  # why the daemon is degraded by it, one line each


class Guard:
    """Removes redundant host routes. To be made within the event loop; `run` is eternal."""

    def __init__(
        self,
        *,
        dry_run: bool,
        patience: Patience,
        bucket: TokenBucket,
        tables: Sequence[int],
        netns: str | None,
        evaluate: Callable[[Route, Links], Verdict],
        sink: EventSink,
        verifiers: Sequence[Verifier] = (),
    ) -> None:
        """Make a guard.

        Args:
            dry_run: only tell what would be removed.
            patience: how long routes are left alone.
            bucket: how many may be removed.
            tables: the routing tables that are read.
            netns: name or path of another network namespace to guard.
            evaluate: the active rules.
            sink: where its events go.
            verifiers: of the loxilbs that are to lose their entry, too.
        """
        self._dry_run = dry_run
        self._patience = patience
        self._bucket = bucket
        self._tables = tables
        self._netns = netns
        self._evaluate = evaluate
        self.verifiers = tuple(verifiers)
        """Of the loxilbs that are to lose their entry, too."""
        self._links: Links = {}
        self._say = Announcer(sink, lambda: self._links)
        self._cases: dict[Prefix, Case] = {}
        self._wake = asyncio.Event()
        self._permitted: bool | None = None
        self._trouble: str | None = None
        self._recheck_s = RECHECK_S
        self._removed = self._returned = self._failed = 0

    # -- what others say and ask ------------------------------------------------------------------------------------

    def heed(self, report: KernelReport) -> None:
        """Take a report of the kernel side. Cheap, and never blocks."""
        match report:
            case Dropped(route, verdict) if verdict.guard:
                self.stir(route.prefix)
            case DropEnded(prefix) if prefix in self._cases:
                self._cases[prefix].ended(self._now())
                self._wake.set()
            case ResyncDone() if not _UNMOVING.issuperset(report.causes):
                for case in self._cases.values():
                    if case.standing:
                        case.stirred(self._now(), came=False, delay_s=self._recheck_s)
                self._wake.set()
            case _:
                pass

    def stir(self, prefix: Prefix) -> None:
        """There may be a guarded route of this prefix: have a look when it has settled."""
        case = self._cases.get(prefix)
        if case is None:
            self._make_room()
            case = self._cases[prefix] = Case(lambda: self._patience)
        case.stirred(self._now(), came=True)
        self._wake.set()

    def _make_room(self) -> None:
        if len(self._cases) < CASES:
            return
        gone = [prefix for prefix, case in self._cases.items() if case.forgettable]
        gone = gone or [prefix for prefix, case in self._cases.items() if not case.standing][: CASES // 2]
        for prefix in gone:
            del self._cases[prefix]

    def view(self) -> GuardView:
        """How it stands, for status and metrics."""
        standing = [case for case in self._cases.values() if case.standing]
        contended = [prefix for prefix, case in self._cases.items() if case.standing and case.contended]
        troubles = [f"guard: {self._trouble}"] if self._trouble else []
        if self._permitted is False and not self._dry_run:
            troubles.append(f"guard: {NO_PERMISSION}")
        troubles += [
            f"guard: {prefix} came back at once {self._cases[prefix].contended} times in a row"
            for prefix in contended[:10]
        ]
        troubles += [trouble for verifier in self.verifiers for trouble in verifier.troubles]
        return GuardView(
            dry_run=self._dry_run,
            permitted=self._permitted,
            standing=len(standing),
            redundant=sum(1 for case in standing if case.redundant),
            contended=len(contended),
            removed=self._removed,
            returned=self._returned,
            failed=self._failed,
            troubles=tuple(troubles),
        )

    def reconfigure(self, *, dry_run: bool, patience: Patience, rate: float, burst: int) -> None:
        """Go on by other settings; what is known of routes is kept, and all are looked at anew."""
        self._dry_run, self._patience = dry_run, patience
        self._bucket.rate, self._bucket.burst = rate, burst
        for prefix, case in self._cases.items():
            if case.standing:
                self.stir(prefix)

    # -- the eternal task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at what is due, for good."""
        await self._ask_permission()
        while True:
            now = self._now()
            due = [prefix for prefix, case in self._cases.items() if case.due_at <= now][:BATCH]
            if due:
                await self._look(due)
            else:
                next_at = min((case.due_at for case in self._cases.values()), default=NEVER)
                await rest(self._wake, min(next_at - now, self._patience.check_interval_s))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _ask_permission(self) -> None:
        before = self._permitted
        try:
            self._permitted = await may_change_routes(self._netns)
        except KernelError as error:
            log.warning("guard_permission_unknown", error=str(error))
            return
        if self._permitted is before or (before is None and self._permitted):
            return
        if self._permitted:
            log.info("guard_permitted")
        elif self._dry_run:
            log.info("guard_lacks_permission", reason=NO_PERMISSION, consequence="none in a dry run")
        else:
            log.error("guard_not_permitted", reason=NO_PERMISSION)

    async def _dump(self, prefixes: Sequence[Prefix]) -> TableDump | None:
        """Dump what covers these prefixes; None: it cannot be dumped, which was logged."""
        began = self._now()
        try:
            dump = await dump_tables(tables=self._tables, netns=self._netns, covering=prefixes)
        except KernelError as error:
            if self._trouble is None:
                log.error("guard_cannot_read", error=str(error))  # noqa: TRY400
            self._trouble = str(error)
            return None
        if self._trouble is not None:
            log.info("guard_reads_again")
            self._trouble = None
        self._links = dump.links
        self._recheck_s = max(RECHECK_S, RECHECK_SHARE * (self._now() - began))
        return dump

    def _guarded(self, dump: TableDump, prefix: Prefix) -> list[tuple[Route, Verdict]]:
        return guarded(dump, prefix, lambda route: self._evaluate(route, dump.links))

    def _assess(self, dump: TableDump, route: Route) -> Redundant | Needed:
        return assess(route, dump, lambda other: self._evaluate(other, dump.links))

    async def _look(self, prefixes: Sequence[Prefix]) -> None:
        dump = await self._dump(prefixes)
        for prefix in prefixes:
            case = self._cases.get(prefix)
            if case is None:
                continue
            if dump is None:
                case.due_at = self._now() + RETRY_S
            elif routes := self._guarded(dump, prefix):
                await self._consider(prefix, case, routes, dump)
            else:
                case.missing()

    async def _consider(
        self, prefix: Prefix, case: Case, routes: list[tuple[Route, Verdict]], dump: TableDump
    ) -> None:
        """A dump shows a prefix: report what is to be reported of it, and remove one route of it if that may be."""
        now = self._now()
        back = case.found(now, [_key(route) for route, _ in routes])
        if back is not None:
            self._returned += 1
            self._say.returned(*routes[0], back)
            for verifier in self.verifiers:
                verifier.excuse(prefix)
        findings = [(route, verdict, self._assess(dump, route)) for route, verdict in routes]
        case.redundant = any(isinstance(finding, Redundant) for *_, finding in findings)
        if case.waits(now):
            return
        for route, verdict, finding in findings:
            if isinstance(finding, Needed):
                if _news(case, route, finding.reason.value):
                    self._say.skipped(route, verdict, finding)
            elif self._dry_run:
                if _news(case, route, "would-remove"):
                    self._say.would_remove(route, verdict, finding)
            else:
                await self._when_permitted(case, route, verdict)
                return  # one at a time: the others are looked at again

    async def _when_permitted(self, case: Case, route: Route, verdict: Verdict) -> None:
        if not self._permitted:
            await self._ask_permission()
        if not self._permitted:
            self._fail_unpermitted(case, route, verdict)
            return
        if (token_in := self._bucket.take(self._now())) > 0:
            case.due_at = self._now() + token_in
            return
        if not await self._remove(case, route, verdict):
            self._bucket.give_back(self._now())

    def _fail_unpermitted(self, case: Case, route: Route, verdict: Verdict) -> None:
        if _news(case, route, "not-permitted"):
            self._failed += 1
            self._say.failed(route, verdict, "not-permitted", NO_PERMISSION)

    async def _remove(self, case: Case, route: Route, verdict: Verdict) -> bool:
        """Remove a route if another dump says the same of it; return whether anything was done."""
        dump = await self._dump([route.prefix])
        if dump is None or (route, verdict) not in self._guarded(dump, route.prefix):
            case.due_at = self._now() + RETRY_S
            return False
        finding = self._assess(dump, route)
        if isinstance(finding, Needed):
            case.due_at = self._now() + RETRY_S
            return False
        try:
            outcome = await remove_route(route, self._netns)
        except NotPermittedError:
            self._permitted = False
            log.error("guard_not_permitted", reason=NO_PERMISSION)  # noqa: TRY400
            self._fail_unpermitted(case, route, verdict)
            return False
        except KernelError as error:
            self._failed += 1
            case.leave_alone(self._now(), self._patience.check_interval_s)
            self._say.failed(route, verdict, "kernel", str(error))
            return True
        match outcome:
            case Removal.DONE:
                self._removed += 1
                case.removed(self._now(), _key(route))
                case.stirred(self._now(), came=False)  # there may be another route of the prefix
                self._say.removed(route, verdict, finding)
                for verifier in self.verifiers:
                    verifier.expect(route.prefix)
            case Removal.ABSENT:
                case.due_at = self._now() + RETRY_S
                return False
            case Removal.PUT_BACK:
                self._failed += 1
                case.leave_alone(self._now(), PUT_BACK_REST_S)
                self._say.failed(
                    route,
                    verdict,
                    "put-back",
                    "without it packets would have gone another way, by policy rules or other tables",
                )
        return True


def _news(case: Case, route: Route, word: str) -> bool:
    """Whether this is not what was told of the route last."""
    key = _key(route)
    if case.said.get(key) == word:
        return False
    case.said[key] = word
    return True


def _key(route: Route) -> Key:
    return (route.table, route.metric, route.hops[0].ifindex if route.hops else 0)
