"""The loader: from a file to settings that hold, or to a list of all that is wrong with it.

Every problem is told in one line that names file, line, table and key, and what to write instead. Nothing but
`ConfigError` leaves `load`, whatever stands in the file. Secrets appear in no message.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from inspect import isclass
from pathlib import Path
from typing import Final, NamedTuple, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from routesync.credentials import Credentials
from routesync.locate import KeyPath, key_lines, line_of
from routesync.names import Names
from routesync.notation import NotationError, suggest
from routesync.policy import Policy, PolicyError
from routesync.settings import Model, Settings, TlsSettings
from routesync.tls import client_context


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


class Loaded(NamedTuple):
    """A configuration that holds."""

    settings: Settings
    path: Path
    names: Names  # of this host, as the rules were compiled with
    policy: Policy
    origins: Mapping[str, str]  # where each secret came from, by dotted key
    warnings: tuple[str, ...]  # one line each


def load(path: Path, environ: Mapping[str, str] = os.environ, names: Names | None = None) -> Loaded:
    """Read, complete and check a configuration.

    Args:
        path: the TOML file.
        environ: secrets come from here, and $CREDENTIALS_DIRECTORY, where relative file names are looked for.
        names: names of protocols and tables; by default those of this host.

    Raises:
        ConfigError: whatever is wrong, all of it at once.
    """
    text = _read(path)
    document = _parse(path, text)
    names = names or Names.of_host()
    credentials = Credentials(path.absolute().parent, environ)
    credentials.fill(document)

    found = list(credentials.problems)
    found += _duplicates(document, ("targets",))
    found += _duplicates(document, ("policy", "rules"))
    settings = None
    try:
        settings = Settings.model_validate(document, context=names)
    except ValidationError as error:
        found += [_translate(details, document) for details in error.errors(include_url=False)]
    if settings is not None:
        found += _tls_problems(settings)
    if settings is None or found:
        lines = key_lines(text)
        problems = [
            Problem(str(path), place_of(key, document), line_of(lines, key), error.message, error.remedy)
            for key, error in found
        ]
        raise ConfigError(*sorted(problems, key=lambda problem: problem.line or 0))
    try:
        policy = Policy.compile(settings.policy, names)
    except PolicyError as error:
        raise ConfigError(Problem(str(path), error.place, None, error.message, error.remedy)) from None
    warnings = (*credentials.warnings, *policy.warnings)
    return Loaded(settings, path, names, policy, credentials.origins, warnings)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        remedy = "name an existing file, or start from the shipped config/routesync.toml"
        raise ConfigError(Problem(str(path), "", None, "no such file", remedy)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "name a file that this user may read"
        raise ConfigError(Problem(str(path), "", None, f"cannot be read: {reason}", remedy)) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            Problem(str(path), "", line, "this is not UTF-8", "save the file as UTF-8")
        ) from None


_POSITION: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SECRET: Final = re.compile(r"(pass|token|secret|cred|key|//)", re.IGNORECASE)
_MAX_SHOWN: Final = 80


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(Problem(str(path), "", None, "nested too deeply")) from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of thousands of digits
        said = str(error)
        position = _POSITION.search(said)
        if position is None:
            raise ConfigError(
                Problem(str(path), "", None, "a value cannot be read", "look for huge numbers")
            ) from None
        rows = text.replace("\r\n", "\n").split("\n")
        line = int(position[1]) if position[1] else len(rows)
        column = f"column {position[2]}" if position[2] else "end of file"
        shown = _presentable(rows, line)
        message = f"not valid TOML: {said[: position.start()].lower()}{shown}"
        raise ConfigError(Problem(str(path), column, line, message)) from None


def _presentable(rows: list[str], line: int) -> str:
    """The line, as far as it certainly has no secret in it: also none that began on a line above."""
    row = rows[line - 1].strip()
    above = "\n".join(rows[: line - 1])
    if not row or above.count('"""') % 2 or above.count("'''") % 2:
        return ""
    secret = _SECRET.search(row)
    if secret:
        row = f"{row[: secret.end()]}…"
    return f": {row[:_MAX_SHOWN]}"


def _at(document: object, path: KeyPath) -> object:
    """The value at a path, None where there is none."""
    for part in path:
        if isinstance(document, dict) and isinstance(part, str):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document


def place_of(path: KeyPath, document: object = None) -> str:
    """Write a path as people find it: `[[policy.rules]] #2 (dhcp-host-routes), key match.protocol`."""
    keys = [part for part in path if isinstance(part, str)]
    for table in (("policy", "rules"), ("targets",)):
        depth = len(table)
        if path[:depth] == table and len(path) > depth and isinstance(path[depth], int):
            name = _at(document, (*path[: depth + 1], "name"))
            head = f"[[{'.'.join(table)}]] #{int(path[depth]) + 1}"
            head += f" ({name})" if isinstance(name, str) and len(name) < _MAX_SHOWN else ""
            rest = path[depth + 1 :]
            return f"{head}, key {_dotted(rest)}" if rest else head
    if len(keys) == 1 and isinstance(_at(document, path), dict):
        return f"[{keys[0]}]"
    split = -1 if isinstance(path[-1], str) else -2
    key = f"key {_dotted(path[split:])}"
    return f"[{_dotted(path[:split])}], {key}" if path[:split] else key


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f" #{part + 1}" if isinstance(part, int) else f".{part}" if text else part
    return text


def _duplicates(document: object, table: tuple[str, ...]) -> Iterator[tuple[KeyPath, NotationError]]:
    entries = _at(document, table)
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = _at(entry, ("name",))
        if not isinstance(name, str):
            continue
        if name in seen:
            message = f"{name!r} is the name of #{seen[name] + 1} already"
            yield (*table, index, "name"), NotationError(message, "give each a name of its own")
        seen.setdefault(name, index)


def _tls_problems(settings: Settings) -> Iterator[tuple[KeyPath, NotationError]]:
    tables: list[tuple[KeyPath, TlsSettings | None]] = [
        (("targets", index, "tls"), target.tls) for index, target in enumerate(settings.targets)
    ]
    if settings.mqtt is not None:
        tables.append((("mqtt", "tls"), settings.mqtt.tls))
    for path, tls in tables:
        if tls is not None:
            try:
                client_context(tls)
            except NotationError as error:
                yield path, error


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


def _translate(details: ErrorDetails, document: object) -> tuple[KeyPath, NotationError]:
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
        if _at(document, (*path, part)) is not None:
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
