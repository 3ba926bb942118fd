"""What is wrong with a configuration, said with its place and in the words of TOML."""

from __future__ import annotations

from inspect import isclass
from typing import Final, NamedTuple, get_args

from pydantic_core import ErrorDetails

from routesync.config.locate import KeyPath
from routesync.settings import Model, Settings
from routesync.settings.notation import NotationError, suggest

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
    "tuple_type": "expected an array of tables",
    "string_too_short": "must not be empty",
}
_BOUNDS: Final = {
    "greater_than": ("must be more than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}


class Problem(NamedTuple):
    """One thing that is wrong with a configuration."""

    file: str
    place: str  # table and key; empty for the file as a whole
    line: int | None  # from 1; None: unknown
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(filter(None, (where, self.place, self.message)))
        text = f"{text}; {self.remedy}" if self.remedy else text
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has all that was found, and the text one line for each."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def translate(details: ErrorDetails, document: object) -> tuple[KeyPath, NotationError]:
    """Turn one error of pydantic into the words of TOML."""
    kind, context = details["type"], details.get("ctx", {})
    path = _path_in(document, details)
    cause = context.get("error")
    if isinstance(cause, NotationError):
        return path, cause
    if kind == "extra_forbidden":
        key = str(path[-1])
        model = _model_at(path[:-1])
        return path, NotationError(f"unknown key {key!r}", suggest(key, model.model_fields) if model else "")
    if kind == "missing":
        return path, NotationError("this key is missing")
    if kind == "tuple_type" and isinstance(value_at(document, path), dict):
        return path, NotationError(_TYPES[kind], f"write [[{_dotted(path)}]]")
    if kind == "literal_error":
        return path, NotationError(f"expected {context['expected']}")
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return path, NotationError(f"{words} {context[bound]:g}")
    return path, NotationError(_TYPES.get(kind, details["msg"]))


def _path_in(document: object, details: ErrorDetails) -> KeyPath:
    """Follow pydantic's location through the document, and leave out the steps that pydantic added."""
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
    """Find the table that a field holds, once or many times, if it holds any."""
    if isclass(annotation) and issubclass(annotation, Model):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def value_at(document: object, path: KeyPath) -> object:
    """The value at a path, None where there is none."""
    for part in path:
        if isinstance(document, dict) and isinstance(part, str):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document


def place_of(path: KeyPath, document: object) -> str:
    """Write a path as people find it: `[[policy.rules]] #2 (dhcp-host-routes), key match.protocol`."""
    keys = [part for part in path if isinstance(part, str)]
    for table in (("policy", "rules"), ("targets",)):
        depth = len(table)
        if path[:depth] == table and len(path) > depth and isinstance(path[depth], int):
            name = value_at(document, (*path[: depth + 1], "name"))
            head = f"[[{'.'.join(table)}]] #{int(path[depth]) + 1}"
            head += f" ({name})" if isinstance(name, str) and len(name) < _MAX_NAME else ""
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
