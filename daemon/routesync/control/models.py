"""What goes into and comes out of the calls: parameters, request bodies, responses, problems.

The OpenAPI document is made from these models. A response may gain fields in a later version, so clients ignore what
they do not know; in a request an unknown field is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    WithJsonSchema,
)

from routesync.events.node_status import Status, TargetStatus
from routesync.route import Prefix, parse_address


class ResponseModel(BaseModel):
    """Base of what the daemon answers. A newer daemon may send more than a client knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RequestModel(BaseModel):
    """Base of what a call takes: unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# -- problems ------------------------------------------------------------------------------------------------

PROBLEM_ROOT: Final = "urn:routesync:problem"

PROBLEMS: Final = {
    "bad-request": (400, "The request is not valid"),
    "not-permitted": (403, "Not permitted"),
    "not-found": (404, "No such call"),
    "unknown-target": (404, "No such target"),
    "wrong-method": (405, "Another method is needed"),
    "conflict": (409, "Not possible in the present state"),
    "rejected": (422, "The configuration is not valid; the running configuration stays"),
    "too-large": (413, "The request is too large"),
    "internal": (500, "The daemon failed to carry out the call"),
    "busy": (503, "Too many callers at once"),
    "not-ready": (503, "Not ready"),
    "unavailable": (503, "Not available now"),
}
"""All problems by their stable name: the HTTP status and the title."""


class Problem(ResponseModel):
    """Why a call failed (RFC 9457)."""

    type: str = Field(
        description="`urn:routesync:problem:` and a stable name.",
        examples=["urn:routesync:problem:unknown-target"],
    )
    title: str = Field(description="The same for all problems of a type.", examples=["No such target"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(
        description="What is wrong this time, and what to do.",
        examples=["there is no target lb-3; there are: lb-1, lb-2"],
    )

    @property
    def name(self) -> str:
        """The stable name in the type."""
        return self.type.removeprefix(f"{PROBLEM_ROOT}:")

    @classmethod
    def of(cls, name: str, detail: str) -> Problem:
        """Make the problem of this name, one of `PROBLEMS`."""
        status, title = PROBLEMS[name]
        return cls(type=f"{PROBLEM_ROOT}:{name}", title=title, status=status, detail=detail)


class ProblemError(Exception):
    """A call failed; `name` is one of `PROBLEMS`."""

    def __init__(self, name: str, detail: str) -> None:
        self.problem = Problem.of(name, detail)
        super().__init__(detail)


# -- prefixes in requests ------------------------------------------------------------------------------------


def read_covering(text: str) -> Prefix:
    """Read a prefix, or an address as its host prefix.

    Raises:
        ValueError: it is neither; the message says what to write.
    """
    try:
        if "/" not in text and text != "default":
            address = parse_address(text)
            return Prefix(address, len(address) * 8)
    except ValueError:
        raise ValueError(
            f"{text!r} is no address or prefix; write 10.1.2.3, 10.0.0.0/8 or 2001:db8::1"
        ) from None
    return Prefix.parse(text)


def _read_by(parse: Callable[[str], Prefix]) -> BeforeValidator:
    return BeforeValidator(lambda value: value if isinstance(value, Prefix) else parse(str(value)))


_AS_TEXT = PlainSerializer(str, return_type=str)
_TEXT_SCHEMA = WithJsonSchema({"type": "string"})

Exact = Annotated[Prefix, _read_by(Prefix.parse), _AS_TEXT, _TEXT_SCHEMA]
Covering = Annotated[Prefix, _read_by(read_covering), _AS_TEXT, _TEXT_SCHEMA]
"""Also accepts an address, as its host prefix."""


# -- parameters of queries -----------------------------------------------------------------------------------


class ExplainQuery(RequestModel):
    """What to explain."""

    of: Covering = Field(description="An address or a prefix.", examples=["10.244.1.7"])


class WithinQuery(RequestModel):
    """Only what is about prefixes inside one."""

    within: Exact | None = Field(
        default=None, description="Only prefixes inside this one.", examples=["10.244.0.0/16"]
    )


class RoutesQuery(WithinQuery):
    """Which part of the table."""

    covering: Covering | None = Field(
        default=None,
        description="Only prefixes that cover this address or prefix.",
        examples=["10.244.1.7"],
    )
    family: Literal["ipv4", "ipv6"] | None = Field(default=None, description="Only this family.")
    protocol: str | None = Field(
        default=None, description="Only prefixes with a candidate of this protocol.", examples=["bgp"]
    )
    rule: str | None = Field(default=None, description="Only prefixes with a candidate that this rule keeps.")
    target: str | None = Field(default=None, description="Only the state at this target.")
    phase: tuple[str, ...] = Field(
        default=(),
        description="Only prefixes in this phase at a target; may be repeated.",
        examples=[["refused"]],
    )
    limit: int = Field(default=1_000_000, ge=1, le=1_000_000, description="The most prefixes to return.")


class PlanQuery(RequestModel):
    """How much of the plan."""

    dropped: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="The most dropped routes to return; further ones are only counted.",
    )


class EventsQuery(WithinQuery):
    """Which events."""

    type: tuple[str, ...] = Field(
        default=(),
        description="Only these, as globs over the part between `io.routesync.` and the version; may be repeated.",
        examples=[["route.*"]],
    )
    after: str | None = Field(
        default=None,
        pattern=r"^[!-~]{1,64}-[0-9]{1,19}$",
        description="The `id` of the last event that the client has. The daemon sends later events first, as far as it "
        "remembers them (about 1,000), and reports older ones as lost. Without it: from now on.",
        examples=["5f0c2e9ab1d4-1234"],
    )


# -- request bodies ------------------------------------------------------------------------------------------


class TargetRequest(RequestModel):
    """Which target the request is for."""

    target: str | None = Field(
        default=None, description="Name of the target; without it, all targets.", examples=["lb-1"]
    )


class ResyncRequest(TargetRequest):
    """Which target to verify."""

    force: StrictBool = Field(
        default=False,
        description="Also send routes again that are suppressed because the target fell silent after them.",
    )


class OwnershipRequest(RequestModel):
    """Which routes of a target the request is for."""

    target: str = Field(description="Name of the target.", examples=["lb-1"])
    prefixes: tuple[Exact, ...] = Field(
        default=(),
        description="Only the routes to these; without any, all that the call is for.",
        examples=[["10.244.1.0/24"]],
    )


class TakeoverRoute(RequestModel):
    """A route of the node that is gone."""

    prefix: Exact
    gateway: str = Field(description="Its next hop in that node's table.", examples=["192.168.10.11"])


class TakeoverRequest(RequestModel):
    """Which routes of another node to take over."""

    node: str = Field(description="The node that is gone.", examples=["node-2"])
    target: str = Field(description="Name of the target.", examples=["lb-1"])
    routes: tuple[TakeoverRoute, ...] = Field(max_length=500)


class WithdrawRequest(RequestModel):
    """Which target to withdraw all owned routes from."""

    target: str = Field(
        description="Name of a target that the daemon does not mirror into.", examples=["lb-3"]
    )
    url: str | None = Field(
        default=None,
        description="Its URL, if it is no longer configured.",
        examples=["http://192.168.10.20:11111"],
    )


# -- responses to requests -----------------------------------------------------------------------------------


class OwnedRoutes(ResponseModel):
    """How many routes were adopted, forgotten, repaired or withdrawn."""

    target: str
    routes: int


class TakeoverResponse(ResponseModel):
    """What came of a takeover."""

    target: str
    taken: tuple[str, ...] = Field(
        description="Prefixes that were removed, or replaced by this node's route."
    )
    left: int = Field(description="How many of them are still there.")
    came_back: tuple[str, ...] = Field(description="Prefixes that the other node added again: it lives.")
    unproved: tuple[str, ...] = Field(
        description="Prefixes that are there and stay: nothing proves that a `DELETE` would take them and no other."
    )


class Done(ResponseModel):
    """What was done, by target."""

    targets: dict[str, str] = Field(
        description="What was done, by name of the target.", examples=[{"lb-1": "paused"}]
    )


class Released(ResponseModel):
    """Which withdrawals were released."""

    released: dict[str, int] = Field(
        description="Number of withdrawals, by name of the target.", examples=[{"lb-1": 120}]
    )


class ActiveConfig(ResponseModel):
    """The running configuration."""

    path: str
    digest: str = Field(
        description="SHA-256 of the file and its drop-ins as they were read, one after another, in hex."
    )
    warnings: tuple[str, ...] = Field(default=(), description="What is odd about it, one line each.")


class Reloaded(ResponseModel):
    """The configuration was reloaded."""

    config: ActiveConfig


# -- status and health ---------------------------------------------------------------------------------------


class RuleCount(ResponseModel):
    """How many routes one rule decides."""

    rule: str = Field(examples=["dhcp-host-routes"])
    action: Literal["keep", "drop"]
    routes: int = Field(
        ge=0, description="Kept routes as of now, dropped routes as of the last dump of the kernel's table."
    )


class TargetDetail(TargetStatus):
    """One target, in more detail than in the status of the event stream."""

    model_config = ConfigDict(extra="ignore")

    version: str | None = None
    oldest_s: float = Field(
        default=0, description="How long the oldest waiting route waits without a reason of its own."
    )
    first_holes: tuple[str, ...] = Field(default=(), description="The first of the `holes`.")
    releasable: int = Field(
        default=0, description="Held withdrawals that `release` sends: those over the mass-withdrawal limit."
    )
    paused_since: AwareDatetime | None = Field(
        default=None, description="When an operator paused it, see `resume`; null: it is not paused."
    )


class StatusResponse(ResponseModel):
    """State of the daemon."""

    status: Status = Field(description="The same as the retained `status` of the event stream.")
    pid: int
    config: ActiveConfig
    rules: tuple[RuleCount, ...] = Field(description="In their order, `default` last.")
    targets: tuple[TargetDetail, ...]


class Health(ResponseModel):
    """Live, or ready."""

    status: Literal["live", "ready"]


# -- routes --------------------------------------------------------------------------------------------------


class Hop(ResponseModel):
    """One next hop."""

    gateway: str | None = Field(
        description="Null: the destination is on the link itself.", examples=["192.168.10.1"]
    )
    interface: str | None = Field(description="Null: there is none, as for a blackhole.", examples=["ens3"])
    weight: int = 1
    flags: tuple[str, ...] = Field(default=(), examples=[["linkdown"]])


class EvaluatedRoute(ResponseModel):
    """A route as the kernel has it, in the words of ip(8), and what the rules decide."""

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
        description="Applies only to packets from these addresses; null: to all. Such a route is never mirrored.",
        examples=["2001:db8:aaaa::/48"],
    )
    hops: tuple[Hop, ...] = ()
    verdict: Literal["keep", "drop"]
    rule: str = Field(
        description="The rule that decided; `default` where none matched.", examples=["pod-networks"]
    )
    elected: bool = Field(
        description="Kept, and the best route of its prefix: the one to mirror into the targets."
    )


class DetailedRoute(EvaluatedRoute):
    """A route as the kernel has it now, with attributes that decide nothing in routesync."""

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
        description="Seconds until its lifetime ends; null: it has no end. Zero or less: it has expired, and the "
        "kernel no longer uses it.",
    )


class TargetRoute(ResponseModel):
    """The state of one prefix at one target."""

    target: str = Field(examples=["lb-1"])
    phase: str = Field(
        description="`pending`, `accepted` (2xx), `confirmed` (its table or kernel showed it), `withdrawing`, "
        "`unjudged` (409, an inventory will show whose route that is), `present` (an equal route that is not provably "
        "owned by routesync), `conflicting` (another writer's route), `refused`, `contended` (lost again and again), "
        "`not-forwarded` (its kernel has it, its table does not), `left-behind` (owned, and not provable), "
        "`over-capacity`, `ineligible`, or `none`: routesync has nothing there and wants nothing there.",
        examples=["confirmed"],
    )
    since: AwareDatetime | None = Field(default=None, description="When it entered that phase.")
    desired: str | None = Field(
        default=None, description="The gateway that the target should have; null: it should have no route."
    )
    owned: str | None = Field(
        default=None, description="The gateway of the route that routesync added, or may have added."
    )
    rule: str | None = Field(default=None, description="The rule that kept the route.")
    code: str | None = Field(
        default=None,
        description="Why the route is not eligible for the target, as a stable code.",
        examples=["no-gateway"],
    )
    detail: str = Field(
        default="", description="The same in words; or the target's own words, or whose route is there."
    )
    degraded: bool = Field(default=False, description="Only one hop of a multipath route is mirrored.")


class RouteRow(ResponseModel):
    """One prefix: its candidates, and its state at each target."""

    prefix: str
    family: Literal["ipv4", "ipv6"]
    candidates: tuple[EvaluatedRoute, ...] = Field(
        default=(), description="What the rules keep, the elected route first; empty: gone from the kernel."
    )
    targets: tuple[TargetRoute, ...] = ()


class RoutesResponse(ResponseModel):
    """The table."""

    routes: tuple[RouteRow, ...]
    matched: int = Field(description="How many prefixes match; more than are returned if `limit` was lower.")


# -- explain -------------------------------------------------------------------------------------------------


class ExplainedRoute(DetailedRoute):
    """A route, and why it is mirrored or not."""

    next_hop: tuple[str, ...] = Field(
        default=(), description="The next hop that its rule sets instead of its gateway."
    )
    why: str = Field(examples=["rule pod-networks keeps it; elected"])


class TargetExplained(TargetRoute):
    """The state of one prefix at one target, and what that target was seen to have."""

    shown: str | None = Field(
        default=None,
        description="What its last inventory had for exactly this prefix; null: nothing.",
    )
    read: AwareDatetime | None = Field(default=None, description="When the last inventory was read.")
    witnessed: bool | None = Field(
        default=None,
        description="Whether its kernel has routesync's route now; null: there is no witness.",
    )


class ExplainedPrefix(ResponseModel):
    """One prefix that covers what was asked for."""

    prefix: str
    candidates: tuple[ExplainedRoute, ...] = Field(
        description="Every route that the kernel has for it now, the preferred one first, dropped ones too."
    )
    held: bool = Field(
        default=True,
        description="False: the daemon has another route; it is processing a change, or `resync` corrects it.",
    )
    targets: tuple[TargetExplained, ...] = ()


class TargetSummary(ResponseModel):
    """The state of a target as a whole."""

    name: str
    url: str
    state: str
    paused: bool = False
    error: str | None = None


class Explanation(ResponseModel):
    """Why an address or a prefix is mirrored or not."""

    query: str = Field(description="What was asked for, as a prefix.", examples=["10.244.1.7/32"])
    time: AwareDatetime
    source: Literal["daemon", "files"] = "daemon"
    complete: bool = Field(
        description="False: the kernel's table changed during the dump; routes may be missing."
    )
    tables: tuple[str, ...] = Field(default=(), description="The routing tables that are read.")
    prefixes: tuple[ExplainedPrefix, ...] = Field(description="The longest first.")
    targets: tuple[TargetSummary, ...] = ()


# -- plan ----------------------------------------------------------------------------------------------------


Fate = Literal["post", "replace", "present", "conflict", "refused", "unrepresentable"]


class PlanOutcome(ResponseModel):
    """What happens to a route at one target."""

    target: str
    fate: Fate
    gateway: str | None = None
    code: str = Field(description="A reason code, or the deciding rule.")
    detail: str = ""
    degraded: bool = False


class PlanRow(DetailedRoute):
    """A route, and what happens to it."""

    targets: tuple[PlanOutcome, ...] = ()


class PlanDeletion(ResponseModel):
    """A route that routesync owns and the target should no longer have."""

    prefix: str
    gateway: str


class TargetPlan(TargetSummary):
    """One target of a plan."""

    read: bool = Field(
        description="Whether its inventory was read; if not, what it has already is not known."
    )
    delete: tuple[PlanDeletion, ...] = ()


class Sysctls(ResponseModel):
    """Sysctls that change what the kernel announces; null: not readable."""

    skip_notify_on_dev_down: bool | None = None
    nexthop_compat_mode: bool | None = None


class PlanResponse(ResponseModel):
    """What happens to each route of the kernel, and why."""

    source: Literal["daemon", "files"] = "daemon"
    mode: str = Field(default="mirror", description="Targets are written to in mode mirror alone.")
    sysctls: Sysctls = Sysctls()
    routes: tuple[PlanRow, ...]
    targets: tuple[TargetPlan, ...]
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="Dropped routes beyond `dropped`, which are not in the list: how many, by rule.",
    )
