"""`routesync check`: is this file fit to be run?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from routesync.cli.output import complain
from routesync.config import ConfigError, Loaded, load

EX_CONFIG: Final = 78
"""sysexits.h: the configuration is wrong. systemd does not restart a service that ends so."""


def load_or_explain(file: Path) -> Loaded | None:
    """Load a configuration; explain on standard error what is wrong with it, or merely odd."""
    try:
        loaded = load(file)
    except ConfigError as error:
        complain(str(error))
        return None
    for warning in loaded.warnings:
        complain(f"warning: {warning}")
    return loaded


def check(file: Path) -> int:
    """Check a file; return the exit status."""
    loaded = load_or_explain(file)
    if loaded is None:
        return EX_CONFIG
    settings = loaded.settings
    targets = ", ".join(f"{target.name} ({target.url})" for target in settings.targets) or "none"
    broker = (
        f"{settings.mqtt.host}:{settings.mqtt.port}" if settings.mqtt else "none, events go to the log only"
    )
    print(f"{file}: ok")
    print(
        f"  mode {settings.mode}; {len(settings.policy.rules)} rules, then {settings.policy.default_action}"
    )
    print(f"  targets: {targets}")
    print(f"  broker: {broker}")
    return 0
