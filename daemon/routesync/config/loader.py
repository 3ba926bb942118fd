"""The loader: from a file to validated settings, or to a list of all its faults.

Each fault is one line with file, line, table and key, and what to write instead. Whatever the file contains, `load`
raises nothing but `ConfigError`. No message contains a secret.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from pydantic import ValidationError

from routesync.config import environment
from routesync.config.credentials import Credentials, Origin, client_context, without_secrets
from routesync.config.models import Settings, TargetSettings, TlsSettings
from routesync.config.parsers import SettingError, shown, suggest
from routesync.config.problems import (
    TARGET_DEFAULTS,
    ConfigError,
    KeyPath,
    Place,
    line_of,
    place_of,
    problem_at,
    translate,
    value_at,
)
from routesync.config.rules import compile_policy
from routesync.config.sources import Reader, Source, digest_of, drop_ins_of, inherit, merged, read_source
from routesync.files import read_file
from routesync.names import Names
from routesync.policy import Policy
from routesync.url import BaseUrl


class Loaded(NamedTuple):
    """A valid configuration."""

    settings: Settings
    path: Path
    names: Names  # of this host; names in the file were looked up in them
    policy: Policy
    digest: str  # SHA-256 of the file and its drop-ins, one after another, in hex
    origins: Mapping[KeyPath, Origin]  # of secrets and settings that are not from the file itself
    warnings: tuple[str, ...]  # one line each
    document: Mapping[str, object]  # the parsed files, merged, without their secrets
    lines: Mapping[KeyPath, Place]  # of each key

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secrets in the settings, so that the log can leave them out."""
        held = [target.token for target in self.settings.targets]
        held += [self.settings.mqtt.password] if self.settings.mqtt else []
        return tuple(secret.get_secret_value() for secret in held if secret is not None)


def load(
    path: Path,
    environ: Mapping[str, str] = os.environ,
    names: Names | None = None,
    of_service: Mapping[str, Path | None] = MappingProxyType({}),
    read: Reader = read_file,
) -> Loaded:
    """Read, complete and validate a configuration: a file, and the drop-ins in the directory of its name and ".d".

    Args:
        path: the TOML file.
        environ: has secrets, some settings, and $CREDENTIALS_DIRECTORY, where relative file names are looked up.
        names: names of protocols and tables; by default those of this host.
        of_service: credentials that systemd has for the service, by name, with their files (None: not known), where
            there is no $CREDENTIALS_DIRECTORY.
        read: reads the TOML file; its drop-ins have to be regular files.

    Raises:
        ConfigError: all faults at once.
    """
    sources = [read_source(path, read), *map(read_source, drop_ins_of(path))]
    document, lines = merged(sources)
    found = list(environment.expand(document, environ))
    lines = inherit(document, lines)
    written = without_secrets(document)
    names = names or Names.of_host()
    credentials = Credentials(path.absolute().parent, environ, of_service)
    credentials.fill(document)
    from_environment = environment.fill(document, environ)

    unset = {key for key, _ in found}
    found += credentials.problems
    found += _duplicates(document, ("targets",))
    found += _duplicates(document, ("policy", "rules"))
    found += _unknown_lists(document)
    settings = None
    try:
        settings = Settings.model_validate(document, context=names)
    except ValidationError as error:
        wrong = [translate(details, document) for details in error.errors(include_url=False)]
        found += [it for it in wrong if it[0] not in unset]
    if settings is not None:
        found += _tls_problems(settings)
        found += _same_urls(settings)
    if settings is None or found:
        problems = [
            problem_at(
                from_environment.get(key) or line_of(lines, key) or path,
                place_of(key, document),
                error,
            )
            for key, error in _once(found)
        ]
        raise ConfigError(
            *sorted(problems, key=lambda problem: (problem.file != str(path), problem.line or 0))
        )
    policy = compile_policy(settings.policy)
    warnings = (
        *credentials.warnings,
        *environment.unknown_variables(environ),
        *(warning for it in sources if credentials.exposed for warning in _readable_by_all(it)),
        *_open_doors(line_of(lines, ("control", "listen")) or path, settings),
        *(_placed(path, lines, warning) for warning in (*policy.warnings, *_guard_without_effect(settings))),
    )
    digest = digest_of(it.content for it in sources)
    origins = credentials.origins | from_environment
    return Loaded(settings, path, names, policy, digest, origins, warnings, written, lines)


def unconfigured_target(
    loaded: Loaded, name: str, url: str, environ: Mapping[str, str] = os.environ
) -> TargetSettings:
    """A target that the configuration does not have any more: its [target_defaults], and its token from `environ`.

    Raises:
        ConfigError: they cannot be used.
    """
    document: dict[str, object] = {"targets": [{"name": name, "url": url}]}
    if TARGET_DEFAULTS in loaded.document:
        document[TARGET_DEFAULTS] = loaded.document[TARGET_DEFAULTS]
    inherit(document, {})
    credentials = Credentials(loaded.path.absolute().parent, environ, {})
    credentials.fill(document)
    found = credentials.problems
    settings = None
    try:
        settings = Settings.model_validate(document, context=loaded.names)
        found += _tls_problems(settings)
    except ValidationError as error:
        found += [translate(details, document) for details in error.errors(include_url=False)]
    if settings is None or found:
        faults = (problem_at(loaded.path, f"target {name}, key {key[-1]}", it) for key, it in _once(found))
        raise ConfigError(*faults)
    return settings.targets[0]


def shipped_configuration() -> Path:
    """The configuration shipped with the program: safe defaults, no target, no broker."""
    installed = Path(__file__).with_name("routesync.toml")
    return installed if installed.exists() else Path(__file__).parents[3] / "config" / "routesync.toml"


_RULE: Final = re.compile(r"\[\[policy\.rules\]\] #(\d+) ")


def _placed(path: Path, lines: Mapping[KeyPath, Place], warning: str) -> str:
    found = _RULE.match(warning)
    place = line_of(lines, ("policy", "rules", int(found[1]) - 1)) if found else None
    return f"{place or path}: {warning}"


def _readable_by_all(source: Source) -> Iterator[str]:
    path = source.path
    if without_secrets(source.document) == source.document:
        return
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


def _open_doors(place: Place | Path, settings: Settings) -> Iterator[str]:
    listen = settings.control.listen
    if listen is not None and not listen.is_loopback:
        yield (
            f"{place}: [control], key listen: any client that reaches {listen} can read metrics and health; "
            "use 127.0.0.1 or [::1] to keep them on this host"
        )


def _duplicates(document: object, table: tuple[str, ...]) -> Iterator[tuple[KeyPath, SettingError]]:
    entries = value_at(document, table)
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = value_at(entry, ("name",))
        if not isinstance(name, str):
            continue
        if name in seen:
            message = f"#{seen[name] + 1} has the name {shown(name)} already"
            yield (*table, index, "name"), SettingError(message, "choose another name")
        seen.setdefault(name, index)


def _once(
    found: Sequence[tuple[KeyPath, SettingError]],
) -> Iterator[tuple[KeyPath, SettingError]]:
    """Leave out of a target what is said of its [target_defaults] already."""
    of_defaults = {(key[1:], str(error)) for key, error in found if key[0] == TARGET_DEFAULTS}
    for key, error in found:
        if key[0] != "targets" or (key[2:], str(error)) not in of_defaults:
            yield key, error


def _unknown_lists(document: object) -> Iterator[tuple[KeyPath, SettingError]]:
    """Entries of rules that name a list which is not there, and lists that name another."""
    lists = value_at(document, ("policy", "prefix_lists"))
    known = lists if isinstance(lists, dict) else {}
    rules = value_at(document, ("policy", "rules"))
    for index in range(len(rules) if isinstance(rules, list) else 0):
        for path, name in _named_lists(document, ("policy", "rules", index, "match", "prefix")):
            if name not in known:
                remedy = (
                    suggest(name, known)
                    or f"write [policy.prefix_lists] with {shown(name)[1:-1]} = [PREFIX, …]"
                )
                yield path, SettingError(f"there is no prefix list {shown(name)}", remedy)
    for name in known:
        for path, _ in _named_lists(document, ("policy", "prefix_lists", name)):
            yield path, SettingError("a prefix list cannot contain another", "name both lists in the rule")


def _named_lists(document: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    value = value_at(document, path)
    entries = enumerate(value) if isinstance(value, list) else [(None, value)]
    for index, entry in entries:
        if isinstance(entry, dict) and isinstance(name := entry.get("list"), str):
            yield (*path, *(() if index is None else (index,)), "list"), name


def _same_urls(settings: Settings) -> Iterator[tuple[KeyPath, SettingError]]:
    seen: dict[BaseUrl, int] = {}
    for index, target in enumerate(settings.targets):
        url = BaseUrl.parse(target.url).with_port
        first = seen.setdefault(url, index)
        if first != index:
            yield (
                ("targets", index, "url"),
                SettingError(
                    f"#{first + 1} ({settings.targets[first].name}) has this URL already, and two targets that are one "
                    "loxilb send it more than it takes",
                    "remove one of them",
                ),
            )


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
