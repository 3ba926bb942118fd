"""Where the control socket is: for the daemon that creates it and for its clients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "control.sock"
RUNTIME: Final = Path("/run/routesync")


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of the socket: $RUNTIME_DIRECTORY, which systemd sets, else /run/routesync."""
    # systemd separates several directories by colons, if the unit names several
    return Path(environment.get("RUNTIME_DIRECTORY", "").split(":")[0] or RUNTIME)
