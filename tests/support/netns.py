"""Network namespaces for tests: made with a name of their own, always removed."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import eventually_sync


class Namespace:
    """A network namespace below /run/netns, with `lo` up."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name

    def ip(self, arguments: str, *, check: bool = True) -> str:
        """Run `ip -n NAME <arguments>`; the arguments are split at blanks."""
        return self._run(["ip", "-n", self.name, *arguments.split()], check=check)

    def batch(self, lines: list[str]) -> None:
        """Run many ip(8) commands in one process, in order; the first that fails raises."""
        self._run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def run(self, command: list[str], *, check: bool = True) -> str:
        """Run a command inside the namespace."""
        return self._run(["ip", "netns", "exec", self.name, *command], check=check)

    def make_again(self) -> None:
        """Put another namespace in its place, as a container runtime does."""
        for verb in ("del", "add"):
            subprocess.run(["ip", "netns", verb, self.name], check=True)
        self.ip("link set lo up")

    def sysctl(self, key: str, value: str) -> None:
        """Set a sysctl inside the namespace."""
        self.run(["sysctl", "-qw", f"{key}={value}"])

    @staticmethod
    def _run(command: list[str], *, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def namespace(label: str) -> Iterator[Namespace]:
    """Make a namespace for the length of a `with` block."""
    name = f"rs-{label}-{secrets.token_hex(3)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made = Namespace(name)
        made.ip("link set lo up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def segment(*hosts: tuple[Namespace, str, int]) -> Iterator[Namespace]:
    """Connect hosts by one bridge, 192.168.10.0/24 and fd00:10::/64; its own namespace is host 1, the gateway.

    Args:
        hosts: of each the namespace, the name of its link, and the number in its addresses.
    """
    with namespace("segment") as bridge:
        lines = ["link add br0 type bridge"]
        for number, (space, link, _) in enumerate(hosts):
            lines.append(f"link add port{number} type veth peer name {link} netns {space.name}")
            lines.append(f"link set port{number} master br0 up")
        bridge.batch(lines)
        for space, link, host in (*hosts, (bridge, "br0", 1)):
            space.batch(
                [
                    f"link set {link} addrgenmode none",  # no link-local address whose routes come when they like
                    f"addr add 192.168.10.{host}/24 dev {link}",
                    f"addr add fd00:10::{host}/64 dev {link} nodad",
                    f"link set {link} up",
                ]
            )
        for space, link, _ in hosts:
            wait_for_carrier(space, link)
        yield bridge


def wait_for_carrier(space: Namespace, link: str) -> None:
    eventually_sync(lambda: "LOWER_UP" in space.ip(f"link show {link}"), what="carrier")
