"""A real mosquitto for tests: on a free port of the loopback, or inside a namespace; it can be killed and restarted."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from routesync.config.models import MqttSettings
from support.netns import Namespace
from support.waiting import eventually_sync

MOSQUITTO = "/usr/sbin/mosquitto"


class ServerTls(NamedTuple):
    """Files of the broker's side of TLS."""

    ca: Path
    certificate: Path
    key: Path
    require_client_certificate: bool = False


class Broker:
    """One mosquitto. Its retained state is in memory, so a restart loses it, as a real one's may be."""

    def __init__(
        self,
        directory: Path,
        *,
        namespace: Namespace | None = None,
        address: str = "127.0.0.1",
        port: int | None = None,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        tls: ServerTls | None = None,
        extra: str = "",
    ) -> None:
        self.address = address
        self.port = port or (1883 if namespace is not None else free_port())
        self._directory = directory
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            "user root",  # it would give up root and then lack the right to read the files below
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type subscribe",
            f"listener {self.port} {address}",
        ]
        if users is None:
            lines.append("allow_anonymous true")
        else:
            self.set_users(users)
            lines += ["allow_anonymous false", f"password_file {self._passwords}"]
        if acl is not None:
            self.set_acl(acl)
            lines.append(f"acl_file {self._acl}")
        if tls is not None:
            lines += [f"cafile {tls.ca}", f"certfile {tls.certificate}", f"keyfile {tls.key}"]
            if tls.require_client_certificate:
                lines.append("require_certificate true")
        self._config = directory / "mosquitto.conf"
        self._config.write_text("\n".join([*lines, extra, ""]))

    @property
    def _passwords(self) -> Path:
        return self._directory / "passwords"

    @property
    def _acl(self) -> Path:
        return self._directory / "acl"

    @property
    def log(self) -> str:
        """What mosquitto has said."""
        return (self._directory / "log").read_text()

    def subscriptions(self, topic: str) -> int:
        """How often a client has subscribed to this topic at QoS 1."""
        return self.log.count(f" 1 {topic}\n")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def settings(self, **more: object) -> MqttSettings:
        """Settings to reach it by."""
        return MqttSettings.model_validate({"host": self.address, "port": self.port, "timeout_s": 3, **more})

    def set_users(self, users: Mapping[str, str]) -> None:
        """Replace the password file; read at start and by `reload`."""
        self._passwords.unlink(missing_ok=True)
        self._passwords.touch(mode=0o600)
        for user, password in users.items():
            subprocess.run(
                ["mosquitto_passwd", "-b", str(self._passwords), user, password],
                check=True,
                capture_output=True,
            )

    def set_acl(self, acl: str) -> None:
        """Replace the access rules; read at start and by `reload`."""
        self._acl.write_text(acl)
        self._acl.chmod(0o600)

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [MOSQUITTO, "-c", str(self._config)]
        if self._namespace is not None:
            command = ["ip", "netns", "exec", self._namespace.name, *command]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually_sync(self._listens, what="a listening mosquitto")

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"mosquitto ended: {self.log}")
        if self._namespace is not None:
            return f":{self.port} " in self._namespace.run(["ss", "-ltnH"])
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def reload(self) -> None:
        """Make it read passwords and access rules again."""
        self._signal(signal.SIGHUP)

    def freeze(self) -> None:
        """Stop it from doing anything, with its connections open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def collect(
        self, topic: str, count: int, *, within_s: float, user: str | None = None, password: str = ""
    ) -> list[bytes]:
        """Subscribe at QoS 1 from another process, which costs ours nothing; returns that many payloads."""
        command = ["mosquitto_sub", "-h", self.address, "-p", str(self.port), "-V", "mqttv5", "-q", "1"]
        command += ["-t", topic, "-C", str(count), "-W", str(round(within_s)), "-F", "%p"]
        if user is not None:
            command += ["-u", user, "-P", password, "-i", user]
        if self._namespace is not None:
            command = ["ip", "netns", "exec", self._namespace.name, *command]
        return subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.splitlines()

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill and restart it, without its memory."""
        self.kill()
        self.start()


def free_port() -> int:
    """A port of the loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def broker(
    *,
    namespace: Namespace | None = None,
    address: str = "127.0.0.1",
    port: int | None = None,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    tls: ServerTls | None = None,
    extra: str = "",
) -> Iterator[Broker]:
    """Run a mosquitto for the length of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="routesync-broker-") as directory:
        made = Broker(
            Path(directory),
            namespace=namespace,
            address=address,
            port=port,
            users=users,
            acl=acl,
            tls=tls,
            extra=extra,
        )
        try:
            made.start()
            yield made
        finally:
            made.kill()
