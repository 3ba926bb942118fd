"""The loader: from a file to validated settings, or to a list of all its faults.

Each fault is one line with file, line, table and key, and what to write instead. Whatever the file contains, `load`
raises nothing but `ConfigError`. No message contains a secret.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from routesync.config import environment
from routesync.config.credentials import Credentials, Origin, client_context, without_secrets
from routesync.config.models import Settings, TlsSettings
from routesync.config.parsers import SettingError
from routesync.config.problems import (
    ConfigError,
    KeyPath,
    Problem,
    key_lines,
    line_of,
    place_of,
    translate,
    value_at,
)
from routesync.config.rules import compile_policy
from routesync.names import Names
from routesync.policy import Policy


class Loaded(NamedTuple):
    """A valid configuration."""

    settings: Settings
    path: Path
    names: Names  # of this host; names in the file were looked up in them
    policy: Policy
    digest: str  # SHA-256 of the file, in hex
    origins: Mapping[KeyPath, Origin]  # of secrets and settings that are not from the file itself
    warnings: tuple[str, ...]  # one line each
    document: Mapping[str, object]  # the parsed file, without its secrets
    lines: Mapping[KeyPath, int]  # of each key

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secrets in the settings, so that the log can leave them out."""
        held = [target.token for target in self.settings.targets]
        held += [self.settings.mqtt.password] if self.settings.mqtt else []
        return tuple(secret.get_secret_value() for secret in held if secret is not None)


def load(path: Path, environ: Mapping[str, str] = os.environ, names: Names | None = None) -> Loaded:
    """Read, complete and validate a configuration.

    Args:
        path: the TOML file.
        environ: has secrets, some settings, and $CREDENTIALS_DIRECTORY, where relative file names are looked up.
        names: names of protocols and tables; by default those of this host.

    Raises:
        ConfigError: all faults at once.
    """
    content = _read(path)
    text = _decode(path, content)
    document = _parse(path, text)
    written = without_secrets(document)
    lines = _lines(text)
    names = names or Names.of_host()
    credentials = Credentials(path.absolute().parent, environ)
    credentials.fill(document)
    from_environment = environment.fill(document, environ)

    found = list(credentials.problems)
    found += _duplicates(document, ("targets",))
    found += _duplicates(document, ("policy", "rules"))
    settings = None
    try:
        settings = Settings.model_validate(document, context=names)
    except ValidationError as error:
        found += [translate(details, document) for details in error.errors(include_url=False)]
    if settings is not None:
        found += _tls_problems(settings)
    if settings is None or found:
        problems = [
            Problem(str(origin or path), place_of(key, document), line, error.message, error.remedy)
            for key, error in found
            for origin in (from_environment.get(key),)
            for line in (None if origin else line_of(lines, key),)
        ]
        raise ConfigError(*sorted(problems, key=lambda problem: problem.line or 0))
    policy = compile_policy(settings.policy)
    warnings = (
        *credentials.warnings,
        *environment.unknown_variables(environ),
        *(_readable_by_all(path) if credentials.exposed else ()),
        *_open_doors(path, settings),
        *(_placed(path, lines, warning) for warning in (*policy.warnings, *_guard_without_effect(settings))),
    )
    digest = hashlib.sha256(content).hexdigest()
    origins = credentials.origins | from_environment
    return Loaded(settings, path, names, policy, digest, origins, warnings, written, lines)


def shipped_configuration() -> Path:
    """The configuration shipped with the program: safe defaults, no target, no broker."""
    installed = Path(__file__).with_name("routesync.toml")
    return installed if installed.exists() else Path(__file__).parents[3] / "config" / "routesync.toml"


def _failed(
    path: Path, message: str, remedy: str = "", *, place: str = "", line: int | None = None
) -> ConfigError:
    """The error of a file that cannot be read as a document."""
    return ConfigError(Problem(str(path), place, line, message, remedy))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        remedy = "name an existing file, or start from the shipped config/routesync.toml"
        raise _failed(path, "no such file", remedy) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _failed(path, f"cannot be read: {reason}", "name a file that this user may read") from None


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _failed(path, "this is not UTF-8", "save the file as UTF-8", line=line) from None


def _lines(text: str) -> Mapping[KeyPath, int]:
    try:
        return key_lines(text)
    except RecursionError:  # nested just not too deeply for tomllib
        return {}


_RULE: Final = re.compile(r"\[\[policy\.rules\]\] #(\d+) ")


def _rule_line(lines: Mapping[KeyPath, int], place: str) -> int | None:
    found = _RULE.match(place)
    return line_of(lines, ("policy", "rules", int(found[1]) - 1)) if found else None


def _placed(path: Path, lines: Mapping[KeyPath, int], warning: str) -> str:
    line = _rule_line(lines, warning)
    return f"{path}:{line}: {warning}" if line is not None else f"{path}: {warning}"


def _readable_by_all(path: Path) -> Iterator[str]:
    try:
        readable = path.stat().st_mode & stat.S_IROTH
    except OSError:  # gone since it was read
        return
    if readable:
        yield f"{path}: every user of this host can read the secret in it; chmod o-r, or move it to a file of its own"


def _guard_without_effect(settings: Settings) -> Iterator[str]:
    guarded = [number for number, rule in enumerate(settings.policy.rules, 1) if rule.guard]
    if settings.mode == "guard" and not guarded:
        yield 'mode "guard" removes nothing: no rule says guard = true'
    if settings.mode != "guard":
        for number in guarded:
            name = settings.policy.rules[number - 1].name
            yield (
                f'[[policy.rules]] #{number} ({name}): guard = true takes effect in mode "guard" only, '
                f'and the mode is "{settings.mode}"'
            )


def _open_doors(path: Path, settings: Settings) -> Iterator[str]:
    listen = settings.control.listen
    if listen is not None and not listen.is_loopback:
        yield (
            f"{path}: [control], key listen: any client that reaches {listen} can read metrics and health; "
            "use 127.0.0.1 or [::1] to keep them on this host"
        )


_POSITION: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SECRET: Final = re.compile(r"(pass|token|secret|cred|key|//)", re.IGNORECASE)
_STATEMENT: Final = re.compile(r"\[|[^=#]+=")
_MAX_SHOWN: Final = 80


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _failed(path, "nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of thousands of digits
        said = str(error)
        position = _POSITION.search(said)
        if position is None:
            raise _failed(path, "a value cannot be read", "look for huge numbers") from None
        rows = text.replace("\r\n", "\n").split("\n")
        line = int(position[1]) if position[1] else len(rows)
        column = f"column {position[2]}" if position[2] else "end of file"
        shown = _presentable(rows, line)
        message = f"not valid TOML: {said[0].lower()}{said[1 : position.start()]}{shown}"
        raise _failed(path, message, place=column, line=line) from None


def _presentable(rows: list[str], line: int) -> str:
    """The line up to where a secret may begin; nothing if it may continue a value of the lines above."""
    row = rows[line - 1].strip()
    above = "\n".join(rows[: line - 1])
    if not _STATEMENT.match(row) or '"""' in above or "'''" in above:
        return ""
    secret = _SECRET.search(row)
    if secret:
        row = f"{row[: secret.end()]}…"
    return f": {row[:_MAX_SHOWN]}"


def _duplicates(document: object, table: tuple[str, ...]) -> Iterator[tuple[KeyPath, SettingError]]:
    entries = value_at(document, table)
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = value_at(entry, ("name",))
        if not isinstance(name, str):
            continue
        if name in seen:
            message = f"#{seen[name] + 1} has the name {name!r} already"
            yield (*table, index, "name"), SettingError(message, "choose another name")
        seen.setdefault(name, index)


def _tls_problems(settings: Settings) -> Iterator[tuple[KeyPath, SettingError]]:
    tables: list[tuple[KeyPath, TlsSettings | None]] = [
        (("targets", index, "tls"), target.tls) for index, target in enumerate(settings.targets)
    ]
    if settings.mqtt is not None:
        tables.append((("mqtt", "tls"), settings.mqtt.tls))
    for path, tls in tables:
        if tls is not None:
            try:
                client_context(tls)
            except SettingError as error:
                yield path, error
