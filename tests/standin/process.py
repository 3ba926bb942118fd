"""Runs a stand-in as a process of its own inside a network namespace, for the demo and the tests."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final, NamedTuple

from standin.faults import Fault

COMMAND: Final = (sys.executable, "-m", "standin")
"""Runs a stand-in, in an `environment()`; options follow."""
_FOLDER: Final = str(Path(__file__).parents[1])
_READY_WITHIN_S: Final = 15
_STOP_WITHIN_S: Final = 5


def environment() -> dict[str, str]:
    """This process's environment, in which `COMMAND` also finds the stand-in's package."""
    path = filter(None, (_FOLDER, os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


class StandinState(NamedTuple):
    """What a stand-in tells of itself. Counts are since its start."""

    posts: int
    deletes: int
    route_reads: int
    port_reads: int
    ingested: int  # route events
    waiting: int  # route events, now
    peak_waiting: int
    entries: int
    filled: bool  # the kernel's table has been read
    deaf: bool  # too many events waited
    unprogrammed: int  # entries beyond the capacity of the eBPF tables
    faults_done: int


class StandinError(Exception):
    """The stand-in did not come up, or is no longer there; the message has its last words."""


class StandinProcess:
    """A stand-in in a namespace, reachable from within it and from here.

    From within it is at port 11111, as the original. From here it is at `url`, on a port of this namespace's loopback
    address that stays the same over restarts, at `tls_url` where it has a certificate, and on the Unix socket `socket`.
    It may be killed and started again: the kernel's routes stay, as they do under the original.

    Args:
        netns: the namespace's name, below /run/netns.
        directory: where its Unix socket and its log may be.
        arguments: of its command line.
    """

    def __init__(self, netns: str, directory: Path, *arguments: str) -> None:
        self.netns = netns
        self.socket = directory / f"{netns}.sock"
        self._arguments = arguments
        self._port = 0
        self._tls_port = 0
        self._log = directory / f"{netns}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when its API answers and the kernel's table has been read.

        Raises:
            StandinError: it ended, or did not get there within 15 s.
        """
        self.launch()
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                if self.state().filled:
                    return
            except OSError:
                pass
            if not self.alive or time.monotonic() > deadline:
                self.kill()
                raise StandinError(f"the stand-in in {self.netns} did not get ready: {self.log()}")
            time.sleep(0.02)

    def launch(self) -> None:
        """Start it and do not wait."""
        self.socket.unlink(missing_ok=True)
        options = ["--listen-unix", str(self.socket), *self._arguments]
        with _bound(self._port) as plain, _bound(self._tls_port) as tls, self._log.open("ab") as log:
            self._port, self._tls_port = plain.getsockname()[1], tls.getsockname()[1]
            numbers = plain.fileno(), tls.fileno()
            options += [f"--listen-fd={numbers[0]}", f"--tls-listen-fd={numbers[1]}"]
            self._process = self._begin(options, log, numbers)

    def _begin(
        self, options: list[str], log: IO[bytes], pass_fds: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", self.netns, *COMMAND, *options]
        return subprocess.Popen(command, stdout=log, stderr=log, pass_fds=pass_fds, env=environment())

    @property
    def url(self) -> str:
        """The API's root, for clients in this namespace; without /netlox/v1."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def tls_url(self) -> str:
        """The same over TLS."""
        return f"https://127.0.0.1:{self._tls_port}"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def died(self) -> bool:
        """Whether it ended by itself, of something that it cannot take."""
        return self._process is not None and (self._process.poll() or 0) > 0

    def stop(self) -> None:
        """End it in an orderly way; nothing happens when it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_death(self, within_s: float) -> int:
        """Wait until it has ended; returns its exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self._process.wait(within_s) if self._process is not None else 0

    def log(self) -> str:
        """All that it wrote, over all its lives."""
        return self._log.read_text(errors="replace").strip()

    def state(self) -> StandinState:
        """Ask it how it is.

        Raises:
            OSError: it is not reachable.
        """
        answer = json.loads(self._ask("GET", "/standin/state"))
        return StandinState(**{name: answer[name] for name in StandinState._fields})

    def inject(self, *faults: Fault) -> None:
        """Put these faults in force in place of those before; none heals it.

        Raises:
            OSError: it is not reachable.
        """
        self._ask("PUT", "/standin/faults", json.dumps([asdict(fault) for fault in faults]).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, path, body=body)
            return connection.getresponse().read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the stand-in in {self.netns}: {error!r}") from error
        finally:
            connection.close()


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("loxilb", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
