"""A namespace with two veth pairs, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.netns import Namespace, namespace


@pytest.fixture
def node() -> Iterator[Namespace]:
    """Two links that are up: e0 (192.0.2.1/24, 2001:db8:e0::1/64) and e1 (198.51.100.1/24, 2001:db8:e1::1/64)."""
    with namespace("kernel") as made:
        made.batch(
            [
                "link add e0 type veth peer name p0",
                "link add e1 type veth peer name p1",
                "addr add 192.0.2.1/24 dev e0",
                "addr add 198.51.100.1/24 dev e1",
                "addr add 2001:db8:e0::1/64 dev e0 nodad",
                "addr add 2001:db8:e1::1/64 dev e1 nodad",
                *(f"link set {name} up" for name in ("p0", "p1", "e0", "e1")),
            ]
        )
        yield made
