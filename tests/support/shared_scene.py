"""The founding topology with loxilb in the node's own network namespace (hostNetwork), as in the bug report."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo.topology import FoundingTopology
from support.broker import broker
from support.netns import Namespace
from support.scene import Scene
from support.standin import running_standin
from support.waiting import eventually_sync

GUARD_RULE = """
[[policy.rules]]
name = "dhcp-host-routes"
match = { protocol = "dhcp", host = true, gateway = false }
action = "drop"
report = true
guard = true
"""
TARGET = '\n[[targets]]\nname = "here"\nurl = "http://127.0.0.1:11111"\n'
PLACE = '\n[node]\nname = "node"\n\n[mqtt]\nhost = "127.0.0.1"\n'


def guard_config(*settings: str, target: str = TARGET) -> str:
    """Mode guard, without its waits; further settings are lines of the table guard."""
    lines = ["settle_s = 0.2", "removals_per_minute = 600", *settings]
    return f'mode = "guard"\n{PLACE}\n[guard]\n' + "\n".join(lines) + GUARD_RULE + target


class SharedScene(Scene):
    """The scene, with one namespace for all."""

    @property
    def node(self) -> Namespace:
        return Namespace(self.topology.node)

    def table(self) -> list[str]:
        return self.topology.table(self.topology.node)

    def reload(self) -> None:
        """Have the configuration read again, and wait until it is active."""
        before = len(self.logged("config_reloaded"))
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGHUP)
        eventually_sync(lambda: len(self.logged("config_reloaded")) > before, what="the reload")

    def named(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind, in order."""
        return [event["data"] for event in self.events() if event["type"] == f"io.routesync.{kind}.v1"]

    def status(self) -> dict[str, Any]:
        """The retained status."""
        command = ["mosquitto_sub", "-t", "routesync/v1/node/status", "-C", "1", "-W", "5"]
        done = subprocess.run(self.in_node(*command), capture_output=True, text=True, check=False)
        data: dict[str, Any] = json.loads(done.stdout)["data"] if done.stdout else {}
        return data

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines that say so."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@contextmanager
def shared_scene(tmp_path: Path, config: str, *standin_arguments: str) -> Iterator[SharedScene]:
    """Build it, and take it down whatever happened."""
    with ExitStack() as stack:
        topology = stack.enter_context(FoundingTopology())
        space = Namespace(topology.node)
        standin = stack.enter_context(running_standin(space, *standin_arguments))
        mosquitto = stack.enter_context(broker(namespace=space))
        made = SharedScene(topology, standin, mosquitto, tmp_path)
        made.config.write_text(config)
        events = stack.enter_context((tmp_path / "events").open("wb"))
        listener = subprocess.Popen(
            made.in_node("mosquitto_sub", "-t", "routesync/v1/node/event/#", "-q", "1"), stdout=events
        )
        stack.callback(listener.wait)
        stack.callback(listener.kill)
        try:
            yield made
        finally:
            if made.daemon is not None and made.daemon.poll() is None:
                made.daemon.kill()
                made.daemon.wait()
            print(made.log() if (tmp_path / "daemon.log").exists() else "")
