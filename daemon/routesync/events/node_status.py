"""The models of retained state: `status`, what the daemon is and how it fares; the buckets and manifest of a table."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

MIN_DEPTH: Final = 6
MAX_DEPTH: Final = 9
"""Bits of a bucket's name. A table has 64 to 512 buckets, and up to eight tables of a node have 512 together: a default
mosquitto delivers no more than some 1,000 retained messages to a new subscriber."""

State = Literal["online", "degraded", "stopping", "offline"]


RowState = Literal["accepted", "confirmed"]
Calculable = Annotated[int, Field(ge=0, lt=2**63)]
"""A number that readers calculate with. JSON has larger ones, which no float and no text can take."""


class StatusPart(BaseModel):
    """Base of the parts of retained state."""

    # infinity and NaN are no JSON, and nobody can calculate with them
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KernelStatus(StatusPart):
    """The kernel side."""

    state: str = Field(
        description="`synced`; `reading`: the first dump is not done; `unreadable`: the kernel cannot be read, and the "
        "last known routes are kept.",
        examples=["synced"],
    )
    routes: Calculable = Field(default=0, description="Routes that the rules keep.")
    dropped: Calculable = Field(default=0, description="Routes that the rules drop.")
    overruns: Calculable = Field(default=0, description="Receive buffer overflows since the start.")
    resyncs: Calculable = Field(default=0, description="Full dumps since the start.")
    receive_buffer: Calculable = Field(
        default=0, description="Size of the netlink receive buffer as the kernel accounts it, in bytes."
    )
    lag_ms: float = Field(
        default=0, ge=0, description="Age of the oldest change when changes were last taken, in milliseconds."
    )
    skip_notify_on_dev_down: bool | None = Field(
        default=None, description="net.ipv6.route.skip_notify_on_dev_down; null where it cannot be read."
    )
    nexthop_compat_mode: bool | None = Field(
        default=None, description="net.ipv4.nexthop_compat_mode; null where it cannot be read."
    )


class TargetStatus(StatusPart):
    """One target."""

    name: str
    url: str
    state: str = Field(description="`synced`, `syncing`, `unreachable`, ...", examples=["synced"])
    instance: str | None = Field(
        default=None,
        description="Names this loxilb, whatever its name and URL: a hash of the index and MAC of its ports. Null: not "
        "known yet.",
    )
    desired: Calculable = Field(default=0, description="Routes that the target should have.")
    phases: dict[str, Calculable] = Field(
        default_factory=dict,
        description="Prefixes by phase; they add up to all that is known of the target.",
        examples=[{"confirmed": 4}],
    )
    waiting: Calculable = Field(
        default=0, description="Routes that wait for a request, a proof, a judgement or a check."
    )
    rate: float = Field(default=0, ge=0, description="Changes a second that may be sent.")
    remaining_s: float | None = Field(
        default=None,
        ge=0,
        description="How long the waiting work takes at that rate; null: nothing waits, or is sent.",
    )
    complete: bool = Field(
        default=False, description="Whether everything desired is there, and nothing else of ours."
    )
    proved_s: float | None = Field(
        default=None,
        ge=0,
        description="Age of the last proof that this is true at the target; null: none yet.",
    )
    held: Calculable = Field(default=0, description="Withdrawals that are held back.")
    paused: bool = Field(default=False, description="An operator paused it: it is left exactly as it is.")
    reasons: dict[str, Calculable] = Field(default_factory=dict, description="Ineligible routes by reason.")
    holes: Calculable = Field(
        default=0,
        description="More specific routes that the target does not get, inside prefixes that it gets.",
    )
    error: str | None = Field(default=None, description="The last error; null where all is well.")


class AlarmStatus(StatusPart):
    """An alarm that is raised; see the event `alarm/raised`."""

    kind: str = Field(examples=["contended"])
    target: str | None = Field(description="Null for a condition of this node.", examples=["lb-1"])
    detail: str
    # not `Calculable`: it may be a sum of what peers say
    count: int = Field(default=0, ge=0, description="How many routes it is about.")
    prefixes: tuple[str, ...] = Field(default=(), description="The first of them.")


class GuardStatus(StatusPart):
    """What mode "guard" does; counts are since the start."""

    dry_run: bool = Field(description="Whether removals are only reported.")
    permitted: bool | None = Field(
        description="Whether routes may be removed; null where it is not known yet."
    )
    present: Calculable = Field(default=0, description="Routes in the kernel that its rules name.")
    redundant: Calculable = Field(
        default=0, description="Of these, those that would be, or wait to be, removed."
    )
    contended: Calculable = Field(
        default=0, description="Of these, those that another program adds again at once."
    )
    removed: Calculable = Field(default=0)
    returned: Calculable = Field(default=0)
    failed: Calculable = Field(default=0)


class HeldTopic(StatusPart):
    """Events that wait at the node because the broker denies their topic; they come late, and are not lost."""

    topic: str = Field(description="Below `<root>/<node>/`.", examples=["event/route/accepted"])
    count: int = Field(ge=1, lt=2**63, description="How many events are held.")
    first: int = Field(ge=1, lt=2**63, description="Sequence of the first.")
    last: int = Field(ge=1, lt=2**63, description="Sequence of the last. Not all between the two are held.")
    dropped: Calculable = Field(
        default=0,
        description="How many were dropped since the daemon started, since too many were held.",
    )


class Status(StatusPart):
    """Birth, state and last will of a node; retained."""

    model_config = ConfigDict(
        title="NodeStatus"
    )  # for generators of code: `Status` is a reserved word for some
    type_name: ClassVar[str] = "io.routesync.status.v1"

    state: State = Field(title="NodeState")
    node: str
    version: str | None = Field(default=None, description="Of the daemon.")
    epoch: str | None = Field(default=None, description="Changes when the sequence starts again.")
    mode: str | None = None
    started: AwareDatetime | None = Field(default=None, description="When the daemon started.")
    time: AwareDatetime | None = Field(default=None, description="When this was true.")
    heartbeat_s: Calculable | None = Field(
        default=None, description="The status is published at least this often, while the node lives."
    )
    expiry_s: Calculable | None = Field(
        default=None,
        description="Message expiry of this status. By MQTT 5 a broker hands out what is left of it: the difference is "
        "the status' age. Null: it does not expire.",
    )
    since: AwareDatetime | None = Field(
        default=None, description="Since when it is in this state; null: unknown, as in a last will."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="`node.labels` of the configuration.", examples=[{"site": "berlin"}]
    )
    kernel: KernelStatus | None = None
    targets: tuple[TargetStatus, ...] = ()
    alarms: tuple[AlarmStatus, ...] = Field(default=(), description="Those that are raised now.")
    verdicts: dict[str, Calculable] = Field(
        default_factory=dict, description="Number of routes by deciding rule."
    )
    guard: GuardStatus | None = Field(default=None, description="In mode guard; else null.")
    broker: str | None = Field(default=None, description="`connected`, or what is wrong.")
    held: tuple[HeldTopic, ...] = Field(
        default=(), description="Topics that the broker denies, and what waits for them."
    )
    reasons: tuple[str, ...] = Field(default=(), description="Why it is degraded, one line each.")

    def without_ages(self) -> Status:
        """The same without what changes while nothing happens: no news, so it waits for the next heartbeat."""
        kernel = None if self.kernel is None else self.kernel.model_copy(update={"lag_ms": 0.0})
        targets = tuple(
            target.model_copy(
                update={
                    "proved_s": None if target.proved_s is None else 0.0,
                    "remaining_s": None if target.remaining_s is None else 0.0,
                }
            )
            for target in self.targets
        )
        return self.model_copy(update={"time": None, "kernel": kernel, "targets": targets})


def offline(node: str, *, epoch: str | None = None, at: datetime | None = None) -> Status:
    """The status of a node that is gone: the last will, and the last word of an orderly stop."""
    return Status(state="offline", node=node, epoch=epoch, time=at)


class TableRow(StatusPart):
    """One route that a target has from us."""

    prefix: str = Field(description="Destination in CIDR form.", examples=["10.244.1.0/24"])
    gateway: str = Field(description="Next hop as sent to the target.", examples=["192.168.10.10"])
    state: RowState = Field(
        title="RowState", description="`confirmed`: its own table shows the route.", examples=["confirmed"]
    )

    @property
    def text(self) -> str:
        """What its hash is made of."""
        return f"{self.prefix} {self.gateway} {self.state}"


class KernelTableRow(StatusPart):
    """One route of the kernel that the rules keep: the best one of its prefix."""

    prefix: str = Field(description="Destination in CIDR form.", examples=["10.244.1.0/24"])
    gateway: str = Field(description='Of its first hop; "" where there is none.', examples=["192.168.10.10"])
    protocol: str = Field(description="By name, else by number.", examples=["bird"])
    metric: Calculable = Field(examples=[20])
    interface: str = Field(description='Of its first hop; "" where there is none.', examples=["ens3"])
    table: str = Field(description="Routing table, by name, else by number.", examples=["main"])

    @property
    def text(self) -> str:
        """What its hash is made of."""
        return f"{self.prefix} {self.gateway} {self.protocol} {self.metric} {self.interface} {self.table}"


class Bucket(StatusPart):
    """Base: a part of a table, the routes whose prefix hashes into this bucket."""

    bucket: str = Field(
        description="The leading bits of the CRC-32 of the prefix as text, in two or three hex digits.",
        examples=["2a"],
    )
    depth: int = Field(
        ge=MIN_DEPTH, le=MAX_DEPTH, description="How many bits that are.", examples=[MIN_DEPTH]
    )
    sequence: Calculable = Field(
        description="All events up to this one are in it, no later one.", examples=[1234]
    )


class TableBucket(Bucket):
    """A part of a target's table: the routes whose prefix hashes into this bucket; retained."""

    type_name: ClassVar[str] = "io.routesync.table.v1"

    target: str = Field(examples=["lb-1"])
    routes: tuple[TableRow, ...]


class KernelTableBucket(Bucket):
    """A part of what the rules keep of the kernel's routes, in mode observe or with `events.kernel_table`; retained."""

    type_name: ClassVar[str] = "io.routesync.kernel-table.v1"

    routes: tuple[KernelTableRow, ...]


class Manifest(StatusPart):
    """Base: what a complete copy of a table looks like."""

    depth: int = Field(
        ge=MIN_DEPTH, le=MAX_DEPTH, description="Bits of a bucket's name: there are 2 to the power of it."
    )
    routes: Calculable = Field(description="Number of routes over all buckets.")
    digest: str = Field(description="Exclusive-or over the buckets' digests, in 16 hex digits.")
    routes_digest: str = Field(
        description="The same over hashes of `<prefix> <gateway>`: nodes with the same routes have the same, whatever "
        "their states."
    )
    sequence: Calculable = Field(description="All events up to this one are in the buckets.")
    sequences: tuple[Calculable, ...] = Field(description="The sequence of each bucket, by its number.")
    digests: tuple[str, ...] = Field(
        description="The digest of each bucket, by its number: exclusive-or over the hashes of its routes, in 16 hex "
        "digits."
    )


class TableManifest(Manifest):
    """What a complete copy of a target's table looks like: which bucket has which sequence and digest; retained.

    It is published when the broker has all buckets that it names, and stays when the node stops.
    """

    type_name: ClassVar[str] = "io.routesync.manifest.v1"

    target: str = Field(examples=["lb-1"])


class KernelTableManifest(Manifest):
    """The same of what the rules keep of the kernel's routes; retained."""

    type_name: ClassVar[str] = "io.routesync.kernel-manifest.v1"


class Instance(StatusPart):
    """A target of this node, by the loxilb that it is: nodes with the same loxilb find each other by it; retained."""

    type_name: ClassVar[str] = "io.routesync.instance.v1"

    target: str = Field(description="Name of the target at this node.", examples=["lb-1"])
    instance: str = Field(description="As in `status`.", examples=["5a0f3c9d1b2e4f60"])


class Takeover(StatusPart):
    """This node takes over the routes of another one that is gone, by an operator's word; retained."""

    type_name: ClassVar[str] = "io.routesync.takeover.v1"

    instance: str = Field(description="The loxilb, as in `status`.", examples=["5a0f3c9d1b2e4f60"])
    node: str = Field(description="The node that is gone.", examples=["node-2"])
    state: Literal["running", "done"] = Field(
        title="TakeoverState", description="`running`: nobody else may begin; expires after 10 minutes."
    )
    sequence: Calculable = Field(
        description="Of the manifest by which its routes are known.", examples=[1234]
    )
    left: Calculable = Field(default=0, description="Of `done`: how many of its routes could not be taken.")
