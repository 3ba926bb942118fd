"""The password: as its file says now, also where the configuration's loader has read it before."""

from __future__ import annotations

from pathlib import Path

from routesync.config import load
from routesync.events.mqtt_client import read_password


def test_a_password_that_changes_in_its_file_is_taken_with_the_next_connection(tmp_path: Path) -> None:
    config, password = tmp_path / "routesync.toml", tmp_path / "password"
    config.write_text('[mqtt]\nhost = "broker"\nusername = "node"\npassword_file = "password"\n')
    password.write_text("before\n")
    settings = load(config).settings.mqtt
    assert settings is not None
    assert read_password(settings) == "before"
    password.write_text("after\n")
    assert read_password(settings) == "after"
