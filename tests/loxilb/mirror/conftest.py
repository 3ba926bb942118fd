"""Each test has a stand-in of its own: they starve it and stop it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.mirror_lab import Lab
from support.netns import namespace
from support.standin import running_standin
from support.waiting import eventually_sync


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        space = stack.enter_context(namespace("loxilb"))
        peer = stack.enter_context(namespace("peer"))
        space.ip(f"link add ens3 type veth peer name ens3 netns {peer.name}")
        for side, host in ((space, 20), (peer, 1)):
            side.ip(f"addr add 192.168.10.{host}/24 dev ens3")
            side.ip(f"addr add fd00:10::{host}/64 dev ens3 nodad")
            side.ip(
                "link set ens3 addrgenmode none"
            )  # no link-local address whose routes come when they like
            side.ip("link set ens3 up")
        eventually_sync(lambda: "LOWER_UP" in space.ip("link show ens3"), what="carrier")
        standin = stack.enter_context(running_standin(space, "--listen", "none"))
        yield Lab(space, standin)
