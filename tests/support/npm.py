"""Packages from npm, fetched when a test first needs one; the lock's hashes say which bytes."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

NODE = Path(__file__).parents[1] / "node"
_LOCK = NODE / "package-lock.json"


def installed(package: str) -> Path:
    """The folder of a package; several test processes may ask at once."""
    done = NODE / "node_modules" / ".package-lock.json"  # npm writes it last
    with _LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.stat().st_mtime < _LOCK.stat().st_mtime:
            subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=NODE,
                check=True,
                capture_output=True,
            )
    return NODE / "node_modules" / package
