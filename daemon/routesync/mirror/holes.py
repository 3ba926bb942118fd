"""Holes: more specific routes that loxilb does not get, inside prefixes that it gets.

The node discards their packets or sends them elsewhere, while loxilb forwards them by the shorter prefix. loxilb's API
cannot express such a route, so it can only be shown.
"""

from __future__ import annotations

from typing import Final

from routesync.mirror.state import MIRRORED, MirrorState
from routesync.route import Prefix
from routesync.slices import in_slices

NAMED: Final = 3


async def find_holes(state: MirrorState) -> tuple[tuple[Prefix, ...], int]:
    """The first holes, and how many there are; found in slices."""
    if not state.ineligible:
        return (), 0
    lengths: dict[int, set[int]] = {4: set(), 16: set()}
    async for prefix in in_slices(tuple(state.routes)):
        lengths[len(prefix.packed)].add(prefix.length)
    first: list[Prefix] = []
    found = 0
    async for prefix in in_slices(tuple(state.ineligible)):
        shorter = (length for length in lengths[len(prefix.packed)] if length < prefix.length)
        if any(_is_mirrored(state, prefix.cut(length)) for length in shorter):
            found += 1
            if len(first) < NAMED:
                first.append(prefix)
    return tuple(first), found


def _is_mirrored(state: MirrorState, prefix: Prefix) -> bool:
    route = state.routes.get(prefix)
    return route is not None and route.phase in MIRRORED
