"""Older versions of loxilb, and those that want a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from routesync.loxilb.client import FileToken
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.route import Prefix
from support.mirror_lab import candidate, laboratory
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
A, B, C = (Prefix.parse(f"10.{number}.0.0/16") for number in (1, 2, 3))
VERSIONS = ["0.9.1", "0.9.5", "0.9.7", "0.9.8", "0.9.8.4", "0.9.8.5"]


async def synced(reconciler: Reconciler) -> None:
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, what="the sync")


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_is_mirrored_into_and_its_foreign_routes_are_spared(version: str) -> None:
    with laboratory("--loxilb-version", version) as lab:
        await lab.behind_its_back(f"route add {B} via {THERE} proto bird")
        async with lab.mirroring() as reconciler:
            for prefix in (A, B, C):
                reconciler.set_route(prefix, candidate(str(prefix), HERE))
            await eventually(lambda: lab.gateway(A) == HERE and lab.gateway(C) == HERE, what="the mirror")
            await eventually(lambda: reconciler.routes[B].phase is Phase.CONFLICTING, what="the conflict")
            reconciler.set_route(A, None)
            reconciler.set_route(B, None)
            reconciler.set_route(C, candidate(str(C), THERE))
            await eventually(lambda: lab.gateway(A) is None and lab.gateway(C) == THERE, what="the changes")
            await synced(reconciler)
        assert lab.gateway(B) == THERE
        assert set(lab.ledger.owned("lb")) == {C}


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_the_ledger_knows_is_recognised_in_every_version(version: str) -> None:
    with laboratory("--loxilb-version", version) as lab:
        async with lab.mirroring(rules=TargetRules(allow_default="yes")) as reconciler:
            reconciler.set_route(A, candidate(str(A), HERE))
            await eventually(lambda: lab.gateway(A) == HERE, what="the mirror")
            await synced(reconciler)
        async with lab.mirroring() as reconciler:
            reconciler.set_route(A, candidate(str(A), HERE))
            await eventually(lambda: reconciler.routes[A].phase is Phase.CONFIRMED, what="recognition")
            reconciler.set_route(A, None)
            await eventually(lambda: lab.gateway(A) is None, what="the withdrawal")


async def test_a_token_is_sent_raw_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("secret")
    file = tmp_path / "token"
    file.write_text("wrong\n")
    with laboratory("--manual-token", str(tmp_path / "right")) as lab:
        async with lab.mirroring(token=FileToken(file)) as reconciler:
            reconciler.set_route(A, candidate(str(A), HERE))
            await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE, what="the refusal")
            assert "invalid token" in (reconciler.view().error or "")
            assert "token_file" in (reconciler.view().error or "")
            file.write_text("secret\n")  # rotated: taken up without a restart
            await lab.holds({str(A): HERE}, within_s=20)


async def test_a_token_file_that_is_gone_is_said_and_waited_for(tmp_path: Path) -> None:
    (tmp_path / "right").write_text("secret")
    file = tmp_path / "token"
    with laboratory("--manual-token", str(tmp_path / "right")) as lab:
        async with lab.mirroring(token=FileToken(file)) as reconciler:
            reconciler.set_route(A, candidate(str(A), HERE))
            await eventually(lambda: reconciler.view().state is TargetState.UNREACHABLE, what="the complaint")
            assert str(file) in (reconciler.view().error or "")
            file.write_text("secret")
            await lab.holds({str(A): HERE}, within_s=20)
