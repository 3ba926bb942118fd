"""The commands that the documents show."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests/README.md")
    if path.name not in ("CHANGELOG.md", "cli.md")  # history; the generated reference
)  # fmt: skip
_HOST = {"routesync", "systemctl", "journalctl"}  # not on the PATH of every machine that runs the tests


class Shown(NamedTuple):
    """A command, where it is shown, without its remark."""

    place: str
    command: str


def _commands(path: Path) -> Iterator[Shown]:
    """Commands of code blocks: lines behind `$ `, and the lines of an indented block that begin with a program."""
    fence: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{path.relative_to(ROOT)}:{number}"
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif line.startswith("$ ") and fence is not None:
            yield Shown(place, line[2:])
        elif fence == "sh" and line[:1].strip():
            yield Shown(place, line)
        elif line.startswith("    ") and fence is None and _is_program(line.split()[0]):
            yield Shown(place, re.sub(r"\s{2,}#.*", "", line.strip()))


def _is_program(word: str) -> bool:
    return word in _HOST or shutil.which(word) is not None


def block(document: str, heading: str) -> list[str]:
    """The commands of the first block of shell commands below a heading."""
    _, _, below = (ROOT / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    _, fence, shown = below.partition("\n```sh\n")
    assert fence, f"{document} has no commands below {heading}"
    return shown.partition("\n```")[0].splitlines()


def commands() -> list[Shown]:
    """The commands of all code blocks."""
    return [shown for path in DOCUMENTS for shown in _commands(path)]


def mentions() -> list[Shown]:
    """Those of the text, too: `routesync …` in backticks."""
    found = commands()
    for path in DOCUMENTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            place = f"{path.relative_to(ROOT)}:{number}"
            found += [Shown(place, text) for text in re.findall(r"`((?:routesync|make) [^`]+)`", line)]
    return found
