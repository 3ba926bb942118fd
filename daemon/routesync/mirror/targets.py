"""The targets of the daemon: one reconciler each, started, ended and reconfigured as the configuration says.

A target that stays keeps everything: its token bucket, its routes, its place in the ledger. One whose rules or limits
changed continues with the new ones. One whose connection changed (URL, token, TLS, …) is connected again, as after a
start: the ledger says which routes are owned, and nothing is written that exists there already.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import structlog

from routesync.best_routes import BestRoutes, Consumer
from routesync.characters import many
from routesync.config import Loaded
from routesync.config.credentials import Endpoint, endpoint_of
from routesync.config.models import TargetSettings
from routesync.config.resolve import address_in
from routesync.events.models import EventSink
from routesync.events.peers import Peers
from routesync.events.retained import PublishedTables
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.last_loxilb import LastLoxilb
from routesync.mirror.ledger import Ledger
from routesync.mirror.limits import Limits
from routesync.mirror.pause import Pause
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.status import TargetView
from routesync.mirror.targets_addresses import TargetsAddresses
from routesync.mirror.witness import Witness
from routesync.route import Address, Prefix, Route
from routesync.slices import in_slices
from routesync.tasks import Supervisor

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Held:
    reconciler: Reconciler
    client: LoxilbClient
    endpoint: Endpoint
    settings: TargetSettings


class Targets(Consumer):
    """All targets.

    Args:
        best_routes: which are mirrored.
        ledger: which routes are owned, in all targets.
        sink: takes their events.
        supervisor: runs their tasks.
        peers: knows other nodes with the same loxilbs.
        table: what subscribers are shown of them; targets that are removed are removed there, too.
        state: the state directory.
        witness_sockets: those that the service manager opened, by target.
    """

    def __init__(
        self,
        best_routes: BestRoutes,
        ledger: Ledger,
        sink: EventSink,
        supervisor: Supervisor,
        *,
        table: PublishedTables,
        peers: Peers,
        state: Path,
        witness_sockets: Mapping[str, socket.socket],
    ) -> None:
        self.orphans: tuple[str, ...] = ()
        """One line for each target that is not configured and has owned routes; see `look_for_orphans`."""
        self.unresolved: tuple[str, ...] = ()
        """Targets with `all_addresses` whose addresses are not known now: none of them is an orphan."""
        self._best_routes = best_routes
        self._ledger = ledger
        self._sink = sink
        self._supervisor = supervisor
        self._table = table
        self._peers = peers
        self._state = state
        self._targets_addresses = TargetsAddresses()
        self._witness_sockets = witness_sockets
        self._held: dict[str, _Held] = {}
        self._configured: dict[str, TargetSettings] = {}
        self._gathered: dict[Prefix, None] | None = None
        self._loading: asyncio.Task[None] | None = None
        best_routes.consumers.append(self)

    @property
    def reconcilers(self) -> list[Reconciler]:
        """One for each target that is mirrored into, in the order of the configuration."""
        return [self._held[name].reconciler for name in self._configured if name in self._held]

    def views(self) -> list[TargetView]:
        """The state of each."""
        return [reconciler.view() for reconciler in self.reconcilers]

    @property
    def doubled(self) -> tuple[str, ...]:
        """One line for each loxilb that several targets seem to be."""
        names: dict[str, list[str]] = {}
        for reconciler in self.reconcilers:
            if reconciler.instance is not None:
                names.setdefault(reconciler.instance, []).append(reconciler.name)
        return tuple(
            f"targets {' and '.join(found)} seem to be one loxilb, by index and MAC of its first port: each sends at "
            "the full rate, and takes the routes of the other for foreign; remove all but one of them"
            for found in names.values()
            if len(found) > 1
        )

    async def contacted(self) -> None:
        """Wait until each has answered, or failed to, once."""
        for reconciler in self.reconcilers:
            await reconciler.contacted.wait()

    # -- changes of best routes ----------------------------------------------------------------------------------------

    def on_best_route(self, prefix: Prefix, kernel_changed_at: float | None = None, /) -> None:
        """See `Consumer`."""
        if self._gathered is not None:
            self._gathered[prefix] = None
            return
        for held in self._held.values():
            held.reconciler.on_best_route(prefix, kernel_changed_at)

    def on_resync(self, began: float, /) -> None:
        """See `Consumer`."""
        for held in self._held.values():
            held.reconciler.on_resync(began)

    def on_route_created(self, route: Route, /) -> None:
        """See `Consumer`."""
        for held in self._held.values():
            held.reconciler.on_route_created(route)

    @asynccontextmanager
    async def gathering(self) -> AsyncIterator[None]:
        """Hold changes back for the length of a `with` block, then pass them on.

        So rules of the policy and settings of targets that change together reach loxilb as one change, without a state
        between that nobody configured.
        """
        self._gathered = {}
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
            async for prefix in in_slices(gathered):
                self.on_best_route(prefix)

    # -- the configuration --------------------------------------------------------------------------------------------

    async def apply(self, loaded: Loaded) -> None:
        """Apply a configuration."""
        settings = loaded.settings
        self._configured = {target.name: target for target in settings.targets}
        self._targets_addresses.configure(target.url for target in settings.targets)
        active = self._configured if settings.mode == "mirror" else {}
        published: dict[str, dict[Prefix, Address]] = {}  # of targets that get another connection
        for name, held in list(self._held.items()):
            target = active.get(name)
            if target is None:
                await self._end(name)
                self._table.forget(name)
            elif endpoint_of(target) != held.endpoint:
                if target.url != held.settings.url and name in self._ledger.targets():
                    log.warning(
                        "target_moved",
                        target=name,
                        url=target.url,
                        before=held.settings.url,
                        consequence="unless it is the same loxilb, what is ours in the former stays, unknown to us",
                    )
                await self._end(name)
                published[name] = held.reconciler.state.published()
        for name, target in active.items():
            if name not in self._held:
                await self._begin(target, published.get(name, {}))
        for name, held in self._held.items():
            held.settings = active[name]
            held.reconciler.reconfigure(
                TargetRules.from_settings(held.settings), Limits.from_settings(held.settings)
            )
        self.look_for_orphans()

    def load_ledger(self) -> None:
        """Claim the owned routes of previous runs: the ledger could be read only now. Returns at once."""
        self._loading = asyncio.get_running_loop().create_task(self._load_ledger())

    async def _load_ledger(self) -> None:
        for held in list(self._held.values()):
            await held.reconciler.load_ledger()
        self.look_for_orphans()

    def look_for_orphans(self) -> None:
        """Find the targets that have owned routes and are not configured."""
        found = {
            name: routes
            for name, routes in self._ledger.targets().items()
            if name not in self._configured and not any(address_in(name, it) for it in self.unresolved)
        }
        self.orphans = tuple(
            f"target {name} is no longer configured, and {many(routes, 'route')} of ours left in it: "
            f"`routesync withdraw --target {name}` takes them out, `forget` gives them up"
            for name, routes in found.items()
        )
        for name, routes in found.items():
            log.warning("routes_left_behind", target=name, routes=routes)

    async def _begin(self, target: TargetSettings, published: Mapping[Prefix, Address]) -> None:
        client = LoxilbClient.from_settings(target)
        await client.__aenter__()
        reconciler = Reconciler(
            target.name,
            client,
            rules=TargetRules.from_settings(target),
            limits=Limits.from_settings(target),
            ledger=self._ledger,
            sink=self._sink,
            node=self._best_routes,
            targets=self._targets_addresses,
            pause=Pause(self._state, target.name),
            last_loxilb=LastLoxilb(self._state, target.name),
            witness=self._witness(target),
            peers=self._peers,
        )
        await reconciler.load_ledger()
        reconciler.state.continue_from(published)
        self._held[target.name] = _Held(reconciler, client, endpoint_of(target), target)
        self._supervisor.start(f"target {target.name}", reconciler.run)

    def _witness(self, target: TargetSettings) -> Witness | None:
        sock = self._witness_sockets.get(target.name)
        if sock is None and target.witness is None:
            return None
        return Witness(target.name, target.witness.netns if target.witness else None, sock=sock)

    async def _end(self, name: str) -> None:
        held = self._held.pop(name)
        self._targets_addresses.leave(name)
        await self._supervisor.end(f"target {name}")
        held.reconciler.report.set_alarms({}, monotonic())
        await held.client.__aexit__(None, None, None)

    async def close(self) -> None:
        """Close the connections to them; their tasks have ended."""
        for held in self._held.values():
            await held.client.__aexit__(None, None, None)
