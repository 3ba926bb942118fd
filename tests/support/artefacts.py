"""What a release consists of, built once for each state of the working tree."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.booted import BUILD, REPOSITORY, digest, locked

PODMAN: Final = ("podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc")
LIMITS: Final = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""runc would ask for more than this machine's own limits otherwise."""


def run(*command: str | Path, environment: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Run a command in the repository; return what it printed, errors too where it must succeed."""
    done = subprocess.run(
        [str(it) for it in command],
        cwd=REPOSITORY,
        env=None if environment is None else dict(environment),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stdout}{done.stderr}"
        )
    return done.stdout + ("" if check else done.stderr)


def artefact(target: str) -> Path:
    """The file that `make TARGET` makes."""
    with locked(BUILD):
        committed = run("git", "log", "-1", "--format=%ct").strip()  # a time that each of them contains
        kept = BUILD / digest() / committed / target
        if not kept.exists():
            path = REPOSITORY / run("make", "--no-print-directory", target).splitlines()[-1]
            kept.mkdir(parents=True)
            shutil.copy(path, kept)
    (file,) = kept.iterdir()
    return file


class Containers:
    """Containers of podman, in a store of their own."""

    def __init__(self, directory: Path, image: Path) -> None:
        self._directory = directory
        places = ("--root", directory / "root", "--runroot", directory / "run", "--tmpdir", directory / "tmp")
        self._podman: tuple[str | Path, ...] = (*PODMAN, "--events-backend", "none", *places)
        self.image = self("pull", "--quiet", f"oci-archive:{image}").strip()

    def __call__(self, *arguments: str | Path, check: bool = True) -> str:
        return run(*self._podman, *arguments, check=check)

    def run(self, *arguments: str | Path, options: tuple[str | Path, ...] = (), check: bool = True) -> str:
        """Run it as the chart does: nothing to write to, no capability, no new privileges."""
        hard = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")
        return self("run", "--pull", "never", *LIMITS, *hard, *options, self.image, *arguments, check=check)


@contextmanager
def containers(directory: Path) -> Iterator[Containers]:
    made = Containers(directory / "podman", artefact("image"))
    try:
        yield made
    finally:
        made("rm", "--all", "--force", "--time", "0", check=False)
        made("unmount", "--all", check=False)
