"""Where events go: to a broker by way of the outbox, or to the log where no broker is configured.

What the retained table shows is folded from the first event on, broker or not, so that a broker which is configured
later, or exchanged, gets it whole. The outbox outlives an exchange of brokers; what waits in it goes to the new one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from routesync.config import Loaded
from routesync.config.models import EventsSettings, MqttSettings
from routesync.events.hub import EventHub, log_events
from routesync.events.node_status import Status
from routesync.events.outbox import Bounds, Outbox
from routesync.events.publisher import MqttPublisher
from routesync.events.retained import PublishedTables
from routesync.tasks import Supervisor

log = structlog.get_logger(__name__)

OUTBOX: Final = "outbox.sqlite"


class Outlets:
    """The way out of a hub's events.

    Args:
        hub: the events; takes up the outbox's count of them.
        supervisor: runs the task.
        state: the state directory.
        status: what the daemon is at this moment.
    """

    def __init__(
        self, hub: EventHub, supervisor: Supervisor, state: Path, status: Callable[[], Status]
    ) -> None:
        self.table = PublishedTables()
        self._hub = hub
        self._state = state
        self._status = status
        self._settings: tuple[MqttSettings | None, EventsSettings] | None = None
        self._outbox: Outbox | None = None
        self._attached = False
        self.publisher: MqttPublisher | None = None
        self._supervisor = supervisor
        hub.attach(self.table)

    async def apply(self, loaded: Loaded) -> None:
        """Apply a configuration; a broker that is replaced is first disconnected from, which is a matter of seconds."""
        settings = loaded.settings.mqtt, loaded.settings.events
        if settings == self._settings:
            return
        self._settings = settings
        mqtt, events = settings
        if mqtt is None:
            self.publisher = None
            self._set_attached(attached=False)
            await self._supervisor.replace("events", functools.partial(log_events, self._hub))
            return
        self.publisher = MqttPublisher(
            mqtt,
            self._hub.identity.node,
            self._hub,
            self._status,
            outbox=self._open_outbox(Bounds(events.outbox_events, events.outbox_bytes)),
            tables=self.table,
            table_interval_s=events.table_interval_s,
        )
        await self._supervisor.replace("events", self.publisher.run)

    def broker(self) -> str | None:
        """How the broker is reached, in one line; None: no broker is configured."""
        return self.publisher.state if self.publisher is not None else None

    def troubles(self) -> tuple[str, ...]:
        """Why events do not get through, one line each."""
        return self.publisher.troubles if self.publisher is not None else ()

    def refresh(self) -> None:
        """Publish the status now rather than within a second."""
        if self.publisher is not None:
            self.publisher.refresh()

    async def close(self) -> None:
        """Write down what waits; the task has ended."""
        if self._outbox is not None:
            await self._outbox.close()

    def _open_outbox(self, bounds: Bounds) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox.open(self._state / OUTBOX, self._hub.identity.node, bounds=bounds)
            self._hub.continue_in(self._outbox.identity.epoch, self._outbox.first_sequence)
        self._outbox.limit(bounds)
        self._set_attached(attached=True)
        return self._outbox

    def _set_attached(self, *, attached: bool) -> None:
        if self._outbox is None or attached is self._attached:
            return
        self._attached = attached
        if attached:
            self._hub.attach(self._outbox)
        else:  # without a broker it would only fill up; what waits in it, waits
            self._hub.detach(self._outbox)
