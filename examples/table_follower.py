#!/usr/bin/env python3
"""Keep a correct copy of what a node has mirrored into its loxilb targets: docs/events.md, put into practice.

    pip install aiomqtt
    ./table_follower.py BROKER NODE

Once a second it prints the copy as one line of JSON.

It needs nothing of routesync, so that it can be carried over to another language: table_follower.mjs is the same for
mqtt.js. `Copy` is all the logic; what is around it connects, and subscribes again when the copy does not become whole:
then the broker sends what is retained once more.
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
FIRST_S, MOST_S = 10.0, 300.0
"""How long to wait for a copy to become whole before subscribing again: doubled each time."""
DEPTHS = range(6, 10)
"""How many bits the name of a bucket may have."""

PUT = {"io.routesync.route.accepted.v1": "accepted", "io.routesync.route.confirmed.v1": "confirmed"}
TAKE = {
    "io.routesync.route.withdrawn.v1",
    "io.routesync.route.refused.v1",
    "io.routesync.route.conflicting.v1",
    "io.routesync.sync.lost.v1",
}
Route = tuple[str, str]  # gateway, state


@dataclass
class Bucket:
    """A bucket as it is retained, and the events since then, which a newer bucket contains."""

    epoch: str
    sequence: int
    routes: dict[str, Route]  # by prefix
    later: dict[str, tuple[int, Route | None]] = field(default_factory=dict)  # prefix to sequence and route

    @property
    def digest(self) -> str:
        """What the manifest says of a bucket with these routes."""
        digest = 0
        for prefix, (gateway, state) in self.routes.items():
            text = f"{prefix} {gateway} {state}".encode()
            digest ^= int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
        return f"{digest:016x}"


@dataclass
class Target:
    """The copy of one target's table."""

    buckets: dict[tuple[int, int], Bucket] = field(default_factory=dict)  # by depth and number
    manifest: dict[str, Any] | None = None
    epoch: str = ""  # of the manifest

    @property
    def whole(self) -> bool:
        """Whether each bucket is the one that the manifest names."""
        said = self.manifest
        return said is not None and all(
            (bucket := self.buckets.get((said["depth"], number))) is not None
            and (bucket.epoch, bucket.sequence, bucket.digest) == (self.epoch, sequence, digest)
            for number, (sequence, digest) in enumerate(zip(said["sequences"], said["digests"], strict=True))
        )

    @property
    def routes(self) -> dict[str, Route]:
        """The table: prefix to gateway and state."""
        found: dict[str, Route] = {}
        for (depth, _), bucket in self.buckets.items():
            if self.manifest is not None and depth != self.manifest["depth"]:
                continue
            found |= bucket.routes
            for prefix, (_, route) in bucket.later.items():
                if route is None:
                    found.pop(prefix, None)
                else:
                    found[prefix] = route
        return found


class Copy:
    """The copy of a node's tables: give it every message below `ROOT/<node>/`, in the order of arrival."""

    def __init__(self) -> None:
        self.state = "unknown"
        self.targets: dict[str, Target] = {}

    @property
    def whole(self) -> bool:
        """Whether the copy is what the node last published: each target has every route."""
        return self.state != "unknown" and all(target.whole for target in self.targets.values())

    def apply(self, topic: str, payload: bytes) -> None:
        """Take a message."""
        place = topic.removeprefix(f"{ROOT}/").split("/")[1:]
        event = json.loads(payload) if payload else None
        if place == ["status"]:
            self.state = event["data"]["state"] if event else "unknown"
        elif place[0] == "table":
            self._apply_table(place[1], place[2], event)
        elif event is not None and (event["type"] in PUT or event["type"] in TAKE):
            self._apply_event(event, event["data"])

    def _apply_table(self, name: str, part: str, event: dict[str, Any] | None) -> None:
        if event is None:  # cleared: a target that is no more, or a bucket of another depth
            if part == "manifest":
                self.targets.pop(name, None)
            return
        target, data = self.targets.setdefault(name, Target()), event["data"]
        if part == "manifest":
            target.manifest, target.epoch = data, event["epoch"]
            target.buckets = {at: it for at, it in target.buckets.items() if at[0] == data["depth"]}
            return
        at = data["depth"], int(data["bucket"], 16)
        before = target.buckets.get(at)
        routes = {row["prefix"]: (row["gateway"], row["state"]) for row in data["routes"]}
        bucket = target.buckets[at] = Bucket(event["epoch"], data["sequence"], routes)
        if before is not None and before.epoch == bucket.epoch:
            bucket.later = {at: it for at, it in before.later.items() if it[0] > bucket.sequence}

    def _apply_event(self, event: dict[str, Any], data: dict[str, Any]) -> None:
        sequence, prefix = int(event["sequence"]), data["prefix"]
        target = self.targets.get(data["target"], Target())
        for depth in DEPTHS:
            bucket = target.buckets.get((depth, zlib.crc32(prefix.encode()) >> (32 - depth)))
            if bucket is None or bucket.epoch != event["epoch"]:
                continue  # without its bucket an event is of no use: the bucket comes, and has it
            if sequence > max(bucket.sequence, bucket.later.get(prefix, (0, None))[0]):
                kind = event["type"]
                bucket.later[prefix] = sequence, (data["gateway"] or "", PUT[kind]) if kind in PUT else None


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
                copy.apply(message.topic.value, message.payload)
    finally:
        mending.cancel()


async def _mend(copy: Copy, client: aiomqtt.Client, topic: str) -> None:
    wait_s = FIRST_S
    while True:
        await asyncio.sleep(wait_s)
        if copy.whole:
            wait_s = FIRST_S
            continue
        wait_s = min(wait_s * 2, MOST_S)
        with contextlib.suppress(aiomqtt.MqttError):  # the connection has broken; `follow` sees to that
            await client.subscribe(topic, qos=1)


async def main() -> None:
    """Follow a node and print the copy once a second."""
    copy = Copy()
    following = asyncio.create_task(follow(copy, sys.argv[1], sys.argv[2]))
    while not following.done():
        targets = {name: {"whole": it.whole, "routes": it.routes} for name, it in copy.targets.items()}
        print(json.dumps({"state": copy.state, "targets": targets}), flush=True)
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
