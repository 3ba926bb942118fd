"""`install-units`: units, user, configuration, manual pages and completion of a program that no package brought.

The wheel has them in routesync/share. The paths in the units are those of this program.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from routesync.cli.output import fail, print_error

_UNITS: Final = Path("etc/systemd/system")
_CONFIG: Final = Path("etc/routesync/routesync.toml")
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # as they are named in the unit's sandbox
"""What ProtectHome= and PrivateTmp= take from the service."""
_PLACES: Final = {"zsh/vendor-completions": "zsh/site-functions"}
"""Debian's own name for a folder, and that of others."""


class Placed(NamedTuple):
    """A file to write below the root directory, or a link."""

    path: Path
    content: bytes = b""
    link: Path | None = None
    kept: bool = False  # an operator's: never overwritten or removed


def install(root: Path, prefix: Path, *, remove: bool) -> None:
    """Write the files, or take them away, and say what was done."""
    share, complete = _share()
    program = _program()
    if not remove:
        _check_program(program)
    files = list(_files(share, prefix, program))
    try:
        for file in files:
            _remove(root, file) if remove else _write(root, file)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}; run this as root, or name another --root")
    if root == Path("/"):
        _tell_systemd(remove=remove)
    if not complete and not remove:
        print_error(
            "this build has no manual pages and no completion; `make wheel` builds one that has, unlike `pip install .`"
        )


def _share() -> tuple[Path, bool]:
    """Where the files come from, and whether all are there."""
    packaged = Path(__file__).parents[1] / "share"
    if (packaged / "systemd").is_dir():
        return packaged, (packaged / "man").is_dir()
    repository = Path(__file__).parents[3]
    if not (repository / "systemd/routesync.service").exists():
        fail("the package of this system has installed the units already; see `systemctl cat routesync`")
    return repository, False


def _program() -> Path:
    beside = Path(sys.executable).parent / "routesync"
    found = beside if beside.exists() else shutil.which("routesync")
    if found is None:
        fail("there is no command routesync beside this Python, nor on the PATH; install the wheel again")
    return Path(found)


def _check_program(program: Path) -> None:
    """The service runs as a user of its own, and does not see everything."""
    for place in (program, program.resolve(), Path(sys.executable).resolve()):
        hidden = next((it for it in _HIDDEN if place.is_relative_to(it)), None)
        if hidden := hidden or next((str(it) for it in place.parents if not _is_open(it)), None):
            fail(
                f"{place} cannot be run by the service: its user cannot look into {hidden}; install routesync in /opt "
                "(docs/install.md: a virtual environment, `pipx install --global`, or uv with UV_TOOL_DIR)"
            )


def _is_open(directory: Path) -> bool:
    """Whether everyone may look for a file in it."""
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _files(share: Path, prefix: Path, program: Path) -> Iterator[Placed]:
    for name in ("routesync.service", "routesync.socket"):
        text = (share / "systemd" / name).read_text(encoding="utf-8")
        yield Placed(_UNITS / name, text.replace("/usr/bin/routesync", str(program)).encode())
    yield Placed(Path("etc/sysusers.d/routesync.conf"), (share / "systemd/routesync.sysusers").read_bytes())
    packaged = share / "routesync.toml"
    initial = packaged if packaged.exists() else share / "config/installed.toml"
    yield Placed(_CONFIG, initial.read_bytes(), kept=True)
    below = prefix.relative_to("/")
    for folder in ("man", "bash-completion", "zsh", "fish"):
        for path in sorted(it for it in (share / folder).rglob("*") if it.is_file()):
            name = path.relative_to(share).as_posix()
            for ours, theirs in _PLACES.items():
                name = name.replace(ours, theirs)
            yield Placed(below / "share" / name, path.read_bytes())
    if (link := prefix / "bin/routesync") != program:
        yield Placed(link.relative_to("/"), link=program)


def _write(root: Path, file: Placed) -> None:
    path = root / file.path
    if file.kept and path.exists():
        print(f"{path}: kept")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.link is not None:
        if path.exists() and not path.is_symlink():
            print(f"{path}: kept; it is another program")
            return
        path.unlink(missing_ok=True)
        path.symlink_to(file.link)
    else:
        path.write_bytes(file.content)
        path.chmod(0o644)
    print(path)


def _remove(root: Path, file: Placed) -> None:
    path = root / file.path
    if file.kept or not (path.exists() or path.is_symlink()):
        return
    if file.link is not None and not (path.is_symlink() and path.readlink() == file.link):
        return
    path.unlink()
    print(f"{path}: removed")


def _tell_systemd(*, remove: bool) -> None:
    """Make the user, and let systemd read the units; where there is no systemd, say nothing."""
    if not remove and shutil.which("systemd-sysusers"):
        subprocess.run(["systemd-sysusers", "/etc/sysusers.d/routesync.conf"], check=False)
    if os.path.isdir("/run/systemd/system"):  # noqa: PTH112  # as sd_booted(3)
        subprocess.run(["systemctl", "daemon-reload"], check=False)
        if not remove:
            print("start it with: systemctl enable --now routesync")
