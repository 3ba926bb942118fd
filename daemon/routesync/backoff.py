"""How long to wait after failures: doubled each time up to a bound, ± 20 % so that many do not return at once."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

JITTER: Final = 0.2
_MOST_DOUBLINGS: Final = 60
"""Far beyond any bound; a float has room for about 1,000."""


def doubled_s(times: int, first_s: float, most_s: float) -> float:
    """Seconds for the n-th time in a row (1 or more), without jitter."""
    return min(most_s, first_s * 2.0 ** min(max(times, 1) - 1, _MOST_DOUBLINGS))


def backoff_s(failures: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after the n-th failure in a row (1 or more): doubled each time, ± 20 %."""
    return doubled_s(failures, first_s, most_s) * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (no secret)


class Backoff(NamedTuple):
    """A back-off with its bounds, to be handed over. What worked for longer than `most_s` begins at `first_s` again."""

    first_s: float
    most_s: float

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the n-th failure in a row (1 or more)."""
        return backoff_s(failures, self.first_s, self.most_s)
