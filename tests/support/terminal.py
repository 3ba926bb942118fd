"""A command run on a terminal of a given width."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from fcntl import ioctl

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(command: Sequence[str], columns: int, **environment: str) -> tuple[int, str]:
    """Run it to its end; return its exit status and what the terminal got."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=inherited | {"TERM": "xterm-256color"} | environment,
    )
    os.close(theirs)
    said = b""
    try:
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: the last one has closed it
                break
            if not piece:
                break
            said += piece
        return process.wait(30), said.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def lines(text: str) -> list[str]:
    """What a terminal shows, line by line, without colours."""
    return ANSI.sub("", text).replace("\r", "").splitlines()
