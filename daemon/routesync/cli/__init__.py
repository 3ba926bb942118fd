"""The command `routesync`."""

from routesync.cli.app import main

__all__ = ["main"]
