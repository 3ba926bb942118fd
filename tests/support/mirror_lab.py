"""A reconciler at work on a stand-in that dies of any misuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress

from routesync.best_routes import OwnNode
from routesync.events.cloudevents import Record
from routesync.events.models import Event
from routesync.events.retained import PublishedTables
from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.last_loxilb import LastLoxilb
from routesync.mirror.ledger import Ledger
from routesync.mirror.limits import Limits
from routesync.mirror.pause import Pause
from routesync.mirror.reconciler import Reconciler, RouteView
from routesync.mirror.state import Phase
from routesync.mirror.targets_addresses import TargetsAddresses
from routesync.mirror.witness import Witness
from routesync.names import PROTOCOLS, TYPES
from routesync.route import Candidate, NextHop, Prefix, Route, Verdict, format_address, parse_address
from support.event_sink import Events
from support.memory_ledger import MemoryLedger
from support.netns import Namespace, namespace, segment
from support.standin import StandinProcess, running_standin
from support.waiting import eventually

LO = {1: Link(1, "lo", 0x10049, bytes(6))}
"""The links of a namespace that has no other."""


def candidate(prefix: str, gateway: str) -> Candidate:
    """A kept route with one gateway."""
    hops = (NextHop(parse_address(gateway), 3),)
    route = Route(Prefix.parse(prefix), 254, 0, 0, PROTOCOLS["bgp"], 0, TYPES["unicast"], hops)
    return Candidate(route, Verdict(keep=True, rule="rule"))


class LabNode(OwnNode):
    """A node that has the routes that a test gives it."""

    def __init__(self, request_resync: Callable[[], None]) -> None:
        self.routes: dict[Prefix, Candidate] = {}
        self.interfaces = LO
        self._request_resync = request_resync

    def links(self) -> dict[int, Link]:
        return self.interfaces

    def elected(self, prefix: Prefix) -> Candidate | None:
        return self.routes.get(prefix)

    def prefixes(self) -> tuple[Prefix, ...]:
        return tuple(self.routes)

    def request_resync(self) -> None:
        self._request_resync()


class LabReconciler(Reconciler):
    """A reconciler of a node whose routes are those that it is given."""

    node: LabNode

    def set_route(
        self, prefix: Prefix, candidate: Candidate | None, kernel_changed_at: float | None = None
    ) -> None:
        if candidate is None:
            self.node.routes.pop(prefix, None)
        else:
            self.node.routes[prefix] = candidate
        self.on_best_route(prefix, kernel_changed_at)

    @property
    def routes(self) -> dict[Prefix, RouteView]:
        """Every prefix that is known at the target."""
        return {prefix: view for prefix in self.prefixes() if (view := self.route(prefix)) is not None}


class Lab:
    """A stand-in, its kernel, and a reconciler to run beside it."""

    def __init__(self, space: Namespace, standin: StandinProcess) -> None:
        self.space = space
        self.standin = standin
        self.ledger: Ledger = MemoryLedger()
        self.events = Events()
        self.resyncs = 0  # of the kernel, asked for by the reconciler

    def _count_resync(self) -> None:
        self.resyncs += 1

    @asynccontextmanager
    async def mirroring(
        self,
        *,
        rules: TargetRules | None = None,
        limits: Limits | None = None,
        timeout_s: float = 10,
        token: Callable[[], str | None] = lambda: None,
        witness: bool = False,
        pause: Pause | None = None,
        last_loxilb: LastLoxilb | None = None,
        client: LoxilbClient | None = None,
        targets_addresses: TargetsAddresses | None = None,
        name: str = "lb",
    ) -> AsyncIterator[LabReconciler]:
        """Run a reconciler for the length of a block, with this client, or one that these arguments make."""
        async with AsyncExitStack() as stack:
            if client is None:
                client = await stack.enter_async_context(
                    LoxilbClient(
                        "http://loxilb",
                        request_timeout_s=timeout_s,
                        token=token,
                        unix_socket=self.standin.socket,
                    )
                )
            node = LabNode(self._count_resync)
            reconciler = LabReconciler(
                name,
                client,
                rules=rules or TargetRules(),
                ledger=self.ledger,
                sink=self.events,
                node=node,
                witness=Witness(name, self.space.name) if witness else None,
                pause=pause,
                last_loxilb=last_loxilb,
                targets=targets_addresses,
                limits=(limits or Limits())._replace(inventory_gap_s=0.3),
            )
            reconciler.node = node
            await reconciler.load_ledger()
            began = len(self.events.seen)
            task = asyncio.create_task(reconciler.run())
            try:
                yield reconciler
                reports_are_true(self.events.seen[began:], reconciler)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        assert self.standin.alive, f"the stand-in died of our doing: {self.standin.log()}"

    async def behind_its_back(self, command: str) -> None:
        """Change its kernel by ip(8) as another writer would, and wait until it has seen that.

        An inventory that met this would kill it, and no client could know.
        """
        before = self.standin.state().ingested
        self.space.ip(command)
        await eventually(
            lambda: (state := self.standin.state()).ingested > before and not state.waiting,
            what=f"ingestion of {command}",
        )

    async def quiet(self) -> None:
        """Wait until it has ingested all."""
        await eventually(lambda: not self.standin.state().waiting, what="ingestion")

    async def shows(self, prefix: Prefix) -> bool:
        """Whether its table has an entry for the prefix; to be asked in quiet only."""
        async with LoxilbClient("http://loxilb", unix_socket=self.standin.socket) as client:
            return prefix in (await client.inventory()).rows

    def static_routes(self) -> dict[str, str]:
        """Prefix to gateway of the routes that loxilb made in its kernel."""
        found: dict[str, str] = {}
        for family in ("-4", "-6"):
            for row in json.loads(self.space.ip(f"-j {family} route show proto static") or "[]"):
                found[row["dst"]] = row["gateway"]
        return found

    def gateway(self, prefix: Prefix) -> str | None:
        """The gateway of its kernel's first route of exactly this prefix, of any writer."""
        rows = json.loads(self.space.ip(f"-j route show exact {prefix}") or "[]")
        return str(rows[0]["gateway"]) if rows else None

    async def holds(self, routes: dict[str, str], *, within_s: float = 30) -> None:
        """Wait until its kernel has exactly these static routes."""
        await eventually(
            lambda: self.static_routes() == routes, within_s=within_s, what=f"{routes} in loxilb's kernel"
        )


def reported_table(events: Sequence[Event]) -> dict[Prefix, str]:
    """The table that subscribers make of the events: prefix to gateway."""
    table = PublishedTables()
    for sequence, event in enumerate(events, 1):
        table.put(Record(sequence, 0.0, event))
    return {
        Prefix.parse(row.prefix): row.gateway
        for target in table
        for number in range(2**target.depth)
        for row in target.bucket(number, 0).routes
    }


def reports_are_true(events: Sequence[Event], reconciler: Reconciler) -> None:
    """Hold what subscribers know against what the reconciler does; of what is being changed only that it is known."""
    routes = reconciler.state.routes
    busy = {prefix for prefix, route in routes.items() if route.owned is not None and not route.certain}
    busy |= reconciler.state.busy
    ours = {
        prefix: format_address(route.owned)
        for prefix, route in routes.items()
        if route.owned is not None and route.phase is not Phase.LEFT_BEHIND
    }
    assert {prefix: gateway for prefix, gateway in reported_table(events).items() if prefix not in busy} == {
        prefix: gateway for prefix, gateway in ours.items() if prefix not in busy
    }


@contextmanager
def laboratory(*arguments: str) -> Iterator[Lab]:
    """A stand-in with these arguments in a namespace with one neighbour, for the length of a `with` block."""
    with ExitStack() as stack:
        space = stack.enter_context(namespace("loxilb"))
        stack.enter_context(segment((space, "ens3", 20)))
        standin = stack.enter_context(running_standin(space, "--listen", "none", *arguments))
        yield Lab(space, standin)
