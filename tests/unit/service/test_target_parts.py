"""What of a target's configuration is taken up as it runs, and what calls for contact anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routesync.service.target_parts import target_limits, target_rules, way_to
from routesync.settings import TargetSettings

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
    "brake_minimum": 51,
}


def settings(**more: object) -> TargetSettings:
    return TargetSettings.model_validate(BASE | more)


def other(key: str) -> object:
    """A value that is not the default."""
    if key in OTHER:
        return OTHER[key]
    default = TargetSettings.model_fields[key].default
    return default / 2 if isinstance(default, float) and default else default + 1


@pytest.mark.parametrize("key", TargetSettings.model_fields)
def test_every_key_is_either_taken_up_or_calls_for_contact_anew(key: str) -> None:
    before, after = settings(), settings(**{key: other(key)})
    taken_up = (target_rules(before), target_limits(before)) != (target_rules(after), target_limits(after))
    anew = way_to(before) != way_to(after)
    assert taken_up is not anew


@pytest.mark.parametrize(("written", "word"), [(False, "no"), (True, "yes"), ("override", "override")])
def test_what_is_allowed_of_defaults(written: object, word: str) -> None:
    assert target_rules(settings(allow_default=written)).allow_default == word


def test_a_certificate_that_was_renewed_under_its_name_calls_for_contact_anew(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("one")
    target = settings(tls={"ca_file": str(file)})
    before = way_to(target)
    assert way_to(target) == before
    file.write_text("another")
    assert way_to(target) != before
