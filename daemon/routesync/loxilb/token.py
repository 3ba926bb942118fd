"""The token for loxilb's `Authorization` header: fixed, or from a file that may change."""

from __future__ import annotations

from pathlib import Path

from routesync.loxilb.errors import NotSent


class FileToken:
    """The token in a file, read again when the file has changed (a rotated secret, a renewed credential)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """The token as the file says at this moment.

        Raises:
            NotSent: the file cannot be read, or is empty.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._token = self._path.read_text(encoding="utf-8").strip()
                self._stamp = stamp
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise NotSent(f"token_file {self._path}: {reason}") from None
        if not self._token:
            raise NotSent(f"token_file {self._path}: it is empty")
        return self._token
