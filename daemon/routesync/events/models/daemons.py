"""The daemon itself: its configuration, and events that are gone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from routesync.events.fields import Path
from routesync.events.models.base import Event


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
