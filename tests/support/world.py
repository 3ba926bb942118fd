"""The world of a test: namespaces, links, a stand-in for loxilb, a broker, a listener for events, and the daemon.

`world` builds the network of the founding bug report (demo.topology) with everything running in it but the daemon,
which the test starts. Narrower worlds are built of the same parts: `support.daemon.prepared` (the daemon alone),
`support.netns.segment` (hosts on one link), `support.standin.running_standin`, `support.broker.broker`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo.topology import FoundingTopology
from support.broker import Broker, broker
from support.daemon import Daemon, ended
from support.netns import Namespace
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "kubernetes-external-loxilb.toml"
NODE = '\n[node]\nname = "node"\n\n[mqtt]\nhost = "127.0.0.1"\nreconnect_spread_s = 1\n'
"""The lines of a configuration that lead to this world's broker."""
TARGET = '\n[[targets]]\nname = "here"\nurl = "http://127.0.0.1:11111"\n'
"""A target in the node's own namespace."""
EVENTS = "routesync/v1/node"


class World(Daemon):
    """A node with the daemon and a broker, a loxilb, and what came of it.

    Attributes:
        topology: the founding topology; what happens to the node is done by it.
        node: the namespace of the node.
        loxilb: the namespace of the stand-in; the node's own where they share it.
    """

    def __init__(
        self,
        directory: Path,
        topology: FoundingTopology,
        loxilb: Namespace,
        standin: StandinProcess,
        mosquitto: Broker,
    ) -> None:
        self.topology = topology
        self.node = Namespace(topology.node)
        self.loxilb = loxilb
        self.standin = standin
        self.broker = mosquitto
        super().__init__(directory, self.node)

    # -- what subscribers see -----------------------------------------------------------------------------------------

    def set_broker(self, port: int) -> None:
        """Name another broker on the node's loopback."""
        text = self.config.read_text()
        self.config.write_text(text.replace('host = "127.0.0.1"\n', f'host = "127.0.0.1"\nport = {port}\n'))

    def status(self) -> dict[str, Any]:
        """The retained status; waits for it."""
        command = self.command("mosquitto_sub", "-t", f"{EVENTS}/status", "-C", "1", "-W", "10")
        said = subprocess.run(command, capture_output=True, check=True)
        status: dict[str, Any] = json.loads(said.stdout)["data"]
        return status

    @contextmanager
    def listening(self, topic: str, file: Path, *options: str) -> Iterator[None]:
        """Write what comes below the node's root into a file, a line each, for the length of a `with` block."""
        with file.open("ab") as output:
            listener = subprocess.Popen(
                self.command("mosquitto_sub", "-t", f"{EVENTS}/{topic}", "-q", "1", *options), stdout=output
            )
        try:
            yield
        finally:
            listener.kill()
            listener.wait()

    def events(self) -> list[dict[str, Any]]:
        """All events that have come over MQTT so far."""
        lines = (self.directory / "events").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def named(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind, in order."""
        return [event["data"] for event in self.events() if event["type"] == f"io.routesync.{kind}.v1"]

    def of(self, kind: str, prefix: str) -> list[dict[str, Any]]:
        """The events of a kind about a prefix."""
        wanted = f"io.routesync.{kind}.v1"
        return [
            event for event in self.events() if event["type"] == wanted and event.get("subject") == prefix
        ]

    # -- what the kernels have ----------------------------------------------------------------------------------------

    def table(self) -> list[str]:
        return self.topology.table(self.topology.node)

    def mirrored(self) -> list[str]:
        return self.topology.gateway_routes()

    def mirror_holds(self, routes: Iterable[str]) -> None:
        """Wait until loxilb's kernel has exactly these gateway routes."""
        eventually_sync(
            lambda: sorted(self.mirrored()) == sorted(routes),
            within_s=15,
            what=f"{routes} in loxilb's kernel",
            but=lambda: f"it has {self.mirrored()}",
        )


@contextmanager
def world(
    directory: Path,
    config: str | None = None,
    *standin_arguments: str,
    shared: bool = False,
) -> Iterator[World]:
    """Build it, and take it down whatever happened.

    Args:
        directory: for the files of the daemon.
        config: the daemon's configuration; None: the shipped one for Kubernetes.
        standin_arguments: of the stand-in's command line.
        shared: whether loxilb runs in the node's own network namespace (hostNetwork), as in the bug report.
    """
    with ExitStack() as stack:
        topology = stack.enter_context(FoundingTopology())
        loxilb = Namespace(topology.node if shared else topology.loxilb)
        standin = stack.enter_context(running_standin(loxilb, *standin_arguments))
        mosquitto = stack.enter_context(broker(namespace=Namespace(topology.node)))
        made = World(directory, topology, loxilb, standin, mosquitto)
        made.config.write_text(EXAMPLE.read_text() + NODE if config is None else config)
        stack.enter_context(made.listening("event/#", directory / "events"))
        with ended(made):
            yield made
