"""The log as an outlet, for a daemon without a broker."""

from __future__ import annotations

from typing import NoReturn

import structlog
from structlog.typing import FilteringBoundLogger

from routesync.events.hub import EventHub


async def log_events(hub: EventHub, logger: FilteringBoundLogger | None = None) -> NoReturn:
    """Write every event to the log, for good.

    A log that cannot keep up costs lines, never time of those who emit: how many is logged in their place.
    """
    log: FilteringBoundLogger = logger or structlog.get_logger("routesync.events")
    log.info("events_only_logged", reason="no broker is configured ([mqtt])")
    with hub.follow() as follower:
        async for record in follower:
            if follower.missed:
                log.warning("events_left_out", count=follower.missed)
                follower.missed = 0
            event = record.event
            name = f"{event.group}_{event.name}".replace("-", "_")
            log.info(name, sequence=record.sequence, **event.model_dump(mode="json"))
    raise AssertionError("a follower never ends")
