"""`routesync check` and `schema`: what a configuration file comes to, and the documents that describe the formats."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import typer

from routesync.characters import many
from routesync.cli.output import EX_CONFIG, EX_USAGE, fail, print_error, print_object
from routesync.config import ConfigError, Loaded, load
from routesync.config.effective import Setting, effective, toml
from routesync.config.resolve import look_up_and_resolve
from routesync.config.sources import read_named
from routesync.doctor.daemon import missing_credentials, service_settings

UNIT: Final = "routesync.service"
_OF_THE_READER: Final = (
    *("User", "Group", "SupplementaryGroups", "DynamicUser", "Environment", "EnvironmentFile"),
    *("LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted"),
    *(
        "ProtectHome",
        "ProtectSystem",
        "PrivateTmp",
        "PrivateUsers",
        "ConfigurationDirectory",
        "ReadOnlyPaths",
    ),
    *("InaccessiblePaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem"),
)
"""Settings of the unit that decide which files the service can read, and what is in its environment."""


def load_or_fail(file: Path, *, warn: bool = True) -> Loaded:
    """Load a configuration, and print what is odd about it; an invalid one ends the command with all its faults."""
    try:
        loaded = load(file, read=read_named)
    except ConfigError as error:
        fail(str(error), EX_CONFIG)
    for warning in loaded.warnings if warn else ():
        print_error(f"warning: {warning}")
    return loaded


def load_with_addresses(file: Path) -> Loaded:
    """The same, with a target for each address of a name that means several; one that cannot be looked up is named."""
    loaded = load_or_fail(file)
    settings, troubles = look_up_and_resolve(loaded.settings)
    for trouble in troubles:
        print_error(f"warning: {trouble}")
    return loaded._replace(settings=settings)


def may_exist(path: Path) -> bool:
    """Whether a path exists, or is in a directory that this user may not search."""
    try:
        return path.exists()
    except OSError:
        return True


def check(file: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _check_for_machines(file)
        return
    loaded = load_or_fail(file)
    if quiet:
        return
    settings = loaded.settings
    targets = ", ".join(f"{target.name} ({target.url})" for target in settings.targets) or "none"
    broker = settings.mqtt.place if settings.mqtt else "none, events go to the log only"
    print(f"# {file}: ok")
    print(
        f"#   mode {settings.mode}; {many(len(settings.policy.rules), 'rule')}, then {settings.policy.default_action}"
    )
    print(f"#   targets: {targets}")
    print(f"#   broker: {broker}\n")
    print(toml(effective(loaded)), end="")


def check_as_service(arguments: Sequence[str]) -> NoReturn:
    """Run `check` as the service runs: as its user, in its sandbox, with its credentials. Ends with its exit status."""
    if os.geteuid() != 0:
        fail("--as-service starts a process as the service's user: run it as root")
    try:
        unit = subprocess.run(["systemctl", "cat", UNIT], capture_output=True, text=True, check=False)
    except OSError as error:
        fail(f"--as-service asks systemd: systemctl: {error.strerror}")
    if unit.returncode:
        fail(f"--as-service asks systemd for {UNIT}: {unit.stderr.strip()}")
    settings = list(service_settings(unit.stdout))
    for name, path in missing_credentials(settings):
        fail(
            f"{UNIT}: LoadCredential={name}: there is no {path}, and the service cannot start (status 243); "
            "create the file, or remove the line (systemctl edit routesync)",
            EX_CONFIG,
        )
    program = [value.lstrip("-@:+!").split()[0] for key, value in settings if key == "ExecStart" and value]
    properties = [f"--property={key}={value}" for key, value in settings if key in _OF_THE_READER]
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *properties, "--", program[-1], "check"]
    raise typer.Exit(subprocess.run([*run, *arguments], check=False).returncode)


def _check_for_machines(file: Path) -> None:
    try:
        loaded = load(file, read=read_named)
    except ConfigError as error:
        problems = [problem._asdict() for problem in error.problems]
        print_object({"file": str(file), "valid": False, "problems": problems})
        raise typer.Exit(EX_CONFIG) from None
    answer = {
        "file": str(file),
        "valid": True,
        "digest": loaded.digest,
        "warnings": list(loaded.warnings),
        "settings": [_setting(it) for it in effective(loaded)],
    }
    print_object(answer)


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
