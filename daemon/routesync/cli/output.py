"""Errors and exit statuses, tables on standard output; times and numbers for people."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final, NoReturn, TypeAlias, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from routesync.characters import clean, one_line, whole_json

_STYLES: Final = {
    **dict.fromkeys(("online", "synced", "connected", "confirmed", "accepted", "present", "keep"), "green"),
    **dict.fromkeys(("guarded", "removes"), "green"),
    **dict.fromkeys(
        ("degraded", "stopping", "syncing", "reading", "connecting", "starting", "pending"), "yellow"
    ),
    **dict.fromkeys(("dry run", "elsewhere"), "yellow"),
    **dict.fromkeys(
        ("unreachable", "refused", "conflicting", "contended", "over-capacity", "drop", "may not remove"),
        "red",
    ),
    **dict.fromkeys(("not-forwarded", "left-behind", "silent", "offline", "unreadable"), "red"),
    **dict.fromkeys(("unjudged",), "yellow"),
    **dict.fromkeys(("shared-namespace", "ineligible"), "magenta"),
    **dict.fromkeys(("paused", "withdrawing"), "bold yellow"),
}
"""Of words for states: of nodes, targets, routes, the guard."""
MARGIN: Final = 9
"""Columns of the words in front of what `status` shows."""
_LONGEST_S: Final = 1e9
"""A time that another node reports may be anything."""
_NARROW: Final = 20
"""Columns below which wrapping makes nothing clearer."""
EX_FAILED: Final = 1
"""The command failed; of `status`: the daemon is degraded."""
EX_USAGE: Final = 2
"""Wrong arguments."""
EX_NOT_RUNNING: Final = 3
"""The daemon does not run (LSB: program is not running)."""
EX_NOT_ALLOWED: Final = 4
"""Permission to open the socket, or to change anything, is missing (LSB: status unknown)."""
EX_CONFIG: Final = 78
"""sysexits.h: the configuration is wrong. systemd does not restart a service that ends so."""

A = TypeVar("A")
Part: TypeAlias = str | tuple[str, str]
"""Text of a line, plain or with its style."""


def print_error(text: str) -> None:
    """Print what is wrong on standard error, one line a problem; a terminal breaks it between words."""
    for line in text.splitlines():
        words = f"routesync: {clean(line)}"
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns
            words = textwrap.fill(words, columns, break_long_words=False, break_on_hyphens=False)
        print(words, file=sys.stderr)


def print_json(content: bytes) -> None:
    """Print JSON as it came, indented."""
    print(json.dumps(json.loads(content), indent=2, ensure_ascii=False))


def print_object(value: object) -> None:
    """Print this as JSON, indented; the name of a file that is not UTF-8 as messages have it."""
    print(whole_json(value, indent=2))


def fail(text: str, status: int = EX_FAILED) -> NoReturn:
    """End the command with this error and exit status."""
    print_error(text)
    raise typer.Exit(status)


def parsed(parse: Callable[[str], A], text: str, where: str = "") -> A:
    """Parse an argument of the command line, or end the command; `where` names the option."""
    try:
        return parse(text)
    except ValueError as error:
        fail(f"{where}{error}", EX_USAGE)


def console() -> Console:
    """A console for standard output: colour on a terminal only, and never a line cut short elsewhere."""
    return Console(soft_wrap=True, highlight=False)


class Page:
    """Lines for standard output. On a terminal long ones go on below, indented; elsewhere each stays whole."""

    def __init__(self) -> None:
        self._console = console()
        # not rich's is_terminal, which colours that are forced make true
        self._width = shutil.get_terminal_size().columns if self._console.file.isatty() else None

    @classmethod
    @contextmanager
    def paged(cls) -> Iterator[Page]:
        """A page that comes through a pager where it is longer than the terminal ($PAGER, or less)."""
        page = cls()
        if page._width is None or not sys.stdin.isatty() or page._console.is_dumb_terminal:
            yield page
            return
        with page._console.capture() as captured:
            yield page
        text = captured.get()
        if text.count("\n") < shutil.get_terminal_size().lines:
            print(text, end="")
        else:
            _through_pager(text)

    def line(self, *parts: Part, hang: int = 0) -> None:
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

    def rows(self, rows: Sequence[Sequence[Part]], rest: Sequence[Sequence[Part]] = ()) -> None:
        """Print rows in columns as wide as their widest value; the last column takes what is left.

        `rest` has more parts of the last column, for each row.
        """
        if not rows:
            return
        rows = [[_in_one_line(cell) for cell in row] for row in rows]
        columns = range(len(rows[0]) - 1)
        widths = [max(cell_len(_plain(row[column])) for row in rows) for column in columns]
        hang = sum(widths) + 2 * len(widths)
        for number, row in enumerate(rows):
            parts: list[Part] = []
            for column in columns:
                parts += (row[column], " " * (widths[column] - cell_len(_plain(row[column])) + 2))
            self.line(*parts, row[-1], *(rest[number] if rest else ()), hang=hang)


def _through_pager(text: str) -> None:
    try:
        command = shlex.split(os.environ.get("PAGER", "")) or ["less"]
    except ValueError:  # a quotation that does not end
        command = [""]
    if shutil.which(command[0]) is None:
        print(text, end="")
        return
    # Ctrl-C is the pager's while it runs: it would be killed soon after ours, and leave the terminal without echo. A
    # handler, not SIG_IGN, which the pager would inherit.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        subprocess.run(
            command,
            input=text,
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            check=False,
            env={"LESS": "FRX", **os.environ},
        )
    finally:
        signal.signal(signal.SIGINT, before)


def _cleaned(part: Part) -> Part:
    return clean(part) if isinstance(part, str) else (clean(part[0]), part[1])


def _in_one_line(part: Part) -> Part:
    return one_line(part) if isinstance(part, str) else (one_line(part[0]), part[1])


def _plain(cell: Part) -> str:
    return clean(cell if isinstance(cell, str) else cell[0])


def styled(word: str, text: str | None = None) -> tuple[str, str]:
    """A word for a state, or a text about it, with the style of that state."""
    return text or word, _STYLES.get(word, "")


def head(word: str) -> str:
    """A word in the margin."""
    return f"{word:{MARGIN}}"


def moment(time: datetime) -> str:
    """A time as people look for it in a log, and how long ago that was."""
    ago = span(datetime.now(UTC) - time)
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S} ({ago} ago)"


def work_left(waiting: int, rate: float, remaining_s: float | None) -> str:
    """How much work waits, how long it takes, and how many requests a second that is."""
    if remaining_s is None:
        return f"{waiting:,} waiting"
    left = span(timedelta(seconds=ceil(min(_LONGEST_S, remaining_s))))
    return f"{waiting:,} waiting, about {left} left at {rate:g}/s"


def age(seconds: float | None) -> str:
    """An age in its largest unit, for a narrow column; `?` for an unknown one."""
    if seconds is None:
        return "?"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


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
