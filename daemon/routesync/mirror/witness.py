"""The witness: the kernel of a loxilb, followed directly where its network namespace is on this host.

It is the best proof there is. With it a withdrawal needs no inventory, a route that loxilb's kernel lost is known at
once, and so is another writer's route in its place. Without it, or while it cannot be followed, inventories serve.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Final, Protocol

import structlog

from routesync.backoff import Backoff
from routesync.kernel import KernelError, KernelSource, Links, Rules
from routesync.names import PROTOCOLS, SCOPES, TABLES
from routesync.route import Address, Evaluated, Family, Prefix, Route, Verdict
from routesync.slices import in_slices

log = structlog.get_logger(__name__)

RECEIVE_BUFFER: Final = 16 * 2**20
RESYNC_INTERVAL_S: Final = 600.0
RETRY: Final = Backoff(first_s=1, most_s=30)
_KEEP: Final = Verdict(keep=True, rule="witness")
_STATIC: Final = frozenset({PROTOCOLS["static"]})
_STATIC_OR_BOOT: Final = _STATIC | {PROTOCOLS["boot"]}
_LINK: Final = SCOPES["link"]


def _keep_all(_route: Route, _links: Links) -> Verdict:
    return _KEEP


class OnChange(Protocol):
    """Takes each prefix that changed."""

    def __call__(self, prefix: Prefix, *, foreign_removed: bool) -> None:
        """`foreign_removed`: a route went from it that does not look as one that loxilb makes of a POST."""


def posted_metric(prefix: Prefix) -> int:
    """What a route has that is posted without a metric."""
    return 0 if prefix.family is Family.INET else 1024


class Witness:
    """Follows the main table of a namespace: one by name or path, or the one that a given socket was opened in.

    Attributes:
        trouble: why it cannot be followed, in one line; None while it can.
        honours_static: whether the loxilb there makes our routes `static` (since v0.9.5), or `boot`.
    """

    def __init__(self, target: str, netns: str | None = None, *, sock: socket.socket | None = None) -> None:
        self.trouble: str | None = None
        self.honours_static = True
        self._target = target
        self._netns = netns if sock is None else None
        self._sock = sock
        self._seen: dict[Prefix, tuple[Evaluated, ...]] = {}
        self._ready = False
        self._taking = False  # changes
        self._followed: tuple[KernelSource, asyncio.Task[None]] | None = None  # and the reader of its changes

    @property
    def ready(self) -> bool:
        """Whether it is being followed, so that its answers are the kernel's present state."""
        return self._ready

    def first(self, prefix: Prefix) -> Route | None:
        """The route that a DELETE of this prefix would take: the first that is not of scope link (IPv4)."""
        return next(self._takeable(prefix), None)

    def shows(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether that route looks as ours with this gateway would."""
        route = self.first(prefix)
        return route is not None and self._as_ours(route, gateway)

    def only_ours(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether ours is the only route of the prefix with its metric or a lower one, and has one hop.

        Then DELETE takes ours. Another of our metric could stand before it (IPv4 prepend), or be one ECMP route with it
        (IPv6 append), which DELETE takes whole.
        """
        rivals = [route for route in self._takeable(prefix) if route.metric <= posted_metric(prefix)]
        return len(rivals) == 1 and self._as_ours(rivals[0], gateway)

    def holds(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether a route of the prefix, or a hop of one, may be ours with this gateway.

        At the start it is not known whether this loxilb makes our routes `static` or `boot`. What another writer
        appends to ours in IPv6 makes one ECMP route of both, shown with the protocol of one hop.
        """
        metric, ecmp = posted_metric(prefix), prefix.family is Family.INET6
        return any(
            route.metric == metric
            and any(hop.gateway == gateway for hop in route.hops)
            and (route.protocol in _STATIC_OR_BOOT if len(route.hops) == 1 else ecmp)
            for route in self._takeable(prefix)
        )

    def others(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether the prefix has a route that does not look as ours with this gateway would."""
        return any(not self._as_ours(route, gateway) for route in self._takeable(prefix))

    def _takeable(self, prefix: Prefix) -> Iterator[Route]:
        """The routes that DELETE could take, in its order: of IPv4 none of scope link, of IPv6 none with a source."""
        for attributes, _ in self._seen.get(prefix, ()):
            linked = attributes.scope == _LINK and prefix.family is Family.INET
            if not linked and not attributes.tos and attributes.source is None:
                yield attributes.at(prefix)

    def _as_posted(self, route: Route) -> bool:
        return any(self._as_ours(route, hop.gateway) for hop in route.hops if hop.gateway is not None)

    def _as_ours(self, route: Route, gateway: Address) -> bool:
        protocols = _STATIC if self.honours_static else _STATIC_OR_BOOT
        return (
            route.protocol in protocols
            and route.metric == posted_metric(route.prefix)
            and len(route.hops) == 1
            and route.hops[0].gateway == gateway
        )

    async def run(self, on_change: OnChange) -> None:
        """Follow it for good.

        Args:
            on_change: is called with each prefix that changed.

        A container that is created again has another namespace under the same name: then the routes of the old one are
        forgotten, and each is reported as changed.
        """
        failures = 0
        while True:
            source = KernelSource(
                tables=(TABLES["main"],),
                rules=Rules(_keep_all),
                receive_buffer=RECEIVE_BUFFER,
                resync_interval_s=RESYNC_INTERVAL_S,
                netns=self._netns,
                sock=self._sock,
            )
            reader = asyncio.create_task(self._take(source, on_change))
            self._followed = source, reader
            try:
                await source.run()
            except KernelError as error:
                if self.trouble is None:
                    log.warning(
                        "witness_lost", target=self._target, error=str(error), consequence="inventories serve"
                    )
                self.trouble = str(error)
            finally:
                failures = 1 if self._ready else failures + 1
                self._ready = False
                self._followed = None
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            await asyncio.sleep(RETRY.delay_s(failures))

    async def catch_up(self) -> None:
        """Return when everything that the kernel announced before this call is known here, and was reported.

        When it cannot be followed meanwhile, this returns with `ready` False.
        """
        if self._followed is None:
            return
        source, reader = self._followed
        try:
            await source.catch_up()
        except KernelError:
            self._ready = False  # `run` says why, and starts again
            return
        while (source.lag_s > 0 or self._taking) and not reader.done():  # noqa: ASYNC110 (the reader's turn)
            await asyncio.sleep(0)

    async def _take(self, source: KernelSource, on_change: OnChange) -> None:
        before, self._taking = self._seen, False
        seen = {prefix: candidates async for prefix, candidates in in_slices(await source.changes())}
        self._seen, self._ready = seen, True
        log.info(
            "witness_present", target=self._target, netns=self._netns or "handed over", routes=len(self._seen)
        )
        self.trouble = None
        async for prefix in in_slices({**before, **seen}):
            on_change(prefix, foreign_removed=False)
        while True:
            changes = await source.changes()
            self._taking = True
            async for prefix, candidates in in_slices(changes):
                gone = [it for it in self._seen.get(prefix, ()) if it not in candidates]
                if candidates:
                    self._seen[prefix] = candidates
                else:
                    self._seen.pop(prefix, None)
                foreign = any(not self._as_posted(it.attributes.at(prefix)) for it in gone)
                on_change(prefix, foreign_removed=foreign)
            self._taking = False
