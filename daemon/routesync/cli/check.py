"""`routesync check` and `schema`: what a configuration file comes to, and the documents that describe the formats."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from routesync.cli.output import EX_CONFIG, EX_USAGE, fail, print_error
from routesync.config import ConfigError, Loaded, load
from routesync.config.effective import Setting, effective, toml


def load_or_fail(file: Path, *, warn: bool = True) -> Loaded:
    """Load a configuration, and print what is odd about it; an invalid one ends the command with all its faults."""
    try:
        loaded = load(file)
    except ConfigError as error:
        fail(str(error), EX_CONFIG)
    for warning in loaded.warnings if warn else ():
        print_error(f"warning: {warning}")
    return loaded


def check(file: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _check_for_machines(file)
        return
    loaded = load_or_fail(file)
    if quiet:
        return
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


def _check_for_machines(file: Path) -> None:
    try:
        loaded = load(file)
    except ConfigError as error:
        problems = [problem._asdict() for problem in error.problems]
        print(json.dumps({"file": str(file), "valid": False, "problems": problems}, indent=2))
        raise typer.Exit(EX_CONFIG) from None
    answer = {
        "file": str(file),
        "valid": True,
        "digest": loaded.digest,
        "warnings": list(loaded.warnings),
        "settings": [_setting(it) for it in effective(loaded)],
    }
    print(json.dumps(answer, indent=2))


def _setting(setting: Setting) -> dict[str, object]:
    origin = setting.origin
    shown = {"secret": True} if setting.secret else {"value": setting.value}
    return {
        "key": list(setting.path),
        **shown,
        "origin": {"kind": origin.kind, "detail": origin.detail or None, "line": origin.line},
    }


def documents() -> dict[str, Path]:
    """The documents by name; `make docs` writes them, and the wheel contains them in one folder."""
    packaged = Path(__file__).parents[1] / "contracts"
    if packaged.is_dir():
        return {file.stem: file for file in packaged.glob("*.json")}
    repository = Path(__file__).parents[3]
    files = (repository / "docs/events").glob("**/*.json")
    return {"config": repository / "config/routesync.schema.json"} | {file.stem: file for file in files}


def schema(which: str) -> None:
    known = documents()
    if which not in known:
        fail(f"schema {which!r} is unknown; known schemas: {', '.join(sorted(known))}", EX_USAGE)
    print(known[which].read_text(encoding="utf-8"), end="")
