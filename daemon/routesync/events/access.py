"""What it takes to get into the broker; and why it did not, in one line with place and remedy."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from routesync.config.credentials import client_context
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError

# Reason codes of CONNACK and DISCONNECT (MQTT 5, 3.2.2.2 and 3.14.2.1). paho turns those of 3.1.1 into these.
_IDENTIFIER = 0x85
_CREDENTIALS = (0x86, 0x87)
_BANNED = 0x8A
_TAKEN_OVER = 0x8E


class PasswordFileError(OSError):
    """The file that is to hold the password cannot be read."""


class SubscriptionDeniedError(aiomqtt.MqttError):
    """The broker denies a subscription."""

    def __init__(self, topics: list[str]) -> None:
        super().__init__("a subscription is denied")
        self.topics = topics


def read_password(settings: MqttSettings) -> str | None:
    """The password as its file says at this moment (without the newline at its end), or as configured.

    Raises:
        PasswordFileError: the file cannot be read; the message names the setting.
    """
    if settings.password_file is None:
        return settings.password.get_secret_value() if settings.password else None
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise PasswordFileError(f"mqtt.password_file: {settings.password_file}: {error.strerror}") from error


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """The context for TLS, from the files as they are at this moment; None for plain TCP.

    Raises:
        SettingError: a file cannot be read or used.
    """
    if settings.tls is None:
        return None
    return client_context(settings.tls)


class Remedies(NamedTuple):
    """Where to look for what is wrong, depending on where the settings are from."""

    address: str = "check mqtt.host and mqtt.port"
    user: str = "check mqtt.username and mqtt.password_file (or ROUTESYNC_MQTT_PASSWORD)"
    tls: str = "check mqtt.tls"


def explain(
    error: BaseException,
    settings: MqttSettings,
    client_id: str,
    remedies: Remedies = Remedies(),  # noqa: B008 - immutable
) -> str:
    """Say what is wrong with the broker, naming place and remedy."""
    if isinstance(error, PasswordFileError):
        return str(error)
    if isinstance(error, SettingError):
        return f"mqtt.tls.{error}"
    broker = f"broker {settings.host}:{settings.port}"
    if isinstance(error, SubscriptionDeniedError):
        return f"{broker} denies reading {', '.join(error.topics)}; check its access rules"
    if isinstance(error, TimeoutError) or str(error) == "Operation timed out":  # as aiomqtt says it
        return f"{broker} does not answer within {settings.timeout_s:g} s; {remedies.address}"
    ended = isinstance(error.__cause__, aiomqtt.MqttCodeError)
    if isinstance(error.__cause__, aiomqtt.MqttCodeError):
        error = error.__cause__  # why the connection ended
    code = error.rc if isinstance(error, aiomqtt.MqttCodeError) else None
    words = str(code) if isinstance(code, ReasonCode) else str(error) or type(error).__name__
    match code.value if isinstance(code, ReasonCode) else None:
        case value if value in _CREDENTIALS:
            user = f"user {settings.username!r}" if settings.username else "a client without a user name"
            return f"{broker} refuses {user} ({words}); {remedies.user}"
        case value if value == _IDENTIFIER:
            return f"{broker} refuses the client id {client_id!r}; set mqtt.client_id"
        case value if value == _BANNED:
            return f"{broker} has banned the client id {client_id!r}; ask its administrator"
        case value if value == _TAKEN_OVER:
            return f"{broker}: another client connected as {client_id!r}; give each its own mqtt.client_id"
    if ended:
        return f"{broker}: the connection ended ({words})"
    if "certificate" in words.lower() or "ssl" in words.lower():
        return f"{broker}: {words}; {remedies.tls}"
    return f"{broker}: {words}; {remedies.address}"
