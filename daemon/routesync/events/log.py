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
    log.info("no broker is configured ([mqtt]): events go to the log only")
    with hub.follow() as follower:
        async for record in follower:
            if follower.missed:
                log.warning("events were left out of the log", count=follower.missed)
                follower.missed = 0
            event = record.event
            said = f"{event.group} {event.name}"
            log.info(said, sequence=record.sequence, **event.model_dump(mode="json"))
    raise AssertionError("a follower never ends")
