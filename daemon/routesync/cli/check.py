"""`routesync check`: is this file fit to be run, and what does it come to?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from routesync.cli.output import print_error
from routesync.config import ConfigError, Loaded, load
from routesync.config.effective import Setting, effective, toml
from routesync.config.problems import Problem

EX_CONFIG: Final = 78
"""sysexits.h: the configuration is wrong. systemd does not restart a service that ends so."""


def load_or_explain(file: Path) -> Loaded | None:
    """Load a configuration; explain on standard error what is wrong with it, or merely odd."""
    try:
        loaded = load(file)
    except ConfigError as error:
        print_error(str(error))
        return None
    for warning in loaded.warnings:
        print_error(f"warning: {warning}")
    return loaded


def check(file: Path, *, as_json: bool = False, quiet: bool = False) -> int:
    """Check a file, and show what it comes to; return the exit status."""
    if as_json:
        return _check_for_machines(file)
    loaded = load_or_explain(file)
    if loaded is None:
        return EX_CONFIG
    if quiet:
        return 0
    settings = loaded.settings
    targets = ", ".join(f"{target.name} ({target.url})" for target in settings.targets) or "none"
    broker = (
        f"{settings.mqtt.host}:{settings.mqtt.port}" if settings.mqtt else "none, events go to the log only"
    )
    print(f"# {file}: ok")
    print(
        f"#   mode {settings.mode}; {len(settings.policy.rules)} rules, then {settings.policy.default_action}"
    )
    print(f"#   targets: {targets}")
    print(f"#   broker: {broker}\n")
    print(toml(effective(loaded)), end="")
    return 0


def _check_for_machines(file: Path) -> int:
    answer: dict[str, object]
    try:
        loaded = load(file)
    except ConfigError as error:
        answer = {"file": str(file), "valid": False, "problems": [_problem(it) for it in error.problems]}
    else:
        answer = {
            "file": str(file),
            "valid": True,
            "digest": loaded.digest,
            "warnings": list(loaded.warnings),
            "settings": [_setting(it) for it in effective(loaded)],
        }
    json.dump(answer, sys.stdout, indent=2)
    print()
    return 0 if answer["valid"] else EX_CONFIG


def _problem(problem: Problem) -> dict[str, object]:
    return problem._asdict()


def _setting(setting: Setting) -> dict[str, object]:
    origin = setting.origin
    shown = {"secret": True} if setting.secret else {"value": setting.value}
    return {
        "key": list(setting.path),
        **shown,
        "origin": {"kind": origin.kind, "detail": origin.detail or None, "line": origin.line},
    }
