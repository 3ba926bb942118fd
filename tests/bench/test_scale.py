"""What many routes cost the daemon as a process: the longest steps of its event loop, memory, time to ready.

The stand-in has no limits here. The daemon sends at its default rate until it is ready, and unpaced where all routes
are to be mirrored: what it holds does not depend on its pace. About 550 µs of CPU a request remain (daemon and stand-in
on one core each), so only the first fill waits for all 100,000 requests; each later step waits until its own work is
done and a part of the routes is posted once more.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from support.bench import record
from support.bulk_routes import add_routes, delete_routes, prefixes
from support.scale import HERE, configure, cpu_s, kept, measured, memory, scaled, synced, wait
from support.stall_probe import Stall

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1500)]

OTHER_RULES = '[[policy.rules]]\nname = "bgp"\naction = "keep"\nmatch = { protocol = ["bgp"] }\n'


def record_stall(stalls: list[Stall], what: str) -> None:
    """Record the longest step, and name the worst ones, for those who have to shorten them."""
    longest_ms = stalls[0].seconds * 1e3 if stalls else 0.0
    cpu_ms = stalls[0].cpu_s * 1e3 if stalls else 0.0
    record(
        f"longest stall, 100,000 routes, {what}", longest_ms, "ms", peer="its CPU, ms", peer_value=cpu_ms,
        target="<= 50", ok=longest_ms <= 50,
    )  # fmt: skip
    print_worst(stalls)


def print_worst(stalls: list[Stall]) -> None:
    for stall in stalls[:5]:
        print(f"    {stall.seconds * 1e3:6.1f} ms, CPU {stall.cpu_s * 1e3:6.1f} ms  {stall.what}", flush=True)


def test_no_step_holds_the_event_loop(tmp_path: Path) -> None:
    count = 100_000
    with scaled(tmp_path, count) as node:
        configure(node, 2 * count)
        log = measured(node)
        node.start(within_s=120)
        record_stall(log.take(), "start")
        wait("all mirrored", lambda: node.standin.state().posts >= count, 600)
        record_stall(log.take(), "first fill")
        # A new connection of the same daemon would wait for minutes: it expects loxilb to ingest 256 routes a second.
        assert node.stop() == 0
        posts = node.standin.state().posts
        node.start(within_s=120)
        wait(
            "contact, and a part of the verification",
            lambda: node.standin.state().posts >= posts + 5_000,
            120,
        )
        record_stall(log.take(), "contact with all of them there")
        configure(node, 2 * count, "allow_default = true", OTHER_RULES)
        node.reload()
        record_stall(log.take(), "reload")
        deletes = node.standin.state().deletes
        delete_routes(node.node.name, prefixes(count), HERE)
        wait("all gone from the kernel", lambda: kept(node) < 100, 60)
        wait("withdrawals have begun", lambda: node.standin.state().deletes > deletes, 60)
        add_routes(node.node.name, prefixes(count), HERE)
        wait("all back in the kernel", lambda: kept(node) >= count, 60)
        posts = node.standin.state().posts
        wait("a part is posted again", lambda: node.standin.state().posts >= posts + 5_000, 120)
        record_stall(log.take(), "mass change")
        for _ in range(5):
            node.run("status")
            node.run("status", "--json")
        record_stall(log.take(), "status")


def test_a_million_kept_routes(tmp_path: Path) -> None:
    """Thirty thousand of them fit into the target."""
    fit = 30_000
    with scaled(tmp_path, 1_000_000) as node:
        configure(node, fit, rate=240)
        log = measured(node)
        began = monotonic()
        node.start(within_s=120)
        took = monotonic() - began
        record(
            "ready with 1,000,000 routes kept", took, "s", peer="its CPU, s", peer_value=cpu_s(node),
            target="<= 15", ok=took <= 15,
        )  # fmt: skip
        wait("all kept", lambda: kept(node) >= 1_000_000, 60)
        configure(node, fit)
        node.reload()
        wait("as many mirrored as fit", lambda: node.standin.state().posts >= fit - 100, 300)
        wait("synced", lambda: synced(node), 60)
        for field, name in (("VmRSS", "memory"), ("VmHWM", "most memory")):
            value = memory(node, field)
            record(f"{name} with 1,000,000 routes kept", value, "MiB", target="<= 429", ok=value <= 429)
        print_worst(log.take())


def test_forty_thousand_mirrored_routes(tmp_path: Path) -> None:
    count = 40_000
    with scaled(tmp_path, count) as node:
        configure(node, 100_000)
        node.start(within_s=60)
        wait("all mirrored", lambda: node.standin.state().posts >= count, 300)
        value = memory(node, "VmRSS")
        record("memory with 40,000 mirrored routes", value, "MiB", target="<= 120", ok=value <= 120)
