"""Random programmes of route operations: after each pause the replica is what ip(8) reads of the kernel.

ROUTESYNC_FUZZ_OPERATIONS sets how many operations to run, ROUTESYNC_FUZZ_SEED where to start (0: anywhere). By default
these are 3,000 from one seed, so that every change meets the same programmes; `make fuzz` looks for new ones.
"""

from __future__ import annotations

import os
import secrets

import pytest

from support.route_programmes import MismatchError, Programme, make_programme, run_programme, shrink

OPERATIONS = int(os.environ.get("ROUTESYNC_FUZZ_OPERATIONS", "3000"))
SEED = int(os.environ.get("ROUTESYNC_FUZZ_SEED", "6000")) or secrets.randbelow(1 << 32)
CHUNK = 500


def _described(programme: Programme) -> str:
    head = f"rules: {programme.rules}, small buffer: {programme.small_buffer}, ballast: {programme.ballast}"
    return "\n".join(
        [head, *(f"{step.mode.value}:\n    " + "\n    ".join(step.lines) for step in programme.steps)]
    )


@pytest.mark.timeout(60 + OPERATIONS / 10)
@pytest.mark.long
async def test_the_replica_follows_any_programme_of_operations() -> None:
    done = 0
    seed = SEED
    while done < OPERATIONS:
        print(f"seed {seed}, {done} operations done", flush=True)
        programme = make_programme(seed, min(CHUNK, OPERATIONS - done))
        try:
            await run_programme(programme)
        except MismatchError as mismatch:
            small, failure = await shrink(programme, mismatch)
            pytest.fail(f"seed {seed}: {mismatch}\n\nshrunk to:\n{_described(small)}\n\n{failure}")
        done += programme.operations
        seed += 1
