"""What a full resync beside a big table takes, in a process of its own: `python -m support.full_table NAMESPACE`.

Its memory is that of following alone: nothing else was ever allocated in it. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

from routesync.kernel import KernelSource, Links, Rules
from routesync.route import Route, Verdict
from support.waiting import eventually

DROPPED = 16
KEEP, DROP = Verdict(keep=True, rule="all"), Verdict(keep=False, rule="dhcp")


def drop_dhcp(route: Route, _links: Links) -> Verdict:
    return DROP if route.protocol == DROPPED else KEEP


def drop_dhcp_header(*header: int) -> Verdict | None:
    return DROP if header[4] == DROPPED else None


def memory_mb(field: str) -> float:
    """A figure of /proc/self/status, in MiB: VmRSS is now, VmHWM the most there ever was."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


async def measure(netns: str) -> dict[str, float]:
    """Follow, resync, and return what that took."""
    gc.collect()
    before = memory_mb("VmRSS")
    source = KernelSource(
        tables=(254,),
        rules=Rules(drop_dhcp, drop_dhcp_header),
        receive_buffer=2**26,
        resync_interval_s=3600,
        netns=netns,
    )
    task = asyncio.create_task(source.run())
    await asyncio.wait_for(source.synced.wait(), 120)
    resyncs = sum(source.stats.resyncs.values())
    source.request_resync("bench")
    await eventually(lambda: sum(source.stats.resyncs.values()) > resyncs, within_s=120)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return {
        "resync_s": source.stats.dump_s,
        "routes": source.stats.table_routes,
        "kept": source.stats.kept,
        "growth_mb": memory_mb("VmRSS") - before,
        "peak_growth_mb": memory_mb("VmHWM") - before,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1]))))
