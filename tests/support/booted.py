"""Machines for tests: a booted Debian with a systemd of its own, in a container of systemd-nspawn.

A root tree is made once by mmdebstrap for each release of Debian, and kept in /var/cache; the package of this working
tree is built when it changed, and installed into a layer above. A machine writes into a layer of its own, which goes
with it. It lives in a network namespace that exists already, so that a test can play the network around it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from support.measured import measure_machine
from support.waiting import eventually_sync

REPOSITORY: Final = Path(__file__).parents[2]
BUILD: Final = REPOSITORY / "build" / "booted"
CACHE: Final = Path("/var/cache/routesync-tests")
PACKAGES: Final = "systemd,systemd-sysv,dbus,iproute2,python3,procps"
SUITE: Final = "bookworm"
NEWER_SUITE: Final = "trixie"
PACKAGED: Final = (
    "daemon",
    "config",
    "systemd",
    "packaging",
    "docs",
    "pyproject.toml",
    "CHANGELOG.md",
    "README.md",
    "LICENSE",
)
"""What the package is made of."""


def base_root(suite: str = SUITE, *more: str) -> Path:
    """The tree of a Debian that boots and has what the package depends on; nothing else."""
    packages = ",".join((PACKAGES, *more))
    recipe = hashlib.sha256(f"{suite} {packages}".encode()).hexdigest()[:12]
    root = CACHE / f"{suite}-{recipe}"
    with locked(CACHE):
        if not root.exists():
            making = root.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            _run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", suite, str(making)])
            making.rename(root)
    return root


def package() -> Path:
    """The Debian package of this working tree."""
    with locked(BUILD):
        current = digest()
        made = BUILD / current / "routesync.deb"
        if not made.exists():
            for old in BUILD.glob("*/routesync.deb"):
                shutil.rmtree(old.parent)
            path = _run(["make", "--no-print-directory", "deb"]).splitlines()[-1]
            made.parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / path, made)
    return made


def installed_layer() -> Path:
    """What the package adds to the base tree when it is installed."""
    base, deb = base_root(), package()
    with locked(BUILD):
        layer = deb.parent / "installed"
        if not layer.exists():
            making = deb.parent / "installing"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            with overlay(making, [base]) as root:
                shutil.copy(deb, root / "root/routesync.deb")
                _run(["chroot", str(root), "dpkg", "-i", "/root/routesync.deb"])
            (making / "upper").rename(layer)
    return layer


class Machine:
    """A booted system."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self._leader = leader

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--all", "--", *command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", *arguments).stdout

    def show(self, name: str, unit: str = "routesync.service") -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.systemctl("show", "--property", name, "--value", unit).strip()

    def state(self, unit: str = "routesync.service") -> str:
        return self.show("ActiveState", unit)

    @property
    def main_pid(self) -> str:
        """The daemon's process, by its number in the machine."""
        return self.show("MainPID")

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file by its absolute path."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.chmod(mode)
        file.write_text(text)

    def drop_in(self, text: str) -> None:
        """Change the service as `systemctl edit` does."""
        self.write("/etc/systemd/system/routesync.service.d/test.conf", text)
        self.systemctl("daemon-reload")

    def journal(self) -> str:
        """All that the service and systemd have said of it."""
        return self.run("journalctl", "--unit=routesync.service", "--output=cat", "--no-pager").stdout

    def said(self, event: str) -> list[dict[str, Any]]:
        """The daemon's lines with this event."""
        lines = (json.loads(line) for line in self.journal().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def process_status(self) -> dict[str, str]:
        """/proc/PID/status of the daemon."""
        text = self.run("cat", f"/proc/{self.main_pid}/status").stdout
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@contextmanager
def machine(
    directory: Path,
    netns: str,
    *nspawn: str,
    installed: bool = True,
    suite: str = SUITE,
    more: tuple[str, ...] = (),
) -> Iterator[Machine]:
    """Boot a system for the length of a `with` block; `more` names packages that it has besides."""
    assert not installed or (suite, more) == (SUITE, ()), "the package is installed above the usual tree"
    layers = [*([installed_layer()] if installed else []), base_root(suite, *more)]
    with ExitStack() as stack:
        directory.mkdir(parents=True, exist_ok=True)
        root = stack.enter_context(overlay(directory, layers))
        if (data := measure_machine(root)) is not None:
            nspawn += (f"--bind={data}",)
        made = stack.enter_context(_booted(directory, root, netns, nspawn))
        if data is not None:  # below /run, which no test looks through for what a package leaves
            place = "/run/systemd/system/routesync.service.d"
            text = f"[Service]\nReadWritePaths={data}\n"
            made.run("sh", "-c", 'mkdir -p "$0" && printf "$1" >"$0/coverage.conf"', place, text)
            made.systemctl("daemon-reload")
        try:
            yield made
        finally:
            print(made.journal())


@contextmanager
def _booted(directory: Path, root: Path, netns: str, nspawn: tuple[str, ...]) -> Iterator[Machine]:
    name = f"rs-{secrets.token_hex(4)}"
    command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
    command += ["--capability=CAP_NET_ADMIN"]  # which it keeps by itself only for a network of its own
    command += [f"--directory={root}", f"--machine={name}", f"--network-namespace-path=/run/netns/{netns}"]
    with _cgroup(name) as join, (directory / "console").open("wb") as console:
        process = subprocess.Popen(
            ["sh", "-c", f'{join} exec "$@"', "sh", *command, *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        try:
            eventually_sync(
                lambda: _is_running(root, process),
                within_s=60,
                what=f"the boot, see {directory / 'console'}",
            )
            leader = _leader_of(process)
            yield Machine(root, leader)
            os.kill(leader, signal.SIGRTMIN + 4)  # power off
            process.wait(60)
        finally:
            if process.poll() is None and (leader := _leader_of(process)):
                os.kill(leader, signal.SIGKILL)  # and all of its processes with it
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)
            process.kill()
            process.wait()


def _is_running(root: Path, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "systemd-nspawn ended"
    leader = _leader_of(process)
    state = Machine(root, leader).run("systemctl", "is-system-running", check=False) if leader else None
    return state is not None and state.stdout.strip() == "running"


def _leader_of(process: subprocess.Popen[bytes]) -> int:
    """The machine's first process; 0 while there is none. At first it is a helper of systemd-nspawn's, which goes."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


@contextmanager
def _cgroup(name: str) -> Iterator[str]:
    """A control group of its own, so that several machines do not meet in one; yields the shell's words to join it."""
    groups = [hierarchy / name for hierarchy in _cgroup_hierarchies()]
    for group in groups:
        group.mkdir()
    try:
        yield " ".join(f"echo $$ >{group}/cgroup.procs;" for group in groups)
    finally:
        for group in groups:
            for inner, _, _ in os.walk(group, topdown=False):
                eventually_sync(lambda inner=inner: _removed(Path(inner)), what=f"the end of {inner}")  # type: ignore[misc]


def _removed(group: Path) -> bool:
    with suppress(OSError):  # the last process is just going
        group.rmdir()
    return not group.exists()


def _cgroup_hierarchies() -> Iterator[Path]:
    """Where systemd keeps control groups: the second version's tree, and its own one beside the first version."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            yield Path(place.split()[4])


@contextmanager
def overlay(directory: Path, layers: list[Path]) -> Iterator[Path]:
    """A tree of these layers, the first on top, with one above that takes what is written: `directory`/upper."""
    for name in ("upper", "work", "root"):
        (directory / name).mkdir()
    lower = ":".join(map(str, layers))
    options = f"lowerdir={lower},upperdir={directory / 'upper'},workdir={directory / 'work'}"
    _run(["mount", "-t", "overlay", "overlay", "-o", options, str(directory / "root")])
    try:
        yield directory / "root"
    finally:
        _run(["umount", "--lazy", str(directory / "root")])


def digest() -> str:
    """Of all that artefacts are made of."""
    total = hashlib.sha256()
    for name in PACKAGED:
        path = REPOSITORY / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(REPOSITORY)}\0".encode() + file.read_bytes())
    return total.hexdigest()[:16]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
