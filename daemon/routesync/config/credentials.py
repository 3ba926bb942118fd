"""Secrets and certificates: from the environment, from files, from systemd's credentials.

Secrets are filled into the document before it is validated, so this code assumes nothing about its types. No message
contains a secret.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import SecretStr

from routesync.config.models import TargetSettings, TlsSettings, WitnessSettings
from routesync.config.parsers import SettingError, fits_a_header
from routesync.config.problems import KeyPath
from routesync.files import REMEDY, UnfitFileError, read_file, require_regular

MQTT_PASSWORD: Final = "ROUTESYNC_MQTT_PASSWORD"  # noqa: S105  # the variable's name
TARGET_TOKEN: Final = re.compile(r"ROUTESYNC_TARGET_.+_TOKEN")
SECRETS: Final = ("password", "token")
"""Keys whose values are secrets."""
_TLS_FILES: Final = ("ca_file", "cert_file", "key_file")
_UNREADABLE: Final = (
    "create it, readable for this user, or name the credential in systemd's LoadCredential="
    " and check with `routesync check --as-service`"
)


class Origin(NamedTuple):
    """Where a value comes from."""

    kind: Literal["file", "environment", "credential", "default"]
    detail: str = ""  # which file, variable or credential, or what the default follows
    line: int | None = None  # of the configuration file

    def __str__(self) -> str:
        if self.line is not None:
            return f"{Path(self.detail).name}:{self.line}"
        if self.kind == "default":
            return f"default, {self.detail}" if self.detail else "default"
        return f"{'environment variable' if self.kind == 'environment' else self.kind} {self.detail}"


def token_variable(target: str) -> str:
    """The environment variable with the token of a target."""
    return f"ROUTESYNC_TARGET_{target.upper().replace('-', '_').replace('.', '_')}_TOKEN"


def without_secrets(document: dict[str, object]) -> dict[str, object]:
    """A copy of a document that has no secret in it."""
    copy = deepcopy(document)
    for _, table, key, _ in _holders(copy):
        table.pop(key, None)
    return copy


class Credentials:
    """Fills secrets into a document.

    Attributes:
        origins: where each secret came from that is not in the document itself.
        exposed: whether a secret is in the document itself.
        problems: secrets that could not be read.
        warnings: environment variables that no setting uses.
    """

    def __init__(self, base: Path, environ: Mapping[str, str], of_service: Mapping[str, Path | None]) -> None:
        self.origins: dict[KeyPath, Origin] = {}
        self.exposed = False
        self.problems: list[tuple[KeyPath, SettingError]] = []
        self.warnings: list[str] = []
        self._environ = environ
        self._base = base
        self._credentials = Path(it) if (it := environ.get("CREDENTIALS_DIRECTORY")) else None
        self._of_service = of_service if self._credentials is None else {}

    def fill(self, document: dict[str, object]) -> None:
        """Fill in the secrets, and make the names of TLS files absolute."""
        asked: dict[str, KeyPath] = {}
        for path, table, key, variable in _holders(document):
            if variable in asked and variable in self._environ:
                self._report(
                    (*path, key),
                    f"another target uses the environment variable {variable}, too",
                    "rename one of the targets",
                )
            asked[variable] = path
            self._secret(path, table, key, variable)
            tls = table.get("tls")
            if isinstance(tls, dict):
                files = {name: tls[name] for name in _TLS_FILES if isinstance(tls.get(name), str)}
                if any(self._is_hidden((*path, "tls", name), file) for name, file in files.items()):
                    del table["tls"]
                else:
                    tls |= {name: str(self._find(file)) for name, file in files.items()}
        for variable in sorted(self._environ):
            if (variable == MQTT_PASSWORD or TARGET_TOKEN.fullmatch(variable)) and variable not in asked:
                self.warnings.append(f"environment variable {variable}: no setting uses it")

    def _secret(self, path: KeyPath, table: dict[str, object], key: str, variable: str) -> None:
        where = (*path, key)
        file = table.get(f"{key}_file")
        if variable in self._environ:
            table[key] = self._environ[variable]
            table.pop(f"{key}_file", None)  # a token_file would be read again on every connect
            self.origins[where] = Origin("environment", variable)
            try:
                _require_secret(self._environ[variable], key)
            except SettingError as error:
                del table[key]
                remedy = "set or unset it" if not self._environ[variable] else error.remedy
                self._report(where, f"the environment variable {variable} {error.message}", remedy)
        elif key in table and file is not None:
            self._report((*path, f"{key}_file"), f"{key} is given as well", "leave one of them out")
        elif isinstance(file, str) and self._is_hidden((*path, f"{key}_file"), file):
            del table[f"{key}_file"]
        elif isinstance(file, str):
            found = self._find(file)
            secret = self._read((*path, f"{key}_file"), found, key)
            if secret is not None:
                table[key] = secret
                table[f"{key}_file"] = str(found)
                self.origins[where] = (
                    Origin("credential", file) if self._is_credential(found) else Origin("file", str(found))
                )
        elif key in table:
            self.exposed = True

    def _find(self, name: str) -> Path:
        """The file of this name: in systemd's directory, or else beside the configuration."""
        if source := self._of_service.get(name):
            return source
        beside = self._base / name
        if self._credentials is None or Path(name).is_absolute():
            return beside
        credential = self._credentials / name
        missing = not os.path.exists(credential)  # noqa: PTH110  # which never raises
        return beside if missing and os.path.exists(beside) else credential  # noqa: PTH110

    def _is_hidden(self, path: KeyPath, name: str) -> bool:
        """Whether systemd has a credential of this name for the service alone, which is reported then."""
        hidden = self._of_service.get(name, self._base) is None
        if hidden:
            message = f"the credential {name!r} is not known: systemd hands it to the service while that runs"
            self._report(path, message, "start the service", unread=True)
        return hidden

    def _is_credential(self, file: Path) -> bool:
        return self._credentials is not None and file.is_relative_to(self._credentials)

    def _read(self, path: KeyPath, file: Path, key: str) -> str | None:
        try:
            return read_secret(file, key)
        except SettingError as error:
            self._report(path, f"{str(file)!r}: it {error.message}", error.remedy)
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            reason = error.strerror if isinstance(error, OSError) else error
            elsewhere = ", nor is it beside the configuration" if self._is_credential(file) else ""
            self._report(
                path,
                f"cannot read {str(file)!r}: {reason}{elsewhere}",
                _remedy(error),
                unread=isinstance(error, PermissionError),
            )
        return None

    def _report(self, path: KeyPath, message: str, remedy: str, *, unread: bool = False) -> None:
        self.problems.append((path, SettingError(message, remedy, unread=unread)))


def _holders(document: dict[str, object]) -> Iterator[tuple[KeyPath, dict[str, object], str, str]]:
    """The tables that may have a secret: path, table, key, environment variable."""
    mqtt = document.get("mqtt")
    if isinstance(mqtt, dict):
        yield ("mqtt",), mqtt, "password", MQTT_PASSWORD
    targets = document.get("targets")
    for index, target in enumerate(targets if isinstance(targets, list) else ()):
        if isinstance(target, dict):
            yield ("targets", index), target, "token", token_variable(str(target.get("name")))


def read_secret(file: Path, key: str) -> str:
    """Read a password or token: the content of a file without its final line break.

    Args:
        file: the file; a byte order mark in it counts for nothing.
        key: what it is for, one of `SECRETS`.

    Raises:
        SettingError: it is no text, or no secret; the message continues a sentence about the file.
        OSError: it cannot be read.
    """
    try:
        text = read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SettingError("is not UTF-8 text", "put the secret into it") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    _require_secret(text, key)
    return text


def _require_secret(text: str, key: str) -> None:
    """Raise SettingError with what is wrong with a secret, in words that continue a sentence about its place."""
    if not text:
        raise SettingError("is empty", "put the secret into it")
    if "\n" in text:
        raise SettingError("has more than one line", "leave only the secret in it")
    if text != text.strip():
        raise SettingError("begins or ends with a blank", "remove it: nothing but the secret may be there")
    if key == "token" and not fits_a_header(text):
        raise SettingError(
            "contains characters that an HTTP header cannot carry",
            "put the secret into it, in printable ASCII",
        )


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """Make the context of a client that checks the server's certificate and name.

    Raises:
        SettingError: a file that cannot be read, or is not the PEM file that it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks both
    load_files(context, tls)
    return context


def load_files(context: ssl.SSLContext, tls: TlsSettings) -> None:
    """Load the certificates and the key that the settings name.

    Raises:
        SettingError: a file that cannot be read, or is not the PEM file that it should be.
    """
    for key in _TLS_FILES:
        file: str | None = getattr(tls, key)
        try:
            if file is not None:
                require_regular(Path(file))  # OpenSSL would wait for the writer of a pipe
        except (OSError, ValueError) as error:
            raise _unusable(key, file, error) from None
    try:
        if tls.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(tls.ca_file)
    except (OSError, ValueError) as error:
        raise _unusable("ca_file", tls.ca_file, error) from None
    if tls.cert_file is not None:
        try:
            # An empty passphrase keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (OSError, ValueError) as error:
            raise _unusable("cert_file or key_file", tls.key_file or tls.cert_file, error) from None


def _unusable(key: str, file: str | None, error: Exception) -> SettingError:
    if isinstance(error, ssl.SSLError):
        return SettingError(
            f"{key}: {file!r} is not usable ({error.reason or 'a part is missing'})",
            "name PEM files that belong together",
        )
    reason = error.strerror if isinstance(error, OSError) else "not a valid file name"
    return SettingError(
        f"{key}: cannot read {file!r}: {reason}", _remedy(error), unread=isinstance(error, PermissionError)
    )


def _remedy(error: Exception) -> str:
    return REMEDY if isinstance(error, UnfitFileError) else _UNREADABLE


class Endpoint(NamedTuple):
    """How a target is reached and observed. A change calls for a new client and a new handshake."""

    name: str
    url: str
    token: SecretStr | None
    token_file: str | None
    tls: TlsSettings | None
    witness: WitnessSettings | None
    tls_files: tuple[
        tuple[str, int, int], ...
    ]  # name, mtime in ns, size: certificates are renewed under one name


def endpoint_of(target: TargetSettings) -> Endpoint:
    """The endpoint of a target, with the present state of its TLS files; one that cannot be read counts as empty."""
    tls = target.tls
    names = (tls.ca_file, tls.cert_file, tls.key_file) if tls else ()
    files = tuple(map(_state_of, filter(None, names)))
    return Endpoint(
        target.name, target.url, target.token, target.token_file, target.tls, target.witness, files
    )


def _state_of(name: str) -> tuple[str, int, int]:
    try:
        found = Path(name).stat()
    except OSError:
        return (name, 0, 0)
    return (name, found.st_mtime_ns, found.st_size)
