"""What goes in and comes out of the calls, but for routes: status, orders and their outcomes, queries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from routesync.control.routes import Answer
from routesync.events.status import Status
from routesync.route import Prefix, parse_address


def read_covering(text: str) -> Prefix:
    """Read an address, which stands for its host prefix, or a prefix.

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


def _covering(value: object) -> Prefix:
    return value if isinstance(value, Prefix) else read_covering(str(value))


def _prefix(value: object) -> Prefix:
    return value if isinstance(value, Prefix) else Prefix.parse(str(value))


def _schema(description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


_WRITTEN = PlainSerializer(str, return_type=str)

Covering = Annotated[
    Prefix, BeforeValidator(_covering), _WRITTEN, _schema("An address or a prefix.", "10.244.1.7")
]
Exact = Annotated[Prefix, BeforeValidator(_prefix), _WRITTEN, _schema("A prefix.", "10.244.1.0/24")]
Within = Annotated[
    Prefix, BeforeValidator(_prefix), _WRITTEN, _schema("Only what lies inside this prefix.", "10.244.0.0/16")
]


class RuleCount(Answer):
    """What one rule decides on at present."""

    rule: str = Field(examples=["dhcp-host-routes"])
    action: Literal["keep", "drop"]
    routes: int = Field(
        ge=0, description="Kept ones as of now, dropped ones as of the last reading of the kernel."
    )


class TargetDetail(Answer):
    """One target, in more detail than the event stream's status has."""

    name: str
    url: str
    state: str = Field(examples=["synced"])
    version: str | None = None
    error: str | None = None
    desired: int = Field(default=0, description="Routes that the target should have.")
    phases: dict[str, int] = Field(
        default_factory=dict, description="Prefixes by phase; they add up to all that is known of the target."
    )
    waiting: int = Field(
        default=0, description="Routes that wait for a request, a proof, a judgement or a check."
    )
    rate: float = Field(default=0, description="Changes a second that may be sent.")
    remaining_s: float | None = Field(
        default=None,
        description="How long the waiting work takes at that rate; null: nothing waits, or is sent.",
    )
    complete: bool = Field(
        default=False, description="Whether everything desired is there, and nothing else of ours."
    )
    proved_s: float | None = Field(
        default=None, description="Age of the last proof that this is true at the target; null: none yet."
    )
    reasons: dict[str, int] = Field(default_factory=dict, description="Ineligible routes by reason.")
    holes: tuple[str, ...] = Field(
        default=(),
        description="The first of the more specific routes that the target does not get, inside prefixes that it gets.",
    )
    holes_count: int = Field(default=0, description="How many of these there are.")
    oldest_s: float = Field(
        default=0, description="How long the oldest of them waits without a reason of its own."
    )
    held: int = Field(
        default=0, description="Withdrawals that the mass-withdrawal limit holds back; see `release`."
    )
    paused_since: AwareDatetime | None = Field(
        default=None, description="Since when an operator paused it, see `resume`; null: it is not."
    )


class ConfigInForce(Answer):
    """The configuration that the daemon works by."""

    path: str
    digest: str = Field(description="SHA-256 of the file as it was read, in hex.")


class StatusAnswer(Answer):
    """How the daemon fares."""

    status: Status = Field(description="The same as the retained `status` of the event stream.")
    pid: int
    config: ConfigInForce
    rules: tuple[RuleCount, ...] = Field(description="In their order, `default` last.")
    targets: tuple[TargetDetail, ...]


class Health(Answer):
    """Live, or ready."""

    status: Literal["live", "ready"]


class Order(BaseModel):
    """Base of what a call takes: unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetOrder(Order):
    """Which target an order is for."""

    target: str | None = Field(
        default=None, description="Its name; without it, all of them.", examples=["lb-1"]
    )


class ResyncOrder(TargetOrder):
    """Which target is verified."""

    force: bool = Field(
        default=False, description="Also send again what was held back since the target fell silent at it."
    )


class AdoptOrder(Order):
    """Which routes routesync takes ownership of."""

    target: str = Field(description="Name of the target.", examples=["lb-1"])
    prefixes: tuple[Exact, ...] = Field(
        default=(),
        description="Only these, in phase `present` or `left-behind`; without any, all in phase `present`.",
    )


class ForgetOrder(Order):
    """Which routes routesync gives up ownership of."""

    target: str = Field(description="Name of the target.", examples=["lb-3"])
    prefixes: tuple[Exact, ...] = Field(
        default=(),
        description="Only these; required, and only for routes in phase `left-behind`, at a target that is mirrored "
        "into.",
    )


class RepairOrder(Order):
    """Which routes are deleted and added again."""

    target: str = Field(description="Name of the target.", examples=["lb-1"])
    prefixes: tuple[Exact, ...] = Field(
        default=(), description="Only these; without any, all in phase `not-forwarded`."
    )


class WithdrawOrder(Order):
    """What is emptied."""

    target: str = Field(description="Name of a target that is not mirrored into.", examples=["lb-3"])
    url: str | None = Field(
        default=None,
        description="Where it is, if it is configured no more.",
        examples=["http://192.168.10.20:11111"],
    )


class OwnRoutes(Answer):
    """How many routes were adopted, forgotten, repaired or withdrawn."""

    target: str
    routes: int


class Done(Answer):
    """What was done, by target."""

    targets: dict[str, str] = Field(
        description="Name of the target to what was done there.", examples=[{"lb-1": "paused"}]
    )


class Reloaded(Answer):
    """A configuration came into force."""

    config: ConfigInForce


class Released(Answer):
    """Withdrawals that were released."""

    released: dict[str, int] = Field(
        description="Name of the target to the number of withdrawals.", examples=[{"lb-1": 120}]
    )


class ExplainQuery(Order):
    """What is to be explained."""

    of: Covering


class RoutesQuery(Order):
    """Which part of the table."""

    within: Within | None = None
    covering: (
        Annotated[
            Prefix,
            BeforeValidator(_covering),
            _WRITTEN,
            _schema("Only prefixes that cover this address or prefix.", "10.244.1.7"),
        ]
        | None
    ) = None
    family: Literal["ipv4", "ipv6"] | None = None
    protocol: str | None = Field(
        default=None, description="Only where a candidate is of this protocol.", examples=["bgp"]
    )
    rule: str | None = Field(default=None, description="Only where this rule kept a candidate.")
    target: str | None = Field(default=None, description="Only how it stands at this target.")
    phase: tuple[str, ...] = Field(
        default=(),
        description="Only what is in this phase at a target shown; may be repeated.",
        examples=[["refused"]],
    )
    limit: int = Field(default=1_000_000, ge=1, le=1_000_000, description="At most so many.")


class PlanQuery(Order):
    """How much of the plan."""

    dropped: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="At most so many routes that the rules drop; the rest is counted.",
    )


class EventsQuery(Order):
    """Which events."""

    type: tuple[str, ...] = Field(
        default=(),
        description="Only these, as globs over what stands between `io.routesync.` and the version; may be repeated.",
        examples=[["route.*"]],
    )
    within: Within | None = None
    after: str | None = Field(
        default=None,
        description="The `id` of the last event that was seen: what came since is told first, as far as it is still "
        "remembered (about 1,000 events); what is not is told as lost. Without it: from now on.",
        examples=["5f0c2e9ab1d4-1234"],
    )
