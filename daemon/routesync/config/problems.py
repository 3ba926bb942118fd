"""What is wrong with a configuration: one line per fault with file, line, table and key, in TOML's terms.

pydantic reports faults by the path in the document, and `tomllib` does not keep line numbers; `key_lines` finds them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from inspect import isclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar, get_args, get_origin

from pydantic_core import ErrorDetails

from routesync.config.models import GuardSettings, KernelSettings, Settings, TargetDefaults
from routesync.config.parsers import Model, SettingError, kind_of, masked, shown, suggest

KeyPath: TypeAlias = tuple[str | int, ...]
"""The path to a value: keys of tables, and indices of arrays from 0."""
A = TypeVar("A")
TARGET_DEFAULTS: Final = "target_defaults"

_MAX_NAME: Final = 80
_TYPES: Final = {
    "string_type": "expected a string",
    "string_unicode": "expected a string of valid Unicode",
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "dict_type": "expected a table",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "must consist of printable ASCII characters",  # of labels, the only ones with a pattern
}
_BOUNDS: Final = {
    "greater_than": ("must be more than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}
_RESYNC: Final = "is gone: the kernel is dumped and compared every 600 s"
_PROBE: Final = "is gone: one owned route is probed every 5 s"
_VERIFY: Final = "is gone: all owned routes are verified every hour"
_MINIMUM: Final = (
    "is gone: fewer than 50 withdrawals never wait, and withdraw_limit_share = 1 turns the limit off"
)
FORMER_KEYS: Final[Mapping[type[Model], Mapping[str, str]]] = {
    KernelSettings: {"audit_interval_s": _RESYNC, "resync_interval_s": _RESYNC},
    GuardSettings: {
        "burst": "is gone: up to 3 routes are removed at once after a quiet time",
        "check_interval_s": "is gone: routes that stay are examined again every 300 s",
        "contended_delay_s": "is gone: a contended route is left for an hour",
        "contended_delay_most_s": "is gone: a contended route is left for an hour",
        "verify_timeout_s": "is gone: loxilb's table is checked 5 s after a removal",
    },
    TargetDefaults: {
        "canary_interval_s": _PROBE,
        "probe_interval_s": _PROBE,
        "sweep_interval_s": _VERIFY,
        "verify_interval_s": _VERIFY,
        "brake_share": "is now withdraw_limit_share",
        "brake_minimum": _MINIMUM,
        "withdraw_limit_minimum": _MINIMUM,
        "connect_timeout_s": "is gone: a connection attempt ends after 3 s",
        "request_timeout_s": "is gone: a request ends after 10 s",
    },
}
"""Keys of earlier versions: what became of each. One that is now another is to be renamed, one that is gone removed."""


class Place(NamedTuple):
    """A line of a file, from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Problem(NamedTuple):
    """One fault of a configuration."""

    file: str
    place: str  # table and key; empty for the file as a whole
    line: int | None  # from 1; None: unknown
    message: str
    remedy: str = ""
    unread: bool = False  # only that this user may not read a file; the daemon perhaps may

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(filter(None, (where, self.place, self.message)))
        text = f"{text}; {self.remedy}" if self.remedy else text
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class ConfigError(Exception):
    """The configuration is invalid; `problems` lists every fault, and the text has one line for each."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def problem_at(place: Place | object, key: str, error: SettingError) -> Problem:
    """A fault at a line, or in something that is named as a whole: a file, a variable of the environment."""
    file, line = (place.file, place.line) if isinstance(place, Place) else (place, None)
    return Problem(str(file), key, line, error.message, error.remedy, error.unread)


def translate(details: ErrorDetails, document: object) -> tuple[KeyPath, SettingError]:
    """Turn one error of pydantic into TOML's terms."""
    kind, context = details["type"], details.get("ctx", {})
    path = _path_in(document, details)
    cause = context.get("error")
    if isinstance(cause, SettingError):
        return path, cause
    if kind == "extra_forbidden":
        key = str(path[-1])
        model = _model_at(path[:-1]) or Model
        former = next((keys[key] for base in model.__mro__ if key in (keys := FORMER_KEYS.get(base, {}))), "")
        if former:
            remedy = "rename it" if former.startswith("is now ") else "remove it"
            return path, SettingError(f"{key} {former}", remedy)
        return path, SettingError(f"unknown key {key!r}", suggest(key, model.model_fields))
    if kind == "missing":
        return path, SettingError("this key is missing")
    found = details["input"]  # of a secret only the kind is shown
    if kind == "tuple_type":
        if _model_at(path) is None:
            return path, SettingError(f"expected an array of strings, got {kind_of(found)}")
        remedy = f"write [[{_dotted(path)}]]" if isinstance(found, dict) else ""
        got = "" if remedy else f", got {kind_of(found)}"
        return path, SettingError(f"expected an array of tables{got}", remedy)
    if kind == "literal_error":
        if not isinstance(found, str):
            return path, SettingError(f"expected {context['expected']}, got {kind_of(found)}")
        words = re.findall(r"'([^']+)'", str(context["expected"]))
        return path, SettingError(
            f"expected {context['expected']}, got {shown(found)}", suggest(found, words)
        )
    if kind in _BOUNDS:
        at, bound = _BOUNDS[kind]
        return path, SettingError(f"{at} {_number(context[bound])}, got {_number(found)}")
    if kind in {"string_too_long", "too_long"}:
        what = "characters" if isinstance(found, str) else "entries"
        return path, SettingError(f"must have at most {context['max_length']} {what}, got {len(found)}")
    if kind in _TYPES and _TYPES[kind].startswith("expected"):
        got = found if kind == "finite_number" else kind_of(found)
        return path, SettingError(f"{_TYPES[kind]}, got {got}")
    return path, SettingError(_TYPES.get(kind, details["msg"]))


def _number(value: object) -> str:
    """A number as people write it: 600.0 as 600."""
    return str(value).removesuffix(".0")


def _path_in(document: object, details: ErrorDetails) -> KeyPath:
    """Follow pydantic's location through the document, without the steps that pydantic added."""
    path: KeyPath = ()
    for part in details["loc"]:
        if value_at(document, (*path, part)) is not None:
            path = (*path, part)
    if details["type"] == "missing":
        path = (*path, details["loc"][-1])
    return path


def _model_at(path: KeyPath) -> type[Model] | None:
    model: type[Model] | None = Settings
    for part in path:
        if isinstance(part, str):
            field = model.model_fields.get(part) if model else None
            model = model_in(field.annotation) if field else None
    return model


def model_in(annotation: object) -> type[Model] | None:
    """The model of the table, or array of tables, that a field has; None for a plain value."""
    if isclass(annotation) and issubclass(annotation, Model):
        return annotation
    if get_origin(annotation) is dict:  # its keys are names
        return None
    return next(filter(None, map(model_in, get_args(annotation))), None)


def value_at(document: object, path: KeyPath) -> object:
    """The value at a path, or None."""
    for part in path:
        if isinstance(document, dict) and isinstance(part, str):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document


def place_of(path: KeyPath, document: object) -> str:
    """Write a path as it is found in the file: `[[policy.rules]] #2 (dhcp-host-routes), key match.protocol`."""
    keys = [part for part in path if isinstance(part, str)]
    for table in (("policy", "rules"), ("targets",)):
        depth = len(table)
        if path[:depth] == table and len(path) > depth and isinstance(path[depth], int):
            name = value_at(document, (*path[: depth + 1], "name"))
            head = f"[[{'.'.join(table)}]] #{int(path[depth]) + 1}"
            head += f" ({masked(name)})" if isinstance(name, str) and len(name) < _MAX_NAME else ""
            rest = path[depth + 1 :]
            return f"{head}, key {_dotted(rest)}" if rest else head
    if len(keys) == 1 and isinstance(value_at(document, path), dict):
        return f"[{keys[0]}]"
    split = -1 if isinstance(path[-1], str) else -2
    key = f"key {_dotted(path[split:])}"
    return f"[{_dotted(path[:split])}], {key}" if path[:split] else key


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f" #{part + 1}" if isinstance(part, int) else f".{part}" if text else part
    return text


# -- line numbers ---------------------------------------------------------------------------------------------------

_STRING: Final = r"""\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'"""
_TOKEN: Final = re.compile(rf"""#[^\n]*|({_STRING}|[\n\[\]{{}},.=]|[^\s\[\]{{}},.=#"']+)""", re.DOTALL)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, of each key and array element of a valid TOML document."""
    return _Reader(text).lines


def line_of(lines: Mapping[KeyPath, A], path: KeyPath) -> A | None:
    """Return the line of a key; if the key is absent, that of the nearest table around it."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


class _Reader:
    """Scans a document that tomllib has accepted, and so checks nothing."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._arrays: dict[KeyPath, int] = {}  # the last element so far of each array of tables
        self._tokens = _tokens(text)
        self._word, self._line = next(self._tokens)
        base: KeyPath = ()
        while self._skip_ends():
            if self._word == "[":
                base = self._header()
            else:
                self._pair(base)

    def _take(self) -> str:
        taken = self._word
        self._word, self._line = next(self._tokens, ("", self._line))
        return taken

    def _skip_ends(self) -> str:
        """Skip ends of lines, and return the token after them; empty at the end of the document."""
        while self._word == "\n":
            self._take()
        return self._word

    def _note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self._line)

    def _key(self, path: KeyPath) -> KeyPath:
        while True:
            quoted = self._word[0] in "\"'"
            path = (*path, next(iter(tomllib.loads(f"{self._word} = 0"))) if quoted else self._word)
            self._note(path)
            self._take()
            if self._word != ".":
                return path
            self._take()
            if path in self._arrays:
                path = (*path, self._arrays[path])

    def _header(self) -> KeyPath:
        self._take()
        is_array = self._word == "["
        if is_array:
            self._take()
        line, path = self._line, self._key(())
        if is_array:
            self._arrays[path] = self._arrays.get(path, -1) + 1
            path = (*path, self._arrays[path])
            self.lines[path] = line
            self._take()
        self._take()
        return path

    def _pair(self, base: KeyPath) -> None:
        path = self._key(base)
        self._take()  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._word not in ("[", "{"):
            while self._word not in (",", "]", "}", "\n", ""):
                self._take()
            return
        closing = "]" if self._take() == "[" else "}"
        index = 0
        while self._skip_ends() != closing:
            if closing == "}":
                self._pair(path)
            else:
                self._note((*path, index))
                self._value((*path, index))
                index += 1
            if self._skip_ends() == ",":
                self._take()
        self._take()


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token with the line on which it begins; the last one is empty."""
    line = 1
    for found in _TOKEN.finditer(text):
        if token := found[1]:
            yield token, line
            line += token.count("\n")
    yield "", line
