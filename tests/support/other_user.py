"""Commands of routesync run as another user than root.

They are started by root and become that user in Python, with everything imported: the interpreter and the checkout may
lie where that user may not look.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_BECOME = """
import importlib, os, pkgutil, sys
import encodings.ascii, encodings.idna, encodings.latin_1, routesync
for module in pkgutil.walk_packages(routesync.__path__, "routesync."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from routesync.cli import main
uid, gid, groups, *arguments = sys.argv[1:]
os.chdir("/")
os.setgroups([int(group) for group in groups.split(",") if group])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
sys.argv = ["routesync", *arguments]
main()
"""

_CROWD = """
import os, socket, sys, time
uid, gid, groups, path, count = sys.argv[1:]
os.setgroups([int(group) for group in groups.split(",") if group])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
crowd = [socket.socket(socket.AF_UNIX) for _ in range(int(count))]
for caller in crowd:
    caller.connect(path)
print("there", flush=True)
time.sleep(600)
"""


class User(NamedTuple):
    """A user, by numbers, which need not be in /etc/passwd."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """The command line of routesync with these arguments, as this user."""
        return [sys.executable, "-c", _BECOME, *self._numbers(), *arguments]

    def _numbers(self) -> tuple[str, str, str]:
        return str(self.uid), str(self.gid), ",".join(map(str, self.groups))

    @contextmanager
    def crowd(self, path: Path, count: int) -> Iterator[None]:
        """So many connections of this user to a Unix socket, which say nothing, for the length of a `with` block."""
        process = subprocess.Popen(
            [sys.executable, "-c", _CROWD, *self._numbers(), str(path), str(count)], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            yield
        finally:
            process.kill()
            process.communicate()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=60
        )
