"""Words to people: complaints on standard error, tables on standard output."""

from __future__ import annotations

import sys

from rich.console import Console


def complain(text: str) -> None:
    """Say on standard error what is wrong, one line a problem."""
    for line in text.splitlines():
        print(f"routesync: {line}", file=sys.stderr)


def console() -> Console:
    """A console for standard output: colour on a terminal only, and never a line cut short elsewhere."""
    return Console(soft_wrap=True, highlight=False)
