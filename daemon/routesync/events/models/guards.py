"""What mode guard does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from routesync.events.fields import Detail, FamilyLabel, PrefixText, Reason, Rule, Seconds, Target
from routesync.events.models.base import Event

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
