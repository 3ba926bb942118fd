"""Runs a stand-in as a process of its own inside a network namespace, for the demo and the tests."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

_READY_WITHIN_S: Final = 15
_STOP_WITHIN_S: Final = 5


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


class StandinError(Exception):
    """The stand-in did not come up, or is no longer there; the message has its last words."""


class StandinProcess:
    """A stand-in in a namespace, with its Unix socket in a directory of the caller's.

    `base_url` holds for a client that speaks over `socket`; by TCP it is reached at port 11111 of any address of the
    namespace. It may be killed and started again: the kernel's routes stay, as they do under the original.
    """

    base_url: Final = "http://loxilb/netlox/v1"

    def __init__(self, netns: str, directory: Path, *arguments: str) -> None:
        self.netns = netns
        self.socket = directory / f"{netns}.sock"
        self._arguments = arguments
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
        command = ["ip", "netns", "exec", self.netns, sys.executable, "-m", "routesync.standin"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--listen-unix", str(self.socket), *self._arguments], stdout=log, stderr=log
            )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

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

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, path, body=body)
            return connection.getresponse().read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"the stand-in in {self.netns}: {error!r}") from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("loxilb", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
