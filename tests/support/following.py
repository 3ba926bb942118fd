"""A kernel source that runs in a namespace for the length of a block."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from routesync.kernel import Evaluate, EvaluateHeader, KernelReport, KernelSource, Links, Rules
from routesync.kernel.evaluate import needs_attributes
from routesync.route import Candidate, Prefix, Route, Verdict
from support.netns import Namespace

MAIN = 254


def keep_all(route: Route, links: Links) -> Verdict:
    del route, links
    return Verdict(keep=True, rule="default")


def held(source: KernelSource) -> dict[Prefix, tuple[Candidate, ...]]:
    """All candidates at this moment, delivered or not."""
    replica = source._fib.replica
    return {prefix: tuple(it.at(prefix) for it in found) for prefix, found in replica.candidates()}


class Follower:
    """A running source, and what it reported."""

    def __init__(self, source: KernelSource, reports: list[KernelReport], created: list[Route]) -> None:
        self.source = source
        self.reports = reports
        self.created = created

    def routes(self, prefix: str | None = None) -> list[Route]:
        """The candidates held: of a prefix in the kernel's order, or of all."""
        return [
            candidate.route
            for at, candidates in held(self.source).items()
            for candidate in candidates
            if prefix is None or str(at) == prefix
        ]


@asynccontextmanager
async def following(
    node: Namespace,
    *,
    evaluate: Evaluate = keep_all,
    evaluate_header: EvaluateHeader = needs_attributes,
    evaluate_link_gateway: Evaluate | None = None,
    tables: tuple[int, ...] = (MAIN,),
    receive_buffer: int = 1 << 20,
    resync_interval_s: float = 600,
    sock: socket.socket | None = None,
) -> AsyncIterator[Follower]:
    """Run a source in a namespace until the block ends; it is synced when the block begins."""
    reports: list[KernelReport] = []
    created: list[Route] = []
    source = KernelSource(
        tables=tables,
        rules=Rules(evaluate, evaluate_header, evaluate_link_gateway),
        receive_buffer=receive_buffer,
        resync_interval_s=resync_interval_s,
        netns=None if sock else node.name,
        sock=sock,
        report=reports.append,
        on_route_created=created.append,
    )
    running = asyncio.create_task(source.run())
    synced = asyncio.create_task(source.synced.wait())
    try:
        await asyncio.wait({running, synced}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        if running.done():
            running.result()
        assert source.synced.is_set()
        yield Follower(source, reports, created)
    finally:
        running.cancel()
        synced.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
