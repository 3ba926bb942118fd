"""When a change was read: what convergence is counted from."""

from __future__ import annotations

import time

from support.following import following
from support.netns import Namespace


async def test_changes_bear_the_time_at_which_the_oldest_was_read_and_the_first_table_none(
    node: Namespace,
) -> None:
    async with following(node) as follower:
        await follower.source.changes()
        first = follower.source.changed_at
        assert first is None
        before = time.monotonic()
        node.ip("route add 10.1.0.0/16 via 192.0.2.9")
        await follower.source.changes()
        changed_at = follower.source.changed_at
        assert changed_at is not None
        assert before < changed_at < time.monotonic()
