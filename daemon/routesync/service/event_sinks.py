"""Where events go: to a broker by way of the outbox, or to the log where no broker is configured.

The retained tables are kept up to date from the first event on, broker or not, so that a broker that is configured
later gets them whole. The outbox stays when the broker is replaced; what waits in it goes to the new one.
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
from routesync.events.namesakes import Namesakes
from routesync.events.node_status import Status
from routesync.events.outbox import Outbox
from routesync.events.peers import Peers
from routesync.events.publisher import MqttPublisher
from routesync.events.retained import PublishedTables
from routesync.events.store import Bounds
from routesync.tasks import RESTART, Supervisor

log = structlog.get_logger(__name__)

OUTBOX: Final = "outbox.sqlite"


class EventSinks:
    """The sinks of a hub's events.

    Args:
        hub: continues the outbox's count of events.
        supervisor: runs the task.
        state: the state directory.
        status: builds the daemon's status.

    Attributes:
        publisher: None: no broker is configured.
        tables: what subscribers are shown of each target.
        peers: other nodes with the same loxilbs.
        namesakes: another daemon with this node's name.
    """

    def __init__(
        self, hub: EventHub, supervisor: Supervisor, state: Path, status: Callable[[], Status]
    ) -> None:
        self.publisher: MqttPublisher | None = None
        self.tables = PublishedTables()
        self.peers = Peers(hub.identity.node)
        self.namesakes = Namesakes(hub.identity.node, hub)
        self._hub = hub
        self._supervisor = supervisor
        self._state = state
        self._status = status
        self._settings: tuple[MqttSettings | None, EventsSettings] | None = None
        self._outbox: Outbox | None = None
        hub.attach_fold(self.tables)

    async def apply(self, loaded: Loaded) -> None:
        """Apply a configuration; a former broker is disconnected first, which can take some seconds."""
        settings = loaded.settings.mqtt, loaded.settings.events
        if settings == self._settings:
            return
        self._settings = settings
        mqtt, events = settings
        self.tables.wanted = events.table
        if mqtt is None:
            if self.publisher is not None and self._outbox is not None:
                self._hub.detach(self._outbox)  # it would only fill up; what waits in it, waits
            self.publisher = None
            await self._supervisor.replace(
                "events", functools.partial(log_events, self._hub), restart=RESTART
            )
            return
        outbox = self._open_outbox(Bounds(events.outbox_events, events.outbox_bytes))
        if self.publisher is None:
            self._hub.attach(outbox)
        self.publisher = MqttPublisher(
            mqtt,
            self._hub.identity.node,
            self._hub,
            self._status,
            outbox=outbox,
            tables=self.tables,
            peers=self.peers,
            namesakes=self.namesakes,
            table_interval_s=events.table_interval_s,
        )
        await self._supervisor.replace("events", self.publisher.run, restart=RESTART)

    def _open_outbox(self, bounds: Bounds) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox.open(self._state / OUTBOX, self._hub.identity.node, bounds=bounds)
            self._hub.continue_in(self._outbox.identity.epoch, self._outbox.first_sequence)
        self._outbox.bounds = bounds
        return self._outbox

    async def close(self) -> None:
        """Write down what waits; the task has ended."""
        if self._outbox is not None:
            await self._outbox.close()
