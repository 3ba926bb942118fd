"""A fleet as its retained status topics show it: which nodes there are, how they fare, and how old that knowledge is.

Pure: messages and the time are passed in. What is kept of a node is bounded, whatever the broker sends.

The age of a status needs no clock but the reader's own. A node republishes it every `heartbeat_s` with a message expiry
of `expiry_s`; the broker says how much of that is left (MQTT 5, 3.3.2.3.3), also after a restart of its own. By 3.1.1
the age is unknown until the node is heard live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Literal, NamedTuple

from pydantic import ValidationError

from routesync.events.node_status import AlarmStatus, Status
from routesync.events.reader import MOST_NODES, Cleared, ReceivedMessage

BEATS: Final = 3
"""A node that is silent for so many heartbeats is called `silent`."""
MIRRORED: Final = ("accepted", "confirmed", "present")
"""Phases of routes that the target has."""
_MOST_PARTS: Final = 16
"""Targets, alarms, reasons and labels of a node that are kept."""
_MOST_CHARACTERS: Final = 200

NodeState = Literal["online", "degraded", "stopping", "offline", "silent", "unreadable"]
STATES: Final[tuple[NodeState, ...]] = ("offline", "silent", "unreadable", "degraded", "stopping", "online")
"""The worst first."""


class TargetSummary(NamedTuple):
    """What is kept of a target."""

    name: str
    state: str
    desired: int
    mirrored: int
    instance: str | None
    error: str | None
    waiting: int = 0
    rate: float = 0
    remaining_s: float | None = None


class NodeSummary(NamedTuple):
    """What is kept of a node.

    Attributes:
        name: by its topic.
        reported: the state by its own word.
        published_at: monotonic seconds; None: unknown.
        heartbeat_s: how often its status comes; None: it has no heartbeat.
        since: since when it is in this state; None: unknown.
    """

    name: str
    reported: NodeState
    published_at: float | None = None
    heartbeat_s: float | None = None
    since: datetime | None = None
    version: str | None = None
    mode: str | None = None
    epoch: str | None = None
    labels: Mapping[str, str] = {}
    targets: tuple[TargetSummary, ...] = ()
    alarms: tuple[AlarmStatus, ...] = ()
    reasons: tuple[str, ...] = ()

    def age_s(self, now: float) -> float | None:
        """How long ago it was last heard of; None: unknown."""
        return None if self.published_at is None else max(0.0, now - self.published_at)

    def state(self, now: float) -> NodeState:
        """Its state by what is known now."""
        age_s = self.age_s(now)
        if self.reported in ("offline", "unreadable") or age_s is None or self.heartbeat_s is None:
            return self.reported
        return "silent" if age_s > BEATS * self.heartbeat_s else self.reported

    @property
    def desired(self) -> int:
        """Routes that its targets should have."""
        return sum(target.desired for target in self.targets)

    @property
    def mirrored(self) -> int:
        """Those of them that the targets have."""
        return sum(target.mirrored for target in self.targets)

    def why(self, now: float) -> str:
        """Why it is in its state, in words; "" for a node where all is well."""
        match self.state(now):
            case "silent":
                return f"no word for {BEATS} heartbeats, and the broker did not say offline"
            case "offline":
                return "its connection to the broker is gone"
            case "online":
                return ""
        return "; ".join(self.reasons)


def summarize(message: ReceivedMessage, now: float) -> NodeSummary:
    """What is kept of a status message."""
    try:
        status = Status.model_validate(message.data, extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return NodeSummary(
            message.node, "unreadable", now, reasons=(_cut(f"status.{where}: {first['msg']}"),)
        )
    return NodeSummary(
        name=message.node,
        reported=status.state,
        published_at=_published_at(message, status, now),
        heartbeat_s=status.heartbeat_s,
        since=status.since,
        version=_cut_optional(status.version),
        mode=_cut_optional(status.mode),
        epoch=_cut_optional(status.epoch),
        labels={_cut(name): _cut(value) for name, value in [*status.labels.items()][:_MOST_PARTS]},
        targets=tuple(
            TargetSummary(
                _cut(target.name),
                _cut(target.state),
                target.desired,
                sum(target.phases.get(phase, 0) for phase in MIRRORED),
                _cut_optional(target.instance),
                _cut_optional(target.error),
                target.waiting,
                target.rate,
                target.remaining_s,
            )
            for target in status.targets[:_MOST_PARTS]
        ),
        alarms=tuple(
            AlarmStatus(
                kind=_cut(alarm.kind),
                target=_cut_optional(alarm.target),
                detail=_cut(alarm.detail),
                count=alarm.count,
            )
            for alarm in status.alarms[:_MOST_PARTS]
        ),
        reasons=tuple(_cut(reason) for reason in status.reasons[:_MOST_PARTS]),
    )


def _published_at(message: ReceivedMessage, status: Status, now: float) -> float | None:
    if status.expiry_s is not None and message.expiry_s is not None:
        return now - max(0.0, status.expiry_s - message.expiry_s)
    return None if message.retained else now


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _cut_optional(text: str | None) -> str | None:
    return None if text is None else _cut(text)


class Fleet:
    """All nodes that were heard of."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeSummary] = {}
        self.overflow = False
        """There are more nodes than are remembered."""

    def take(self, message: ReceivedMessage | Cleared, now: float) -> None:
        """Take a status, or that it was cleared; anything else is passed over."""
        if isinstance(message, Cleared):
            if message.place == "status":
                self.nodes.pop(message.node, None)
            return
        if message.kind != "status":
            return
        if message.node not in self.nodes and len(self.nodes) >= MOST_NODES:
            self.overflow = True
            return
        self.nodes[message.node] = summarize(message, now)

    def sorted(self, now: float) -> list[NodeSummary]:
        """The worst first, then by name."""
        return sorted(self.nodes.values(), key=lambda node: (STATES.index(node.state(now)), node.name))

    def states(self, now: float) -> dict[NodeState, int]:
        """How many nodes are in which state; the worst first."""
        return count_states(self.nodes.values(), now)


def count_states(nodes: Iterable[NodeSummary], now: float) -> dict[NodeState, int]:
    """How many of these nodes are in which state; the worst first."""
    counts = Counter(node.state(now) for node in nodes)
    return {state: counts[state] for state in STATES if counts[state]}
