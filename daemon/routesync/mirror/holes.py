"""Holes: more specific routes that loxilb does not get, inside prefixes that it gets.

The node discards their packets or sends them elsewhere, while loxilb forwards them by the shorter prefix. loxilb's API
cannot express such a route, so it can only be shown.
"""

from __future__ import annotations

import asyncio
from typing import Final

from routesync.mirror.state import MIRRORED, MirrorState
from routesync.route import Prefix

NAMED: Final = 3
SLICE: Final = 500


async def find_holes(state: MirrorState) -> tuple[tuple[Prefix, ...], int]:
    """The first holes, and how many there are; ineligible routes are looked through in slices."""
    mirrored = {prefix for prefix, route in state.routes.items() if route.phase in MIRRORED}
    lengths = {
        size: sorted({prefix.length for prefix in mirrored if len(prefix.packed) == size}) for size in (4, 16)
    }
    first: list[Prefix] = []
    found = 0
    for count, prefix in enumerate(tuple(state.ineligible), 1):
        if any(
            prefix.cut(length) in mirrored for length in lengths[len(prefix.packed)] if length < prefix.length
        ):
            found += 1
            if len(first) < NAMED:
                first.append(prefix)
        if count % SLICE == 0:
            await asyncio.sleep(0)
    return tuple(first), found
