"""Text for manual pages: man(7) macros, and the little of Markdown that our documents use turned into them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

_PLAIN: Final = str.maketrans(
    {
        "…": "...",
        "\u2014": "\\(em",
        "\u2013": "\\(en",
        "→": "\\(->",
        "·": "\\(bu",
        "\u00d7": "\\(mu",
        "ü": "\\(:u",
    }
)
_WIDTH: Final = 78
_INLINE: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\[([^]]+)\]\([^)]+\)")


def escape(text: str) -> str:
    """Text that roff takes as it is: no backslash, no control line, hyphens that can be copied."""
    told = text.replace("\\", "\\e").replace("-", "\\-").translate(_PLAIN)
    return f"\\&{told}" if told[:1] in {".", "'"} else told


def bold(text: str) -> str:
    """Text to be typed."""
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    """Text to be replaced by something."""
    return f"\\fI{escape(text)}\\fR"


def inline(text: str) -> str:
    """A paragraph of Markdown: code and what is strong in bold, emphasis in italics, links as their text."""
    parts: list[str] = []
    at = 0
    for found in _INLINE.finditer(text):
        parts.append(_running(text[at : found.start()]))
        code, strong, emphasis, link = found.groups()
        parts.append(italic(emphasis) if emphasis else inline(link) if link else bold(code or strong))
        at = found.end()
    parts.append(_running(text[at:]))
    told = "".join(parts)
    return f"\\&{told}" if told[:1] in {".", "'"} else told


def _running(text: str) -> str:
    """Running text: its hyphens are hyphens."""
    return text.replace("\\", "\\e").translate(_PLAIN)


def item(term: str, lines: Iterable[str]) -> Iterator[str]:
    """A term, already escaped, and what is said of it."""
    yield ".TP"
    yield term
    yield from lines


def markdown(text: str, heading: str) -> Iterator[str]:
    """Paragraphs, headings (as the macro `heading`), and bullets."""
    opens = True  # a paragraph's macro is not wanted after a heading
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines[0].startswith("#"):
            yield f"{heading} {inline(lines[0].lstrip('# '))}"
            lines, opens = lines[1:], True
        if lines and lines[0].startswith("- "):
            for bullet in re.split(r"\n(?=- )", "\n".join(lines)):
                yield ".IP \\(bu 2"
                yield inline(" ".join(bullet[2:].split()))
        elif lines:
            if not opens:
                yield ".PP"
            yield inline(" ".join(" ".join(lines).split()))
        opens = opens and not lines


def wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Break text lines as roff wants them; what follows .TP is one line."""
    before = ""
    for line in lines:
        if line.startswith(".") or before == ".TP":
            yield line
        else:
            for part in textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False):
                yield f"\\&{part}" if part[0] in ".'" else part
        before = line
