"""Puts manual pages, completion and mqtt.js into the wheel, as `make wheel` brought them; `pip install .` has none."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Read by hatchling, which finds it by its base class."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        build_data["force_include"]["systemd"] = "routesync/share/systemd"
        build_data["force_include"]["config/installed.toml"] = "routesync/share/routesync.toml"
        if mqtt_js := os.environ.get("ROUTESYNC_MQTT_JS"):
            build_data["force_include"][mqtt_js] = "routesync/page/mqtt.js"
        if share := os.environ.get("ROUTESYNC_SHARE"):
            for name in ("man", "bash-completion", "zsh", "fish"):
                build_data["force_include"][f"{share}/{name}"] = f"routesync/share/{name}"
