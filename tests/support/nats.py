"""A clustered broker: three nats-server with JetStream and MQTT 3.1.1, each on a loopback address of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from routesync.config.models import MqttSettings
from support.broker import free_port

_CONFIG = """
server_name: n{number}
listen: "{address}:{client_port}"
jetstream {{ store_dir: "{directory}/{number}" }}
cluster {{ name: routesync, listen: "{address}:{route_port}", routes: [{routes}] }}
mqtt {{ listen: "{address}:{port}", stream_replicas: 3, consumer_replicas: 3 }}
"""


class NatsCluster:
    """The members by their addresses."""

    def __init__(self, directory: Path) -> None:
        self.addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        self.port, route_port, client_port = free_port(), free_port(), free_port()
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        routes = ", ".join(f'"nats://{address}:{route_port}"' for address in self.addresses)
        for number, address in enumerate(self.addresses):
            self._config(address).write_text(
                _CONFIG.format(
                    number=number,
                    address=address,
                    port=self.port,
                    client_port=client_port,
                    route_port=route_port,
                    routes=routes,
                    directory=directory,
                )
            )

    def _config(self, address: str) -> Path:
        return self._directory / f"{address}.conf"

    def settings(self, *addresses: str) -> MqttSettings:
        """Settings to reach these members by; all, if none is named."""
        hosts = addresses or tuple(self.addresses)
        return MqttSettings.model_validate(
            {"hosts": hosts, "port": self.port, "protocol": "3.1.1", "timeout_s": 5}
        )

    def start(self, address: str) -> None:
        """Start a member; the cluster takes messages some seconds after most of its members run."""
        server = shutil.which("nats-server", path="/usr/sbin:/usr/bin")
        assert server is not None, "nats-server is missing: packaging/bootstrap cluster installs it"
        with (self._directory / f"{address}.log").open("ab") as log:
            self._processes[address] = subprocess.Popen(
                [server, "-c", str(self._config(address))], stdout=log, stderr=log
            )

    def kill(self, address: str) -> None:
        """End a member without a word."""
        process = self._processes.pop(address, None)
        if process is not None:
            process.kill()
            process.wait()


@contextmanager
def nats_cluster() -> Iterator[NatsCluster]:
    """Run one for the length of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="routesync-nats-", dir="/dev/shm") as directory:
        made = NatsCluster(Path(directory))
        try:
            for address in made.addresses:
                made.start(address)
            yield made
        finally:
            for address in made.addresses:
                made.kill(address)
