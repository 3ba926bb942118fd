"""The witness: the kernel beneath a loxilb, read directly where its namespace is on this host.

It is the best proof there is. With it a withdrawal needs no reading of loxilb's table, what its kernel lost is known at
once, and so is whoever took a prefix of ours. Without it, or while it cannot be read, everything works by readings.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from routesync.kernel import KernelError, KernelSource, Links
from routesync.names import PROTOCOLS, SCOPES, TABLES
from routesync.route import Address, Candidate, Family, Prefix, Route, Verdict

log = structlog.get_logger(__name__)

RECEIVE_BUFFER: Final = 16 * 2**20
AUDIT_INTERVAL_S: Final = 600.0
RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 30.0
_KEEP: Final = Verdict(keep=True, rule="witness")
_STATIC: Final = frozenset({PROTOCOLS["static"]})
_STATIC_OR_BOOT: Final = _STATIC | {PROTOCOLS["boot"]}
_LINK: Final = SCOPES["link"]


def _keep_all(_route: Route, _links: Links) -> Verdict:
    return _KEEP


class Witness:
    """Follows the main table of a namespace: of one by name or path, or of the one that a given socket lives in.

    Attributes:
        trouble: why it cannot be read, in one line; None while it can.
        honours_static: whether the loxilb there makes our routes `static` (since v0.9.5), or `boot`.
    """

    def __init__(self, target: str, netns: str | None = None, *, sock: socket.socket | None = None) -> None:
        self.trouble: str | None = None
        self.honours_static = True
        self._target = target
        self._netns = netns if sock is None else None
        self._sock = sock
        self._seen: dict[Prefix, tuple[Candidate, ...]] = {}
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether what it says is the kernel's present state."""
        return self._ready

    def first(self, prefix: Prefix) -> Route | None:
        """The route that a DELETE of this prefix would take: the first that is not of scope link (IPv4)."""
        for route, _ in self._seen.get(prefix, ()):
            if not (route.scope == _LINK and prefix.family is Family.INET) and not route.tos:
                return route
        return None

    def shows(self, prefix: Prefix, gateway: Address) -> bool:
        """Whether that route is as one of ours with this gateway would be."""
        route = self.first(prefix)
        protocols = _STATIC if self.honours_static else _STATIC_OR_BOOT
        return (
            route is not None
            and route.protocol in protocols
            and len(route.hops) == 1
            and route.hops[0].gateway == gateway
        )

    async def run(self, on_change: Callable[[Prefix], None]) -> None:
        """Follow it, for good; `on_change` is told each prefix that changed.

        A container that is made anew has another namespace under the same name: then the old one's routes are
        forgotten, and each is told as changed.
        """
        retry_s = RETRY_FIRST_S
        while True:
            source = KernelSource(
                tables=(TABLES["main"],),
                admit=_keep_all,
                receive_buffer=RECEIVE_BUFFER,
                audit_interval_s=AUDIT_INTERVAL_S,
                netns=self._netns,
                sock=self._sock,
            )
            reader = asyncio.create_task(self._take(source, on_change))
            try:
                await source.run()
            except KernelError as error:
                if self.trouble is None:
                    log.warning(
                        "witness_lost", target=self._target, error=str(error), consequence="readings serve"
                    )
                self.trouble = str(error)
            finally:
                retry_s = RETRY_FIRST_S if self._ready else min(retry_s * 2, RETRY_MOST_S)
                self._ready = False
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            await asyncio.sleep(retry_s)

    async def _take(self, source: KernelSource, on_change: Callable[[Prefix], None]) -> None:
        before, self._seen = self._seen, dict(await source.changes())
        self._ready = True
        log.info(
            "witness_present", target=self._target, netns=self._netns or "handed over", routes=len(self._seen)
        )
        self.trouble = None
        for prefix in {**before, **self._seen}:
            on_change(prefix)
        while True:
            for prefix, candidates in (await source.changes()).items():
                if candidates:
                    self._seen[prefix] = candidates
                else:
                    self._seen.pop(prefix, None)
                on_change(prefix)
