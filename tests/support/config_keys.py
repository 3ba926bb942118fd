"""Every table of the configuration: the text before a key of it, and its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from routesync.config.models import (
    ControlSettings,
    EventsSettings,
    GuardSettings,
    KernelSettings,
    LogSettings,
    MqttSettings,
    NodeSettings,
    Settings,
    TargetSettings,
    TlsSettings,
    WitnessSettings,
)
from routesync.config.parsers import Model
from routesync.config.rules import MatchSettings, PolicySettings, PrefixMatch, RuleSettings

_TARGET = '[[targets]]\nname = "lb"\nurl = "http://192.0.2.1"\n'
_RULE = '[[policy.rules]]\nname = "it"\naction = "drop"\n'
TABLES: Final[Mapping[str, type[Model]]] = {
    "": Settings,
    "[node]\n": NodeSettings,
    "[kernel]\n": KernelSettings,
    "[guard]\n": GuardSettings,
    "[policy]\n": PolicySettings,
    "[policy.prefix_lists]\nlist.": PrefixMatch,
    "[[policy.rules]]\n": RuleSettings,
    f"{_RULE}match.": MatchSettings,
    f"{_RULE}match.prefix.": PrefixMatch,
    "[target_defaults]\n": TargetSettings,
    "[[targets]]\n": TargetSettings,
    f"{_TARGET}witness.": WitnessSettings,
    f"{_TARGET}tls.": TlsSettings,
    "[mqtt]\n": MqttSettings,
    "[events]\n": EventsSettings,
    "[control]\n": ControlSettings,
    "[log]\n": LogSettings,
}
