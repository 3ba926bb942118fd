"""Words on a terminal and off it: wrapped where there is an edge, whole where there is none, harmless on both."""

from __future__ import annotations

import io
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from routesync.characters import clean, many
from routesync.cli import output
from routesync.cli.output import Page, span, work_left
from support.processes import WITH_CTRL_C


class Terminal(io.StringIO):
    """What a console takes for a terminal."""

    def isatty(self) -> bool:
        return True


def shown(*parts: str, hang: int, columns: int | None) -> str:
    """What is printed: on a terminal of that width, or in a pipe."""
    out = io.StringIO() if columns is None else Terminal()
    made = Console(
        file=out,
        soft_wrap=True,
        highlight=False,
        width=columns,
        color_system=None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "console", lambda: made)
        patch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns or 80, 24)))
        Page().line(*parts, hang=hang)
    return out.getvalue()


WORDS = st.lists(st.text("abcdefghij.:/", min_size=1, max_size=30), min_size=1, max_size=12).map(" ".join)


@pytest.mark.hypothesis
@given(WORDS, st.integers(0, 30), st.integers(30, 100))
def test_nothing_is_lost_and_nothing_stands_beyond_the_edge(text: str, hang: int, columns: int) -> None:
    on_terminal = shown(text, hang=hang, columns=columns)
    assert on_terminal.replace(" ", "").replace("\n", "") == text.replace(" ", "")
    if columns - hang >= 20:
        assert all(len(line) <= columns for line in on_terminal.splitlines())
    assert shown(text, hang=hang, columns=None) == f"{text}\n"


def test_what_does_not_fit_hangs_below() -> None:
    assert shown("target   ", "one two three four five six", hang=9, columns=30) == (
        "target   one two three four\n         five six\n"
    )


@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize(
    ("pager", "paged"),
    [("sed s/row/paged/", "paged"), ('less "x', "row"), ("/nowhere/less", "row"), (" ", "row")],
)
def test_what_is_longer_than_the_terminal_comes_through_a_pager(
    rows: int, pager: str, paged: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PAGER", pager)
    with Page.paged() as page:
        for number in range(rows):
            page.line(f"row {number}")
    assert capfd.readouterr().out == "".join(f"{paged if rows > 24 else 'row'} {it}\n" for it in range(rows))


@pytest.mark.parametrize(
    ("environment", "terminal"),
    [({"FORCE_COLOR": "1"}, False), ({"TERM": "dumb"}, True)],
    ids=["pipe", "dumb"],
)
def test_nothing_is_paged_where_no_pager_can_work(
    *,
    environment: dict[str, str],
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("PAGER", "sed s/row/paged/")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Page.paged() as page:
        for number in range(100):
            page.line(f"row {number} {'x' * 200}" if not terminal else f"row {number}")
    lines = capfd.readouterr().out.splitlines()
    assert [line[:3] for line in lines] == ["row"] * 100


PAGED = """
from routesync.cli.output import Page
with Page.paged() as page:
    for number in range(100):
        page.line(f"row {number}")
"""
PAGER = """
trap 'sleep 1; echo interrupted' INT
before=$(stty -g < /dev/tty)
stty -echo < /dev/tty
echo paging
head -c 1 < /dev/tty > /dev/null || head -c 1 < /dev/tty > /dev/null
stty "$before" < /dev/tty
"""


def test_ctrl_c_in_the_pager_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    """As with less(1), which does not end by Ctrl-C; what kills it leaves the terminal without echo."""
    pager = tmp_path / "pager"
    pager.write_text(PAGER)
    leader, terminal = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *WITH_CTRL_C, sys.executable, "-c", PAGED],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm", "PAGER": f"bash {pager}"},
    )
    os.close(terminal)

    def read_until(words: bytes, *, press: bytes = b"") -> None:
        said = b""
        while words not in said:
            os.write(leader, press)  # again where the shell was just starting a command, and it was lost
            while select.select([leader], [], [], 3)[0] and words not in said:
                said += os.read(leader, 1000)

    try:
        read_until(b"paging")
        read_until(b"interrupted", press=b"\x03")
        assert not termios.tcgetattr(leader)[3] & termios.ECHO
        os.write(leader, b"q\n")
        assert process.wait(30) == 0
        assert termios.tcgetattr(leader)[3] & termios.ECHO
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_work_that_is_left_is_said_with_its_rate() -> None:
    assert work_left(1200, 240, 4.2) == "1,200 waiting, about 5 s left at 240/s"
    assert work_left(3, 0, None) == "3 waiting"
    for absurd in (1e308, float("inf"), float("nan")):
        assert work_left(3, 1, absurd).startswith("3 waiting, about 11574 d")


def test_one_is_singular_and_thousands_are_readable() -> None:
    assert [many(1, "route"), many(40_000, "route")] == ["1 route", "40,000 routes"]
    assert [many(1, "prefix", "prefixes"), many(2, "prefix", "prefixes")] == ["1 prefix", "2 prefixes"]


def test_what_others_say_cannot_reach_for_the_terminal() -> None:
    words = "bad\x1b]0;title\x07 gateway\r\x9b2J"
    assert shown(words, hang=0, columns=None) == "bad\\x1b]0;title\\x07 gateway\\x0d\\x9b2J\n"
    assert clean("a\tb\nc") == "a\tb\nc"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3725, "1 h 2 min"),
        (86400 * 3 + 7200, "3 d 2 h"),
        (-5, "0 s"),
    ],
)
def test_a_length_of_time_is_shown_in_its_largest_units(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text
