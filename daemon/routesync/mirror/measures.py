"""How changes get through to one target, counted since the start."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from routesync.measure import CONVERGENCE_S, Histogram

Stage = Literal["accepted", "confirmed", "withdrawn"]
STAGES: Final[tuple[Stage, ...]] = ("accepted", "confirmed", "withdrawn")
Fate = Literal["accepted", "confirmed", "withdrawn", "refused", "ineligible", "conflicting", "lost"]
"""What is said of a route at a target, as in the events of the same names."""


def _histograms() -> dict[Stage, Histogram]:
    return {stage: Histogram(CONVERGENCE_S) for stage in STAGES}


@dataclass(slots=True)
class Measures:
    """Plain counters.

    Attributes:
        fates: routes by what was said of them.
        convergence: time from the kernel's change to each stage. A change counts at the stages that it reaches, from
            when it was read off the kernel; what the first reading found, or came from elsewhere, does not count.
    """

    fates: Counter[Fate] = field(default_factory=Counter)
    convergence: dict[Stage, Histogram] = field(default_factory=_histograms)

    def reached(self, stage: Stage, asked_at: float | None, now: float) -> None:
        """A change of the kernel, read at `asked_at`, has reached a stage; None: it was no change of the kernel."""
        if asked_at is not None:
            self.convergence[stage].observe(now - asked_at)
