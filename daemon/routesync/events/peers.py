"""Other nodes that mirror into the same loxilb, and which of them are gone.

A node publishes `instance/<instance>` for each of its targets: so it finds others with the same loxilb by one narrow
subscription, and then subscribes to the status of these alone. A fleet in which every node read every status would cost
its broker the square of its size.

Pure: messages and the time are passed in; the publisher subscribes to what `places` names.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple

from pydantic import ValidationError

from routesync.events.fleet import NodeSummary, summarize
from routesync.events.node_status import Instance, TableManifest, Takeover
from routesync.events.reader import Cleared, ReceivedMessage

GRACE_S: Final = 30.0
"""A restart is no reason for an alarm."""
_MOST: Final = 64
"""Peers that are followed, at most: a loxilb has a few writers, and anyone may publish anything."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


def is_name(text: str) -> bool:
    """Whether a node or a target can have this name.

    What a peer says becomes a part of a topic to subscribe to. One that is too long, or has a NUL, breaks the
    connection.
    """
    return _NAME.fullmatch(text) is not None


class GonePeer(NamedTuple):
    """A node that is gone, and what it left in the loxilb."""

    node: str
    state: str
    since: datetime | None
    routes: int | None  # None: not known


class Peers:
    """What is known of other nodes with the same loxilbs."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._own: dict[str, str] = {}  # our target to its instance
        self._targets: dict[tuple[str, str], str] = {}  # peer and instance to the name of its target
        self._nodes: dict[str, NodeSummary] = {}
        self._manifests: dict[tuple[str, str], TableManifest] = {}  # by peer and its target
        self._gone_at: dict[str, float] = {}  # node to when it was first seen to be gone
        self._takeovers: dict[tuple[str, str], Takeover] = {}  # by instance and the node that is gone

    def set_instance(self, target: str, instance: str | None) -> None:
        """Note which loxilb a target of ours is; None: not known, or no target any more."""
        if instance is not None:
            self._own[target] = instance
        else:
            self._own.pop(target, None)

    def places(self, now: float) -> set[str]:
        """What to subscribe to, below the root."""
        found = {f"+/instance/{instance}" for instance in self._own.values()}
        for (node, instance), target in self._targets.items():
            found.add(f"{node}/status")
            if self._is_gone(node, now):
                found |= {f"{node}/table/{target}/manifest", f"+/takeover/{instance}/{node}"}
        return found

    def take(self, message: ReceivedMessage | Cleared, now: float) -> None:
        """Take a message from one of these places."""
        kind, *rest = message.place.split("/")
        if isinstance(message, Cleared):
            if kind == "status":
                self._nodes.pop(message.node, None)
            elif kind == "instance":
                self._targets.pop((message.node, rest[0]), None)
            return
        if message.node == self._node and kind != "takeover":
            return
        try:
            self._take(message, kind, rest, now)
        except ValidationError:
            return

    def _take(self, message: ReceivedMessage, kind: str, rest: list[str], now: float) -> None:
        if kind == "instance" and rest[0] in self._own.values() and len(self._targets) < _MOST:
            target = Instance.model_validate(message.data, extra="ignore").target
            if is_name(message.node) and is_name(target):
                self._targets[message.node, rest[0]] = target
        elif kind == "status" and any(node == message.node for node, _ in self._targets):
            self._nodes[message.node] = summarize(message, now)
        elif kind == "table" and (message.node, rest[0]) in self._known_tables():
            manifest = TableManifest.model_validate(message.data, extra="ignore")
            self._manifests[message.node, rest[0]] = manifest
        elif kind == "takeover":
            takeover = Takeover.model_validate(message.data, extra="ignore")
            if (takeover.node, takeover.instance) in self._targets:
                self._takeovers[takeover.instance, takeover.node] = takeover

    def _known_tables(self) -> set[tuple[str, str]]:
        return {(node, target) for (node, _), target in self._targets.items()}

    def _is_gone(self, node: str, now: float) -> bool:
        summary = self._nodes.get(node)
        if summary is None or summary.state(now) not in ("offline", "silent"):
            self._gone_at.pop(node, None)
            return False
        return now - self._gone_at.setdefault(node, now) >= GRACE_S

    def gone(self, target: str, now: float) -> list[GonePeer]:
        """The peers of a target of ours that are gone, and may have left routes there."""
        found: list[GonePeer] = []
        for (node, instance), theirs in sorted(self._targets.items()):
            if instance != self._own.get(target) or not self._is_gone(node, now):
                continue
            manifest, takeover = self._manifests.get((node, theirs)), self._takeovers.get((instance, node))
            done = takeover is not None and takeover.state == "done" and not takeover.left
            if manifest is not None and (
                not manifest.routes
                or (done and takeover is not None and takeover.sequence >= manifest.sequence)
            ):
                continue
            summary = self._nodes[node]
            routes = None if manifest is None else manifest.routes
            found.append(GonePeer(node, summary.state(now), summary.since, routes))
        return found
