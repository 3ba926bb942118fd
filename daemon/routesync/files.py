"""Reading files that others put there. Nobody waits for a pipe's writer, and no device fills the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_LARGEST_MIB: Final = 16
REMEDY: Final = f"put a regular file of at most {_LARGEST_MIB} MiB in its place"
"""Against an `UnfitFileError`."""
_NULL: Final = os.makedev(1, 3)


class UnfitFileError(OSError):
    """There is something, and it is not a file to be read; says why in `strerror`, too."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EINVAL, words)

    def __str__(self) -> str:
        return str(self.strerror)


def read_file(path: Path) -> bytes:
    """Read a file; /dev/null is an empty one.

    Raises:
        OSError: it cannot be read, or is a pipe or device, or is very large.
    """
    with open(path, "rb", opener=_open) as file:
        _require(os.fstat(file.fileno()), null=_NULL)
        return read_bounded(file)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def read_bounded(file: BinaryIO) -> bytes:
    """Read to the end of this.

    Raises:
        OSError: it cannot be read, or is very large.
    """
    content = file.read(_LARGEST_MIB * 2**20 + 1)
    if len(content) > _LARGEST_MIB * 2**20:
        raise UnfitFileError(f"larger than {_LARGEST_MIB} MiB")
    return content


def require_regular(path: Path) -> None:
    """Return if a library may open this path: there is a regular file, or to open it fails at once.

    Raises:
        UnfitFileError: it is a pipe or a device.
    """
    try:
        found = path.stat()
    except OSError:
        return
    _require(found)


def _require(found: os.stat_result, null: int | None = None) -> None:
    is_file = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    if not is_file and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == null):
        raise UnfitFileError("not a regular file")
