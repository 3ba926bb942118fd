"""Following another namespace than our own, by name or path, for as long as the name means the same one."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import pytest

from routesync.kernel import KernelError, KernelSource, Rules
from support.following import MAIN, held, keep_all
from support.netns import Namespace
from support.waiting import eventually


def source_in(netns: str) -> KernelSource:
    return KernelSource(
        tables=(MAIN,), rules=Rules(keep_all), receive_buffer=1 << 20, resync_interval_s=600, netns=netns
    )


def prefixes(source: KernelSource) -> set[str]:
    return {str(prefix) for prefix in held(source) if len(prefix.packed) == 4}


@pytest.mark.parametrize("form", ["name", "path"])
async def test_a_namespace_replaced_under_the_same_name_ends_the_source_and_can_be_followed_again(
    node: Namespace, form: str
) -> None:
    source = source_in(node.name if form == "name" else str(node.path))
    running = asyncio.create_task(source.run())
    await source.synced.wait()
    assert prefixes(source) == {"192.0.2.0/24", "198.51.100.0/24"}

    node.make_again()
    node.ip("route add 10.7.0.0/24 dev lo")
    with pytest.raises(KernelError, match=r"is gone|was recreated"):
        await asyncio.wait_for(running, 30)
    assert prefixes(source) == {"192.0.2.0/24", "198.51.100.0/24"}  # until something proves otherwise

    running = asyncio.create_task(source.run())
    await eventually(lambda: prefixes(source) == {"10.7.0.0/24"})
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_namespace_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(KernelError, match=r"no-such-place.*`ip netns list` shows the names"):
        await source_in("no-such-place").run()


def test_entering_a_namespace_without_the_privilege_says_what_to_do(node: Namespace) -> None:
    code = (
        "from routesync.kernel import open_route_socket, KernelError\n"
        f"try: open_route_socket({node.name!r})\n"
        "except KernelError as error: print(error)"
    )
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups")
    said = subprocess.run([*bare, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs CAP_SYS_ADMIN, or hand the socket over by systemd" in said.stdout, said.stderr
