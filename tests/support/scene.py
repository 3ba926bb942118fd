"""The founding topology with everything running in it: broker, stand-in, daemon, a listener for events."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo.topology import FoundingTopology
from support.broker import Broker, broker
from support.netns import Namespace
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "kubernetes-external-loxilb.toml"
READY = '"event": "ready"'
ROUTESYNC = [sys.executable, "-m", "routesync"]


class Scene:
    """The founding topology with everything running in it, and what came of it."""

    def __init__(
        self, topology: FoundingTopology, standin: StandinProcess, mosquitto: Broker, directory: Path
    ) -> None:
        self.topology = topology
        self.standin = standin
        self.broker = mosquitto
        self.directory = directory
        self.config = directory / "routesync.toml"
        self.config.write_text(
            EXAMPLE.read_text() + '\n[node]\nname = "node"\n\n[mqtt]\nhost = "127.0.0.1"\n'
        )
        self.daemon: subprocess.Popen[bytes] | None = None

    def set_broker(self, port: int) -> None:
        """Name another broker on the node's loopback."""
        self.config.write_text(
            self.config.read_text().replace('host = "127.0.0.1"\n', f'host = "127.0.0.1"\nport = {port}\n')
        )

    def in_node(self, *command: str) -> list[str]:
        runtime = f"RUNTIME_DIRECTORY={self.directory / 'run'}"
        return ["ip", "netns", "exec", self.topology.node, "env", runtime, *command]

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        ready = self.log().count(READY)
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self.in_node(
                    *ROUTESYNC, "run", "--config", str(self.config), "--state", str(self.directory / "state")
                ),
                stderr=log,
                stdout=log,
            )
        eventually_sync(lambda: self.log().count(READY) > ready, within_s=20, what="readiness of the daemon")

    def stop(self) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(15)

    def kill(self) -> None:
        """End the daemon without a word (SIGKILL)."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def status(self) -> dict[str, Any]:
        """What `status` says at the broker; waits for it."""
        said = subprocess.run(
            self.in_node("mosquitto_sub", "-t", "routesync/v1/node/status", "-C", "1", "-W", "10"),
            capture_output=True,
            check=True,
        )
        status: dict[str, Any] = json.loads(said.stdout)["data"]
        return status

    @contextmanager
    def listening(self, topic: str, file: Path) -> Iterator[None]:
        """Write what comes below the node's root into a file, a line each, for the length of a `with` block."""
        with file.open("ab") as output:
            listener = subprocess.Popen(
                self.in_node("mosquitto_sub", "-t", f"routesync/v1/node/{topic}", "-q", "1"), stdout=output
            )
        try:
            yield
        finally:
            listener.kill()
            listener.wait()

    def log(self) -> str:
        log = self.directory / "daemon.log"
        return log.read_text() if log.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """All events that have come over MQTT so far."""
        lines = (self.directory / "events").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def of(self, kind: str, prefix: str) -> list[dict[str, Any]]:
        wanted = f"io.routesync.{kind}.v1"
        return [
            event for event in self.events() if event["type"] == wanted and event.get("subject") == prefix
        ]

    def mirrored(self) -> list[str]:
        return self.topology.gateway_routes()

    def mirror_holds(self, routes: tuple[str, ...] | list[str]) -> None:
        eventually_sync(
            lambda: sorted(self.mirrored()) == sorted(routes),
            within_s=15,
            what=f"{routes} in loxilb's kernel, which has {self.mirrored()}",
        )

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of routesync in the node, with this scene's configuration and state."""
        return subprocess.run(
            self.in_node(*ROUTESYNC, *arguments), capture_output=True, text=True, check=False, input=stdin
        )

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def plan(self) -> dict[str, Any]:
        done = subprocess.run(
            self.in_node(
                *ROUTESYNC,
                "plan",
                "--json",
                "--config",
                str(self.config),
                "--state",
                str(self.directory / "state"),
            ),
            capture_output=True,
            text=True,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@contextmanager
def founding_scene(tmp_path: Path) -> Iterator[Scene]:
    """Build it, and take it down whatever happened."""
    with ExitStack() as stack:
        topology = stack.enter_context(FoundingTopology())
        standin = stack.enter_context(running_standin(Namespace(topology.loxilb)))
        mosquitto = stack.enter_context(broker(namespace=Namespace(topology.node)))
        made = Scene(topology, standin, mosquitto, tmp_path)
        stack.enter_context(made.listening("event/#", tmp_path / "events"))
        try:
            yield made
        finally:
            if made.daemon is not None and made.daemon.poll() is None:
                made.daemon.kill()
                made.daemon.wait()
            print(made.log() if (tmp_path / "daemon.log").exists() else "")
