"""What the way to the broker counts, since the start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DeliveryMeasures:
    """Plain counters.

    Attributes:
        published: events that the broker took.
        connections: that were made.
        failures: connections that broke, or could not be made.
    """

    published: int = 0
    connections: int = 0
    failures: int = 0
