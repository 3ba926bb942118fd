"""The loxilb stand-in for tests: in a namespace, with the original's behaviour but not its waits."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from standin.faults import Fault
from standin.process import StandinProcess, StandinState, environment
from support import forks
from support.netns import Namespace
from support.waiting import eventually

__all__ = [
    "Fault",
    "StandinProcess",
    "StandinState",
    "doomed_standin",
    "ingested",
    "recreate_container",
    "running_standin",
]

_QUICK = ("--api-delay", "0", "--fill-delay", "0", "--fill-rate", "100000", "--fragile", "strict")


class ForkedStandin(StandinProcess):
    """One that starts without the imports."""

    def _begin(
        self, options: list[str], log: IO[bytes], pass_fds: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        return forks.start(
            "standin", options, netns=self.netns, stdout=log, stderr=log, pass_fds=pass_fds, env=environment()
        )


@contextmanager
def doomed_standin(space: Namespace, *arguments: str) -> Iterator[StandinProcess]:
    """Run a stand-in in the namespace for the length of a `with` block, whatever becomes of it.

    It starts without the original's delays, keeps the original's pace of ingestion, and dies of any GET that meets
    the ingestion of what the API was asked for; further arguments of its command line change that.
    """
    with tempfile.TemporaryDirectory(prefix="standin-") as directory:
        standin = ForkedStandin(space.name, Path(directory), *_QUICK, *arguments)
        standin.start()
        try:
            yield standin
        finally:
            standin.stop()


@contextmanager
def running_standin(space: Namespace, *arguments: str) -> Iterator[StandinProcess]:
    """The same, but when it died of what was done to it, or went deaf, the test fails."""
    with doomed_standin(space, *arguments) as standin:
        yield standin
        assert not standin.died, f"the stand-in died of misuse: {standin.log()}"
        assert not (standin.alive and standin.state().deaf), "the stand-in was flooded and has gone deaf"


async def ingested(standin: StandinProcess, *, within_s: float = 30) -> None:
    """Wait until the stand-in has taken in every route event that it has heard."""
    await eventually(
        lambda: standin.state().waiting == 0, within_s=within_s, what="ingestion by the stand-in"
    )


def recreate_container(space: Namespace, standin: StandinProcess) -> None:
    """Restart loxilb as a container runtime does: the process dies, and its namespace begins empty of routes."""
    standin.kill()
    for protocol in ("static", "boot"):
        space.ip(f"-4 route flush proto {protocol}")
        space.ip(f"-6 route flush proto {protocol}")
    standin.start()
