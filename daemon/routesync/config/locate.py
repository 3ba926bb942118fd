"""Where each key of a TOML document stands: the line numbers that `tomllib` does not keep."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of tables, and indices of arrays from 0."""

_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE: Final = re.compile(r"[^,\]}\n#]*")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Give the line, from 1, on which each key and array element of a valid TOML document stands."""
    return _Reader(text).read()


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """Give the line of a key; of the nearest table around it where the key itself is absent."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


class _Reader:
    """Walks through a document that tomllib has found valid, and so needs to check nothing."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._line = 1
        self._lines: dict[KeyPath, int] = {}
        self._arrays: dict[KeyPath, int] = {}

    def read(self) -> dict[KeyPath, int]:
        base: KeyPath = ()
        self._take(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                base = self._header()
            else:
                self._pair(base)
            self._take(_BLANK)
        return self._lines

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _note(self, path: KeyPath) -> None:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        self._lines.setdefault(path, self._line)

    def _header(self) -> KeyPath:
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        keys = self._key()
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._element((*path, key))
        path = (*path, keys[-1])
        self._note(path)
        if brackets == 2:
            self._arrays[path] = self._arrays.get(path, 0) + 1
            path = self._element(path)
            self._note(path)
        self._at += brackets
        return path

    def _element(self, path: KeyPath) -> KeyPath:
        """The last element so far, if this is an array of tables."""
        return (*path, self._arrays[path] - 1) if path in self._arrays else path

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._take(_SPACE)
            quoted = self._take(_STRING)
            parts.append(next(iter(tomllib.loads(f"{quoted} = 0"))) if quoted else self._take(_BARE_KEY))
            self._take(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _pair(self, base: KeyPath) -> None:
        path = base
        self._note(path)
        for part in self._key():
            path = (*path, part)
            self._note(path)
        self._at += 1  # the equals sign
        self._take(_SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening in "[{":
            self._at += 1
            self._items(path, "]" if opening == "[" else "}")
        elif not self._take(_STRING):
            self._take(_BARE_VALUE)

    def _items(self, path: KeyPath, closing: str) -> None:
        index = 0
        while True:
            self._take(_BLANK)
            if self._text[self._at] == closing:
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._note((*path, index))
                self._value((*path, index))
                index += 1
