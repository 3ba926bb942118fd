"""The command `routesync`."""

from routesync.cli import live_commands
from routesync.cli.app import main

__all__ = ["live_commands", "main"]
