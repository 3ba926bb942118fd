"""The events: one frozen model each, with its group, its name and its meaning.

They are a promise to subscribers (docs/events.md): a field may be added, none is removed or changes its meaning within
a revision. A change that breaks this makes a new class with a higher `revision`, beside the old one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

# ---- Field types, with the meaning and the example that schemas and documentation show ----

Target = Annotated[
    str, Field(description="Name of the target (a loxilb) in the configuration.", examples=["lb-1"])
]
PrefixText = Annotated[
    str, Field(description="Destination in CIDR form, without host bits.", examples=["10.244.1.0/24"])
]
FamilyLabel = Annotated[
    Literal["ipv4", "ipv6"],
    Field(title="Family", description="Address family of the prefix.", examples=["ipv4"]),
]
Gateway = Annotated[
    str | None,
    Field(
        description="Next hop as sent to the target; null where there is none.", examples=["192.168.10.10"]
    ),
]
Rule = Annotated[
    str,
    Field(
        description="The rule that decided; `default` where no rule matched.", examples=["dhcp-host-routes"]
    ),
]
Detail = Annotated[str, Field(description="For people; its wording may change.", examples=["no such device"])]
Reason = Annotated[
    str, Field(description="Stable reason code, for machines.", examples=["contains-next-hop"])
]
Count = Annotated[int, Field(ge=0, examples=[4])]
Milliseconds = Annotated[float, Field(ge=0, description="In milliseconds.", examples=[12.5])]
Seconds = Annotated[float, Field(ge=0, description="In seconds.", examples=[2.5])]
ProtocolLabel = Annotated[
    str,
    Field(description="Protocol of the kernel's route, by name, else by number.", examples=["bird"]),
]
Metric = Annotated[int, Field(ge=0, description="Metric of the kernel's route.", examples=[20])]
Interface = Annotated[
    str | None,
    Field(description="Interface of its first hop; null where there is none.", examples=["ens3"]),
]
TableLabel = Annotated[
    str, Field(description="Routing table that it is in, by name, else by number.", examples=["main"])
]
Path = Annotated[str, Field(description="File on the node.", examples=["/etc/routesync/routesync.toml"])]


# ---- What events have in common ----

Group = Literal["route", "target", "sync", "kernel", "config", "guard", "alarm", "events"]

TYPE_PREFIX: Final = "io.routesync"


class Event(BaseModel):
    """Base of all events. An event's class has a group and a name; the bases of several events have none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    group: ClassVar[Group]
    name: ClassVar[str]
    revision: ClassVar[int] = 1

    def __init_subclass__(cls, *, group: Group | None = None, name: str | None = None) -> None:
        super().__init_subclass__()
        if group is not None and name is not None:
            cls.group, cls.name = group, name
            EVENTS.append(cls)

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


EVENTS: Final[list[type[Event]]] = []
"""Every event there is, in the order of this file and of the documentation."""


class TargetEvent(Event):
    """Base: about a target."""

    target: Target


class UrlEvent(TargetEvent):
    """Base: about a target, and where it is."""

    url: Annotated[str, Field(description="Base of its REST API.", examples=["http://192.168.10.20:11111"])]


class TargetPrefixEvent(TargetEvent):
    """Base: about a prefix at a target."""

    prefix: PrefixText


class TargetRouteEvent(TargetPrefixEvent):
    """Base: about a route at a target, and the kernel's best route to the prefix at that moment."""

    family: FamilyLabel
    protocol: Annotated[
        str | None,
        Field(
            description="Protocol of the best route that the kernel had for the prefix when this was written, by name, "
            "else by number; null: it had none that the rules keep.",
            examples=["bird"],
        ),
    ] = None
    metric: Annotated[int | None, Field(ge=0, description="Its metric.", examples=[20])] = None
    interface: Interface = None
    table: Annotated[
        str | None,
        Field(description="Routing table that it is in, by name, else by number.", examples=["main"]),
    ] = None


class GatewayEvent(TargetRouteEvent):
    """Base: about a route at a target, and where it leads."""

    gateway: Gateway


class RouteEvent(Event):
    """Base: about a route of the kernel."""

    prefix: PrefixText
    family: FamilyLabel


class KernelRouteEvent(RouteEvent):
    """Base: about the best route of a prefix, by the rules, in the kernel."""


class EventSink(Protocol):
    """Where events go.

    `emit` is called on the hot path: it never blocks and never raises. Call it on the event loop's thread.
    """

    def emit(self, event: Event, /) -> None:
        """Take an event."""


# ---- Routes: at the rules, and at a target ----


class RouteAccepted(GatewayEvent, group="route", name="accepted"):
    """The target took the route (2xx): a new one, or one in place of another gateway."""

    rule: Rule
    degraded: bool = Field(
        default=False,
        description="A part could not be expressed, such as the other hops of an ECMP route.",
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


class RouteConfirmed(GatewayEvent, group="route", name="confirmed"):
    """The target's own table shows the route with our gateway: it is not only accepted, it is there."""


class RouteWithdrawn(GatewayEvent, group="route", name="withdrawn"):
    """The route is no longer in the target; or, with the reason `left-behind`, it stays there and is not desired."""

    reason: Reason


class RouteRefused(GatewayEvent, group="route", name="refused"):
    """The target refused the route, so it does not have it; it is tried again, with back-off."""

    status: Annotated[int, Field(description="HTTP status of the answer.", examples=[500])]
    message: Annotated[str, Field(description="The target's own words.", examples=["network is unreachable"])]
    retry_in_s: Seconds


class RouteIneligible(TargetRouteEvent, group="route", name="ineligible"):
    """The route is not sent to the target: loxilb's API cannot express it, or it would do harm there.

    In a flood most of these are left out; `route/summary` says how many.
    """

    reason: Reason
    detail: Detail
    rule: Rule


class RouteConflicting(GatewayEvent, group="route", name="conflicting"):
    """Another writer has a route to this prefix in the target. It is never touched; ours waits."""

    detail: Detail


class RouteDropped(RouteEvent, group="route", name="dropped"):
    """A rule with `report = true` dropped a route of the kernel.

    In a flood most of these are left out; `route/summary` says how many.
    """

    protocol: ProtocolLabel
    metric: Metric
    interface: Interface = None
    table: TableLabel
    rule: Rule


class RouteSummary(Event, group="route", name="summary"):
    """Routes of which no event of their own went out in a flood: how many.

    At most once a second. Up to 10 `route/dropped` and 100 `route/ineligible` a second go out by themselves, and all
    other events until they come faster than the outbox takes them.
    """

    window_s: Seconds
    dropped: Annotated[
        dict[str, int],
        Field(description="Rule to number of dropped routes.", examples=[{"dhcp-host-routes": 118}]),
    ]
    ineligible: Annotated[
        dict[str, int],
        Field(
            description="Reason to number of ineligible routes, over all targets.",
            examples=[{"no-gateway": 2400}],
        ),
    ]
    others: Annotated[
        dict[str, int],
        Field(
            description="Other event about a route to how many of it the outbox had no room for. The retained table "
            "has what they changed.",
            examples=[{"route/confirmed": 120000}],
        ),
    ] = Field(default_factory=dict)


# ---- How a target is brought to the desired state ----


class SyncStarted(TargetEvent, group="sync", name="started"):
    """Work begins: a connection was made, or changes came that take longer than a second."""

    desired: Annotated[Count, Field(description="Routes that the target should have.")]
    waiting: Annotated[Count, Field(description="Routes that wait for a request, a proof or a check.")]


class SyncCompleted(TargetEvent, group="sync", name="completed"):
    """Nothing waits any more, after `sync/started`."""

    routes: Annotated[Count, Field(description="Routes of ours that the target holds.")]
    posted: Count
    deleted: Count
    duration_s: Seconds
    complete: Annotated[
        bool,
        Field(
            description="Whether everything desired is there; otherwise `status` says what is not, and why."
        ),
    ] = True


class SyncFailed(TargetEvent, group="sync", name="failed"):
    """The target stopped answering before the work was done; it goes on after the next handshake."""

    error: Detail
    retry_in_s: Seconds


class SyncLost(TargetPrefixEvent, group="sync", name="lost"):
    """The target lost a route of ours; it is added again, and all others are verified."""

    detail: Detail


# ---- Targets: whether they answer, and what keeps them from being mirrored into ----


class TargetUp(UrlEvent, group="target", name="up"):
    """The target answers."""

    version: Annotated[
        str | None, Field(description="Its version; null where it does not tell.", examples=["0.9.8"])
    ] = None


class TargetDown(UrlEvent, group="target", name="down"):
    """The target does not answer, or answers with errors only."""

    error: Detail


class TargetRefused(UrlEvent, group="target", name="refused"):
    """Nothing is mirrored into the target: it lives in the network namespace whose routes are read.

    What is written there would come back as a route of this host. Mirroring begins when a new connection shows, by the
    target's ports, that it lives elsewhere.
    """

    reason: Annotated[
        Literal["shared-namespace", "own-route-seen"],
        Field(
            title="TargetRefusedReason",
            description="`shared-namespace`: its ports are this host's links; `own-route-seen`: a route that we posted "
            "to it came up in this host's own kernel.",
            examples=["shared-namespace"],
        ),
    ]
    detail: Detail


# ---- Alarms: conditions that an operator should know about, raised and cleared (RFC 8632) ----

AlarmKind = Literal[
    "overdue",
    "withdrawals-held",
    "startup-hold",
    "paused",
    "target-full",
    "contended",
    "left-behind",
    "not-forwarded",
    "foreign-not-forwarded",
    "return-path",
    "nothing-mirrored",
    "nearly-default",
    "inventory-unreadable",
    "peer-gone",
    "duplicate-name",
]
Kind = Annotated[
    AlarmKind,
    Field(
        title="AlarmKind",
        description="`overdue`: work has waited for more than five minutes; `withdrawals-held`: a mass withdrawal "
        "waits for a second dump of the kernel, or an operator; `startup-hold`: routes of a previous run that the "
        "kernel does not have stay for a while; `paused`: an operator paused the target; `target-full`: "
        "`max_routes_*` is reached; `contended`: another program undoes what routesync does: it deletes "
        "mirrored routes, or adds a route again that guard removed (`target` is null then); `left-behind`: routes "
        "of ours that cannot be proved ours stay in the target; `not-forwarded`: loxilb's kernel has routes that its "
        "table lacks; `foreign-not-forwarded`: another writer's routes may be missing in loxilb's table since "
        "ours was removed; "
        "`return-path`: the target fell silent when a route was posted; `nothing-mirrored`: the rules keep routes, and "
        "none or few can be mirrored; `nearly-default`: a route is refused as nearly a default, and others over the "
        "same hop are mirrored; `inventory-unreadable`: rows of the target's table cannot be read; "
        "`peer-gone`: another node that mirrors into the same loxilb is gone, and its routes are still there; "
        "`duplicate-name`: another daemon publishes as this node.",
        examples=["contended"],
    ),
]


class AlarmEvent(Event):
    """Base: about an alarm; `kind` and `target` name it."""

    kind: Kind
    target: Annotated[
        str | None,
        Field(description="Name of the target; null for a condition of this node.", examples=["lb-1"]),
    ]


class AlarmRaised(AlarmEvent, group="alarm", name="raised"):
    """A condition that an operator should know about has begun. It lasts until `alarm/cleared` with the same `kind`."""

    detail: Detail
    count: Annotated[Count, Field(description="How many routes it is about.")] = 0
    prefixes: Annotated[tuple[PrefixText, ...], Field(description="The first of them.")] = ()


class AlarmCleared(AlarmEvent, group="alarm", name="cleared"):
    """The condition has ended."""

    lasted_s: Seconds
    detail: Annotated[str | None, Field(description="What ended it, where that is worth saying.")] = None


# ---- How the kernel's table is followed ----


class KernelKept(KernelRouteEvent, group="kernel", name="kept"):
    """The best route of a prefix that the rules keep: a new one, or one in place of another.

    Only in mode observe, or with `events.kernel_table`. What the first dump finds is in the retained table alone.
    """

    gateway: Annotated[
        str | None,
        Field(
            description="Of the first hop of the kernel's route; null where there is none.",
            examples=["192.168.10.10"],
        ),
    ]
    protocol: ProtocolLabel
    metric: Metric
    interface: Interface
    table: TableLabel
    rule: Rule


class KernelGone(KernelRouteEvent, group="kernel", name="gone"):
    """The kernel has no route to the prefix any more that the rules keep. Comes where `kernel/kept` does."""


class KernelResynced(Event, group="kernel", name="resynced"):
    """The kernel's routes were dumped and compared with the cache."""

    cause: Annotated[str, Field(description="What called for it.", examples=["overrun"])]
    duration_ms: Milliseconds
    kept: Annotated[Count, Field(description="Routes that the rules keep.")]
    corrected: Annotated[Count, Field(description="Routes that the cache had differently.")]


class KernelOverrun(Event, group="kernel", name="overrun"):
    """The receive buffer overflowed: an unknown number of kernel messages is lost; a resync follows."""

    total: Annotated[Count, Field(description="Overruns since the daemon started.")]


class KernelDrift(Event, group="kernel", name="drift"):
    """A periodic resync found routes that the cache had wrongly although no event was missed; they are corrected."""

    count: Count
    prefixes: Annotated[
        tuple[str, ...],
        Field(description="The first hundred of them.", max_length=100, examples=[["10.244.1.0/24"]]),
    ]


# ---- What mode guard does ----

CoveredBy = Annotated[
    str, Field(description="The route that reaches the same neighbour.", examples=["192.168.10.0/24"])
]


class GuardEvent(RouteEvent):
    """Base: about a route that is guarded."""

    interface: Annotated[
        str | None,
        Field(description="The link that the route leads to; null where it is gone.", examples=["ens3"]),
    ]
    rule: Rule


class GuardWouldRemove(GuardEvent, group="guard", name="would-remove"):
    """In a dry run: the route is redundant and would be removed from the kernel. Reported once each time it comes."""

    covered_by: CoveredBy


class GuardRemoved(GuardEvent, group="guard", name="removed"):
    """A redundant route was removed from the kernel."""

    covered_by: CoveredBy


class GuardReturned(GuardEvent, group="guard", name="returned"):
    """A route that was removed is back: a lease was renewed, or another program wants it there."""

    away_s: Annotated[Seconds, Field(description="How long it was gone, in seconds.")]
    contended: Annotated[
        bool,
        Field(
            description="Whether it was back within `contended_within_s`: another program wants it.",
            examples=[False],
        ),
    ]
    stays_s: Annotated[
        Seconds, Field(description="How long it is left there before it may be removed again, in seconds.")
    ]


class GuardSkipped(GuardEvent, group="guard", name="skipped"):
    """A route stays in the kernel, and why. Reported once for each time it comes, and when the reason changes."""

    reason: Annotated[Reason, Field(examples=["only-by-gateway"])]
    detail: Detail


class GuardFailed(GuardEvent, group="guard", name="failed"):
    """A route should have been removed and was not."""

    reason: Annotated[
        Literal["not-permitted", "put-back", "kernel"],
        Field(
            title="GuardFailedReason",
            description="`not-permitted`: CAP_NET_ADMIN is missing; `put-back`: without it packets would have gone "
            "another way, so it was made again; `kernel`: the kernel refused or did not answer.",
            examples=["not-permitted"],
        ),
    ]
    detail: Detail


class GuardVerified(TargetPrefixEvent, group="guard", name="verified"):
    """After a removal, the target's own table no longer has the route either."""


class GuardStuck(TargetPrefixEvent, group="guard", name="stuck"):
    """After a removal, the target's own table still has the route, or it could not be seen that it has not."""

    reason: Annotated[
        Literal["entry-stays", "not-read"],
        Field(
            title="GuardStuckReason",
            description="`entry-stays`: the target needs a restart to lose it; `not-read`: its table could not be read "
            "in time, or was never at rest.",
            examples=["entry-stays"],
        ),
    ]
    detail: Detail


# ---- The daemon itself ----


class ConfigLoaded(Event, group="config", name="loaded"):
    """A configuration came into force."""

    path: Path
    digest: Annotated[str, Field(description="SHA-256 of the file, in hex.", examples=["9f86d081884c7d65"])]


class ConfigRejected(Event, group="config", name="rejected"):
    """A configuration was rejected; the running one stays."""

    path: Path
    errors: Annotated[
        tuple[str, ...],
        Field(description="One line each.", examples=[["policy.rules[2]: unknown protocol"]]),
    ]


LostReason = Literal["outbox-full", "queue-full", "storage", "denied", "no-broker", "killed"]


class EventsLost(Event, group="events", name="lost"):
    """Events that the broker does not have and will not get; their numbers are missing from the sequence.

    A copy of the table needs nothing for it: buckets that are published later have what these events changed.
    """

    count: Annotated[
        int | None, Field(ge=1, description="How many; null where it cannot be known.", examples=[250])
    ]
    first: Annotated[
        int | None,
        Field(ge=1, description="Number of the first; null where it cannot be known.", examples=[1001]),
    ]
    last: Annotated[
        int | None,
        Field(
            ge=1,
            description="Number of the last; null where it cannot be known. Not all between the two are missing.",
            examples=[1250],
        ),
    ]
    since: Annotated[
        AwareDatetime,
        Field(
            description="When the first was lost, or was noticed to be.", examples=["2026-01-31T12:00:00Z"]
        ),
    ]
    reason: Annotated[
        LostReason,
        Field(
            title="LostReason",
            description="`outbox-full`: the bounds of the outbox; `queue-full`: the disk was too slow; "
            "`storage`: it could not be written or read; `denied`: the broker refused them for good, or denied their "
            "topic for so long that too many were held back; `no-broker`: none "
            "was configured at that time; `killed`: the daemon was, and its last moments are unknown.",
            examples=["outbox-full"],
        ),
    ]
    topics: Annotated[
        dict[str, int],
        Field(
            description="Of `denied`: topic below `<root>/<node>/` to how many of its events.",
            examples=[{}],
        ),
    ] = Field(default_factory=dict)
