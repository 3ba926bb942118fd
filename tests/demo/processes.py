"""Programs that run in network namespaces, and never outlive their block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

_STOP_WITHIN_S: Final = 10.0
_LONGEST_LINE: Final = 1 << 24

_ENVIRONMENT: Final = {
    **os.environ,
    "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
}


def routesync_command(*arguments: str) -> list[str]:
    """The command line that runs routesync as this Python has it."""
    return [sys.executable, "-m", "routesync", *arguments]


class ProcessError(Exception):
    """A program ended that should run, or failed; the message says which and shows the end of its output."""


class Processes:
    """Programs started by name; they are ended at the end of the block, the last started first.

    Each has a process group of its own, so that a Ctrl-C at the terminal reaches us alone, and is killed by the
    kernel should we be killed ourselves (PR_SET_PDEATHSIG). What it says goes to `<name>.log` in `logs`.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._running)):
            await self.stop(name)

    async def start(
        self,
        name: str,
        namespace: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a program; all that it says goes to its log."""
        with self.log(name).open("ab") as log:
            await self._spawn(name, namespace, command, stdout=log, environment=environment)

    async def stream(self, name: str, namespace: str, command: Sequence[str]) -> asyncio.StreamReader:
        """Start a program and return what it writes to standard output."""
        process = await self._spawn(name, namespace, command, stdout=asyncio.subprocess.PIPE)
        if process.stdout is None:
            raise ProcessError(f"{name} has no standard output")
        return process.stdout

    async def _spawn(
        self,
        name: str,
        namespace: str,
        command: Sequence[str],
        *,
        stdout: int | IO[bytes],
        environment: Mapping[str, str] | None = None,
    ) -> asyncio.subprocess.Process:
        with self.log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL", "--", *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                env={**_ENVIRONMENT, **(environment or {})},
                process_group=0,
                limit=_LONGEST_LINE,
            )
        self._running[name] = process
        return process

    async def stop(self, name: str) -> int:
        """End a program: SIGTERM, and SIGKILL if it does not end by that. Returns its exit status."""
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        return process.returncode if process.returncode is not None else -1

    async def output(self, name: str, namespace: str, command: Sequence[str]) -> str:
        """Run a program to its end and return its output.

        Raises:
            ProcessError: it failed.
        """
        process = await self._spawn(name, namespace, command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        del self._running[name]
        if process.returncode != 0:
            raise ProcessError(f"{name} failed with status {process.returncode}: {self.said(name)}")
        return out.decode()

    def check(self) -> None:
        """See that all are still there.

        Raises:
            ProcessError: one is not.
        """
        for name, process in self._running.items():
            if process.returncode is not None:
                raise ProcessError(f"{name} ended with status {process.returncode}: {self.said(name)}")

    def said(self, name: str) -> str:
        """The end of what a program said in its log."""
        log = self.log(name)
        return (log.read_text(errors="replace")[-2000:].strip() if log.exists() else "") or "nothing"

    def log(self, name: str) -> Path:
        """Where a program's log is."""
        return self._logs / f"{name}.log"
