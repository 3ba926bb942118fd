"""What is true, and whether what the daemon says can be.

Truth is what both kernels have, read by ip(8): a `Look`. The daemon's status is asked for between two looks, and a
claim is a contradiction only if neither look, nor any of the last seconds, allows it. What is done to loxilb behind the
daemon's back, it can only learn by asking there; so what is said about such a prefix counts again only after the time
in which that has to be found.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from itertools import pairwise
from typing import Any, Final

from chaos.arena import PEER_POOL, SHUT
from support.kill_arena import Row, table
from support.netns import Namespace

LAG_S: Final = 6.0
"""After so long the daemon has to have taken a change of the node's kernel, on a busy machine too."""
BLIND_S: Final = 45.0
"""After so long in contact it has to have found what was done to loxilb, by a probe or an inventory."""
STUCK_S: Final = 60.0
"""After so long it has to have found a loxilb or a broker that is well again, or gone."""
MISCOUNTS: Final = 3
SELF: Final = {4: "192.168.10.10", 6: "fd00:10::10"}
MIRRORED: Final = frozenset({"accepted", "confirmed"})
SERVED: Final = frozenset({"synced", "syncing"})
_SHUT: Final = IPv4Network(SHUT)


def kept(space: Namespace, *, shut: bool) -> dict[str, dict[int, frozenset[str]]]:
    """What the rules keep of a node's kernel: by prefix and metric the gateways that a target may have for it."""
    found: dict[str, dict[int, frozenset[str]]] = {}
    for family, full in ((4, "32"), (6, "128")):
        for row in json.loads(space.ip(f"-j -{family} route show proto bird") or "[]"):
            prefix = row["dst"] if "/" in row["dst"] else f"{row['dst']}/{full}"
            hops = row.get("nexthops") or [row]
            flags = {flag for hop in (row, *hops) for flag in hop.get("flags", ())}
            if "linkdown" in flags or (shut and family == 4 and IPv4Network(prefix).subnet_of(_SHUT)):
                continue
            gateways = {
                SELF[family] if hop.get("dev") == "cni0" else hop["gateway"]
                for hop in hops
                if "gateway" in hop
            }
            found.setdefault(prefix, {})[row.get("metric", 0)] = frozenset(gateways)
    return found


def wanted(space: Namespace, *, shut: bool = False) -> dict[str, frozenset[str]]:
    """By prefix the gateways that a target may have for its best route."""
    return {prefix: metrics[min(metrics)] for prefix, metrics in kept(space, shut=shut).items()}


@dataclass(frozen=True)
class Look:
    """Both kernels at one moment."""

    at: float
    wanted: dict[str, frozenset[str]]
    ours: dict[str, str]  # in loxilb, of the first node
    peers: dict[str, str]  # of the second one
    others: frozenset[Row]


def look(node: Namespace, loxilb: Namespace, *, shut: bool) -> Look:
    at, desired, rows = time.monotonic(), wanted(node, shut=shut), table(loxilb)
    ours = {row for row in rows if row.protocol == "static" and row.mtu is None and row.gateway is not None}
    gateways = {row.prefix: row.gateway or "" for row in ours}
    return Look(
        at,
        desired,
        {prefix: gateway for prefix, gateway in gateways.items() if prefix not in PEER_POOL},
        {prefix: gateway for prefix, gateway in gateways.items() if prefix in PEER_POOL},
        frozenset(rows - ours),
    )


@dataclass
class Since:
    """Since when loxilb and the broker are as they are; None: they are not."""

    loxilb_well: float | None = None
    loxilb_gone: float | None = None
    broker_well: float | None = None
    broker_gone: float | None = None


@dataclass
class Witness:
    """Remembers looks and what was done, and compares what the daemon says with them.

    Attributes:
        touched: when the node's kernel last changed, by prefix; between two looks it may do so twice.
        everything: how many seconds in contact are left until all that happened in loxilb has to be known.
        disturbed: the same of single prefixes.
        changed_at: when the rules, or the daemon's life, last changed.
        flooded_at: when loxilb last had to ingest hundreds of changes that nobody could know of.
    """

    touched: dict[str, float]
    since: Since = field(default_factory=Since)
    looks: deque[Look] = field(default_factory=deque)
    everything: float = 0.0
    disturbed: dict[str, float] = field(default_factory=dict)
    changed_at: float = float("-inf")
    flooded_at: float = float("-inf")
    served_at: float | None = None
    miscounts: int = 0

    def disturb(self, *prefixes: str) -> None:
        """Something was done in loxilb's kernel behind the daemon's back; without prefixes, to everything."""
        if not prefixes:
            self.everything, self.flooded_at = BLIND_S, time.monotonic()
        for prefix in prefixes:
            self.disturbed[prefix] = BLIND_S

    def add(self, seen: Look) -> None:
        self.looks.append(seen)
        while len(self.looks) > 2 and self.looks[1].at < seen.at - LAG_S:
            self.looks.popleft()

    def note_contact(self, *, served: bool) -> None:
        """Let the time pass in which losses have to be found: only while the daemon is in contact."""
        now = time.monotonic()
        if served and self.served_at is not None:
            passed = now - self.served_at
            self.everything = max(0.0, self.everything - passed)
            self.disturbed = {it: left - passed for it, left in self.disturbed.items() if left > passed}
        self.served_at = now if served else None

    def _known(self, prefix: str) -> bool:
        """Whether the daemon has to know what loxilb's kernel has for this prefix."""
        return not self.everything and prefix not in self.disturbed

    def _stable(self, *prefixes: str) -> bool:
        """Whether the node's kernel has had the same for these prefixes for a while."""
        recent = time.monotonic() - LAG_S
        return all(self.touched.get(prefix, recent) <= recent for prefix in prefixes)

    # -- claims -------------------------------------------------------------------------------------------------------

    def contradictions(
        self, status: dict[str, Any], routes: list[dict[str, Any]], again: dict[str, Any]
    ) -> list[str]:
        """Compare what was asked between the last two looks.

        Args:
            status: of the control API, before the routes.
            routes: of the control API.
            again: the status after them.
        """
        found = [*self._of_loxilb_and_broker(status["status"])]
        target = next((it for it in status["targets"] if it["name"] == "lb"), None)
        if target is None or time.monotonic() - self.changed_at < LAG_S:
            return found
        rows = [(row["prefix"], end) for row in routes for end in row["targets"] if end["target"] == "lb"]
        found += self._of_each(rows)
        before, after = (it["targets"][0] for it in (status, again))
        found += self._of_phases(before, Counter(end["phase"] for _, end in rows), after)
        if before["state"] in SERVED and after["state"] in SERVED:
            found += self._of_desired(before, after)
        if before["state"] == after["state"] == "synced" and before["complete"] and after["complete"]:
            found += self._of_complete()
        return found

    def _of_each(self, rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
        """What is said to be mirrored was there at some moment of the last seconds."""
        found = []
        for prefix, end in rows:
            seen = {look.ours.get(prefix) for look in self.looks}
            if end["phase"] in MIRRORED and self._known(prefix) and end["owned"] not in seen:
                found.append(f"{prefix} via {end['owned']} is said to be {end['phase']}; loxilb has {seen}")
        return found

    def _of_phases(self, before: dict[str, Any], phases: Counter[str], after: dict[str, Any]) -> list[str]:
        """The phases add up: a route may pass through one between two questions, but not each time."""
        differ = before["phases"] == after["phases"] != phases
        self.miscounts = self.miscounts + 1 if differ else 0
        if self.miscounts >= MISCOUNTS:
            return [f"status counts {before['phases']}, the routes are {dict(phases)}"]
        return []

    def _of_desired(self, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        """The number of desired routes is right when the kernel is quiet, with those that the target cannot have now.

        Until the next inventory those by a network that loxilb had lost are among them.
        """
        counts = {len(look.wanted) for look in self.looks}
        said, again = (it["desired"] + it["phases"].get("ineligible", 0) for it in (before, after))
        if said == again not in counts and self._stable(*self.touched):
            return [f"{said} routes are said to be desired, or ineligible; the kernel has {counts}"]
        return []

    def _of_complete(self) -> list[str]:
        """Synced and complete: all that is desired is there, perhaps as another writer's, and nothing else of ours."""
        found = []
        for prefix, gateways in self.looks[-1].wanted.items():
            if self._known(prefix) and self._stable(prefix):
                seen = {look.ours.get(prefix) for look in self.looks}
                equal = {row.gateway for row in self.looks[-1].others if row.prefix == prefix}
                if not (seen | equal) & gateways:
                    found.append(f"complete, and {prefix} via {set(gateways)} is not in loxilb: {seen}")
        for prefix, gateway in self.looks[-1].ours.items():
            allowed = {it for look in self.looks for it in look.wanted.get(prefix, ())}
            if self._known(prefix) and self._stable(prefix) and gateway not in allowed:
                found.append(f"complete, and loxilb has {prefix} via {gateway}, which is not desired")
        return found

    def _of_loxilb_and_broker(self, status: dict[str, Any]) -> list[str]:
        """A loxilb or a broker that is gone, or back, is known to be so after a while."""
        found, now = [], time.monotonic()

        def lasts(since: float | None) -> bool:
            return since is not None and now - since > STUCK_S

        for target in status["targets"]:
            if lasts(self.since.loxilb_well) and target["state"] not in {*SERVED, "paused"}:
                found.append(
                    f"loxilb is well for {STUCK_S} s, and said to be {target['state']}: {target['error']}"
                )
            if lasts(self.since.loxilb_gone) and target["state"] in SERVED:
                found.append(f"loxilb is gone for {STUCK_S} s, and said to be {target['state']}")
        if lasts(self.since.broker_well) and status["broker"] != "connected":
            found.append(f"the broker is well for {STUCK_S} s, and said to be {status['broker']}")
        if lasts(self.since.broker_gone) and status["broker"] == "connected":
            found.append(f"the broker is gone for {STUCK_S} s, and said to be connected")
        return found


def _covered(first: int, last: int, ranges: list[tuple[int, int]]) -> bool:
    """Whether these ranges together have all of these numbers."""
    for begin, end in sorted(ranges):
        if begin <= first <= end:
            first = end + 1
    return first > last


def unexplained(events: list[dict[str, Any]]) -> list[str]:
    """Numbers that are missing in what the broker acknowledged, and that no event of a loss explains.

    An outbox in memory ends with its daemon, and so does its epoch: what was on its way or held for denied topics then,
    nobody can report. While there is one, the file waits with what explains the gaps of its own epoch. So only the
    epoch of the last event is looked at.
    """
    epoch = events[-1]["epoch"] if events else ""
    seen: set[int] = set()
    ranges: list[tuple[int, int]] = []
    unknown = 0
    for event in events:
        if event["epoch"] != epoch:
            continue
        seen.add(int(event["sequence"]))
        if event["type"] == "io.routesync.events.lost.v1":
            first, last = event["data"]["first"], event["data"]["last"]
            if first is not None and last is not None:
                ranges.append((first, last))
            else:
                unknown += 1
    gaps = [(before + 1, number - 1) for before, number in pairwise(sorted(seen)) if number > before + 1]
    gaps = [it for it in gaps if not _covered(*it, ranges)]
    return [f"{len(gaps)} gaps {gaps[:5]}, {unknown} unknown losses reported"] if len(gaps) > unknown else []
