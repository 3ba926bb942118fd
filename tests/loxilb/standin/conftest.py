"""A namespace for a stand-in, with a link whose network is 192.168.10.0/24."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.netns import Namespace, namespace


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespace("loxilb") as made:
        made.ip("link add ens3 type veth peer name ens4")
        made.ip("addr add 192.168.10.20/24 dev ens3")
        made.ip("addr add fd00:10::20/64 dev ens3 nodad")
        made.ip("link set ens3 up")
        made.ip("link set ens4 up")
        yield made
