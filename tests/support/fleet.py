"""Simulated nodes of a fleet: retained states in their real form, without daemons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import aiomqtt

from routesync.config.models import MqttSettings
from routesync.events.cloudevents import Record, StreamIdentity, encode, encode_state
from routesync.events.models import Event, RouteAccepted, SyncCompleted
from routesync.events.mqtt_client import MqttConnection, Publication
from routesync.events.node_status import (
    AlarmStatus,
    KernelStatus,
    Status,
    TargetStatus,
)
from routesync.events.reader import ReceivedMessage, Subscriber
from routesync.events.retained import STATUS_EXPIRY_S, PublishedTables, RetainedPart

ROOT = "routesync/v1"


class FleetNode:
    """One node, with one target."""

    def __init__(self, name: str, routes: Mapping[str, str], *, target: str = "edge") -> None:
        self.name = name
        self.target = target
        self.sequence = len(routes)
        self.identity = StreamIdentity(name, f"{name}-epoch")
        tables = PublishedTables()
        for number, (prefix, gateway) in enumerate(routes.items(), 1):
            event = RouteAccepted(
                target=target, prefix=prefix, family="ipv4", gateway=gateway, rule="default"
            )
            tables.put(Record(number, 0, event))
        done = SyncCompleted(target=target, routes=len(routes), posted=len(routes), deleted=0, duration_s=1)
        tables.put(Record(len(routes), 0, done))
        self._tables = tables
        self._routes = len(routes)

    def status(
        self, state: str = "online", *, age_s: int = 0, reasons: Iterable[str] = (), **others: object
    ) -> Publication:
        """Its status, as old as if it had been published so long ago."""
        offline = state == "offline"
        status = Status.model_validate(
            {
                "state": state,
                "node": self.name,
                "version": None if offline else "0.1.0",
                "mode": None if offline else "mirror",
                "started": None if offline else datetime(2026, 1, 1, tzinfo=UTC),
                "heartbeat_s": None if offline else 60,
                "expiry_s": None if offline else STATUS_EXPIRY_S,
                "kernel": None if offline else KernelStatus(state="synced", routes=self._routes),
                "targets": () if offline else (self._target(),),
                "broker": None if offline else "connected",
                "reasons": tuple(reasons),
                **others,
            }
        )
        payload = encode_state(
            Status.type_name, self.identity, status, at=time.time(), subject="status", serial="1"
        )
        expiry_s = None if offline else STATUS_EXPIRY_S - age_s
        return Publication(f"{ROOT}/{self.name}/status", payload, retain=True, expiry_s=expiry_s)

    def _target(self) -> TargetStatus:
        return TargetStatus(
            name=self.target,
            url="http://192.168.10.20:11111",
            state="synced",
            desired=self._routes,
            phases={"accepted": self._routes} if self._routes else {},
            complete=True,
            proved_s=3,
        )

    def alarm(self, kind: str, detail: str) -> AlarmStatus:
        return AlarmStatus(kind=kind, target=self.target, detail=detail)

    def table(self) -> list[Publication]:
        """Its retained table: buckets and manifest."""
        (table,) = self._tables
        made = []
        for number in range(2**table.depth):
            bucket = table.bucket(number, self.sequence)
            made.append(self._retained(f"{table.place}/{bucket.bucket}", bucket))
            table.note_published(bucket, is_taken=True)
        assert table.manifest is not None
        return [*made, self._retained(f"{table.place}/manifest", table.manifest)]

    def _retained(self, topic: str, data: RetainedPart) -> Publication:
        payload = encode_state(data.type_name, self.identity, data, at=time.time(), subject=topic, serial="1")
        return Publication(f"{ROOT}/{self.name}/{topic}", payload, retain=True)

    def event(self, event: Event) -> Publication:
        """An event with the next number."""
        self.sequence += 1
        payload = encode(Record(self.sequence, time.time(), event), self.identity)
        return Publication(f"{ROOT}/{self.name}/{event.topic()}", payload)


class Retained(Subscriber):
    """Hands out what a broker would of these messages, of the chosen places, without a broker."""

    def __init__(self, messages: Sequence[ReceivedMessage]) -> None:
        self._messages = messages
        self.passed_over = set()

    async def retained(self, *places: str, quiet_s: float = 0) -> list[ReceivedMessage]:
        await asyncio.sleep(0 * quiet_s)
        filters = [aiomqtt.Wildcard(place) for place in places]
        return [
            it
            for it in self._messages
            if any(aiomqtt.Topic(f"{it.node}/{it.place}").matches(f) for f in filters)
        ]


def publish(settings: MqttSettings, publications: Iterable[Publication]) -> None:
    """Publish, and wait until the broker has all."""

    async def send() -> None:
        async with MqttConnection(settings, client_id="simulated") as connection:
            for publication in publications:
                await connection.room()
                connection.post(publication, lambda _: None)
            await connection.quiet()

    asyncio.run(send())
