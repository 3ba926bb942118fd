"""Whether a loxilb that shares our namespace lost its entry, too, when a route was removed from the kernel.

Its table is read by the rules for reading (it can crash when it is read while it ingests): one at a time, seldom, and
in quiet. What it ingests here is what our own kernel announces, so quiet is when that was silent for long enough.

The entry that a host route makes is `Ind Host Interface`, in old versions `Self` without a gateway. The same prefix as
`Ind Host` is the neighbour itself, and stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from routesync.backoff import backoff_s
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

PORTS_GAP_S: Final = 1.5
"""Between two readings of its ports, until they are settled."""
PORTS_INTERVAL_S: Final = 60.0
"""How often it is seen that it is there, and where it lives."""
READ_GAP_S: Final = 5.0
"""Between two readings of its table."""
RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.5, 30.0

_ELSEWHERE: Final = (
    "it lives in another network namespace: mode guard does nothing for it, and mirrors nothing into it"
)


class Quiet:
    """When a loxilb in our namespace has nothing to ingest, by the route events that we heard ourselves."""

    def __init__(self, events: Callable[[], int]) -> None:
        """Begin.

        Args:
            events: route events of our kernel since the start.
        """
        self._events = events
        self._seen = events()
        self._ingestion = Ingestion(asyncio.get_running_loop().time())

    def quiet_in(self, now: float) -> float:
        """Seconds until it has ingested everything; 0: it is quiet."""
        events = self._events()
        if events != self._seen:
            self._ingestion.note(now, events - self._seen)
            self._seen = events
        return self._ingestion.quiet_in(now)


def has_entry(inventory: Inventory, prefix: Prefix) -> bool:
    """Whether its table has the prefix other than as a neighbour."""
    row = inventory.rows.get(prefix)
    return row is not None and not ("Host" in row.flags and "Interface" not in row.flags)


class Verifier:
    """Watches one target in mode guard. To be made within the event loop; `run` is eternal. Nothing is written."""

    def __init__(
        self,
        name: str,
        client: LoxilbClient,
        *,
        links: Callable[[], Mapping[int, Link]],
        quiet: Quiet,
        sink: EventSink,
        timeout_s: float,
    ) -> None:
        """Make one.

        Args:
            name: of the target.
            client: the way to it.
            links: the links of our namespace.
            quiet: when it may be read.
            sink: where events go.
            timeout_s: how long after a removal its entry may stand before that is said.
        """
        self.name = name
        self.contacted = asyncio.Event()  # answered, or failed to, at least once
        self._client = client
        self._links = links
        self._quiet = quiet
        self._sink = sink
        self.timeout_s = timeout_s
        self._state = TargetState.CONNECTING
        self._error: str | None = None
        self._version: str | None = None
        self._failures = 0
        self._said: set[TargetState] = set()  # troubles that were said since it was settled where it lives
        self._connections = self._readings = 0
        self._expected: dict[Prefix, float] = {}  # entries that are to leave, and since when
        self._stuck: dict[Prefix, str] = {}
        self._wake = asyncio.Event()

    def expect(self, prefix: Prefix) -> None:
        """The route was removed from the kernel: its entry is to leave."""
        self._stuck.pop(prefix, None)
        self._expected[prefix] = self._now()
        self._wake.set()

    def excuse(self, prefix: Prefix) -> None:
        """The route is back, so its entry may be."""
        self._expected.pop(prefix, None)
        self._stuck.pop(prefix, None)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Entries that did not leave, one line each."""
        return tuple(f"guard: target {self.name}: {detail}" for detail in self._stuck.values())

    def view(self) -> TargetView:
        """How this target stands, for status and metrics."""
        return unmirrored(
            self.name,
            self._client,
            self._state,
            version=self._version,
            error=self._error,
            connections=self._connections,
        )

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Look where it lives, and read it after removals. Returns never."""
        while True:
            try:
                version = await self._client.version()
                await self._settle(version)
                await self._serve()
            except LoxilbError as error:
                self._lost(str(error))
                self._failures += 1
                await asyncio.sleep(backoff_s(self._failures, RECONNECT_FIRST_S, RECONNECT_MOST_S))
                self._expire()

    def _lost(self, error: str) -> None:
        if self._is_news(TargetState.UNREACHABLE):
            log.warning("target_down", target=self.name, url=self._client.url, error=error)
            self._sink.emit(TargetDown(target=self.name, url=self._client.url, error=error))
        self._state, self._error = TargetState.UNREACHABLE, error
        self.contacted.set()

    async def _settle(self, version: str) -> None:
        """Find out where it lives; returns as soon as that is settled."""
        ports = Settling()
        while True:
            shared, settled = ports.note(await self._client.ports(), self._links())
            if settled:
                break
            if shared is Sharing.UNKNOWN:
                self._say(TargetState.STARTING, "it lists no ports yet, so where it lives is not known")
            await asyncio.sleep(PORTS_GAP_S)
            self._expire()
        if self._version is None or TargetState.UNREACHABLE in self._said:
            self._sink.emit(TargetUp(target=self.name, url=self._client.url, version=version))
        self._said.clear()
        self._version, self._failures = version, 0
        self._connections += 1
        if shared is Sharing.YES:
            self._say(TargetState.GUARDED, None)
        else:
            self._say(TargetState.ELSEWHERE, _ELSEWHERE)

    def _say(self, state: TargetState, why: str | None) -> None:
        if state is not self._state:
            if state is TargetState.GUARDED:
                log.info("target_guarded", target=self.name, url=self._client.url)
            elif self._is_news(state):
                log.warning("target_not_guarded", target=self.name, url=self._client.url, reason=why)
        self._state, self._error = state, why
        self.contacted.set()

    def _is_news(self, state: TargetState) -> bool:
        """Whether this trouble was not said since it was settled where it lives."""
        news = state not in self._said
        self._said.add(state)
        return news

    async def _serve(self) -> None:
        """Read its table after removals, until its ports are to be read again."""
        until = self._now() + PORTS_INTERVAL_S
        while (now := self._now()) < until:
            if self._state is not TargetState.GUARDED:
                self._expected.clear()
            if not self._expected:
                await rest(self._wake, until - now)
                continue
            wait_s = self._quiet.quiet_in(now)
            if wait_s <= 0:
                await self._verify()
                wait_s = READ_GAP_S
            self._expire()
            if self._expected:
                await asyncio.sleep(min(wait_s, READ_GAP_S))

    async def _verify(self) -> None:
        started = self._now()
        self._readings += 1
        inventory = await self._client.inventory()
        if not inventory.rows:  # it is starting, and will read the kernel anew
            return
        for prefix, since in list(self._expected.items()):
            if since >= started:
                continue
            if not has_entry(inventory, prefix):
                del self._expected[prefix]
                log.info("guard_verified", target=self.name, prefix=str(prefix))
                self._sink.emit(GuardVerified(target=self.name, prefix=str(prefix)))
            elif started - since >= self.timeout_s:
                del self._expected[prefix]
                self._say_stuck(
                    prefix, "entry-stays", "its table still has the entry; restart loxilb to be rid of it"
                )

    def _expire(self) -> None:
        """Give up on what could not be seen: some time after it should have been."""
        late = self._now() - self.timeout_s - 2 * READ_GAP_S
        for prefix in [prefix for prefix, since in self._expected.items() if since < late]:
            del self._expected[prefix]
            self._say_stuck(
                prefix,
                "not-read",
                f"its table could not be read, or was never at rest, within {self.timeout_s:g} s; "
                "whether its entry left is not known",
            )

    def _say_stuck(self, prefix: Prefix, reason: str, detail: str) -> None:
        log.warning("guard_stuck", target=self.name, prefix=str(prefix), detail=detail)
        self._stuck[prefix] = f"{prefix}: {detail}"
        self._sink.emit(
            GuardStuck.model_validate(
                {"target": self.name, "prefix": str(prefix), "reason": reason, "detail": detail}
            )
        )
