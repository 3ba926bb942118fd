"""How the kernel's table is followed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from routesync.events.fields import Count, Milliseconds
from routesync.events.models.base import Event


class KernelResynced(Event):
    """The kernel's routes were read anew and compared with what was held."""

    group = "kernel"
    name = "resynced"

    cause: Annotated[str, Field(description="What called for it.", examples=["overrun"])]
    duration_ms: Milliseconds
    kept: Annotated[Count, Field(description="Routes that the rules keep.")]
    corrected: Annotated[Count, Field(description="Routes that were held differently before.")]


class KernelOverrun(Event):
    """The receive buffer overflowed: an unknown number of kernel messages is lost; a resync follows."""

    group = "kernel"
    name = "overrun"

    total: Annotated[Count, Field(description="Overruns since the daemon started.")]


class KernelDrift(Event):
    """An audit found routes that were held wrongly although no event was missed; they are corrected."""

    group = "kernel"
    name = "drift"

    count: Count
    prefixes: Annotated[
        tuple[str, ...],
        Field(description="The first hundred of them.", max_length=100, examples=[["10.244.1.0/24"]]),
    ]
