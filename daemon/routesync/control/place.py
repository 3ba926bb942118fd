"""Where the control socket lies: for the daemon that makes it, and for those who look for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "control.sock"
RUNTIME: Final = Path("/run/routesync")


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the socket lies: $RUNTIME_DIRECTORY, which systemd sets, else /run/routesync."""
    # systemd lists several, separated by colons, where the unit names several
    return Path(environment.get("RUNTIME_DIRECTORY", "").split(":")[0] or RUNTIME)
