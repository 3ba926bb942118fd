"""How long to wait after failures: doubled each time up to a bound, with jitter so that many do not return at once."""

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


class SpreadBackoff(NamedTuple):
    """A back-off for one client of many that all lose their server at the same moment.

    They come back over the whole of `spread_s`, each at its own moment: not doubled from a short time, and not later.
    Only failures with a server that answers wait longer, up to `most_s`.
    """

    spread_s: float
    most_s: float

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the n-th failure in a row; 0: it was not the first of a server that does not answer.

        That one is tried at an even pace: random times would gather in the first seconds after it is back.
        """
        if not failures:
            return self.spread_s
        if failures == 1:
            return random.uniform(0, self.spread_s)  # noqa: S311 (no secret)
        longest = doubled_s(failures, self.spread_s, self.most_s)
        return random.uniform(longest / 2, longest)  # noqa: S311 (no secret)
