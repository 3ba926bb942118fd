"""Errors on standard error, tables on standard output; times and numbers for people."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from routesync.route import Prefix

_NARROW: Final = 20
"""Columns below which wrapping makes nothing clearer."""
_CONTROL: Final = {number: f"\\x{number:02x}" for number in (*range(9), *range(11, 32), *range(127, 160))}
"""What could move a terminal's cursor or worse: words of a loxilb, names of interfaces and the like are others'."""


def print_error(text: str) -> None:
    """Print what is wrong on standard error, one line a problem."""
    for line in text.splitlines():
        print(f"routesync: {clean(line)}", file=sys.stderr)


def read_prefixes(texts: Sequence[str], where: str = "") -> tuple[Prefix, ...] | None:
    """Read prefixes of the command line; if one is none, print it and return None. `where` names the option."""
    try:
        return tuple(dict.fromkeys(map(Prefix.parse, texts)))
    except ValueError as error:
        print_error(f"{where}{error}")
        return None


def clean(text: str) -> str:
    """The text with control characters made visible, but for tabs and ends of lines."""
    return text.translate(_CONTROL)


def console() -> Console:
    """A console for standard output: colour on a terminal only, and never a line cut short elsewhere."""
    return Console(soft_wrap=True, highlight=False)


class Page:
    """Lines for standard output. On a terminal long ones go on below, indented; elsewhere each stays whole."""

    def __init__(self) -> None:
        self._console = console()
        self._width = shutil.get_terminal_size().columns if self._console.is_terminal else None

    def line(self, *parts: str | tuple[str, str], hang: int = 0) -> None:
        """Print a line made of parts, each plain or with its style; what does not fit hangs at this column."""
        text = Text.assemble(*map(_cleaned, parts))
        text.rstrip()
        if self._width is None or self._width - hang < _NARROW or text.cell_len <= self._width:
            self._console.print(text)
            return
        first, *_ = text.wrap(self._console, self._width, tab_size=1)
        rest = text[len(first.plain) :]
        rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
        hanging = rest.wrap(self._console, self._width - hang, tab_size=1)
        for line in (first, *(Text(" " * hang) + more for more in hanging)):
            line.rstrip()
            self._console.print(line)

    def rows(self, rows: Sequence[Sequence[str | tuple[str, str]]], *, indent: int = 0) -> None:
        """Print rows in columns as wide as their widest value; the last column takes what is left."""
        if not rows:
            return
        columns = range(len(rows[0]) - 1)
        widths = [max(cell_len(_plain(row[column])) for row in rows) for column in columns]
        hang = indent + sum(widths) + 2 * len(widths)
        for row in rows:
            parts: list[str | tuple[str, str]] = [" " * indent]
            for column in columns:
                parts += (row[column], " " * (widths[column] - cell_len(_plain(row[column])) + 2))
            self.line(*parts, row[-1], hang=hang)


def _cleaned(part: str | tuple[str, str]) -> str | tuple[str, str]:
    return clean(part) if isinstance(part, str) else (clean(part[0]), part[1])


def _plain(cell: str | tuple[str, str]) -> str:
    return clean(cell if isinstance(cell, str) else cell[0])


def many(count: int, thing: str, things: str = "") -> str:
    """A number of things."""
    return f"{count} {thing if count == 1 else things or f'{thing}s'}"


def moment(time: datetime) -> str:
    """A time as people look for it in a log, and how long ago that was."""
    ago = span(datetime.now(UTC) - time)
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S} ({ago} ago)"


def span(length: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = max(0, int(length.total_seconds()))
    for unit, size, smaller, small_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= size:
            rest = seconds % size // small_size
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    return f"{seconds} s"
