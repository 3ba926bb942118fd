"""What the rules keep of the kernel's routes, as events and as a retained table: in mode observe, or on request.

What the first dump finds goes into the table without an event: a node may have a million routes, and the table says it.
"""

from __future__ import annotations

from typing import Final

import structlog

from routesync.best_routes import BestRoutes, Consumer
from routesync.config import Loaded
from routesync.events.models import EventSink, KernelGone, KernelKept
from routesync.events.retained import PublishedTable, PublishedTables, kernel_entry
from routesync.route import Prefix, format_address
from routesync.slices import in_slices

log = structlog.get_logger(__name__)

MOST_ROUTES: Final = 100_000
"""Beyond it the table ends: its buckets would have more than 20 kB, and each change publishes one."""


class KernelTable(Consumer):
    """Follows the best routes.

    Args:
        best_routes: What is published.
        sink: Takes the events.
        tables: Have the table, and fold the events into it.
    """

    def __init__(self, best_routes: BestRoutes, sink: EventSink, tables: PublishedTables) -> None:
        self._best_routes = best_routes
        self._sink = sink
        self._tables = tables
        self._wanted = False
        self._is_live = False
        """Whether the first dump was passed on, so that what comes is a change."""
        best_routes.consumers.append(self)

    async def apply(self, loaded: Loaded) -> None:
        """Apply a configuration."""
        settings = loaded.settings
        on_request = settings.events.kernel_table
        self._wanted = settings.mode == "observe" if on_request is None else on_request
        if not (self._wanted and settings.events.table and settings.mqtt is not None):
            self._tables.kernel = None
        elif self._tables.kernel is None:
            table = self._tables.kernel = PublishedTable(None)
            async for prefix in in_slices(self._best_routes.prefixes()):
                self._fill(prefix)
            table.complete = self._is_live

    def on_best_route(self, prefix: Prefix, kernel_changed_at: float | None = None, /) -> None:
        """See `Consumer`."""
        del kernel_changed_at
        if not self._wanted:
            return
        if not self._is_live:
            self._fill(prefix)
            return
        self._sink.emit(self._kept(prefix) or KernelGone(prefix=str(prefix), family=prefix.family.label))
        self._check_size()

    def on_resync(self, began: float, /) -> None:
        """See `Consumer`."""
        del began
        self._is_live = True
        if self._tables.kernel is not None:
            self._tables.kernel.complete = True

    def _fill(self, prefix: Prefix) -> None:
        if self._tables.kernel is not None:
            kept = self._kept(prefix)
            self._tables.kernel.change(str(prefix), kernel_entry(kept) if kept is not None else None)
            self._check_size()

    def _kept(self, prefix: Prefix) -> KernelKept | None:
        candidate, words = self._best_routes.elected(prefix), self._best_routes.in_words(prefix)
        if candidate is None or words is None:
            return None
        hops = candidate.route.live_hops
        return KernelKept(
            prefix=str(prefix),
            family=prefix.family.label,
            gateway=format_address(hops[0].gateway) if hops and hops[0].gateway is not None else None,
            rule=candidate.verdict.rule,
            **words._asdict(),
        )

    def _check_size(self) -> None:
        if self._tables.kernel is not None and self._tables.kernel.routes > MOST_ROUTES:
            self._tables.kernel = None
            log.warning(
                "kernel_table_ended",
                reason=f"the rules keep more than {MOST_ROUTES} routes; their events go on",
                remedy="narrow the rules, or set events.kernel_table to false",
            )
