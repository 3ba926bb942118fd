"""Which settings of a target take effect while it is mirrored into, and which call for a new handshake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routesync.config.credentials import endpoint_of
from routesync.config.models import TargetSettings
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.limits import Limits

BASE = {"name": "edge", "url": "https://192.168.10.20:8091"}
OTHER: dict[str, Any] = {
    "name": "core",
    "url": "http://192.168.10.21:11111",
    "token": "t",
    "token_file": "f",
    "tls": {},
    "witness": {"netns": "lb"},
    "allow_default": True,
    "force_connected": True,
    "min_prefix_length": [8, 17],
    "return_path_ok": ["10.99.0.0/16"],
    "next_hop": "192.168.10.10",
}


def settings(**more: object) -> TargetSettings:
    return TargetSettings.model_validate(BASE | more)


def other(key: str) -> object:
    """A value that is not the default."""
    if key in OTHER:
        return OTHER[key]
    default = TargetSettings.model_fields[key].default
    return default / 2 if isinstance(default, float) and default else default + 1


@pytest.mark.parametrize("key", [key for key in TargetSettings.model_fields if key != "all_addresses"])
def test_every_key_either_takes_effect_at_once_or_calls_for_a_new_handshake(key: str) -> None:
    before, after = settings(), settings(**{key: other(key)})
    at_once = (TargetRules.from_settings(before), Limits.from_settings(before)) != (
        TargetRules.from_settings(after),
        Limits.from_settings(after),
    )
    assert at_once is not (endpoint_of(before) != endpoint_of(after))


@pytest.mark.parametrize(("written", "word"), [(False, "no"), (True, "yes"), ("override", "override")])
def test_allow_default_has_three_values(written: object, word: str) -> None:
    assert TargetRules.from_settings(settings(allow_default=written)).allow_default == word


def test_a_certificate_renewed_under_its_name_calls_for_a_new_handshake(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("one")
    target = settings(tls={"ca_file": str(file)})
    before = endpoint_of(target)
    assert endpoint_of(target) == before
    file.write_text("another")
    assert endpoint_of(target) != before
