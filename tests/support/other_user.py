"""Commands of routesync run as somebody else than root.

They are started by root and become that user in Python, with everything imported: the interpreter and the checkout may
lie where that user may not look.
"""

from __future__ import annotations

import subprocess
import sys
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


class User(NamedTuple):
    """Somebody, by numbers; they need not be in /etc/passwd."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """The command line of routesync with these arguments, as this user."""
        groups = ",".join(map(str, self.groups))
        return [sys.executable, "-c", _BECOME, str(self.uid), str(self.gid), groups, *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=60
        )
