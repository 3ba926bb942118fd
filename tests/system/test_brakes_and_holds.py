"""The brakes of the whole daemon: a mass withdrawal goes when the kernel was read again, and a hold outlives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.kill_arena import CONFIG, POOL, Arena, kill_arena
from support.netns import needs_root
from support.waiting import eventually_sync

pytestmark = needs_root


def lines(arena: Arena, event: str) -> list[dict[str, Any]]:
    text = arena.log.read_text() if arena.log.exists() else ""
    logged = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in logged if line["event"] == event]


def want(arena: Arena, count: int) -> None:
    wanted = [prefix for prefix in POOL if ":" not in prefix][5 : 5 + count]
    arena.router.batch([f"route add {prefix} via 192.168.10.1 proto bird" for prefix in wanted])
    arena.wanted.update(dict.fromkeys(wanted, "192.168.10.1"))


def test_a_mass_withdrawal_is_held_until_the_kernel_was_read_again(tmp_path: Path) -> None:
    with kill_arena(
        tmp_path, CONFIG.replace("withdraw_limit_minimum = 1000", "withdraw_limit_minimum = 10")
    ) as arena:
        arena.start()
        want(arena, 30)
        arena.check_settled()
        arena.router.ip("route flush proto bird")
        arena.wanted.clear()
        arena.check_settled()
        (held,) = lines(arena, "withdrawals_held")
        assert held["routes"] > 15
        (released,) = lines(arena, "withdrawals_released")
        assert released["by"] == "second-reading"
        arena.kill()


def test_a_hold_outlives_a_killed_daemon_and_can_be_set_and_lifted_while_there_is_none(
    tmp_path: Path,
) -> None:
    hold = tmp_path / "state" / "hold-lb"
    with kill_arena(tmp_path) as arena:
        arena.start()
        want(arena, 5)
        arena.check_settled()
        arena.kill()
        hold.touch()
        state = arena.standin.state()
        before = (state.posts, state.deletes, state.route_reads, state.port_reads)
        for life in (1, 2):
            arena.log.unlink()
            arena.start()
            want_one_more(arena, life)
            eventually_sync(lambda: bool(lines(arena, "ready")), within_s=20, what="readiness")
            (paused,) = lines(arena, "target_paused")
            assert paused["target"] == "lb"
            arena.kill()
        after = arena.standin.state()
        assert (after.posts, after.deletes, after.route_reads, after.port_reads) == before
        hold.unlink()
        arena.start()
        arena.check_settled()
        arena.kill()


def want_one_more(arena: Arena, number: int) -> None:
    prefix = f"10.1{number}0.0.0/16"
    arena.router.ip(f"route add {prefix} via 192.168.10.2 proto bird")
    arena.wanted[prefix] = "192.168.10.2"
