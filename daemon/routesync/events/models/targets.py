"""Targets: whether they answer, and what keeps them from being mirrored into."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from routesync.events.fields import Detail, Target
from routesync.events.models.base import Event


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
            description="`shared-namespace`: its ports are this host's links; `own-route-seen`: a route that we posted "
            "to it came up in this host's own kernel.",
            examples=["shared-namespace"],
        ),
    ]
    detail: Detail
