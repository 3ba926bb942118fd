"""A node with many BGP routes, and what its daemon costs as a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from support.bulk_routes import add_routes, prefixes
from support.stall_probe import StallLog
from support.world import World, world

HERE = "192.168.10.1"
UNLIMITED = (
    "--marks",
    "10000000",
    "--capacity",
    "10000000",
    "--queue-limit",
    "10000000",
    "--batch",
    "100000",
)
POLL_S = 0.2
"""Each look costs the daemon or the stand-in a request; often enough for figures in seconds."""


def wait(what: str, condition: Callable[[], bool], within_s: float) -> None:
    """Wait until the condition holds; print the seconds that took."""
    began = monotonic()
    while not condition():
        assert monotonic() - began < within_s, f"{what} did not come within {within_s} s"
        sleep(POLL_S)
    print(f"    {monotonic() - began:6.1f} s  {what}", flush=True)


@contextmanager
def scaled(directory: Path, routes: int) -> Iterator[World]:
    """A node with so many BGP routes, and a daemon to be started there."""
    with world(directory, "", *UNLIMITED) as made:
        made.alone = True
        add_routes(made.node.name, prefixes(routes), HERE)
        yield made


def configure(world: World, max_routes: int, *others: str, rate: int = 100_000) -> None:
    target = f'[[targets]]\nname = "lb"\nurl = "http://192.168.10.20:11111"\nrate = {rate}\n'
    limits = f"max_routes_ipv4 = {max_routes}\nwithdraw_limit_share = 1.0\n"
    world.config.write_text("\n".join([target + limits, *others]))


def measured(world: World) -> StallLog:
    """Have the daemon started with a probe in it."""
    file = world.directory / "stalls"
    file.touch()
    world.program = [sys.executable, "-m", "support.stall_probe", str(file)]
    world.extra_environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    return StallLog(file)


def kept(world: World) -> int:
    return int(world.get("/v1/status")["status"]["kernel"]["routes"])


def synced(world: World) -> bool:
    return bool(world.get("/v1/status")["status"]["targets"][0]["state"] == "synced")


def memory(world: World, field: str) -> float:
    """A figure of /proc/PID/status, in MiB: VmRSS is now, VmHWM the most there ever was."""
    lines = _proc(world, "status").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def cpu_s(world: World) -> float:
    """Seconds of CPU so far, of all threads."""
    fields = _proc(world, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _proc(world: World, file: str) -> str:
    assert world.process is not None
    return Path(f"/proc/{world.process.pid}/{file}").read_text(encoding="ascii")
