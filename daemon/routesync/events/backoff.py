"""How long to wait before the next try."""

from __future__ import annotations

import random
from typing import NamedTuple


class Backoff(NamedTuple):
    """Exponential back-off with jitter, in seconds.

    With the defaults a daemon connects at most seven times in the first minute. That stays below the limits by which
    brokers ban a client that comes and goes (EMQX `flapping_detect`: 15 times a minute).
    """

    first_s: float = 1
    limit_s: float = 60
    steady_s: float = 60
    """A connection that held this long starts the count anew."""

    def delay_s(self, failures: int) -> float:
        """The wait after so many failures in a row (1 or more): between a half and the whole of the exponential."""
        whole = min(self.limit_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return whole * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
