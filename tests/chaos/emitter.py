"""A node that only publishes: `python -m chaos.emitter PORT FILE RATE [hasty]`, to a broker on the loopback.

It emits RATE events a second through the program's hub, outbox (in FILE) and publisher; `hasty` makes the outbox small,
and the waits for a broker that refuses short. It prints JSON objects, one a line: the epoch, and after which number it
begins; up to which number it emits next; up to which number all is on disk. A line on standard input makes it emit no
more, wait until the broker has everything, and end.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import structlog

from routesync.backoff import Backoff
from routesync.config.models import MqttSettings
from routesync.events import delivery, sender
from routesync.events.models import ConfigRejected, Event, KernelOverrun, RouteWithdrawn, SyncLost
from routesync.events.outbox import Outbox
from routesync.events.store import Bounds
from support.events import TARGET, accepted, publishing
from support.waiting import eventually

NODE: Final = "endurance"
BOUNDS: Final = Bounds(events=8000)
HASTY_BOUNDS: Final = Bounds(events=600)
"""Some outages exceed them, and most denials of a topic a tenth of them."""
ROUTES: Final = 200
STEP_S: Final = 0.1
DRAINED_WITHIN_S: Final = 300.0
"""Denied topics are tried again after 30 s, messages that broke a connection after 60 s and more."""
BACKOFF: Final = Backoff(first_s=0.2, most_s=2)
LARGE: Final = ("a long line, " * 200,)
TOPICS: Final = (
    "route/accepted",
    "route/withdrawn",
    "sync/lost",
    "kernel/overrun",
    "config/rejected",
    "events/lost",
)
"""What it publishes, below `event/`."""


def event(number: int) -> Event:
    """The `number`th event: of a few topics, most of them of one."""
    prefix, target = f"10.0.0.{number % ROUTES}/32", TARGET.name
    match number % 16:
        case 0:
            return RouteWithdrawn(
                target=target, prefix=prefix, family="ipv4", gateway="192.0.2.1", reason="undesired"
            )
        case 1:
            return SyncLost(target=target, prefix=prefix, detail="it is gone")
        case 2:
            return KernelOverrun(total=number)
        case 3:
            return ConfigRejected(path="/etc/routesync/routesync.toml", errors=LARGE)
    return accepted(number % ROUTES, gateway=f"192.0.2.{number % 250}")


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def is_drained(outbox: Outbox) -> bool:
    """Whether the broker has everything, and each report of what it will not get."""
    return not (outbox.backlog or outbox.held or outbox.unreported)


async def emit(port: int, file: Path, rate: float, bounds: Bounds) -> None:
    """Emit until asked to end."""
    settings = MqttSettings.model_validate(
        {"host": "127.0.0.1", "port": port, "timeout_s": 3, "keepalive_s": 5, "heartbeat_s": 5}
    )
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def take_order() -> None:
        loop.remove_reader(sys.stdin.fileno())
        asked.set()

    loop.add_reader(sys.stdin.fileno(), take_order)
    async with publishing(settings, outbox_path=file, bounds=bounds, node=NODE, backoff=BACKOFF) as node:
        hub, outbox = node.hub, node.outbox
        say(epoch=hub.identity.epoch, after=hub.sequence)
        began, emitted = loop.time(), 0
        while not asked.is_set():
            due = round((loop.time() - began) * rate)
            say(emits=hub.sequence + due - emitted)  # first: it may be killed while some of them are on disk
            for number in range(emitted, due):
                hub.emit(event(number))
            emitted, upto = due, hub.sequence
            await outbox.flush()
            say(on_disk=upto)
            await asyncio.sleep(STEP_S)
        await eventually(lambda: is_drained(outbox), within_s=DRAINED_WITHIN_S, what="an empty outbox")
        say(on_disk=hub.sequence)


def hurry() -> None:
    """Wait for a broker that refuses as a short run can afford it."""
    vars(delivery).update(DENIED_S=0.5)
    vars(sender).update(DENIED_S=0.5, PAUSE_S=0.05, MOST_PAUSE_S=0.2, ASIDE_S=0.5)


if __name__ == "__main__":
    port_, file_, rate_, *hasty = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if hasty:
        hurry()
    asyncio.run(emit(int(port_), Path(file_), float(rate_), HASTY_BOUNDS if hasty else BOUNDS))
