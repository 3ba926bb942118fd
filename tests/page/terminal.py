"""What commands print, as pictures: SVG, in the colours of the terminal, without a font of their own."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 122, 30
# The fonts that rich names are loaded from elsewhere: a picture in a document must load nothing.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
)


def last_screen(output: str) -> str:
    """Of a command that draws full screens, each from the upper left corner: the last one that is whole."""
    *_, screen, _ = ["", "", *output.split("\x1b[H")]
    lines = screen.splitlines()
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        del lines[-1]
    return "\n".join(lines)


def draw(output: str, title: str, file: Path) -> None:
    """Draw what a command has printed with FORCE_COLOR, COLUMNS and LINES set."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.from_ansi(output.rstrip("\n")))
    svg = console.export_svg(title=title, code_format=_FORMAT, unique_id=file.stem)
    file.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
