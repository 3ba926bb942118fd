"""Secrets and files that the configuration names: from the environment, from files, from systemd.

Works on the document as TOML gave it, before it is validated, and so takes nothing for granted. No message has a secret
in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Final

from routesync.config.locate import KeyPath
from routesync.settings.notation import NotationError

MQTT_PASSWORD: Final = "ROUTESYNC_MQTT_PASSWORD"  # noqa: S105  # the variable's name
IN_THE_FILE: Final = "configuration file"
_TARGET_TOKEN: Final = re.compile(r"ROUTESYNC_TARGET_.+_TOKEN")
_TLS_FILES: Final = ("ca_file", "cert_file", "key_file")


def token_variable(target: str) -> str:
    """Name the environment variable with the token of a target."""
    return f"ROUTESYNC_TARGET_{target.upper().replace('-', '_').replace('.', '_')}_TOKEN"


def without_secrets(document: dict[str, object]) -> dict[str, object]:
    """A copy of a document that has no secret in it."""
    copy = deepcopy(document)
    for _, table, key, _ in _holders(copy):
        table.pop(key, None)
    return copy


class Credentials:
    """Puts secrets into a document, and remembers where they came from and what was wrong.

    Attributes:
        origins: where each secret came from, by the key's dotted path.
        problems: what could not be had.
        warnings: variables that no setting asks for.
    """

    def __init__(self, base: Path, environ: Mapping[str, str]) -> None:
        self.origins: dict[str, str] = {}
        self.problems: list[tuple[KeyPath, NotationError]] = []
        self.warnings: list[str] = []
        self._environ = environ
        self._base = Path(environ.get("CREDENTIALS_DIRECTORY") or base)
        self._from_systemd = bool(environ.get("CREDENTIALS_DIRECTORY"))

    def fill(self, document: dict[str, object]) -> None:
        """Put the secrets in, and make the names of TLS files absolute."""
        asked: dict[str, KeyPath] = {}
        for path, table, key, variable in _holders(document):
            if variable in asked and variable in self._environ:
                self._complain(
                    (*path, key), f"the variable {variable} is that of another target, too", "rename one"
                )
            asked[variable] = path
            self._secret(path, table, key, variable)
            tls = table.get("tls")
            if isinstance(tls, dict):
                for name in _TLS_FILES:
                    if isinstance(tls.get(name), str):
                        tls[name] = str(self._base / tls[name])
        for variable in sorted(self._environ):
            if (variable == MQTT_PASSWORD or _TARGET_TOKEN.fullmatch(variable)) and variable not in asked:
                self.warnings.append(f"environment variable {variable}: no setting asks for it")

    def _secret(self, path: KeyPath, table: dict[str, object], key: str, variable: str) -> None:
        where = ".".join(map(str, (*path, key)))
        file = table.get(f"{key}_file")
        if variable in self._environ:
            table[key] = self._environ[variable]
            table.pop(f"{key}_file", None)  # what is left is read again on every connect
            self.origins[where] = f"environment variable {variable}"
            if not table[key]:
                self._complain(
                    (*path, key), f"the environment variable {variable} is empty", "set or unset it"
                )
        elif key in table and file is not None:
            self._complain((*path, f"{key}_file"), f"{key} is given as well", "leave one of them out")
        elif isinstance(file, str):
            secret = self._read((*path, f"{key}_file"), self._base / file)
            if secret is not None:
                table[key] = secret
                table[f"{key}_file"] = str(self._base / file)
                handed = self._from_systemd and not Path(file).is_absolute()
                self.origins[where] = f"credential {file}" if handed else f"file {self._base / file}"
        elif key in table:
            self.origins[where] = IN_THE_FILE

    def _read(self, path: KeyPath, file: Path) -> str | None:
        try:
            text = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self._complain(
                path,
                f"cannot read {str(file)!r}: {reason}",
                "create it, readable for this user, or name the credential in systemd's LoadCredential=",
            )
            return None
        if not text:
            self._complain(path, f"{str(file)!r} is empty", "put the secret into it")
            return None
        return text

    def _complain(self, path: KeyPath, message: str, remedy: str) -> None:
        self.problems.append((path, NotationError(message, remedy)))


def _holders(document: dict[str, object]) -> Iterator[tuple[KeyPath, dict[str, object], str, str]]:
    """The tables that have a secret: path, table, key, environment variable."""
    mqtt = document.get("mqtt")
    if isinstance(mqtt, dict):
        yield ("mqtt",), mqtt, "password", MQTT_PASSWORD
    targets = document.get("targets")
    for index, target in enumerate(targets if isinstance(targets, list) else ()):
        if isinstance(target, dict):
            yield ("targets", index), target, "token", token_variable(str(target.get("name")))
