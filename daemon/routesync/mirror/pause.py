"""The pause of a target: an operator wants it left exactly as it is.

It is a file in the state directory. While the file exists, the target is paused, since the time of the file's last
modification. So a pause outlives a crash of the daemon and a damaged ledger, and touch(1) and rm(1) begin and end it
while no daemon runs.
"""

from __future__ import annotations

import time
from pathlib import Path


class Pause:
    """The pause of one target.

    Args:
        directory: the state directory; None: a pause lasts as long as the process.
        target: the target's name.
    """

    def __init__(self, directory: Path | None, target: str) -> None:
        self.path = directory / f"pause-{target}" if directory is not None else None
        self.since = self._read()
        """Wall-clock seconds since 1970; None: it is not paused."""

    def _read(self) -> float | None:
        try:
            return self.path.stat().st_mtime if self.path is not None else None
        except OSError:
            return None

    def begin(self) -> str | None:
        """Pause the target; return why that would not survive a restart, or None."""
        if self.since is None:
            self.since = time.time()
        try:
            if self.path is not None:
                self.path.touch()
        except OSError as error:
            return f"{self.path}: {error.strerror}; the pause would not survive a restart of the daemon"
        return None

    def end(self) -> str | None:
        """End the pause; return why it would come back with a restart, or None."""
        self.since = None
        try:
            if self.path is not None:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            return f"{self.path}: {error.strerror}; the pause would come back with a restart: remove the file"
        return None
