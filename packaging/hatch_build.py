"""Puts manual pages and completion into the wheel, where `make wheel` has made them; `pip install .` makes none."""

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
        if share := os.environ.get("ROUTESYNC_SHARE"):
            for name in ("man", "bash-completion", "zsh", "fish"):
                build_data["force_include"][f"{share}/{name}"] = f"routesync/share/{name}"
