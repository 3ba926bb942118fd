"""How a target is brought to what is wanted: runs, brakes, what waits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from routesync.events.fields import Count, Detail, PrefixText, Seconds, Target
from routesync.events.models.base import Event


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
