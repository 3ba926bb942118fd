"""A daemon that is killed at random moments while routes come and go, and all that has to be right afterwards."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from routesync.mirror.ledger import read_owned
from support.daemon import Daemon, ended
from support.netns import Namespace, namespace, segment
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

SETTLED_WITHIN_S = 45
GATEWAYS = {4: ("192.168.10.1", "192.168.10.2"), 6: ("fd00:10::1", "fd00:10::2")}
CONFLICTING = "10.1.0.0/16"  # wanted now and then, and another writer's in loxilb
EQUAL = "10.2.0.0/16"  # the same, and theirs looks as ours would with the first gateway
POOL = [f"10.{number}.0.0/16" for number in range(1, 61)] + [f"fd01:{number}::/48" for number in range(1, 21)]
FOREIGN = (
    f"route add {CONFLICTING} via 192.168.10.2 proto bird mtu 1400",
    f"route add {EQUAL} via 192.168.10.1 proto static mtu 1400",
    "route add 10.200.0.0/16 via 192.168.10.1 proto static mtu 1400",
    "route add 10.201.0.1/32 dev eth0 scope link proto dhcp",
    "route add 0.0.0.0/0 via 192.168.10.2 metric 100 proto dhcp mtu 1400",
    "-6 route add fd99::/48 via fd00:10::1 proto static mtu 1400",
)
CONFIG = """
[policy]
default_action = "drop"

[[policy.rules]]
name = "mirrored"
match = { protocol = "bird" }
action = "keep"

[[targets]]
name = "lb"
url = "http://192.168.10.20:11111"
startup_hold_s = 1
withdraw_limit_share = 1
inventory_interval_s = 10
"""


class Row(NamedTuple):
    """A route of a kernel, with all that shows whether it is still the same."""

    prefix: str
    gateway: str | None
    protocol: str
    metric: int
    mtu: int | None


class Arena(Daemon):
    """A router with the daemon, a loxilb beside it, and the routes that both have to have."""

    def __init__(
        self, router: Namespace, loxilb: Namespace, standin: StandinProcess, directory: Path, config: str
    ) -> None:
        super().__init__(directory, router)
        self.config.write_text(config)
        self.router = router
        self.loxilb = loxilb
        self.standin = standin
        self.wanted: dict[str, str] = {}
        self.foreign = table(loxilb)
        self.own = table(router)

    def kill(self) -> None:
        """SIGKILL; it must not have ended by itself before."""
        assert self.process is None or self.process.poll() is None, "the daemon ended by itself"
        super().kill()
        self.process = None

    def churn(self, chance: random.Random) -> None:
        """Change some routes of the router at once: new ones, other gateways, ones that go."""
        lines = []
        for prefix in chance.sample(POOL, chance.randint(1, 6)):
            gateway = chance.choice(GATEWAYS[6 if ":" in prefix else 4])
            if chance.random() < 0.4:
                if self.wanted.pop(prefix, None):
                    lines.append(f"route del {prefix} proto bird")
            else:
                self.wanted[prefix] = gateway
                lines.append(f"route replace {prefix} via {gateway} proto bird")
        if lines:
            self.router.batch(lines)

    def mirrored(self) -> dict[str, str]:
        """What of ours has to be in loxilb: all that is wanted, but where another writer's route is."""
        return {
            prefix: gateway for prefix, gateway in self.wanted.items() if prefix not in (CONFLICTING, EQUAL)
        }

    def check_foreign(self) -> None:
        """At any moment: what is not ours is as it was, and what is ours is nothing that was never wanted."""
        left = self.foreign - table(self.loxilb)
        assert not left, f"routes of others are gone or changed: {left}"

    def check_settled(self) -> None:
        """Both kernels have exactly the right routes, and the ledger knows exactly which of them are ours."""
        ours = {
            Row(prefix, gateway, "static", 1024 if ":" in prefix else 0, None)
            for prefix, gateway in self.mirrored().items()
        }
        expected = self.foreign | ours
        eventually_sync(
            lambda: (
                table(self.loxilb) == expected and {str(p) for p in self._owned()} == set(self.mirrored())
            ),
            within_s=SETTLED_WITHIN_S,
            what="the right routes in loxilb's kernel",
            but=lambda: (
                f"differing: {table(self.loxilb) ^ expected}; ledger: "
                f"{ {str(p) for p in self._owned()} ^ set(self.mirrored()) }"
            ),
        )
        wanted = {
            Row(prefix, gateway, "bird", 1024 if ":" in prefix else 0, None)
            for prefix, gateway in self.wanted.items()
        }
        assert table(self.router) == self.own | wanted

    def _owned(self) -> list[object]:
        return list(read_owned(self.state, "lb"))


def table(space: Namespace) -> set[Row]:
    """All routes of a namespace's main tables."""
    found = set()
    for family, full in (("-4", "32"), ("-6", "128")):
        for row in json.loads(space.ip(f"-j {family} route show") or "[]"):
            prefix = row["dst"] if "/" in row["dst"] or row["dst"] == "default" else f"{row['dst']}/{full}"
            mtu = next((metrics["mtu"] for metrics in row.get("metrics", ()) if "mtu" in metrics), None)
            found.add(Row(prefix, row.get("gateway"), row["protocol"], row.get("metric", 0), mtu))
    return found


@contextmanager
def kill_arena(directory: Path, config: str = CONFIG) -> Iterator[Arena]:
    """Build it; take it down whatever happened. A stand-in that died fails the test."""
    with ExitStack() as stack:
        router = stack.enter_context(namespace("router"))
        loxilb = stack.enter_context(namespace("loxilb"))
        stack.enter_context(segment((router, "ens3", 10), (loxilb, "eth0", 20)))
        for line in FOREIGN:
            loxilb.ip(line)
        standin = stack.enter_context(running_standin(loxilb))
        arena = Arena(router, loxilb, standin, directory, config)
        with ended(arena):
            yield arena


def live(arena: Arena, chance: random.Random, *, settle: bool) -> None:
    """One life of the daemon: start, churn, perhaps come to rest and be checked, then die at a random moment."""
    if chance.random() < 0.5:
        arena.churn(chance)  # while nobody looks
    arena.launch()
    falls = chance.random() < 0.2  # loxilb, too, at some moment of this life
    if settle:
        if falls:
            _churn_for(arena, chance, chance.uniform(0, 3))
            arena.standin.kill()
            _churn_for(arena, chance, chance.uniform(0, 1))
            arena.standin.start()
        else:
            _churn_for(arena, chance, chance.uniform(0, 2))
        arena.check_settled()
        _churn_for(arena, chance, chance.uniform(0, 1))
    else:  # mostly in its start-up, or in its first work
        _churn_for(arena, chance, chance.uniform(0, 5))
        if falls:
            arena.standin.kill()
            arena.standin.launch()
            _churn_for(arena, chance, chance.uniform(0, 1))
    arena.kill()
    if not arena.standin.alive:
        assert not arena.standin.died, f"the stand-in died of our doing: {arena.standin.log()}"
    arena.check_foreign()


def _churn_for(arena: Arena, chance: random.Random, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if chance.random() < 0.7:
            arena.churn(chance)
        time.sleep(min(left, chance.uniform(0, 0.15)))
