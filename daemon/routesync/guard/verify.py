"""Whether a loxilb that shares our namespace lost its entry, too, when a route was removed from the kernel.

Its table is read as carefully as everywhere (reading it while it ingests can crash it): one read, some seconds after
the removal, when it is quiet. What it ingests here is what our own kernel announces, so it is quiet when that was
silent for long enough.

The entry that a host route makes is `Ind Host Interface`, in old versions `Self` without a gateway. The same prefix as
`Ind Host` is the neighbour itself, and stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, Literal

import structlog

from routesync.backoff import backoff_s
from routesync.best_routes import BestRoutes
from routesync.events.models import EventSink, GuardStuck, GuardVerified, TargetDown, TargetUp
from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import LoxilbError
from routesync.loxilb.schema import Inventory
from routesync.mirror.limits import Ingestion
from routesync.mirror.namespace import Settling, Sharing
from routesync.mirror.session import rest
from routesync.mirror.status import TargetState, TargetView, unmirrored
from routesync.route import Prefix

log = structlog.get_logger(__name__)

CHECK_AFTER_S: Final = 5.0
"""From a removal to the check (a real v0.9.1 lost its entry within 1 s), and between two reads of the table."""
CHECK_WITHIN_S: Final = 60.0
"""An entry that could not be checked for so long is reported."""
RECHECK_S: Final = 600.0
"""How often an entry that stayed is checked again: it leaves when its loxilb restarts."""
PORTS_GAP_S: Final = 1.5
"""Between two requests for its ports, until they are settled."""
PORTS_INTERVAL_S: Final = 60.0
"""How often it is asked whether it runs, and where."""
RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.5, 30.0

NEVER: Final = float("inf")

_NO_PORTS: Final = "it lists no ports yet, so its network namespace is not known"
_ELSEWHERE: Final = (
    "it runs in another network namespace: mode guard does nothing for it, and mirrors nothing into it"
)
_STAYS: Final = "its table still has the entry; restart loxilb to remove it"
_NOT_READ: Final = (
    f"its table could not be read, or was never at rest, for {CHECK_WITHIN_S:g} s; whether its entry left is not "
    "known"
)


class Quiet:
    """When a loxilb in our namespace has nothing to ingest, by the route events that our own kernel announced."""

    def __init__(self, best_routes: BestRoutes) -> None:
        self._best_routes = best_routes
        self._seen = best_routes.source.stats.events
        self._ingestion = Ingestion(monotonic())

    def quiet_in(self, now: float) -> float:
        """Seconds until it has ingested everything; 0: it is quiet."""
        events = self._best_routes.source.stats.events
        if events != self._seen:
            self._ingestion.note(now, events - self._seen)
            self._seen = events
        return self._ingestion.quiet_in(now)


def has_entry(inventory: Inventory, prefix: Prefix) -> bool:
    """Whether its table has the prefix other than as a neighbour."""
    row = inventory.rows.get(prefix)
    return row is not None and not ("Host" in row.flags and "Interface" not in row.flags)


class Verifier:
    """Watches one target in mode guard. Make it within the event loop; `run` never returns. Nothing is written.

    Args:
        name: of the target.
        client: the way to it.
        links: returns the links of our namespace.
        quiet: when its table may be read.
        sink: takes the events.

    Attributes:
        contacted: it answered, or failed to, at least once.
    """

    def __init__(
        self,
        name: str,
        client: LoxilbClient,
        *,
        links: Callable[[], Mapping[int, Link]],
        quiet: Quiet,
        sink: EventSink,
    ) -> None:
        self.name = name
        self.contacted = asyncio.Event()
        self._client = client
        self._links = links
        self._quiet = quiet
        self._sink = sink
        self._state = TargetState.CONNECTING
        self._error: str | None = None
        self._version: str | None = None
        self._failures = 0
        self._reported: set[TargetState] = set()  # troubles since its namespace was last settled
        self._connections = 0
        self._check_at: dict[Prefix, float] = {}  # entries that have to leave
        self._stuck: dict[Prefix, str] = {}  # those that did not: why
        self._wake = asyncio.Event()

    def expect(self, prefix: Prefix) -> None:
        """The route was removed from the kernel: its entry has to leave."""
        self._stuck.pop(prefix, None)
        self._check_at[prefix] = monotonic() + CHECK_AFTER_S
        self._wake.set()

    def excuse(self, prefix: Prefix) -> None:
        """The route is back, so its entry may be."""
        self._check_at.pop(prefix, None)
        self._stuck.pop(prefix, None)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Entries that did not leave, one line each."""
        return tuple(f"target {self.name}: {prefix}: {why}" for prefix, why in self._stuck.items())

    def view(self) -> TargetView:
        """The target's part of status and metrics."""
        return unmirrored(
            self.name,
            self._client,
            self._state,
            version=self._version,
            error=self._error,
            connections=self._connections,
        )

    async def run(self) -> None:
        """Find out its namespace, and check its table after removals, forever."""
        while True:
            try:
                version = await self._client.version()
                await self._settle(version)
                await self._serve()
            except LoxilbError as error:
                self._enter(TargetState.UNREACHABLE, str(error))
                self._failures += 1
                await asyncio.sleep(backoff_s(self._failures, RECONNECT_FIRST_S, RECONNECT_MOST_S))

    async def _settle(self, version: str) -> None:
        """Return as soon as it is certain whether it shares our namespace."""
        settling = Settling()
        while True:
            shared, settled = settling.note(await self._client.ports(), self._links())
            if settled:
                break
            if shared is Sharing.UNKNOWN:
                self._enter(TargetState.STARTING, _NO_PORTS)
            await asyncio.sleep(PORTS_GAP_S)
        if self._version is None or TargetState.UNREACHABLE in self._reported:
            self._connections += 1
            # it may have been restarted, and what was due could not be checked meanwhile
            self._check_at = dict.fromkeys([*self._check_at, *self._stuck], monotonic() + CHECK_AFTER_S)
            self._sink.emit(TargetUp(target=self.name, url=self._client.url, version=version))
        self._version, self._failures = version, 0
        self._reported.clear()
        if shared is Sharing.YES:
            self._enter(TargetState.GUARDED, None)
        else:
            self._enter(TargetState.ELSEWHERE, _ELSEWHERE)

    def _enter(self, state: TargetState, why: str | None) -> None:
        """Change the state; it is reported once until its namespace is settled again."""
        news = state is not self._state and state not in self._reported
        self._state, self._error = state, why
        self.contacted.set()
        if not news:
            return
        self._reported.add(state)
        match state:
            case TargetState.UNREACHABLE:
                log.warning("target_down", target=self.name, url=self._client.url, error=why)
                self._sink.emit(TargetDown(target=self.name, url=self._client.url, error=why or ""))
            case TargetState.GUARDED:
                log.info("target_guarded", target=self.name, url=self._client.url)
            case _:
                log.warning("target_not_guarded", target=self.name, url=self._client.url, reason=why)

    async def _serve(self) -> None:
        """Check its table after removals, until it has to be asked for its ports again."""
        until = monotonic() + PORTS_INTERVAL_S
        while (now := monotonic()) < until:
            if self._state is not TargetState.GUARDED:
                self._check_at.clear()
                self._stuck.clear()
            next_at = min(self._check_at.values(), default=until)
            if next_at > now:
                await rest(self._wake, min(next_at, until) - now)
            elif (wait_s := self._quiet.quiet_in(now)) > 0:
                await asyncio.sleep(min(wait_s, CHECK_AFTER_S))
            else:
                await self._check()
                await asyncio.sleep(CHECK_AFTER_S)
            late = monotonic() - CHECK_WITHIN_S
            for prefix in [prefix for prefix, at in self._check_at.items() if at < late]:
                self._report_stuck(prefix, "not-read", _NOT_READ)

    async def _check(self) -> None:
        """Read its table once, and see which entries left."""
        now = monotonic()
        due = [prefix for prefix, at in self._check_at.items() if at <= now]
        inventory = await self._client.inventory()
        if not inventory.rows:  # it is starting, and will read the kernel's routes
            return
        for prefix in due:
            if self._check_at.get(prefix, NEVER) > now:  # it came back, or was removed once more, meanwhile
                continue
            if has_entry(inventory, prefix):
                self._report_stuck(prefix, "entry-stays", _STAYS)
            else:
                self.excuse(prefix)
                log.info("guard_verified", target=self.name, prefix=str(prefix))
                self._sink.emit(GuardVerified(target=self.name, prefix=str(prefix)))

    def _report_stuck(self, prefix: Prefix, reason: Literal["entry-stays", "not-read"], why: str) -> None:
        self._check_at[prefix] = monotonic() + RECHECK_S
        if self._stuck.get(prefix) == why:
            return
        self._stuck[prefix] = why
        log.warning("guard_stuck", target=self.name, prefix=str(prefix), detail=why)
        self._sink.emit(GuardStuck(target=self.name, prefix=str(prefix), reason=reason, detail=why))
