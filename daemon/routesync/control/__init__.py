"""The control API of a running daemon: HTTP over a Unix socket, and its client.

api          all calls, and what carries them out; the server and the OpenAPI document are made from its table
models       what goes into the calls and comes out
views, plan  the daemon's values as models; plan and explanation, also for commands without the daemon
events       the event stream and its reader
requests     one request: its entry in the table, permission, parameters, response
server       the sockets
context      what of the daemon the calls use
client       the client that the commands use

Any client that can open the socket may read. Only root and the daemon's own user may change anything. No client,
however slow, many or wrong, blocks the daemon: long answers are made in slices, and every wait has a limit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "control.sock"
RUNTIME: Final = Path("/run/routesync")
STATE: Final = Path("/var/lib/routesync")


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of the socket: $RUNTIME_DIRECTORY, which systemd sets, else /run/routesync."""
    # systemd separates several directories by colons, if the unit names several
    return Path(environment.get("RUNTIME_DIRECTORY", "").split(":")[0] or RUNTIME)


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of ledger and outbox: $STATE_DIRECTORY, which systemd sets, else /var/lib/routesync."""
    return Path(environment.get("STATE_DIRECTORY", "").split(":")[0] or STATE)
