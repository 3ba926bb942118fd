"""Everything fails at once, for a while, again and again; each time it is quiet all has to be right, and said truly.

ROUTESYNC_CHAOS_S sets for how long, ROUTESYNC_CHAOS_SEED where to start (0: anywhere); the seed is printed. `make
chaos` runs it for long, with a witness in loxilb's kernel where the seed is even. What it writes is drawn by
`chaos.plots`. What this kind of machine cannot do: the monotonic clock does not jump, and no disk becomes read-only
while files on it are open for writing.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from chaos.arena import BLOCKED, Arena, Node, arena
from chaos.faults import HEALED_S, KINDS, Kind, Scene, restart
from chaos.plots import draw
from chaos.record import Record, figures, is_stopped
from chaos.truth import SERVED, Look, Witness, kept, look, unexplained, wanted
from routesync.mirror.ledger import read_owned

SECONDS: Final = float(os.environ.get("ROUTESYNC_CHAOS_S", "5"))
SEED: Final = int(os.environ.get("ROUTESYNC_CHAOS_SEED", "15")) or secrets.randbelow(1 << 32)
OUTPUT: Final = Path(os.environ.get("ROUTESYNC_CHAOS_OUTPUT", "build/chaos/chaos.jsonl"))
SHORT: Final = SECONDS < 60
STORM_S: Final = (SECONDS, SECONDS) if SHORT else (8, 25)
QUIET_WITHIN_S: Final = 120.0
"""Back-off of a loxilb and a broker, at most 30 s each, a topic that was denied, a verification, a busy machine."""
MOST_MEMORY: Final = 32 << 20
"""So much more than in the first quiet is no leak yet: what a storm needs, the interpreter does not give back."""
MOST_DESCRIPTORS: Final = 12
"""Connections to loxilb, up to eight, are closed ten seconds after their last use."""
MOST_TASKS: Final = 6
PASSING: Final = frozenset({"Session._send_on"})
"""Tasks that end with their request, of which a probe or a verification makes up to 64."""
FLOOD_S: Final = 10.0
"""After so long loxilb has ingested what another program did to hundreds of routes at once."""
LOSE_PEER_EVERY: Final = 10
MOST_WAITING: Final = 1500
"""Changes that wait for ingestion: what two daemons may send, on top of a flush of all that they have."""
DEFECTS: Final = (
    "Traceback",
    "_defect",
    "reconciler_error",
    "internal error",
    "control_call_failed",
    "task_did_not_stop",
    "task_restarts",
)


class Chaos:
    """One run."""

    def __init__(self, place: Arena, chance: random.Random, record: Record) -> None:
        self.arena = place
        self.record = record
        self.chance = chance
        self.truth = Witness(place.routing.touched)
        self.scene = Scene(place, self.truth, chance, [], [float("-inf")], [])
        self.wrong: list[str] = []
        self.active: dict[str, tuple[float, Kind, ExitStack]] = {}
        self.base: dict[str, float] = {}
        self.observed_at = 0.0
        self.quiets = 0

    def complain(self, what: str) -> None:
        """Write down what is wrong, once, and go on."""
        if what in self.wrong:
            return
        self.wrong.append(what)
        self.record.write("contradiction", what=what, active=sorted(self.active))
        print(f"WRONG: {what}", flush=True)

    # -- storm --------------------------------------------------------------------------------------------------------

    def storm(self, seconds: float) -> None:
        """Let everything happen at once."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for name, (until, _, _) in list(self.active.items()):
                if until <= now:
                    self.end_fault(name)
            if len(self.active) < 5 and self.chance.random() < 0.25:
                self.begin_fault()
            if self.chance.random() < 0.6:
                self.arena.routing.churn(self.chance)
            if self.chance.random() < 0.1 and "peer_dies" not in self.active:
                self.arena.peer_routing.churn(self.chance)
            self.watch()
            time.sleep(self.chance.uniform(0.02, 0.2))
        for name, (until, kind, _) in list(self.active.items()):
            while kind.least_s and time.monotonic() < until:  # a shorter one is another fault
                self.watch()
                time.sleep(0.1)
            self.end_fault(name)

    def begin_fault(self) -> None:
        kind = self.chance.choice(KINDS)
        taken = {group for _, other, _ in self.active.values() for group in other.groups}
        if kind.groups & taken or (SHORT and kind.slow):
            return
        self.record.write("fault", name=kind.name, begins=True)
        stack = ExitStack()
        stack.enter_context(kind.begin(self.scene))
        self.active[kind.name] = (
            time.monotonic() + self.chance.uniform(kind.least_s, kind.most_s),
            kind,
            stack,
        )

    def end_fault(self, name: str) -> None:
        _, _, stack = self.active.pop(name)
        stack.close()
        self.record.write("fault", name=name, begins=False)

    def watch(self) -> None:
        """Look once a second, and after each step at what must never happen."""
        self._note_peers()
        if (
            not self.arena.standin.alive
            and "loxilb_killed" not in self.active
            and "loxilb_recreated" not in self.active
        ):
            # a change of ours that waits behind a flood of others' is ingested later than a client can know
            knowable = time.monotonic() - self.truth.flooded_at > FLOOD_S
            self.record.write("death", knowable=knowable)
            if knowable:
                self.complain(f"the stand-in died of what was done to it: {self.arena.standin.log()[-300:]}")
            self.arena.standin.launch()
        process = self.arena.node.process
        if process is not None and process.poll() is not None:
            self.complain(
                f"the daemon ended by itself, status {process.poll()}: {self.arena.node.log()[-2000:]}"
            )
            restart(self.scene)
        if time.monotonic() - self.observed_at >= 1:
            self.observed_at = time.monotonic()
            self.observe()

    def _note_peers(self) -> None:
        """Note since when loxilb and the broker are well, as far as the node is concerned."""
        groups = {group for _, kind, _ in self.active.values() for group in kind.groups}
        since, now = self.truth.since, time.monotonic()
        if groups & {"link", "daemon"}:
            since.loxilb_well = since.broker_well = since.loxilb_gone = since.broker_gone = None
            return
        if "loxilb" not in groups:
            since.loxilb_well = since.loxilb_well or now
        if "broker" not in groups:
            since.broker_well = since.broker_well or now

    def look(self) -> Look:
        seen = look(self.arena.node.node, self.arena.loxilb, shut=self.arena.node.shut)
        self.truth.add(seen)
        missing = self.arena.writer.rows - seen.others
        if missing and "loxilb_loses_its_link" not in self.active:
            self.complain(f"routes of others are gone or changed: {sorted(map(str, missing))}")
        return seen

    def ask(self) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]] | None:
        """The status, the routes, and the status again; None if the daemon does not answer now."""
        node = self.arena.node
        if node.process is None or node.process.poll() is not None or is_stopped(node.process.pid):
            return None
        try:
            status, routes, again = (node.get(f"/v1/{what}") for what in ("status", "routes", "status"))
        except (OSError, http.client.HTTPException, AssertionError):
            return None
        return status, routes["routes"], again

    def observe(self) -> dict[str, Any] | None:
        """Look, ask, look; write down what is seen, and what cannot be. Returns the target's state."""
        seen = self.look()
        said = self.ask()
        self.look()
        process = self.arena.node.process
        sample: dict[str, Any] = {"loxilb": len(seen.ours), "wanted": len(seen.wanted)}
        if process is not None and process.poll() is None:
            sample |= figures(process.pid, self.arena.node.state)
        target = None
        if said is not None:
            status, routes, again = said
            target = next((it for it in again["targets"] if it["name"] == "lb"), None)
            if target is not None:
                self.truth.note_contact(served=target["state"] in SERVED)
                sample |= {it: target[it] for it in ("state", "waiting", "complete", "phases")}
            sample["lag_ms"] = again["status"]["kernel"]["lag_ms"]
            sample["broker"] = again["status"]["broker"]
            for what in self.truth.contradictions(status, routes, again):
                self.complain(what)
        else:
            self.truth.note_contact(served=False)
        self.record.write("sample", **sample)
        return target

    # -- quiet --------------------------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """End all trouble, wait until everything is right, and compare all there is to compare."""
        place = self.arena
        began = time.monotonic()
        if not place.standin.alive:
            place.standin.launch()
        if (
            len(self.scene.losses) >= 2
        ):  # what is lost again and again is added again after up to five minutes
            while time.monotonic() < self.scene.disk_trouble[-1] + HEALED_S:
                self.watch()
                time.sleep(0.3)
            place.node.kill()
            place.peer.kill()
            restart(self.scene)
            place.peer.launch()
        place.routing.refresh()
        place.peer_routing.refresh()
        place.node.serves()
        place.node.call("POST", "/v1/resume", b"{}")
        last = ""
        while (last := self._not_right()) and time.monotonic() < began + QUIET_WITHIN_S:
            self.watch()
            time.sleep(0.3)
        took = time.monotonic() - began
        if last:
            self.complain(f"not right after {took:.0f} s of quiet: {last}")
        self.quiets += 1
        self.observe()
        for row in self.scene.stays:
            place.writer.drop(row)
        self.truth.disturb(*(row.prefix for row in self.scene.stays))
        self.scene.stays.clear()
        place.routing.pin()
        self._compare_leaks()
        for what in unexplained([event for event in place.gate.acknowledged() if _is_of(event, "node")]):
            self.complain(what)
        log = place.node.log() + place.peer.log()
        found = [line for line in log.splitlines() if any(defect in line for defect in DEFECTS)]
        if found:
            self.complain(f"the log has {found[:3]}")
        state = place.standin.state()
        if state.deaf or state.peak_waiting > MOST_WAITING:
            self.complain(f"the stand-in had to ingest too much: {state}")
        self.record.write("quiet", took_s=round(took, 1), right=not last, peak_waiting=state.peak_waiting)
        print(
            f"seed {SEED}: {self.quiets} quiets, the last after {took:.1f} s; wrong: {len(self.wrong)}",
            flush=True,
        )

    def lose_peer(self) -> None:
        """The second node dies for long: the first says so, and how many routes it left, until it is back."""
        place = self.arena
        left = len(look(place.node.node, place.loxilb, shut=False).peers)
        until = time.monotonic() + QUIET_WITHIN_S  # the table is published after its events
        while (published := self._published_by_peer()) != left and time.monotonic() < until:
            self.watch()
        if published != left:
            self.complain(f"the peer has {left} routes; the table that it retains, {published}")
        place.peer.kill()
        gone = self._wait_for_peer(left)
        if not gone:
            said = self.ask()
            has = place.retained("peer/instance/+", "peer/status", "peer/table/lb/manifest", "node/status")
            self.complain(
                f"the peer with {left} routes is not said to be gone: {said and said[2]['status']['alarms']}; "
                f"the broker has {has}"
            )
        place.peer.launch()
        back = self._wait_for_peer(None)
        self.record.write("peer", gone=gone, back=back)
        if not back:
            self.complain("the peer is back, and said to be gone")

    def _published_by_peer(self) -> int | None:
        """How many routes the peer's table has as the broker retains it."""
        manifests = self.arena.retained("peer/table/lb/manifest").values()
        return next((it["data"]["routes"] for it in manifests), None)

    def _wait_for_peer(self, left: int | None) -> bool:
        """Wait until the alarm about the peer is about so many routes; None: until there is none."""
        until = time.monotonic() + QUIET_WITHIN_S
        while time.monotonic() < until:
            self.watch()
            said = self.ask()
            if said is not None:
                alarms = said[2]["status"]["alarms"]
                if [it["count"] for it in alarms if it["kind"] == "peer-gone"] == [left] * (left is not None):
                    return True
            time.sleep(0.3)
        return False

    def _not_right(self) -> str:
        """What is not right yet; "" when all is."""
        place = self.arena
        seen = look(place.node.node, place.loxilb, shut=place.node.shut)
        expected = {it: gateways for it, gateways in seen.wanted.items() if it not in BLOCKED}
        for name, ours, desired, node in (
            ("node", seen.ours, expected, place.node),
            ("peer", seen.peers, wanted(place.peer.node), place.peer),
        ):
            wrong = [it for it in ours.keys() | desired.keys() if ours.get(it) not in desired.get(it, ())]
            if wrong:
                self._act_as_operator(node)
                return f"loxilb's kernel, {name}: {[(it, ours.get(it), desired.get(it)) for it in wrong[:5]]}"
            owned = {str(prefix): str(gateway) for prefix, gateway in read_owned(node.state, "lb").items()}
            if owned.keys() != ours.keys():
                self._act_as_operator(node)
                return f"the ledger, {name}: {sorted(owned.keys() ^ ours.keys())[:5]}"
        try:
            state = place.peer.get("/v1/status")["targets"][0]["state"]
        except (OSError, http.client.HTTPException, AssertionError):
            return "the peer does not answer"
        if state != "synced":
            return f"the peer: {state}"
        if seen.others != place.writer.rows:
            return f"routes of others: {seen.others ^ place.writer.rows}"
        found = {key for key, metrics in kept(place.node.node, shut=False).items() for _ in metrics}
        if found != {prefix for prefix, _ in place.routing.wanted}:
            return "the node's own kernel"
        return self._not_said(seen)

    def _not_said(self, seen: Look) -> str:
        """What status, subscriber or stand-in do not say yet."""
        place = self.arena
        said = self.ask()
        if said is None:
            return "the daemon does not answer"
        target = said[2]["targets"][0]
        status = said[2]["status"]
        allowed = {"confirmed", "accepted"} | (
            {"conflicting", "present"} if seen.wanted.keys() & {*BLOCKED} else set()
        )
        if target["state"] != "synced" or not target["phases"].keys() <= allowed:
            self._act_as_operator(place.node)
            return f"status: {target['state']}, {target['phases']}, {target['error']}"
        if target["complete"] != (not target["phases"].keys() & {"conflicting"}):
            return f"status: complete is {target['complete']}, {target['phases']}"
        kinds = {alarm["kind"] for alarm in status["alarms"]} - {"foreign-not-forwarded", "peer-gone"}
        if kinds:
            return f"alarms: {kinds}"
        if status["broker"] != "connected" or status["held"]:
            return f"broker: {status['broker']}, held: {status['held']}"
        for name, ours in (("node", seen.ours), ("peer", seen.peers)):
            theirs = place.followers[name].routes()
            if theirs != ours:
                differ = None if theirs is None else [*(theirs.items() ^ ours.items())][:5]
                return f"the follower of {name}: {differ}"
        waiting = place.standin.state().waiting
        return f"the stand-in has {waiting} waiting" if waiting else ""

    def _act_as_operator(self, node: Node) -> None:
        """Do what the alarms ask for."""
        try:
            for phase, verb in (("left-behind", "adopt"), ("not-forwarded", "repair")):
                prefixes = {row["prefix"] for row in node.get(f"/v1/routes?phase={phase}")["routes"]}
                theirs = prefixes & {row.prefix for row in self.arena.writer.rows}
                for what, chosen in ((verb, prefixes - theirs), ("forget", theirs)):
                    if chosen:
                        body = {"target": "lb", "prefixes": sorted(chosen)}
                        node.call("POST", f"/v1/{what}", json.dumps(body).encode())
        except (OSError, AssertionError):
            pass

    def _compare_leaks(self) -> None:
        process = self.arena.node.process
        assert process is not None
        names = self.arena.node.tasks()
        kept = sum(number for name, number in names.items() if name not in PASSING)
        used = figures(process.pid, self.arena.node.state) | {"tasks": kept}
        self.record.write("tasks", **names)
        if not self.base:
            self.base = used
        for name, most in (("memory", MOST_MEMORY), ("descriptors", MOST_DESCRIPTORS), ("tasks", MOST_TASKS)):
            if used[name] > self.base[name] + most:
                self.complain(f"{name}: {used[name]} after {self.base[name]} in the first quiet; {names}")


def _is_of(event: dict[str, Any], node: str) -> bool:
    return str(event["source"]).rstrip("/").endswith(f"/{node}")


@pytest.mark.timeout(SECONDS * 6 + 300)
def test_chaos(tmp_path: Path) -> None:
    print(f"ROUTESYNC_CHAOS_SEED={SEED}", flush=True)
    record = Record(OUTPUT)
    record.write("begin", seed=SEED, seconds=SECONDS)
    with arena(tmp_path) as place:
        chaos = Chaos(place, random.Random(SEED), record)
        # a witness does not come and go: what it knew would go with it
        if not SHORT and SEED % 2 == 0:
            place.node.witness = place.loxilb
            place.node.configure()
        place.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            left = end - time.monotonic()
            chaos.storm(min(max(left, 3), chaos.chance.uniform(*STORM_S)))
            chaos.quiet()
            if not SHORT and chaos.quiets % LOSE_PEER_EVERY == 2:
                chaos.lose_peer()
        place.node.terminate()  # what waits in an outbox that could not be opened comes now
        restart(chaos.scene)
        chaos.quiet()
        record.write("end", wrong=len(chaos.wrong), quiets=chaos.quiets)
        record.close()
        draw(OUTPUT)
        assert not chaos.wrong
