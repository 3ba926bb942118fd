"""Processes of routesync and of the stand-in that are forked off one that has imported them: importing takes longer
than most tests.

What starts so is like any other process: a child of the test's, with its own environment, namespace and files, which
runs the package's `__main__`. What begins before that, the start of an interpreter in another environment or as
another user, is a matter for subprocess.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO, Any, Final

_TESTS: Final = Path(__file__).parents[1]
_IMPORTED: Final = ("routesync.cli.app", "routesync.cli.output", "routesync.service.daemon", "standin")
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_CHILD_SUBREAPER: Final = 36
_HIGH: Final = 500
"""Above all numbers of files that a test hands on."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def start(
    module: str,
    arguments: Sequence[str],
    *,
    netns: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENTS` in a namespace (None: here); what is not given is as for subprocess.Popen."""
    kind: type[subprocess.Popen[bytes]] = _Forked
    command = [netns or "", module, *arguments]
    # Coverage begins to measure when an interpreter starts; ip(8) puts the files of /etc/netns over those of /etc.
    measured = not {"COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}.isdisjoint(os.environ)
    if measured or (netns is not None and Path("/etc/netns", netns).exists()):
        kind = subprocess.Popen
        inside = ["ip", "netns", "exec", netns] if netns is not None else []
        command = [*inside, sys.executable, "-m", module, *arguments]
    return kind(command, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)


def run(
    module: str,
    arguments: Sequence[str],
    *,
    netns: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    """The same, to its end; as subprocess.run with all output captured."""
    pipe = subprocess.PIPE
    with start(module, arguments, netns=netns, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            out, err = process.communicate(stdin.encode(), timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess([module, *arguments], process.returncode, out.decode(), err.decode())


class _Forked(subprocess.Popen[bytes]):
    """A child that our server forked. Its arguments are a namespace or nothing, a module, and what that is given."""

    def _execute_child(self, *given: Any) -> None:  # takes the place of fork and exec in Popen
        command, _, _, _, pass_fds, _, env, _, _, _, *pipes = given
        ends = pipes[:6]
        files = [own if end == -1 else end for own, end in enumerate((ends[0], ends[3], ends[5]))]
        with _one_at_a_time:
            self.pid = _server().fork(command, env, [*files, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*ends)  # type: ignore[attr-defined]


class _Server:
    """The process that has imported everything."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "support.forks", str(theirs.fileno())]
        path = os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH"))))
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=os.environ | {"PYTHONPATH": path}
            )
        atexit.register(self._end)

    def fork(self, command: Sequence[str], env: Mapping[str, str] | None, files: Sequence[int]) -> int:
        """Return the number of the process, which is this one's child."""
        request = {
            "command": command,
            "env": dict(os.environ if env is None else env),
            "cwd": str(Path.cwd()),
            "fds": [0, 1, 2, *files[3:]],
        }
        # The one in between ends at once, and this process inherits its child.
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(files))
            answer = self._socket.recv(100)
        finally:
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert answer, "the server of forks has ended"
        return int(answer)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


_server = cache(_Server)
_one_at_a_time: Final = Lock()


def _serve(own: int) -> str:
    """Fork for each request; returns the module to run, in each child."""
    link = socket.socket(fileno=own)
    while True:
        message, files, _, _ = socket.recv_fds(link, 1 << 20, 20)
        if not message:
            sys.exit()
        request = json.loads(message)
        hand, result = os.pipe()
        if between := os.fork():
            os.close(result)
            os.waitpid(between, 0)
            link.send(os.read(hand, 20))
            os.close(hand)
            for file in files:
                os.close(file)
        elif child := os.fork():
            os.write(result, str(child).encode())
            os._exit(0)
        else:
            link.detach()  # closed with all others
            return _become(request, files)


def _become(request: Mapping[str, Any], received: Sequence[int]) -> str:
    """Be the process that is asked for; returns the module to run."""
    netns, module, *arguments = request["command"]
    high = [os.dup2(file, _HIGH + number) for number, file in enumerate(received)]
    os.closerange(3, _HIGH)
    for file, wanted in zip(high, request["fds"], strict=True):
        os.dup2(file, wanted)
        os.close(file)
    if netns:
        file = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        if _LIBC.setns(file, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", netns)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = [module, *arguments]
    return str(module)


if __name__ == "__main__":
    import gc

    for name in _IMPORTED:
        __import__(name)
    gc.freeze()
    runpy.run_module(_serve(int(sys.argv[1])), run_name="__main__", alter_sys=True)
