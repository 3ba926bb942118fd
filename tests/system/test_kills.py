"""The daemon is killed with SIGKILL, again and again, at moments of chance, while routes come and go.

After each kill no route of anybody else has been touched; after each restart that is given the time to come to rest,
both kernels hold exactly the right routes. Some lives end in the start-up, in some loxilb falls over, too.

ROUTESYNC_KILLS sets how many kills, ROUTESYNC_KILLS_SEED where to start (0: anywhere). `make kill` does 200 from a new
seed; the seed is printed.
"""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

import pytest

from support.kill_arena import kill_arena, live

KILLS = int(os.environ.get("ROUTESYNC_KILLS", "12"))
SEED = int(os.environ.get("ROUTESYNC_KILLS_SEED", "7000")) or secrets.randbelow(1 << 32)
SETTLED_EVERY = 3


@pytest.mark.timeout(120 + KILLS * 30)
@pytest.mark.long
def test_whenever_it_is_killed_the_right_routes_are_there_and_no_others_are_touched(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    settled = 0
    with kill_arena(tmp_path) as arena:
        for number in range(1, KILLS + 1):
            settle = number % SETTLED_EVERY == 0 or number == KILLS
            live(arena, chance, settle=settle)
            settled += settle
            print(f"seed {SEED}: {number} kills, {settled} times at rest with the right routes", flush=True)
        assert "Traceback" not in arena.log()
