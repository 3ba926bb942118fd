"""What the commands that tests start need to be as they would be on a terminal."""

from __future__ import annotations

from typing import Final

HEEDING_CTRL_C: Final = ("env", "--default-signal=INT")
"""Put before a command: whoever was started in the background of a shell, as tests may be, ignores SIGINT, and so do
its children (POSIX, asynchronous lists)."""
