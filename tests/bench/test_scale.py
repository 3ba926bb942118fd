"""What many routes cost the daemon as a process: the longest steps of its event loop, memory, time to ready.

The stand-in has no limits here, and the daemon sends unpaced: what it holds does not depend on its pace.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from demo.topology import FoundingTopology
from support.bench import record
from support.bulk_routes import add_routes, delete_routes, prefixes
from support.netns import Namespace, needs_root
from support.stall_probe import StallLog
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900), needs_root]

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
READY = "ready"
RELOADED = "config_reloaded"
OTHER_RULES = '[[policy.rules]]\nname = "bgp"\naction = "keep"\nmatch = { protocol = ["bgp"] }\n'


class Daemon:
    """The daemon in the node of a topology, with a probe in it."""

    def __init__(self, topology: FoundingTopology, standin: StandinProcess, directory: Path) -> None:
        self.node = topology.node
        self.standin = standin
        self._directory = directory
        self._config = directory / "routesync.toml"
        self._log = directory / "log"
        (directory / "stalls").touch()
        self.stalls = StallLog(directory / "stalls")
        self._environment = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(directory),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, max_routes: int, *others: str) -> None:
        target = (
            '[[targets]]\nname = "lb"\nurl = "http://192.168.10.20:11111"\nrate = 100000\nburst = 10000\n'
        )
        limits = f"max_routes_ipv4 = {max_routes}\nwithdraw_limit_share = 1.0\n"
        self._config.write_text("\n".join([target + limits, *others]))

    def start(self) -> float:
        """Start it and wait until it is ready; return the seconds that took."""
        began = monotonic()
        arguments = ["run", "--config", str(self._config), "--state", str(self._directory / "state")]
        command = [
            sys.executable,
            "-m",
            "support.stall_probe",
            str(self._directory / "stalls"),
            *arguments,
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.node, *command], stderr=log, env=self._environment
            )
        eventually_sync(lambda: self._said(READY) > 0, within_s=120, what="readiness")
        return monotonic() - began

    def reload(self) -> None:
        assert self._process is not None
        before = self._said(RELOADED)
        self._process.send_signal(signal.SIGHUP)
        eventually_sync(lambda: self._said(RELOADED) > before, within_s=60, what="the reload")

    def run(self, *arguments: str) -> str:
        command = ["ip", "netns", "exec", self.node, sys.executable, "-m", "routesync", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return done.stdout

    def target(self) -> dict[str, Any]:
        """The status of the target."""
        status: dict[str, Any] = json.loads(self.run("status", "--json"))["status"]
        (target,) = status["targets"]
        return dict(target, kept=status["kernel"]["routes"])

    def wait_until_synced(self, within_s: float) -> None:
        eventually_sync(lambda: self.target()["state"] == "synced", within_s=within_s, what="sync")

    def memory(self, field: str) -> float:
        """A figure of /proc/PID/status, in MiB: VmRSS is now, VmHWM the most there ever was."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _said(self, event: str) -> int:
        return self._log.read_text().count(f'"event": "{event}"')


@contextmanager
def scaled(directory: Path, routes: int) -> Iterator[Daemon]:
    """A node with so many BGP routes, and a daemon to be started there."""
    with FoundingTopology() as topology, running_standin(Namespace(topology.loxilb), *UNLIMITED) as standin:
        add_routes(topology.node, prefixes(routes), HERE)
        daemon = Daemon(topology, standin, directory)
        try:
            yield daemon
        finally:
            daemon.kill()
            print(daemon._log.read_text()[-4000:])


def record_stall(daemon: Daemon, what: str) -> None:
    stall = daemon.stalls.take()
    longest_ms = stall.seconds * 1e3
    record(f"longest stall, 100,000 routes, {what}", longest_ms, "ms", target="<= 50", ok=longest_ms <= 50)
    print(f"{what}: {stall.cpu_s * 1e3:.1f} ms of CPU in {stall.what}")


def test_no_step_holds_the_event_loop(tmp_path: Path) -> None:
    count = 100_000
    with scaled(tmp_path, count) as daemon:
        daemon.configure(2 * count)
        daemon.start()
        eventually_sync(lambda: daemon.standin.state().posts >= count, within_s=300, what="the mirror")
        daemon.wait_until_synced(60)
        record_stall(daemon, "start")
        daemon.standin.kill()
        daemon.standin.start()
        eventually_sync(lambda: daemon.standin.state().posts >= count, within_s=300, what="a verification")
        daemon.wait_until_synced(60)
        record_stall(daemon, "new connection")
        daemon.configure(2 * count, "allow_default = true", OTHER_RULES)
        daemon.reload()
        daemon.wait_until_synced(60)
        record_stall(daemon, "reload")
        deletes = daemon.standin.state().deletes
        delete_routes(daemon.node, prefixes(count), HERE)
        eventually_sync(lambda: daemon.target()["kept"] < 100, within_s=60, what="the withdrawal")
        add_routes(daemon.node, prefixes(count), HERE)
        eventually_sync(lambda: daemon.target()["kept"] >= count, within_s=60, what="the routes")
        daemon.wait_until_synced(300)
        assert daemon.standin.state().deletes > deletes
        record_stall(daemon, "mass change")
        for _ in range(5):
            daemon.run("status")
            daemon.run("status", "--json")
        record_stall(daemon, "status")


def test_a_million_kept_routes(tmp_path: Path) -> None:
    """Thirty thousand of them fit into the target."""
    fit = 30_000
    with scaled(tmp_path, 1_000_000) as daemon:
        daemon.configure(fit)
        took = daemon.start()
        record("ready with 1,000,000 routes kept", took, "s", target="<= 15", ok=took <= 15)
        eventually_sync(lambda: daemon.standin.state().posts >= fit - 100, within_s=120, what="the mirror")
        eventually_sync(lambda: daemon.target()["kept"] >= 1_000_000, within_s=60, what="the routes")
        daemon.wait_until_synced(60)
        for field, name in (("VmRSS", "memory"), ("VmHWM", "most memory")):
            value = daemon.memory(field)
            record(f"{name} with 1,000,000 routes kept", value, "MiB", target="<= 429", ok=value <= 429)
