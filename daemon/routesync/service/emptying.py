"""Taking all of our routes out of a loxilb, paced and proved as everything else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from routesync.control.subject import Emptied
from routesync.events.models import EventSink
from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.ledger import Ledger
from routesync.mirror.reconciler import OwnNode, Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Candidate, Prefix
from routesync.service.target_parts import make_client, target_limits
from routesync.settings import TargetSettings

POLL_S: Final = 0.1
NAMED: Final = 3
GIVE_UP_S: Final = 30.0
"""How long a loxilb may be away before a withdrawal gives up."""


async def empty(
    settings: TargetSettings,
    ledger: Ledger,
    sink: EventSink,
    *,
    links: Callable[[], Mapping[int, Link]],
    go_on: Callable[[], str | None] = lambda: None,
) -> Emptied:
    """Withdraw all that the ledger has of a target; nobody else may work on it meanwhile.

    Args:
        settings: how it is reached and treated.
        ledger: says what is ours there.
        sink: takes the events.
        links: this host's; a target in our own namespace is not touched.
        go_on: asked again and again; gives a reason to end.
    """
    name, before = settings.name, len(ledger.owned(settings.name))
    async with make_client(settings) as client:
        reconciler = _emptying(settings, client, ledger, sink, links)
        await reconciler.load_ledger()
        task = asyncio.create_task(reconciler.run())
        loop = asyncio.get_running_loop()
        well_at = loop.time()
        error = None
        try:
            while ledger.owned(name) and error is None:
                view = reconciler.view()
                if view.state is TargetState.SHARED_NAMESPACE:  # DELETE could take this host's own
                    error = view.error
                elif view.state is not TargetState.UNREACHABLE:
                    well_at = loop.time()
                elif loop.time() - well_at > GIVE_UP_S:
                    error = view.error
                if not view.waiting and view.phases and set(view.phases) == {Phase.LEFT_BEHIND}:
                    error = _left_behind(reconciler)
                error = error or go_on()
                await asyncio.sleep(POLL_S)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    if (committed := ledger.committed()) is not None:
        await committed
    left = len(ledger.owned(name))
    return Emptied(before - left, left, error)


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

    def elected(self, prefix: Prefix) -> Candidate | None:
        """See `OwnNode`."""
        del prefix
        return None


def _emptying(
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
        limits=target_limits(settings)._replace(startup_hold_s=0, withdraw_share=1),
        ledger=ledger,
        sink=sink,
        node=_NoRoutes(links),
    )
