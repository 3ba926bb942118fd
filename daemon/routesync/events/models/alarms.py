"""Alarms: conditions that an operator should know about, reported when they begin and when they end (RFC 8632)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from routesync.events.fields import Count, Detail, PrefixText, Seconds, Target
from routesync.events.models.base import Event

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
]
Kind = Annotated[
    AlarmKind,
    Field(
        description="`overdue`: work has waited for more than five minutes; `withdrawals-held`: a mass withdrawal "
        "waits for a second dump of the kernel, or an operator; `startup-hold`: routes of a previous run that the "
        "kernel does not have stay for a while; `paused`: an operator paused the target; `target-full`: "
        "`max_routes_*` is reached; `contended`: something deletes our routes again and again; `left-behind`: routes "
        "of ours that cannot be proved ours stay in the target; `not-forwarded`: loxilb's kernel has routes that its "
        "table lacks; `foreign-not-forwarded`: another writer's routes may be missing in loxilb's table since "
        "ours was removed; "
        "`return-path`: the target fell silent when a route was posted; `nothing-mirrored`: the rules keep routes, and "
        "none or few can be mirrored; `nearly-default`: a route is refused as nearly a default, and others over the "
        "same hop are mirrored; `inventory-unreadable`: rows of the target's table cannot be read.",
        examples=["contended"],
    ),
]


class AlarmRaised(Event):
    """A condition that an operator should know about has begun. It lasts until `alarm/cleared` with the same `kind`."""

    group = "alarm"
    name = "raised"

    kind: Kind
    target: Target
    detail: Detail
    count: Annotated[Count, Field(description="How many routes it is about.")] = 0
    prefixes: Annotated[tuple[PrefixText, ...], Field(description="The first of them.")] = ()


class AlarmCleared(Event):
    """The condition has ended."""

    group = "alarm"
    name = "cleared"

    kind: Kind
    target: Target
    lasted_s: Seconds
    detail: Annotated[str | None, Field(description="What ended it, where that is worth saying.")] = None
