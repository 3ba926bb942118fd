"""routesync as a process of its own, with its directories, its commands and its control socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from routesync.control.client import _UnixConnection
from support import forks
from support.measured import MEASURED
from support.netns import Namespace
from support.other_user import User
from support.waiting import eventually_sync

ROUTESYNC = [sys.executable, "-m", "routesync"]


class Reply(NamedTuple):
    """What a call of the control socket came back with."""

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


class Daemon:
    """A daemon, to be started; its files lie in one directory.

    Args:
        directory: for the configuration, the state, the runtime directory and the log.
        space: the namespace of the daemon and its commands; None: this process's own.

    Attributes:
        extra_environment: what the daemon finds in its environment besides what this process has.
        program: what the daemon is started by.
        alone: start an interpreter for it, as its memory is to be measured; else it is forked (`support.forks`).
    """

    def __init__(self, directory: Path, space: Namespace | None = None) -> None:
        self.directory = directory
        self.space = space
        self.config = directory / "routesync.toml"
        self.state = directory / "state"
        self.runtime = directory / "run"
        self.socket = self.runtime / "control.sock"
        self.log_file = directory / "daemon.log"
        self.extra_environment: dict[str, str] = {}
        self.program = ROUTESYNC
        self.alone = False
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def netns(self) -> str | None:
        """The name of its namespace; None: this process's own."""
        return self.space.name if self.space is not None else None

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"RUNTIME_DIRECTORY": str(self.runtime)} | self.extra_environment

    def command(self, *command: str) -> list[str]:
        """The line that runs a command in the daemon's namespace, where its commands find it."""
        inside = ["ip", "netns", "exec", self.space.name] if self.space is not None else []
        return [*inside, "env", f"RUNTIME_DIRECTORY={self.runtime}", *command]

    def launch(self, *, user: User | None = None, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start it, by the command `prefix` if there is one, and wait for nothing."""
        arguments = ("run", "--config", str(self.config), "--state", str(self.state))
        plain = not (user or prefix or self.extra_environment or self.alone) and self.program is ROUTESYNC
        with self.log_file.open("ab") as log:
            if plain:
                self.process = forks.start(
                    "routesync", arguments, netns=self.netns, env=self.environment, stdout=log, stderr=log
                )
            else:
                command = user.command(*arguments) if user else [*self.program, *arguments]
                self.process = subprocess.Popen(
                    self.command(*prefix, *command), stdout=log, stderr=log, env=self.environment
                )
        return self.process

    def start(self, *, user: User | None = None, within_s: float = 20) -> subprocess.Popen[bytes]:
        """Start it; it is ready when this returns."""
        ready = len(self.logged("ready"))
        process = self.launch(user=user)
        eventually_sync(
            lambda: len(self.logged("ready")) > ready or process.poll() is not None,
            within_s=within_s,
            what="readiness of the daemon",
        )
        assert process.poll() is None, self.log()
        return process

    def reload(self) -> None:
        """Have the configuration read again, and wait until it is active."""
        before = len(self.logged("config_reloaded"))
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        eventually_sync(lambda: len(self.logged("config_reloaded")) > before, what="the reload")

    def stop(self) -> int:
        """Stop it in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def kill(self) -> None:
        """End it without a word, as a crash does; nothing happens when it has ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log about one kind of thing."""
        lines = [line for line in self.log().splitlines() if f'"event": "{event}"' in line]
        return [json.loads(line) for line in lines if line.endswith("}")]

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

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of routesync beside the daemon."""
        return forks.run(
            "routesync",
            arguments,
            netns=self.netns,
            env=self.environment | environment,
            stdin=stdin,
        )

    def plan(self) -> dict[str, Any]:
        """What the file would make of each route."""
        done = self.run("plan", "--json", "--config", str(self.config), "--state", str(self.state))
        assert done.returncode == 0, done.stderr
        plan: dict[str, Any] = json.loads(done.stdout)
        return plan


@contextmanager
def prepared(
    text: str = "", *, space: Namespace | None = None, owner: User | None = None
) -> Iterator[Daemon]:
    """Prepare a daemon with this configuration, to be started in the block; it ends with it, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name:  # a socket's path is short
        made = Daemon(Path(name), space)
        made.config.write_text(text)
        if owner is not None:
            made.directory.chmod(0o755)
            os.chown(made.directory, owner.uid, owner.gid)
        with ended(made):
            yield made


@contextmanager
def ended(made: Daemon) -> Iterator[None]:
    """Whatever happens in the block, the daemon ends with it, and its log is shown if the test fails."""
    try:
        yield
    finally:
        if MEASURED and made.process is not None and made.process.poll() is None:
            made.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                made.process.wait(10)
        Daemon.kill(made)
        print(made.log())
