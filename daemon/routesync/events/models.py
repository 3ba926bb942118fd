"""The events: one frozen model each, with its group, its name and its meaning.

They are a promise to subscribers (docs/events.md): a field may be added, none is taken away or changes its
meaning within a revision. A change that breaks this makes a new class with a higher `revision`, beside the
old one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from routesync.events.fields import (
    Count,
    Detail,
    FamilyLabel,
    Gateway,
    Milliseconds,
    Path,
    PrefixText,
    Reason,
    Rule,
    Seconds,
    Target,
)

Group = Literal["route", "target", "sync", "kernel", "config", "guard", "events"]

TYPE_PREFIX: Final = "io.routesync"


class Event(BaseModel):
    """Base of all events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: ClassVar[Group]
    name: ClassVar[str]
    revision: ClassVar[int] = 1

    @classmethod
    def type_name(cls) -> str:
        """The CloudEvents type, e.g. `io.routesync.route.withdrawn.v1`."""
        return f"{TYPE_PREFIX}.{cls.group}.{cls.name}.v{cls.revision}"

    @classmethod
    def topic(cls) -> str:
        """The topic below `<root>/<node>/`."""
        return f"event/{cls.group}/{cls.name}"

    @property
    def subject(self) -> str | None:
        """The CloudEvents subject: the prefix, else the target, else nothing."""
        for field in ("prefix", "target"):
            value = getattr(self, field, None)
            if isinstance(value, str):
                return value
        return None


class EventSink(Protocol):
    """Where events go.

    `emit` is called on the hot path: it never blocks and never raises. Call it on the event loop's thread.
    """

    def emit(self, event: Event, /) -> None:
        """Take an event."""


class RouteAccepted(Event):
    """The target took the route (2xx): a new one, or one in place of another gateway."""

    group = "route"
    name = "accepted"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    rule: Rule
    degraded: bool = Field(
        default=False,
        description="A part could not be told, such as the other hops of an ECMP route.",
    )
    previous_gateway: Annotated[
        str | None, Field(description="The gateway that this one replaces; null for a new route.")
    ] = None
    gap_ms: Annotated[
        float | None,
        Field(
            description="Of a replacement: how long the target had no route of ours for the prefix, in milliseconds.",
            ge=0,
        ),
    ] = None


class RouteConfirmed(Event):
    """The target's own table shows the route with our gateway: it is not only accepted, it is there."""

    group = "route"
    name = "confirmed"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway


class RouteWithdrawn(Event):
    """The route was taken out of the target."""

    group = "route"
    name = "withdrawn"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    reason: Reason


class RouteRefused(Event):
    """The target refused the route, so it does not hold it; it is tried again on the clock."""

    group = "route"
    name = "refused"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    status: Annotated[int, Field(description="HTTP status of the answer.", examples=[500])]
    message: Annotated[str, Field(description="The target's own words.", examples=["network is unreachable"])]
    retry_in_s: Seconds


class RouteBlocked(Event):
    """We do not tell the target this route: it cannot say it, or would be harmed by it."""

    group = "route"
    name = "blocked"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    reason: Reason
    detail: Detail
    rule: Rule


class RouteConflicting(Event):
    """Somebody else's route holds this prefix in the target; ours waits and theirs stays untouched."""

    group = "route"
    name = "conflicting"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    detail: Detail


class RouteDropped(Event):
    """A rule with `report = true` dropped a route of the kernel.

    Under churn most of these are left out; `route/summary` tells how many.
    """

    group = "route"
    name = "dropped"

    prefix: PrefixText
    family: FamilyLabel
    protocol: Annotated[str, Field(description="The routing protocol's name.", examples=["dhcp"])]
    rule: Rule
    interface: Annotated[
        str | None,
        Field(description="Interface of its first hop; null where there is none.", examples=["ens3"]),
    ] = None


class RouteSummary(Event):
    """Drops that were not told one by one, at most once a second: how many, by rule."""

    group = "route"
    name = "summary"

    window_s: Seconds
    dropped: Annotated[
        dict[str, int], Field(description="Rule to number of drops.", examples=[{"dhcp-host-routes": 118}])
    ]


class SyncStarted(Event):
    """A full comparison of what is wanted with what the target has begins."""

    group = "sync"
    name = "started"

    target: Target
    wanted: Count


class SyncCompleted(Event):
    """The target has what is wanted."""

    group = "sync"
    name = "completed"

    target: Target
    routes: Annotated[Count, Field(description="Routes of ours that the target holds.")]
    posted: Count
    deleted: Count
    duration_s: Seconds


class SyncFailed(Event):
    """A comparison ended without result; it is tried again."""

    group = "sync"
    name = "failed"

    target: Target
    error: Detail
    retry_in_s: Seconds


class SyncLost(Event):
    """A repeated POST proved that the target had lost a route of ours; a sweep over all of them follows."""

    group = "sync"
    name = "lost"

    target: Target
    prefix: PrefixText
    detail: Detail


class SyncHeld(Event):
    """Withdrawals are held back: what looks like an outage elsewhere shall not become one in loxilb."""

    group = "sync"
    name = "held"

    target: Target
    cause: Annotated[
        Literal["mass", "start-up"],
        Field(
            description="`mass`: so many at once wait for a second reading of the kernel, or a hand; `start-up`: "
            "routes of an earlier life that the kernel does not have, for the routing daemon may still be coming up.",
            examples=["mass"],
        ),
    ]
    routes: Annotated[Count, Field(description="Withdrawals that wait.")]
    standing: Annotated[Count, Field(description="Routes of ours in the target, those included.")]


class SyncReleased(Event):
    """Withdrawals that were held back are so no longer."""

    group = "sync"
    name = "released"

    target: Target
    cause: Annotated[Literal["mass", "start-up"], Field(description="As in `sync/held`.", examples=["mass"])]
    by: Annotated[
        Literal["second-reading", "hand", "kernel", "time"],
        Field(
            description="`second-reading`: the kernel was read again and asks for the same; `hand`: a command; "
            "`kernel`: the routes came back, so that too few are left to hold; `time`: the start-up hold is over.",
            examples=["second-reading"],
        ),
    ]
    routes: Annotated[Count, Field(description="Withdrawals that go now.")]


class SyncOverdue(Event):
    """Work has waited for longer than it should, neither for a time of its own nor because of a hold."""

    group = "sync"
    name = "overdue"

    target: Target
    oldest_s: Annotated[Seconds, Field(description="Age of the oldest, in seconds.")]
    waiting: Annotated[Count, Field(description="How many prefixes wait.")]
    error: Annotated[str | None, Field(description="What is in the way, where that is known.")] = None


class SyncTimely(Event):
    """After `sync/overdue`: nothing waits longer than it should any more."""

    group = "sync"
    name = "timely"

    target: Target


class TargetUp(Event):
    """The target answers."""

    group = "target"
    name = "up"

    target: Target
    url: Annotated[str, Field(description="Base of its REST API.", examples=["http://192.168.10.20:11111"])]
    version: Annotated[
        str | None, Field(description="Its version; null where it does not tell.", examples=["0.9.8"])
    ] = None


class TargetDown(Event):
    """The target does not answer, or answers with errors only."""

    group = "target"
    name = "down"

    target: Target
    url: Annotated[str, Field(description="Base of its REST API.", examples=["http://192.168.10.20:11111"])]
    error: Detail


class TargetRefused(Event):
    """Nothing is mirrored into the target: it lives in the network namespace whose routes are read.

    What is written there would come back as a route of this host. Mirroring begins when the target was connected to
    anew and its ports say that it lives elsewhere.
    """

    group = "target"
    name = "refused"

    target: Target
    url: Annotated[str, Field(description="Base of its REST API.", examples=["http://127.0.0.1:11111"])]
    reason: Annotated[
        Literal["shared-namespace", "own-route-seen"],
        Field(
            description="`shared-namespace`: its ports are this host's links; `own-route-seen`: a route that we told "
            "it came up in this host's own kernel.",
            examples=["shared-namespace"],
        ),
    ]
    detail: Detail


class TargetPaused(Event):
    """Somebody holds the target: until `target/resumed` it is left exactly as it is, neither written nor read."""

    group = "target"
    name = "paused"

    target: Target


class TargetResumed(Event):
    """The hold is lifted: the target is contacted anew, and gets the difference that has come up."""

    group = "target"
    name = "resumed"

    target: Target
    paused_s: Annotated[Seconds, Field(description="How long it was held, in seconds.")]


class TargetFull(Event):
    """The target has as many routes of a family from us as it may have (`max_routes_*`): further ones wait."""

    group = "target"
    name = "full"

    target: Target
    family: FamilyLabel
    limit: Annotated[Count, Field(description="`max_routes_ipv4` or `max_routes_ipv6`.")]
    waiting: Annotated[Count, Field(description="Routes for which there is no room.")]


class TargetRoom(Event):
    """After `target/full`: there is room for every wanted route of the family again."""

    group = "target"
    name = "room"

    target: Target
    family: FamilyLabel


class KernelResynced(Event):
    """The kernel's routes were read anew and compared with what was held."""

    group = "kernel"
    name = "resynced"

    cause: Annotated[str, Field(description="What called for it.", examples=["overrun"])]
    duration_ms: Milliseconds
    kept: Annotated[Count, Field(description="Routes that the rules keep.")]
    corrected: Annotated[Count, Field(description="Routes that were held differently before.")]


class KernelOverrun(Event):
    """The receive buffer overflowed: an unknown number of kernel messages is lost; a resync follows."""

    group = "kernel"
    name = "overrun"

    total: Annotated[Count, Field(description="Overruns since the daemon started.")]


class KernelDrift(Event):
    """An audit found routes that were held wrongly although no event was missed; they are corrected."""

    group = "kernel"
    name = "drift"

    count: Count
    prefixes: Annotated[
        tuple[str, ...],
        Field(description="The first hundred of them.", max_length=100, examples=[["10.244.1.0/24"]]),
    ]


GuardedInterface = Annotated[
    str | None,
    Field(description="The link that the route leads to; null where it is gone.", examples=["ens3"]),
]
CoveredBy = Annotated[
    str, Field(description="The route that reaches the same neighbour.", examples=["192.168.10.0/24"])
]


class GuardWouldRemove(Event):
    """In a dry run: the route is redundant and would be removed from the kernel. Told once for each time it comes."""

    group = "guard"
    name = "would-remove"

    prefix: PrefixText
    family: FamilyLabel
    interface: GuardedInterface
    rule: Rule
    covered_by: CoveredBy


class GuardRemoved(Event):
    """A redundant route was removed from the kernel."""

    group = "guard"
    name = "removed"

    prefix: PrefixText
    family: FamilyLabel
    interface: GuardedInterface
    rule: Rule
    covered_by: CoveredBy


class GuardReturned(Event):
    """A route that was removed is back: a lease was renewed, or somebody wants it there."""

    group = "guard"
    name = "returned"

    prefix: PrefixText
    family: FamilyLabel
    interface: GuardedInterface
    rule: Rule
    away_s: Annotated[Seconds, Field(description="How long it was gone, in seconds.")]
    contended: Annotated[
        int, Field(ge=0, description="How often in a row it came back at once; 0: it did not.", examples=[0])
    ]
    stays_s: Annotated[
        Seconds, Field(description="How long it is left there before it is looked at again, in seconds.")
    ]


class GuardSkipped(Event):
    """A route stays in the kernel, and why. Told once for each time it comes, and when the reason changes."""

    group = "guard"
    name = "skipped"

    prefix: PrefixText
    family: FamilyLabel
    interface: GuardedInterface
    rule: Rule
    reason: Annotated[Reason, Field(examples=["only-by-gateway"])]
    detail: Detail


class GuardFailed(Event):
    """A route should have been removed and was not."""

    group = "guard"
    name = "failed"

    prefix: PrefixText
    family: FamilyLabel
    interface: GuardedInterface
    rule: Rule
    reason: Annotated[
        Literal["not-permitted", "put-back", "kernel"],
        Field(
            description="`not-permitted`: CAP_NET_ADMIN is missing; `put-back`: without it packets would have gone "
            "another way, so it was made again; `kernel`: the kernel refused or did not answer.",
            examples=["not-permitted"],
        ),
    ]
    detail: Detail


class GuardVerified(Event):
    """After a removal, the target's own table no longer has the route either."""

    group = "guard"
    name = "verified"

    target: Target
    prefix: PrefixText


class GuardStuck(Event):
    """After a removal, the target's own table still has the route, or it could not be seen that it has not."""

    group = "guard"
    name = "stuck"

    target: Target
    prefix: PrefixText
    reason: Annotated[
        Literal["entry-stays", "not-read"],
        Field(
            description="`entry-stays`: the target needs a restart to lose it; `not-read`: its table could not be read "
            "in time, or was never at rest.",
            examples=["entry-stays"],
        ),
    ]
    detail: Detail


class ConfigLoaded(Event):
    """A configuration came into force."""

    group = "config"
    name = "loaded"

    path: Path
    digest: Annotated[str, Field(description="SHA-256 of the file, in hex.", examples=["9f86d081884c7d65"])]


class ConfigRejected(Event):
    """A configuration was not taken; the one in force stays."""

    group = "config"
    name = "rejected"

    path: Path
    errors: Annotated[
        tuple[str, ...],
        Field(description="One line each.", examples=[["policy.rules[2]: unknown protocol"]]),
    ]


class EventsLost(Event):
    """Events that no subscriber will see; their numbers are missing from the sequence.

    A subscriber that keeps a copy of the table reads the retained buckets again.
    """

    group = "events"
    name = "lost"

    count: Annotated[
        int | None, Field(ge=1, description="How many; null where it cannot be known.", examples=[250])
    ]
    since: Annotated[
        AwareDatetime, Field(description="When the first was.", examples=["2026-01-31T12:00:00Z"])
    ]
    reason: Annotated[
        Literal["outbox-full", "queue-full", "storage", "denied", "killed"],
        Field(
            description="`outbox-full`: the bounds of the outbox; `queue-full`: the disk was too slow; "
            "`storage`: it could not be written or read; `denied`: the broker's access rules; `killed`: the daemon "
            "was, and its last moments are unknown.",
            examples=["outbox-full"],
        ),
    ]


EVENTS: Final[tuple[type[Event], ...]] = (
    RouteAccepted,
    RouteConfirmed,
    RouteWithdrawn,
    RouteRefused,
    RouteBlocked,
    RouteConflicting,
    RouteDropped,
    RouteSummary,
    SyncStarted,
    SyncCompleted,
    SyncFailed,
    SyncLost,
    SyncHeld,
    SyncReleased,
    SyncOverdue,
    SyncTimely,
    TargetUp,
    TargetDown,
    TargetRefused,
    TargetPaused,
    TargetResumed,
    TargetFull,
    TargetRoom,
    KernelResynced,
    KernelOverrun,
    KernelDrift,
    GuardWouldRemove,
    GuardRemoved,
    GuardReturned,
    GuardSkipped,
    GuardFailed,
    GuardVerified,
    GuardStuck,
    ConfigLoaded,
    ConfigRejected,
    EventsLost,
)
"""Every event there is, in the order of the documentation."""
