"""Reading the files of a configuration: the file itself and its drop-ins, merged into one document.

Tables are merged key by key, and a later file wins. Targets are added to those before. Rules are put before those of
the files before, since the first rule that matches decides: so a drop-in decides over the file that was installed.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from routesync.config.problems import (
    TARGET_DEFAULTS,
    ConfigError,
    KeyPath,
    Place,
    Problem,
    key_lines,
    line_of,
    place_of,
    value_at,
)
from routesync.files import REMEDY, UnfitFileError, read_bounded, read_file

STDIN: Final = Path("-")
"""Read from standard input; relative file names in it are looked up in the working directory."""
_TARGETS: Final[KeyPath] = ("targets",)
_RULES: Final[KeyPath] = ("policy", "rules")
Reader: TypeAlias = Callable[[Path], bytes]


class Source(NamedTuple):
    """One file."""

    path: Path
    content: bytes
    document: dict[str, object]
    lines: Mapping[KeyPath, Place]


def drop_ins_of(path: Path) -> Sequence[Path]:
    """The drop-ins of a file, in order: `*.toml` in the directory of its name and ".d"."""
    if path == STDIN:
        return ()
    directory = path.with_name(f"{path.name}.d")
    try:
        found = [it for it in directory.iterdir() if it.suffix == ".toml" and not it.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError) as error:
        raise _unread(directory, error, "let this user read it, or remove it") from None
    return sorted(found, key=lambda it: it.name)


def read_named(path: Path) -> bytes:
    """Read what a command line names, which may be a pipe, as of `<(…)`, or standard input: who names it waits for it.

    Raises:
        OSError: it cannot be read, or is very large.
    """
    if path == STDIN:
        return read_bounded(sys.stdin.buffer)
    with path.open("rb") as file:
        return read_bounded(file)


def read_source(path: Path, read: Reader = read_file) -> Source:
    content = _read(path, read)
    text = _decode(path, content)
    document = _parse(path, text)
    huge: list[KeyPath] = []
    for key, value in _values(document):
        if len(key) > _DEEPEST:
            raise _too_deep(path, place=place_of(key[:1], document))
        if isinstance(value, int) and value.bit_length() > 64:  # no message can show one of 4,300 digits
            huge.append(key)
    lines = key_lines(text)
    if huge:
        found = (
            Problem(str(path), "", line, "this number is too large", "it has to fit 64 bits")
            for line in sorted(line_of(lines, key) or 1 for key in huge)
        )
        raise ConfigError(*found)
    return Source(path, content, document, {key: Place(path, line) for key, line in lines.items()})


def _values(document: dict[str, object]) -> Iterator[tuple[KeyPath, object]]:
    """Every value with its path; without recursion, since a document may be nested as deeply as it likes."""
    values: list[tuple[KeyPath, object]] = [((), document)]
    while values:
        path, value = values.pop()
        yield path, value
        items = (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        )
        values += [((*path, key), item) for key, item in items]


def digest_of(contents: Iterable[bytes]) -> str:
    """SHA-256 of files, one after another with a NUL between, which no TOML has; in hex."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def digest_now(path: Path) -> str | None:
    """The digest of a file and its drop-ins as they are now; None: one of them cannot be read."""
    try:
        return digest_of(map(_read, (path, *drop_ins_of(path))))
    except ConfigError:
        return None


def merged(sources: Sequence[Source]) -> tuple[dict[str, object], Mapping[KeyPath, Place]]:
    """The files as one document, and where each of its keys is."""
    first, *others = sources
    document, lines = deepcopy(first.document), dict(first.lines)
    for source in others:
        added, added_lines = deepcopy(source.document), dict(source.lines)
        for table in (_TARGETS, _RULES):
            here, there, around = (
                value_at(*it) for it in ((document, table), (added, table), (added, table[:-1]))
            )
            if not (isinstance(here, list) and isinstance(there, list) and isinstance(around, dict)):
                continue
            if table == _RULES:
                around[table[-1]] = there + here
                lines = _moved(lines, table, len(there))
            else:
                around[table[-1]] = here + there
                added_lines = _moved(added_lines, table, len(here))
        _overlay(document, added)
        lines |= added_lines
    return document, lines


def inherit(document: dict[str, object], lines: Mapping[KeyPath, Place]) -> Mapping[KeyPath, Place]:
    """Give each target the keys of [target_defaults] that it does not have; return the places of all keys."""
    defaults, targets = document.get(TARGET_DEFAULTS), document.get("targets")
    if not isinstance(defaults, dict) or not isinstance(targets, list):
        return lines
    all_lines = dict(lines)
    for index, target in enumerate(targets):
        if not isinstance(target, dict):
            continue
        own = {*target, *({"token_file"} if "token" in target else ())}
        target |= {key: deepcopy(value) for key, value in defaults.items() if key not in own}
        all_lines |= {
            ("targets", index, *path[1:]): place
            for path, place in lines.items()
            if len(path) > 1 and path[0] == TARGET_DEFAULTS and path[1] not in own
        }
    return all_lines


def _moved(lines: Mapping[KeyPath, Place], table: KeyPath, by: int) -> dict[KeyPath, Place]:
    """The places of a list's elements when others are put before them."""
    end = len(table)
    moved: dict[KeyPath, Place] = {}
    for path, place in lines.items():
        index = path[end] if len(path) > end and path[:end] == table else None
        moved[(*table, index + by, *path[end + 1 :]) if isinstance(index, int) else path] = place
    return moved


def _overlay(document: dict[str, object], added: Mapping[str, object]) -> None:
    for key, value in added.items():
        there = document.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _overlay(there, value)
        else:
            document[key] = value


def _failed(
    path: Path, message: str, remedy: str = "", *, place: str = "", line: int | None = None
) -> ConfigError:
    """The error of a file that cannot be read as a document."""
    return ConfigError(Problem(str(path), place, line, message, remedy))


def _unread(path: Path, error: OSError | ValueError, remedy: str) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else error
    denied = isinstance(error, PermissionError)
    return ConfigError(Problem(str(path), "", None, f"cannot be read: {reason}", remedy, denied))


def _read(path: Path, read: Reader = read_file) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        if path.is_symlink():
            remedy = "remove the link, or restore what it points to"
            raise _failed(path, "a link to nothing", remedy) from None
        remedy = f"name an existing file, or write one by `routesync init {path}`"
        raise _failed(path, "no such file", remedy) from None
    except (OSError, ValueError) as error:
        remedy = REMEDY if isinstance(error, UnfitFileError) else "name a file that this user may read"
        raise _unread(path, error, remedy) from None


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _failed(path, "this is not UTF-8", "save the file as UTF-8", line=line) from None


_POSITION: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SHOWN: Final = re.compile(r"\[{1,2}[A-Za-z0-9_.-]+\]{0,2}|[A-Za-z0-9_-]+( *\. *[A-Za-z0-9_-]+)* *=")
"""The header of a table, or a key up to its equals sign."""
_MAX_SHOWN: Final = 80
_DEEPEST: Final = 100
"""Levels of tables and arrays; no setting has as many as 10, and what comes later recurses."""
_DEEP_KEY: Final = re.compile(
    rf"""^[ \t]*+\[{{0,2}}(?:[ \t]*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.){{{_DEEPEST}}}""",
    re.MULTILINE,
)
"""A header or key of too many parts. tomllib takes seconds and gigabytes for one of 20,000."""


def _too_deep(path: Path, *, place: str = "", line: int | None = None) -> ConfigError:
    return _failed(path, "nested too deeply", f"write at most {_DEEPEST} levels", place=place, line=line)


def _parse(path: Path, text: str) -> dict[str, object]:
    if deep := _DEEP_KEY.search(text):
        raise _too_deep(path, line=text.count("\n", 0, deep.end()) + 1)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of thousands of digits
        said = str(error)
        position = _POSITION.search(said)
        if position is None:
            raise _failed(path, "a value cannot be read", "look for huge numbers") from None
        rows = text.replace("\r\n", "\n").split("\n")
        line = int(position[1]) if position[1] else len(rows)
        column = int(position[2]) if position[2] else None
        shown = _presentable(rows, line, column)
        message = f"not valid TOML: {said[0].lower()}{said[1 : position.start()]}{shown}"
        place = f"column {column}" if column else "end of file"
        raise _failed(path, message, place=place, line=line) from None


def _presentable(rows: list[str], line: int, column: int | None) -> str:
    """The key or header before the fault, and no value, which may be a secret; nothing where it may be in a value."""
    row, above = rows[line - 1], "\n".join(rows[: line - 1])
    found = _SHOWN.match(row[: column - 1 if column else None].lstrip())
    if found is None or len(found[0]) > _MAX_SHOWN or '"""' in above or "'''" in above:
        return ""
    return f": {found[0]}" if found[0] == row.strip() else f": {found[0]} …"
