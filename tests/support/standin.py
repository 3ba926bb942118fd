"""The loxilb stand-in for tests: in a namespace, with the original's behaviour but not its waits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from routesync.standin.process import StandinProcess, StandinState
from support.netns import Namespace
from support.waiting import eventually

__all__ = ["StandinProcess", "StandinState", "ingested", "running_standin", "unix_session"]

_QUICK = ("--api-delay", "0", "--fill-delay", "0", "--fill-rate", "100000", "--fragile", "strict")


@contextmanager
def running_standin(space: Namespace, *arguments: str) -> Iterator[StandinProcess]:
    """Run a stand-in in the namespace for the length of a `with` block.

    It starts without the original's delays, keeps the original's pace of ingestion, and dies of any GET that meets
    ingestion; further arguments of its command line change that.
    """
    with tempfile.TemporaryDirectory(prefix="standin-") as directory:
        standin = StandinProcess(space.name, Path(directory), *_QUICK, *arguments)
        standin.start()
        try:
            yield standin
        finally:
            standin.stop()


def unix_session(standin: StandinProcess) -> aiohttp.ClientSession:
    """A client session that speaks to the stand-in from any namespace; use it with `standin.base_url`."""
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(standin.socket)))


async def ingested(standin: StandinProcess, *, within_s: float = 10) -> None:
    """Wait until the stand-in has taken in every route event that it has heard."""
    await eventually(
        lambda: standin.state().waiting == 0, within_s=within_s, what="ingestion by the stand-in"
    )
