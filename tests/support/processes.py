"""What the commands that tests start need to be as they would be on a terminal."""

from __future__ import annotations

from typing import Final

WITH_CTRL_C: Final = ("env", "--default-signal=INT")
"""Put before a command: a process that a shell started in its background, as tests may be, ignores SIGINT, and so do
its children (POSIX, asynchronous lists)."""
