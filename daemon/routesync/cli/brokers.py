"""Which broker a command reads from: the configuration's, or one that is named on the command line."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from routesync.cli.check import load_or_fail
from routesync.cli.output import EX_CONFIG, EX_USAGE, fail
from routesync.config.credentials import MQTT_PASSWORD
from routesync.config.models import MqttSettings
from routesync.events.mqtt_client import Remedies

_HOW: Final = "write HOST, HOST:PORT, or mqtt[s]://[USER@]HOST[:PORT][/ROOT]"
REMEDIES: Final = Remedies(
    "check --broker", f"check USER of --broker and ${MQTT_PASSWORD}", "check --ca-file"
)


def named_broker(text: str, ca_file: Path | None, *, with_password: bool = True) -> MqttSettings:
    """The settings of a broker that is named on the command line; what names none ends the command.

    The password of a user comes from the environment, or is asked for on a terminal.
    """
    shown = re.sub(r":(?!//).*@", ":...@", text)
    try:
        named = _read(text)
        if ca_file is not None:
            named["tls"] = {"ca_file": str(ca_file)}
        if with_password and "username" in named:
            named["password"] = _password(str(named["username"]))
        return MqttSettings.model_validate(
            {name: value for name, value in named.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--broker {shown}: {first['loc'][0]}: {first['msg']}; {_HOW}", EX_USAGE)
    except ValueError as error:
        fail(f"--broker {shown}: {error}; {_HOW}", EX_USAGE)


def _read(text: str) -> dict[str, object]:
    try:
        url = urlsplit(text if "://" in text else f"mqtt://{text}")
        port = url.port
    except ValueError:  # whose words repeat what may be a part of a password
        raise ValueError("Port out of range, or not a number, or an invalid host") from None
    if url.scheme not in ("mqtt", "mqtts"):
        raise ValueError(f"{url.scheme} is no scheme of MQTT over TCP")
    if url.password is not None:
        raise ValueError(f"a password on the command line is seen by others; put it into ${MQTT_PASSWORD}")
    if {"?", "#"} & {*text}:
        raise ValueError("? and # have no meaning here")
    if not url.hostname:
        raise ValueError("names no host")
    read: dict[str, object] = {"host": url.hostname, "port": port}
    if url.scheme == "mqtts":
        read["tls"] = {}
    if url.username:
        read["username"] = unquote(url.username)
    if url.path.strip("/"):
        read["root"] = url.path.strip("/")
    return read


def _password(user: str) -> str | None:
    if (given := os.environ.get(MQTT_PASSWORD)) is not None:
        return given
    return getpass.getpass(f"Password of {user}: ") if sys.stdin.isatty() else None


def broker_or_fail(config: Path, broker: str | None, ca_file: Path | None) -> tuple[MqttSettings, Remedies]:
    """The broker of --broker, else of the configuration, and what to check; where there is none, the command ends."""
    check_ca_file(broker, ca_file)
    if broker is not None:
        return named_broker(broker, ca_file), REMEDIES
    configured = load_or_fail(config).settings.mqtt
    if configured is None:
        fail(f"{config} names no broker; add the table [mqtt], or name one with --broker", EX_CONFIG)
    return configured, Remedies()


def root_of(config: Path | None, broker: str | None) -> str:
    """The root of all topics: that of --broker, of the configuration that is named, or the default."""
    if broker is not None:
        return named_broker(broker, None, with_password=False).root
    configured = load_or_fail(config).settings.mqtt if config is not None else None
    return configured.root if configured is not None else str(MqttSettings.model_fields["root"].default)


def check_ca_file(broker: str | None, ca_file: Path | None) -> None:
    """End the command where --ca-file has no effect."""
    if ca_file is not None and broker is None:
        fail("--ca-file is for --broker; the configuration has mqtt.tls.ca_file", EX_USAGE)
