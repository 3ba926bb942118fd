"""The password: as its file says now, also where the configuration's loader has read it before."""

from __future__ import annotations

import os
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from routesync.config import load
from routesync.config.models import MqttSettings
from routesync.events.mqtt_client import PasswordFileError, explain, read_password


def test_a_password_that_changes_in_its_file_is_taken_with_the_next_connection(tmp_path: Path) -> None:
    config, password = tmp_path / "routesync.toml", tmp_path / "password"
    config.write_text('[mqtt]\nhost = "broker"\nusername = "node"\npassword_file = "password"\n')
    password.write_text("before\n")
    settings = load(config).settings.mqtt
    assert settings is not None
    assert read_password(settings) == "before"
    password.write_text("after\n")
    assert read_password(settings) == "after"


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"\xff\xfe", "it is not UTF-8"),
        (b"x" * 65536, "it has more than 65535 bytes"),
        (None, "No such file or directory"),
    ],
)
def test_a_password_that_cannot_be_used_names_the_setting(
    tmp_path: Path, content: bytes | None, trouble: str
) -> None:
    password = tmp_path / "password"
    if content is not None:
        password.write_bytes(content)
    settings = MqttSettings(host="broker", username="node", password_file=str(password))
    with pytest.raises(PasswordFileError, match=f"mqtt.password_file: .*: {trouble}"):
        read_password(settings)


def test_a_pipe_in_place_of_its_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    settings = MqttSettings(host="broker", username="node", password_file=f"{tmp_path}/pipe")
    with pytest.raises(PasswordFileError, match=r"mqtt.password_file: .*/pipe: not a regular file"):
        read_password(settings)


def test_a_password_may_have_any_bytes_that_are_text(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_bytes(b"a\0b\n")
    assert read_password(MqttSettings(host="broker", username="node", password_file=str(password))) == "a\0b"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (0x84, "mqtt.protocol"),
        (0x85, "mqtt.client_id"),
        (0x86, "mqtt.username"),
        (0x88, "tries again"),
        (0x89, "tries again"),
        (0x97, "quota"),
        (0x9A, "retained messages"),
        (0x9B, "QoS 1"),
        (0x9D, "mqtt.host"),
        (0x9F, "tries again"),
    ],
)
def test_a_refused_connection_names_what_to_do(code: int, remedy: str) -> None:
    error = aiomqtt.MqttCodeError(ReasonCode(PacketTypes.CONNACK, identifier=code))
    text = explain(error, MqttSettings(host="broker"), "routesync-n1")
    assert text.startswith("broker broker:1883")
    assert remedy in text
    assert "check mqtt.host and mqtt.port" not in text
