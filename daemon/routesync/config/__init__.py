"""The configuration: models of routesync.toml, the loader, and where each value comes from."""

from routesync.config.loader import Loaded, load, shipped_configuration, unconfigured_target
from routesync.config.problems import ConfigError, Problem

__all__ = ["ConfigError", "Loaded", "Problem", "load", "shipped_configuration", "unconfigured_target"]
