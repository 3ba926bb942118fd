"""Limits of the whole daemon: a mass withdrawal waits for a second dump of the kernel, and a pause outlives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.kill_arena import CONFIG, Arena, kill_arena
from support.waiting import eventually_sync


def lines(arena: Arena, *events: str) -> list[dict[str, Any]]:
    text = arena.log()
    logged = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in logged if line["event"] in events]


def add_routes(arena: Arena, count: int) -> None:
    prefixes = [f"10.150.{number}.0/24" for number in range(count)]
    arena.router.batch([f"route add {prefix} via 192.168.10.1 proto bird" for prefix in prefixes])
    arena.wanted.update(dict.fromkeys(prefixes, "192.168.10.1"))


def test_a_mass_withdrawal_is_held_until_the_kernel_was_dumped_again(tmp_path: Path) -> None:
    config = CONFIG.replace("withdraw_limit_share = 1\n", "") + '[log]\nlevel = "debug"\n'
    with kill_arena(tmp_path, config) as arena:
        arena.launch()
        add_routes(arena, 150)
        arena.check_settled()
        arena.router.ip("route flush proto bird")
        arena.wanted.clear()
        arena.check_settled()
        # the events, which the log has, too
        happened = [line for line in lines(arena, "kernel_resynced", "route_withdrawn") if "sequence" in line]
        causes = [line.get("cause") for line in happened]
        assert causes[causes.index("mass withdrawal") :].count(None) > 75, "most go after the second dump"
        for cleared in lines(arena, "alarm_cleared"):
            assert cleared["kind"] == "withdrawals-held"
            assert cleared["detail"] == "a second dump of the kernel confirms the withdrawals"
        arena.kill()


def test_a_pause_outlives_a_killed_daemon_and_can_be_set_and_lifted_while_there_is_none(
    tmp_path: Path,
) -> None:
    pause = tmp_path / "state" / "pause-lb"
    with kill_arena(tmp_path) as arena:
        arena.launch()
        add_routes(arena, 5)
        arena.check_settled()
        arena.kill()
        pause.touch()
        state = arena.standin.state()
        before = (state.posts, state.deletes, state.route_reads, state.port_reads)
        for life in (1, 2):
            arena.log_file.unlink()
            arena.launch()
            add_one_more(arena, life)
            eventually_sync(lambda: bool(lines(arena, "ready")), within_s=20, what="readiness")
            (paused,) = [line for line in lines(arena, "alarm_raised") if "sequence" not in line]
            assert (paused["kind"], paused["target"]) == ("paused", "lb")
            arena.kill()
        after = arena.standin.state()
        assert (after.posts, after.deletes, after.route_reads, after.port_reads) == before
        pause.unlink()
        arena.launch()
        arena.check_settled()
        arena.kill()


def add_one_more(arena: Arena, number: int) -> None:
    prefix = f"10.1{number}0.0.0/16"
    arena.router.ip(f"route add {prefix} via 192.168.10.2 proto bird")
    arena.wanted[prefix] = "192.168.10.2"
