"""The broker as a person names it: `HOST`, `HOST:PORT`, or a URL."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from routesync.cli.output import print_error
from routesync.config.credentials import MQTT_PASSWORD
from routesync.config.models import MqttSettings
from routesync.events.access import Remedies

HOW = "write HOST, HOST:PORT, or mqtt[s]://[USER@]HOST[:PORT][/ROOT]"

REMEDIES = Remedies("check --broker", f"check USER of --broker and ${MQTT_PASSWORD}", "check --ca-file")


def named_broker(text: str, ca_file: Path | None) -> MqttSettings | None:
    """The settings of a broker that is named on the command line; None, with an error printed, if it names none.

    The password of a user comes from the environment, or is asked for on a terminal.
    """
    shown = re.sub(r":[^:@/]*@", ":...@", text)
    try:
        named = _read(text)
        if ca_file is not None:
            named["tls"] = {"ca_file": str(ca_file)}
        if "username" in named:
            named["password"] = _password(str(named["username"]))
        return MqttSettings.model_validate(
            {name: value for name, value in named.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        print_error(f"--broker {shown}: {first['loc'][0]}: {first['msg']}; {HOW}")
    except ValueError as error:
        print_error(f"--broker {shown}: {error}; {HOW}")
    return None


def _read(text: str) -> dict[str, object]:
    url = urlsplit(text if "://" in text else f"mqtt://{text}")
    if url.scheme not in ("mqtt", "mqtts"):
        raise ValueError(f"{url.scheme} is no scheme of MQTT over TCP")
    if url.password is not None:
        raise ValueError(f"a password on the command line is seen by others; put it into ${MQTT_PASSWORD}")
    if {"?", "#"} & {*text}:
        raise ValueError("? and # have no meaning here")
    if not url.hostname:
        raise ValueError("names no host")
    read: dict[str, object] = {"host": url.hostname, "port": url.port}
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
