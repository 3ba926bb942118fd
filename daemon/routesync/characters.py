"""Text for people: numbers of things, and no characters that must not reach a terminal.

Words come from outside: from a loxilb, from interfaces, from any broker.
"""

from __future__ import annotations

import json
from typing import Final

_TURNING: Final = (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
"""Line separators of Unicode, and what turns the direction of writing."""
_HALVES: Final = range(0xD800, 0xE000)
"""Of surrogate pairs: bytes of a file's name that are not UTF-8, and what JSON and peers may have. UTF-8 has none."""
_VISIBLE: Final = {
    **{number: f"\\x{number:02x}" for number in (*range(9), *range(11, 32), *range(127, 160))},
    **{number: f"\\u{number:04x}" for number in (*_TURNING, *_HALVES)},
}
_WHOLE: Final = {number: f"\\u{number:04x}" for number in _HALVES}
_WHOLE_IN_JSON: Final = {number: f"\\{text}" for number, text in _WHOLE.items()}
_IN_JSON: Final = {
    **{number: f"\\u{number:04x}" for number in (*range(0x7F, 0xA0), *_TURNING)},
    **dict.fromkeys(
        (0x09, 0x0A, 0x0D), " "
    ),  # JSON has these raw only between its parts, the others only in strings
}


def many(count: int, thing: str, things: str = "") -> str:
    """A number of things."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def clean(text: str) -> str:
    """The text with control characters made visible, but for tabs and ends of lines."""
    return text.translate(_VISIBLE)


def one_line(text: str) -> str:
    """The text with every control character made visible."""
    return clean(text).replace("\t", " ").replace("\n", "\\n")


def whole(text: str) -> str:
    """The text with what UTF-8 does not have made visible."""
    return text.translate(_WHOLE)


def whole_json(value: object, *, indent: int | None = None) -> str:
    """JSON of a value whose strings are so; what `json` does not know, such as a path, is a string in it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return text.translate(_WHOLE_IN_JSON)


def json_line(text: str) -> str:
    """JSON in one line, of the same meaning, without raw control characters."""
    return text.translate(_IN_JSON)
