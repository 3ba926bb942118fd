"""A daemon of its own with its control socket, and callers of it in their plainest form."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from routesync.control.client import _UnixConnection
from support.other_user import User
from support.waiting import eventually_sync

ROUTESYNC = [sys.executable, "-m", "routesync"]


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The name and detail of a problem."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return f"{self.json['type'].removeprefix('urn:routesync:problem:')}: {self.json['detail']}"


def call(path: Path, method: str, url: str, body: bytes | None = None) -> Reply:
    """Make one call."""
    connection = _UnixConnection(path, 30)
    try:
        connection.request(method, url, body)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, headers, answer.read())
    finally:
        connection.close()


def connect(path: Path) -> socket.socket:
    """A connection to say anything over."""
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    made.settimeout(20)
    return made


class Served:
    """A daemon, its directories, and commands for it."""

    def __init__(self, directory: Path, prefix: Sequence[str]) -> None:
        self.directory = directory
        self.config = directory / "routesync.toml"
        self.runtime = directory / "run"
        self.socket = self.runtime / "control.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self._prefix = list(prefix)

    def start(self, *, user: User | None = None, state: str = "state") -> subprocess.Popen[bytes]:
        """Start it; it is ready when this returns."""
        arguments = ("run", "--config", str(self.config), "--state", str(self.directory / state))
        command = user.command(*arguments) if user else [*ROUTESYNC, *arguments]
        ready_before = self.log().count('"event": "ready"')
        with (self.directory / "log").open("ab") as out:
            process = subprocess.Popen(
                [*self._prefix, *command], stdout=out, stderr=out, env=self.environment
            )
        self.process = process
        eventually_sync(
            lambda: self.log().count('"event": "ready"') > ready_before or process.poll() is not None,
            within_s=20,
            what="readiness",
        )
        assert process.poll() is None, self.log()
        return process

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"RUNTIME_DIRECTORY": str(self.runtime)}

    def log(self) -> str:
        file = self.directory / "log"
        return file.read_text() if file.exists() else ""

    def serves(self) -> None:
        """Wait until the socket is there and answers."""

        def answers() -> bool:
            try:
                return call(self.socket, "GET", "/health/live").status == 200
            except OSError:
                return False

        eventually_sync(answers, what="the control socket")

    def call(self, method: str, url: str, body: bytes | None = None) -> Reply:
        return call(self.socket, method, url, body)

    def get(self, url: str) -> Any:
        reply = self.call("GET", url)
        assert reply.status == 200, reply.body
        return reply.json

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of routesync beside the daemon."""
        return subprocess.run(
            [*self._prefix, *ROUTESYNC, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment | environment,
            timeout=60,
        )

    def stop(self) -> int:
        """Stop it in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def served(text: str = "", *, namespace: str | None = None, owner: User | None = None) -> Iterator[Served]:
    """Prepare a daemon with this configuration, to be started in the block; it ends with it, whatever happened."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    with tempfile.TemporaryDirectory(prefix="rs-") as name:  # a socket's path is short
        made = Served(Path(name), prefix)
        made.config.write_text(text)
        if owner is not None:
            made.directory.chmod(0o755)
            os.chown(made.directory, owner.uid, owner.gid)
        try:
            yield made
        finally:
            made.kill()
            print(made.log())
