"""Packages from npm, fetched when a test first needs one; the lock's hashes say which bytes."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

NODE = Path(__file__).parents[1] / "node"


def installed(package: str, folder: Path = NODE) -> Path:
    """The folder of a package that the lock in `folder` names; several test processes may ask at once."""
    done = folder / "node_modules" / ".package-lock.json"  # npm writes it last
    lock_file = folder / "package-lock.json"
    with lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.stat().st_mtime < lock_file.stat().st_mtime:
            subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder,
                check=True,
                capture_output=True,
            )
    return folder / "node_modules" / package
