"""How costs grow with the number of routes, from a thousand to a million: of one daemon each, as a process.

All routes are kept by the rules, and 1,000 fit into the target. What is measured is CPU where the machine's other work
would count otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

import pytest

from support.bench import record
from support.scale import configure, cpu_s, kept, measured, memory, scaled, wait
from support.stall_probe import StallLog
from support.world import World

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
LINEAR: Final = 1.05
"""The exponent of a cost that grows a little faster than the number of routes."""


def resyncs(node: World) -> int:
    return int(node.get("/v1/status")["status"]["kernel"]["resyncs"])


def resynced(node: World) -> float:
    """Seconds of CPU of a resync that finds everything as it was."""
    before, cpu = resyncs(node), cpu_s(node)
    node.run("resync")
    wait("another dump", lambda: resyncs(node) > before, 60)
    return cpu_s(node) - cpu


def timed(run: Callable[[], object]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began


def longest_ms(log: StallLog) -> float:
    stalls = log.take()
    for stall in stalls[:3]:
        print(f"    {stall.seconds * 1e3:6.1f} ms, CPU {stall.cpu_s * 1e3:6.1f} ms  {stall.what}", flush=True)
    return stalls[0].seconds * 1e3 if stalls else 0.0


def costs(node: World, size: int) -> Iterator[tuple[str, str, float]]:
    """What it costs with so many routes: what, unit, value."""
    configure(node, 1_000, rate=240)
    log = measured(node)
    node.start(within_s=120)
    wait("all kept", lambda: kept(node) >= size, 60)
    yield "CPU of a start", "s", cpu_s(node)
    yield "CPU of a resync", "s", resynced(node)
    yield "memory", "MiB", memory(node, "VmRSS")
    yield "longest stall", "ms", longest_ms(log)
    yield "`routesync status`", "s", timed(lambda: node.run("status"))
    yield "`routesync routes --limit 100`", "s", timed(lambda: node.run("routes", "--limit", "100"))
    yield "longest stall of these commands", "ms", longest_ms(log)


def dictionary(size: int) -> tuple[float, float]:
    """Seconds of CPU to fill a dictionary with so many prefixes, and to look each up by a new key."""

    def keys() -> Iterator[tuple[bytes, int]]:
        return ((number.to_bytes(4, "big"), 28) for number in range(0x0A000000, 0x0A000000 + (size << 4), 16))

    began = process_time()
    filled = dict.fromkeys(keys())
    between = process_time()
    for key in keys():
        filled[key]
    return between - began, process_time() - between


def dictionary_exponents() -> tuple[float, float]:
    """How these two grow where caches do not hold them any more: the least that can be reached."""
    fewer, more = (
        [min(it) for it in zip(*(dictionary(size) for _ in range(3)), strict=True)] for size in SIZES[-2:]
    )
    return math.log10(more[0] / fewer[0]), math.log10(more[1] / fewer[1])


def test_scaling(tmp_path: Path) -> None:
    curves: dict[str, dict[int, float]] = {}
    for size in SIZES:
        directory = tmp_path / str(size)
        directory.mkdir()
        with scaled(directory, size) as node:
            for curve, unit, value in costs(node, size):
                curves.setdefault(curve, {})[size] = value
                record(f"{curve}, {size:,} routes", value, unit, curve=curve, size=size)
    filled, looked_up = dictionary_exponents()
    for curve, peer, least in (
        ("CPU of a start", "filling a dictionary", filled),
        ("CPU of a resync", "looking up in a dictionary", looked_up),
        ("`routesync routes --limit 100`", "looking up in a dictionary", looked_up),
    ):
        fixed, *_, fewer, more = curves[curve].values()
        exponent = math.log10((more - fixed) / (fewer - fixed))
        record(
            f"{curve}: exponent from 100,000 to 1,000,000 routes, without what 1,000 cost", exponent, "",
            peer=peer, peer_value=least, target=f"<= {LINEAR}", ok=exponent <= LINEAR,
        )  # fmt: skip
    longest = max(curves[name][SIZES[-1]] for name in ("longest stall", "longest stall of these commands"))
    record("longest stall of all this, 1,000,000 routes", longest, "ms", target="<= 200", ok=longest <= 200)
