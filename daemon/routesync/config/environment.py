"""The environment: settings from it, `${NAME}` in the file, and variables that mean nothing.

So one file serves every node of a cluster.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Final

from routesync.config.credentials import MQTT_PASSWORD, SECRETS, TARGET_TOKEN, Origin
from routesync.config.parsers import SettingError
from routesync.config.problems import KeyPath

SETTINGS: Final[Mapping[str, KeyPath]] = {
    "ROUTESYNC_NODE_NAME": ("node", "name"),
    "ROUTESYNC_MODE": ("mode",),
}
"""They take precedence over the file; empty ones count as not set."""
_OURS: Final = "ROUTESYNC_"
_SERVICE_LINK: Final = re.compile(
    r"ROUTESYNC(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes puts into pods beside a Service whose name begins with routesync."""
_REFERENCE: Final = re.compile(r"\$\{([^{}]*)(\}?)")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(
    value: object, environ: Mapping[str, str], path: KeyPath = ()
) -> Iterator[tuple[KeyPath, SettingError]]:
    """Replace each `${NAME}` in the strings of a table or an array, in place; secrets stay as they are.

    Yields a fault for each variable that is not set; an empty one counts as not set.
    """
    items = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    for key, item in list(items):
        if isinstance(item, str) and "${" in item and key not in SECRETS:
            try:
                value[key] = _REFERENCE.sub(lambda found: _variable(found, environ), item)  # type: ignore[index]
            except SettingError as error:
                yield (*path, key), error
        else:
            yield from expand(item, environ, (*path, key))


def _variable(found: re.Match[str], environ: Mapping[str, str]) -> str:
    name, closed = found.groups()
    if not closed or not _VARIABLE.fullmatch(name):
        raise SettingError(
            "a '${' in it is not followed by the name of an environment variable and '}'",
            "write it like ${NODE_IP}",
        )
    if not environ.get(name):
        raise SettingError(
            f"the environment variable {name} is not set",
            "set it for the daemon (Environment= of the unit, env of the pod), or write the value here",
        )
    return environ[name]


def fill(document: dict[str, object], environ: Mapping[str, str]) -> dict[KeyPath, Origin]:
    """Put the environment's settings into the document; return where they came from."""
    origins: dict[KeyPath, Origin] = {}
    for variable, path in SETTINGS.items():
        if value := environ.get(variable):
            *tables, key = path
            table: object = document
            for name in tables:
                table = table.setdefault(name, {}) if isinstance(table, dict) else None
            if isinstance(table, dict):  # else the file is wrong there, and the validation says so
                table[key] = value
                origins[path] = Origin("environment", variable)
    return origins


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that looks like one of routesync's, and is none."""
    for variable in sorted(environ):
        known = variable == MQTT_PASSWORD or variable in SETTINGS or TARGET_TOKEN.fullmatch(variable)
        if variable.startswith(_OURS) and not known and not _SERVICE_LINK.fullmatch(variable):
            names = [it.removeprefix(_OURS) for it in (*SETTINGS, MQTT_PASSWORD)]
            close = difflib.get_close_matches(variable.removeprefix(_OURS), names, n=1)
            remedy = f"; did you mean {_OURS}{close[0]}?" if close else ""
            yield f"environment variable {variable}: routesync has none of this name{remedy}"
