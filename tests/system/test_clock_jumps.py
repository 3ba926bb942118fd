"""The wall clock jumps, by years and both ways: nothing that the daemon does hangs on it.

libfaketime steps the clock of the running daemon; the monotonic clock stays the kernel's, as it does in a real jump.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kill_arena import POOL, Arena, kill_arena
from support.waiting import eventually_sync

(LIBRARY,) = Path("/usr/lib").glob("*-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with kill_arena(tmp_path) as made:
        (tmp_path / "clock").write_text("+0")
        made.extra_environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }
        yield made


def jump(tmp_path: Path, offset: str) -> None:
    new = tmp_path / "clock.new"
    new.write_text(offset)
    new.replace(tmp_path / "clock")


def change(arena: Arena, number: int) -> None:
    """One route that comes, one that changes, one that goes."""
    plain = [prefix for prefix in POOL if ":" not in prefix][5:]
    new, kept = plain[number], plain[number - 1] if number else None
    arena.router.ip(f"route add {new} via 192.168.10.1 proto bird")
    arena.wanted[new] = "192.168.10.1"
    if kept:
        arena.router.ip(f"route replace {kept} via 192.168.10.2 proto bird")
        arena.wanted[kept] = "192.168.10.2"
    if number > 1:
        arena.router.ip(f"route del {plain[number - 2]} proto bird")
        del arena.wanted[plain[number - 2]]


def test_routes_are_followed_through_jumps_of_the_clock(arena: Arena, tmp_path: Path) -> None:
    arena.launch()
    for number, offset in enumerate(("+0", "+10y", "-20y", "+1h", "-1h")):
        jump(tmp_path, offset)
        change(arena, number)
        arena.check_settled()
        posts = arena.standin.state().posts
        eventually_sync(lambda: arena.standin.state().posts > posts, within_s=30, what="a probe")  # noqa: B023
    log = arena.log()
    arena.kill()
    assert "target_down" not in log
    assert '"warning"' not in log.replace("start-up hold", ""), log
    years = {json.loads(line)["timestamp"][:4] for line in log.splitlines()}
    assert len(years) == 3, "the jumps reached the daemon"


def test_a_clock_that_is_years_behind_at_the_next_start_changes_nothing(arena: Arena, tmp_path: Path) -> None:
    arena.launch()
    for number in range(3):
        change(arena, number)
    arena.check_settled()
    arena.kill()
    jump(tmp_path, "-10y")
    change(arena, 3)
    arena.launch()
    arena.check_settled()
    arena.kill()
