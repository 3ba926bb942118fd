"""How a target is brought to the desired state."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from routesync.events.fields import Count, Detail, PrefixText, Seconds, Target
from routesync.events.models.base import Event


class SyncStarted(Event):
    """Work begins: a connection was made, or changes came that take longer than a second."""

    group = "sync"
    name = "started"

    target: Target
    desired: Annotated[Count, Field(description="Routes that the target should have.")]
    waiting: Annotated[Count, Field(description="Routes that wait for a request, a proof or a check.")]


class SyncCompleted(Event):
    """Nothing waits any more, after `sync/started`."""

    group = "sync"
    name = "completed"

    target: Target
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


class SyncFailed(Event):
    """The target stopped answering before the work was done; it goes on after the next handshake."""

    group = "sync"
    name = "failed"

    target: Target
    error: Detail
    retry_in_s: Seconds


class SyncLost(Event):
    """The target lost a route of ours; it is added again, and all others are verified."""

    group = "sync"
    name = "lost"

    target: Target
    prefix: PrefixText
    detail: Detail
