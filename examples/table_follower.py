#!/usr/bin/env python3
"""Keep a correct copy of what a node has mirrored into its loxilb targets: docs/events.md, put into practice.

    pip install aiomqtt
    ./table_follower.py BROKER NODE

It needs nothing of routesync, so that it can be carried over to another language. `Copy` is all the logic; what is
around it connects, and subscribes anew when the copy does not become whole: then the retained buckets come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
import zlib
from dataclasses import dataclass, field
from typing import Any

import aiomqtt

ROOT = "routesync/v1"
PATIENCE_S = 5.0
"""How often to see whether the copy is whole. Buckets are published within a second of a change, so that one that is
not has lost a message, or the node is in the middle of changes."""

PUT = {"io.routesync.route.accepted.v1": "accepted", "io.routesync.route.confirmed.v1": "confirmed"}
TAKE = {
    "io.routesync.route.withdrawn.v1",
    "io.routesync.route.refused.v1",
    "io.routesync.route.conflicting.v1",
    "io.routesync.sync.lost.v1",
}


@dataclass
class Bucket:
    """The routes of one bucket, and the sequence up to which all events are in it."""

    sequence: int = -1
    routes: dict[str, tuple[str, str]] = field(default_factory=dict)  # prefix to gateway, state


@dataclass
class Target:
    """The copy of one target's table. `routes` and `digest` are kept up to date with each change."""

    epoch: str
    depth: int
    buckets: list[Bucket]
    routes: int = 0
    digest: int = 0

    def set(self, bucket: Bucket, prefix: str, route: tuple[str, str] | None) -> None:
        """Put a route, or take it away."""
        before = bucket.routes.pop(prefix, None)
        if before is not None:
            self.routes -= 1
            self.digest ^= row_hash(prefix, *before)
        if route is not None:
            bucket.routes[prefix] = route
            self.routes += 1
            self.digest ^= row_hash(prefix, *route)


def row_hash(prefix: str, gateway: str, state: str) -> int:
    """What a route adds to the digest."""
    return int.from_bytes(hashlib.sha256(f"{prefix} {gateway} {state}".encode()).digest()[:8], "big")


class Copy:
    """The copy of a node's tables: give it every message below `ROOT/<node>/`, in the order of arrival."""

    def __init__(self) -> None:
        self.state = "unknown"
        self.targets: dict[str, Target] = {}
        self._wanted: set[str] | None = None
        self._manifest: list[dict[str, Any]] = []

    @property
    def whole(self) -> bool:
        """Whether the copy is what the node last vouched for: all of its targets, each with every route."""
        return (
            self._wanted is not None
            and self._wanted <= {said["target"] for said in self._manifest}
            and all(
                (copy := self.targets.get(said["target"])) is not None
                and copy.routes == said["routes"]
                and f"{copy.digest:016x}" == said["digest"]
                for said in self._manifest
            )
        )

    def table(self, target: str) -> dict[str, tuple[str, str]]:
        """The routes of a target: prefix to gateway and state."""
        copy = self.targets.get(target)
        return {} if copy is None else {p: r for bucket in copy.buckets for p, r in bucket.routes.items()}

    def apply(self, payload: bytes) -> None:
        """Take a message."""
        if not payload:  # a retained topic was cleared
            return
        event = json.loads(payload)
        data = event["data"]
        if event["type"] == "io.routesync.status.v1":
            self.state = data["state"]
            if data["state"] != "offline":  # then the last known state stands
                self._wanted = {target["name"] for target in data["targets"]}
                self._manifest = data["table"]
                for name in self.targets.keys() - self._wanted:
                    del self.targets[name]  # it was taken out of the configuration
        elif event["type"] == "io.routesync.table.v1":
            self._apply_bucket(event["epoch"], data)
        elif event["type"] in PUT or event["type"] in TAKE:
            self._apply_event(event["epoch"], int(event["sequence"]), event["type"], data)

    def _apply_bucket(self, epoch: str, data: dict[str, Any]) -> None:
        target = self.targets.get(data["target"])
        depth = data["depth"]
        if target is None or target.epoch != epoch or target.depth != depth:
            # numbers of another epoch mean nothing; with another depth all buckets come again
            target = self.targets[data["target"]] = Target(epoch, depth, [Bucket() for _ in range(2**depth)])
        bucket = target.buckets[int(data["bucket"], 16)]
        if data["sequence"] < bucket.sequence:
            return  # older than what we have
        routes = {row["prefix"]: (row["gateway"], row["state"]) for row in data["routes"]}
        for prefix in [*bucket.routes, *routes]:
            target.set(bucket, prefix, routes.get(prefix))
        bucket.sequence = data["sequence"]

    def _apply_event(self, epoch: str, sequence: int, kind: str, data: dict[str, Any]) -> None:
        target = self.targets.get(data["target"])
        if target is None or target.epoch != epoch:
            return  # the bucket will come, and this event will be in it
        prefix = data["prefix"]
        bucket = target.buckets[zlib.crc32(prefix.encode()) >> (32 - target.depth)]
        if sequence <= bucket.sequence:
            return  # in it already, or delivered again
        target.set(bucket, prefix, (data["gateway"] or "", PUT[kind]) if kind in PUT else None)
        bucket.sequence = sequence


async def follow(copy: Copy, host: str, node: str, port: int = 1883) -> None:
    """Keep the copy, for good; reconnect when the connection breaks."""
    while True:
        try:
            async with aiomqtt.Client(host, port) as client:
                await _follow_connection(copy, client, f"{ROOT}/{node}/#")
        except aiomqtt.MqttError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # a farewell that fails hides that we are to end
                raise asyncio.CancelledError from None
            await asyncio.sleep(1)


async def _follow_connection(copy: Copy, client: aiomqtt.Client, topic: str) -> None:
    await client.subscribe(topic, qos=1)
    mending = asyncio.create_task(_mend(copy, client, topic))
    try:
        async for message in client.messages:
            if isinstance(message.payload, bytes):
                copy.apply(message.payload)
    finally:
        mending.cancel()


async def _mend(copy: Copy, client: aiomqtt.Client, topic: str) -> None:
    while True:
        await asyncio.sleep(PATIENCE_S)
        if not copy.whole:
            with contextlib.suppress(aiomqtt.MqttError):  # the connection has broken; `follow` sees to that
                await client.subscribe(topic, qos=1)


async def main() -> None:
    """Follow a node and say once a second how the copy stands."""
    copy = Copy()
    following = asyncio.create_task(follow(copy, sys.argv[1], sys.argv[2]))
    while not following.done():
        for name, target in copy.targets.items():
            print(
                f"{copy.state} {name}: {target.routes} routes, {'whole' if copy.whole else 'not whole yet'}"
            )
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
