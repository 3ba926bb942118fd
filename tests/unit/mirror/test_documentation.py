"""docs/loxilb.md lists the code of each reason why a route is not mirrored, with its kind; no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from routesync.mirror.eligibility import Reason
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState

TEXT = (Path(__file__).parents[3] / "docs" / "loxilb.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_each_reason_is_listed_with_its_kind() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows("Why a route is not mirrored")}
    assert listed == {
        reason.value: "unrepresentable" if reason.unrepresentable else "refused" for reason in Reason
    }


def test_the_codes_are_those_that_were_promised() -> None:
    """They are part of the contract: this list may grow, and nothing in it may change."""
    promised = """not-unicast tos encapsulated no-gateway other-family-gateway link-local-gateway link-local-prefix
        multicast-prefix loopback-prefix invalid-gateway contains-next-hop connected-at-target split-horizon
        default-not-allowed"""
    assert set(promised.split()) <= {reason.value for reason in Reason}


def test_each_phase_and_each_state_of_a_target_is_explained() -> None:
    assert {row[0].strip("`") for row in rows("The life of a route")} == set(Phase)
    assert {row[0].strip("`") for row in rows("What a target is doing")} == set(TargetState)


def test_each_setting_that_is_named_exists() -> None:
    reference = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"\(`([a-z_0-9]+)`", TEXT))
    assert named
    assert [name for name in named if f"`{name}`" not in reference] == []
