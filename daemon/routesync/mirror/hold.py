"""A maintenance hold: somebody wants a target left exactly as it is.

A file in the state directory stands for it: its presence is the hold, its time of modification says since when. So the
hold outlives a crash of the daemon and a ledger that is damaged, has no content that could be, and can be set with
touch(1) and lifted with rm(1) while no daemon runs.
"""

from __future__ import annotations

import time
from pathlib import Path


class Hold:
    """The hold of one target.

    Args:
        directory: the state directory; None: it lasts as long as the process.
        target: the target's name.
    """

    def __init__(self, directory: Path | None, target: str) -> None:
        self.path = directory / f"hold-{target}" if directory is not None else None
        self.since = self._read()
        """Wall-clock seconds since 1970; None: it is not held."""

    def _read(self) -> float | None:
        try:
            return self.path.stat().st_mtime if self.path is not None else None
        except OSError:
            return None

    def set(self) -> str | None:
        """Hold it from now on; return why that would not survive a restart, or None."""
        if self.since is None:
            self.since = time.time()
        try:
            if self.path is not None:
                self.path.touch()
        except OSError as error:
            return f"{self.path}: {error.strerror}; the hold would not survive a restart of the daemon"
        return None

    def lift(self) -> str | None:
        """Hold it no longer; return why the hold would come back with a restart, or None."""
        self.since = None
        try:
            if self.path is not None:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            return f"{self.path}: {error.strerror}; the hold would come back with a restart: remove the file"
        return None
