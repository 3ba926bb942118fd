"""Routes as the control socket shows them: what the kernel has, what the rules say, what each target has."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of what is answered. A newer daemon may say more than a client knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Hop(Answer):
    """One way out."""

    gateway: str | None = Field(
        description="Null where the network is on the link itself.", examples=["192.168.10.1"]
    )
    interface: str | None = Field(
        description="Null where there is none, as for a blackhole.", examples=["ens3"]
    )
    weight: int = 1
    flags: tuple[str, ...] = Field(default=(), examples=[["linkdown"]])


class RouteBody(Answer):
    """A route as the kernel has it, in the words of ip(8)."""

    prefix: str = Field(examples=["10.244.1.0/24"])
    family: Literal["ipv4", "ipv6"]
    table: str = Field(examples=["main"])
    protocol: str = Field(examples=["bird"])
    metric: int = 0
    type: str = "unicast"
    scope: str = "global"
    tos: int = 0
    source: str | None = Field(default=None, description="The preferred source address.")
    source_prefix: str | None = Field(
        default=None,
        description="For packets from these addresses only; null: from all. Such a route is never mirrored.",
        examples=["2001:db8:aaaa::/48"],
    )
    hops: tuple[Hop, ...] = ()


class JudgedRoute(RouteBody):
    """A route, and what the rules say of it."""

    verdict: Literal["keep", "drop"]
    rule: str = Field(
        description="The rule that decided; `default` where none matched.", examples=["pod-networks"]
    )
    elected: bool = Field(description="Kept, and the best of its prefix: this one is told to the targets.")


class DetailedRoute(JudgedRoute):
    """A route as it was read just now, with what decides nothing here."""

    metrics: dict[str, int | str] = Field(
        default_factory=dict,
        description="By the names of ip-route(8), in the kernel's units.",
        examples=[{"mtu": 1400}],
    )
    preference: Literal["low", "medium", "high"] | None = Field(
        default=None, description="Of the router that advertised it; IPv6 only."
    )
    expires_s: int | None = Field(
        default=None,
        description="Seconds until its lifetime ends; null: no end is set. Zero or less: it is over, and the kernel "
        "uses the route no longer.",
    )


class TargetRoute(Answer):
    """How one prefix stands at one target."""

    target: str = Field(examples=["lb-1"])
    phase: str = Field(
        description="`pending`, `accepted` (2xx), `confirmed` (its table or kernel showed it), `withdrawing`, "
        "`unjudged` (409, whose route that is will be judged), `present` (an equal route that is not provably ours), "
        "`conflicting` (another writer's route), `refused`, `contended` (lost again and again), `not-forwarded` (its "
        "kernel has it, its table does not), `left-behind` (ours, and not provable), `over-capacity`, `ineligible`, or "
        "`none`: nothing of ours is, or should be, there.",
        examples=["confirmed"],
    )
    since: AwareDatetime | None = Field(default=None, description="When it came to that phase.")
    desired: str | None = Field(
        default=None, description="The gateway that the target should have; null: it should have no route."
    )
    owned: str | None = Field(default=None, description="The gateway of our route that is, or may be, there.")
    rule: str | None = Field(default=None, description="The rule that kept the route.")
    code: str | None = Field(
        default=None,
        description="Why the target is not told of it, as a stable code.",
        examples=["no-gateway"],
    )
    detail: str = Field(
        default="", description="The same in words; or the target's own, or who holds the prefix."
    )
    degraded: bool = Field(default=False, description="One hop stands for several.")


class RouteRow(Answer):
    """One prefix: its candidates, and how it stands at each target."""

    prefix: str
    family: Literal["ipv4", "ipv6"]
    candidates: tuple[JudgedRoute, ...] = Field(
        default=(), description="What the rules keep, the elected one first; none: the kernel has it no more."
    )
    targets: tuple[TargetRoute, ...] = ()


class RoutesAnswer(Answer):
    """The table."""

    routes: tuple[RouteRow, ...]
    matched: int = Field(description="How many there are; more than are shown, where `limit` was lower.")


class ExplainedRoute(DetailedRoute):
    """A route, and why it is told to the targets or not."""

    next_hop: tuple[str, ...] = Field(
        default=(), description="What its rule has the targets told instead of its gateway."
    )
    why: str = Field(examples=["rule pod-networks keeps it; elected"])


class TargetExplained(TargetRoute):
    """How one prefix stands at one target, and what that target was seen to have."""

    shown: str | None = Field(
        default=None,
        description="What its own table had for exactly this prefix when it was last read; null: nothing.",
    )
    read: AwareDatetime | None = Field(default=None, description="When its table was last read.")
    witnessed: bool | None = Field(
        default=None,
        description="Whether its kernel has the route of ours now; null where there is no witness.",
    )


class ExplainedPrefix(Answer):
    """One prefix that covers what was asked for."""

    prefix: str
    candidates: tuple[ExplainedRoute, ...] = Field(
        description="Every route that the kernel has for it now, the preferred one first, dropped ones too."
    )
    held: bool = Field(
        default=True,
        description="False: the daemon holds it otherwise; it is taking this in, or `resync` lets it read anew.",
    )
    targets: tuple[TargetExplained, ...] = ()


class TargetState(Answer):
    """The state of a target, for what it means for its routes."""

    name: str
    state: str
    paused: bool = False
    error: str | None = None


class Explanation(Answer):
    """Why an address or a prefix is, or is not, known to the targets."""

    query: str = Field(description="What was asked for, as a prefix.", examples=["10.244.1.7/32"])
    time: AwareDatetime
    source: Literal["daemon", "files"] = "daemon"
    complete: bool = Field(
        description="False: the table changed while it was read; something may be missing."
    )
    tables: tuple[str, ...] = Field(default=(), description="The routing tables that are read.")
    prefixes: tuple[ExplainedPrefix, ...] = Field(description="The longest first.")
    targets: tuple[TargetState, ...] = ()


class AtTarget(Answer):
    """What would be done with a route at one target."""

    target: str
    fate: Literal["post", "replace", "stands", "conflict", "refused", "unrepresentable"]
    gateway: str | None = None
    code: str = Field(description="A reason code, or the deciding rule.")
    detail: str = ""
    degraded: bool = False


class PlannedRoute(DetailedRoute):
    """A route, and what becomes of it."""

    targets: tuple[AtTarget, ...] = ()


class Deletion(Answer):
    """A route of ours that a target shall no longer have."""

    prefix: str
    gateway: str


class TargetPlan(Answer):
    """One target of a plan."""

    name: str
    url: str
    read: bool = Field(description="Whether its table was read; else what stands there already is not known.")
    error: str | None = None
    delete: tuple[Deletion, ...] = ()


class Switches(Answer):
    """Switches of the kernel that change what it announces; null where they cannot be read."""

    skip_notify_on_dev_down: bool | None = None
    nexthop_compat_mode: bool | None = None


class PlanAnswer(Answer):
    """What becomes of each route of the kernel, and why."""

    source: Literal["daemon", "files"] = "daemon"
    sysctls: Switches = Switches()
    routes: tuple[PlannedRoute, ...]
    targets: tuple[TargetPlan, ...]
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="Dropped routes beyond `dropped`, which are not in the list: how many, by rule.",
    )
