"""A kernel source that runs in a namespace for the length of a block."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from routesync.kernel import Admit, AdmitHeader, KernelReport, KernelSource, Links
from routesync.kernel.judge import admit_header_unknown
from routesync.route import Route, Verdict
from support.netns import Namespace

MAIN = 254


def keep_all(route: Route, links: Links) -> Verdict:
    del route, links
    return Verdict(keep=True, rule="default")


class Follower:
    """A running source, and what it told."""

    def __init__(self, source: KernelSource, reports: list[KernelReport], made: list[Route]) -> None:
        self.source = source
        self.reports = reports
        self.made = made

    def routes(self, prefix: str | None = None) -> list[Route]:
        """The candidates held: of a prefix in the kernel's order, or of all."""
        return [
            candidate.route
            for at, candidates in self.source.held().items()
            for candidate in candidates
            if prefix is None or str(at) == prefix
        ]


@asynccontextmanager
async def following(
    node: Namespace,
    *,
    admit: Admit = keep_all,
    admit_header: AdmitHeader = admit_header_unknown,
    admit_link_gateway: Admit | None = None,
    tables: tuple[int, ...] = (MAIN,),
    receive_buffer: int = 1 << 20,
    audit_interval_s: float = 600,
    sock: socket.socket | None = None,
) -> AsyncIterator[Follower]:
    """Run a source in a namespace until the block ends; it is synced when the block begins."""
    reports: list[KernelReport] = []
    made: list[Route] = []
    source = KernelSource(
        tables=tables,
        admit=admit,
        admit_header=admit_header,
        admit_link_gateway=admit_link_gateway,
        receive_buffer=receive_buffer,
        audit_interval_s=audit_interval_s,
        netns=None if sock else node.name,
        sock=sock,
        report=reports.append,
        made=made.append,
    )
    running = asyncio.create_task(source.run())
    synced = asyncio.create_task(source.synced.wait())
    try:
        await asyncio.wait({running, synced}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        if running.done():
            running.result()
        assert source.synced.is_set()
        yield Follower(source, reports, made)
    finally:
        running.cancel()
        synced.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
