"""How long to wait after failures."""

from __future__ import annotations

import random


def backoff_s(failures: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, ± 25 % so that many do not return at once."""
    full_s = min(most_s, first_s * 2.0 ** min(max(failures, 1) - 1, 16))
    return full_s * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
