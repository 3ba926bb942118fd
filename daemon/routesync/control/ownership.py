"""Owned routes in targets that the daemon does not mirror into, changed by `withdraw` and `forget`.

For example in a target that is no longer configured. In a target that is mirrored into the daemon would add the routes
again at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from routesync.best_routes import OwnNode
from routesync.config.models import TargetSettings
from routesync.events.models import EventSink
from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.last_loxilb import RequiredLoxilb
from routesync.mirror.ledger import Ledger
from routesync.mirror.limits import Limits
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.mirror.targets import Targets
from routesync.route import Prefix

POLL_S: Final = 0.1
NAMED: Final = 3
"""Prefixes named in a message."""
GIVE_UP_S: Final = 30.0
"""How long a loxilb may be unreachable before a withdrawal gives up."""
STARTS_S: Final = 180.0
"""The same for one that answers and does not show its table or ports; a full table takes two minutes to come."""


class Withdrawn(NamedTuple):
    """Result of withdrawing all owned routes from a target."""

    withdrawn: int
    left: int  # still there, and still owned
    error: str | None  # why they are
    is_reachable: bool = True  # the target, at the end


class Ownership:
    """Owned routes in targets that the daemon does not mirror into.

    Args:
        ledger: which routes are owned.
        sink: takes the events.
        node: knows this host's network interfaces.
        targets: those that are mirrored into.
    """

    def __init__(self, ledger: Ledger, sink: EventSink, node: OwnNode, targets: Targets) -> None:
        self._ledger = ledger
        self._sink = sink
        self._node = node
        self._targets = targets
        self._at_work: set[str] = set()

    def owned(self) -> Mapping[str, int]:
        """How many routes are owned, by target."""
        return self._ledger.targets()

    async def forget(self, target: str, prefixes: Collection[Prefix] = ()) -> int:
        """Give up ownership of these routes in a target, or of all; they stay there. Return how many these were."""
        owned = [prefix for prefix in self._ledger.owned(target) if not prefixes or prefix in prefixes]
        for prefix in owned:
            self._ledger.note(target, prefix, None)
        if (committed := self._ledger.committed()) is not None:
            await committed
        self._targets.look_for_orphans()
        return len(owned)

    async def withdraw(self, settings: TargetSettings) -> Withdrawn:
        """Withdraw all owned routes from a target."""
        if settings.name in self._at_work:
            return Withdrawn(0, len(self._ledger.owned(settings.name)), "they are being withdrawn already")
        self._at_work.add(settings.name)
        try:
            return await withdraw_all(
                settings,
                self._ledger,
                self._sink,
                links=self._node.links,
                stop=lambda: self._reason_to_stop(settings.name),
            )
        finally:
            self._at_work.discard(settings.name)
            self._targets.look_for_orphans()

    def _reason_to_stop(self, target: str) -> str | None:
        mirrored = any(it.name == target for it in self._targets.reconcilers)
        return "it is configured again" if mirrored else None


async def withdraw_all(
    settings: TargetSettings,
    ledger: Ledger,
    sink: EventSink,
    *,
    links: Callable[[], Mapping[int, Link]],
    stop: Callable[[], str | None] = lambda: None,
) -> Withdrawn:
    """Withdraw all owned routes from a target, with the same limits and proofs as the daemon.

    Nothing else may work on the target meanwhile.

    Args:
        settings: of the target.
        ledger: which routes are owned.
        sink: takes the events.
        links: this host's; a target in the same network namespace is not touched.
        stop: called again and again; returns a reason to stop.
    """
    name, before = settings.name, len(ledger.owned(settings.name))
    async with LoxilbClient.from_settings(settings) as client:
        reconciler = _reconciler(settings, client, ledger, sink, links)
        await reconciler.load_ledger()
        task = asyncio.create_task(reconciler.run())
        loop = asyncio.get_running_loop()
        reachable_at = loop.time()
        error, is_reachable = None, True
        try:
            while ledger.owned(name) and error is None:
                view = reconciler.view()
                if view.state is TargetState.SHARED_NAMESPACE:  # DELETE could take this host's own
                    error = view.error
                elif view.state in {TargetState.SYNCED, TargetState.SYNCING}:
                    reachable_at = loop.time()
                elif loop.time() - reachable_at > (
                    STARTS_S if view.state is TargetState.STARTING else GIVE_UP_S
                ):
                    error, is_reachable = view.error, view.state is not TargetState.UNREACHABLE
                if not view.waiting and view.phases and set(view.phases) == {Phase.LEFT_BEHIND}:
                    error = _left_behind(reconciler)
                error = error or stop()
                await asyncio.sleep(POLL_S)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    if (committed := ledger.committed()) is not None:
        await committed
    left = len(ledger.owned(name))
    return Withdrawn(before - left, left, error, is_reachable)


def _left_behind(reconciler: Reconciler) -> str:
    prefixes = sorted(map(str, reconciler.prefixes()))
    names = ", ".join(prefixes[:NAMED]) + (", …" if len(prefixes) > NAMED else "")
    return (
        f"nothing proves that a DELETE would remove its own route and no other ({names}); remove them in loxilb's "
        f"network namespace, then `routesync forget --target {reconciler.name}`"
    )


class _NoRoutes(OwnNode):
    """A node without routes: everything in the target is to be withdrawn."""

    def __init__(self, links: Callable[[], Mapping[int, Link]]) -> None:
        self._links = links

    def links(self) -> Mapping[int, Link]:
        """See `OwnNode`."""
        return self._links()


def _reconciler(
    settings: TargetSettings,
    client: LoxilbClient,
    ledger: Ledger,
    sink: EventSink,
    links: Callable[[], Mapping[int, Link]],
) -> Reconciler:
    return Reconciler(
        settings.name,
        client,
        rules=TargetRules(),
        limits=Limits.from_settings(settings)._replace(startup_hold_s=0, withdraw_share=1),
        ledger=ledger,
        sink=sink,
        node=_NoRoutes(links),
        last_loxilb=RequiredLoxilb(ledger.path.parent, settings.name),
    )
