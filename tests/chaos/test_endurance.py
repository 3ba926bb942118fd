"""A broker that refuses, cuts and dies, a node that is killed: no event is lost without a report, and order is kept.

    node (chaos.emitter) ── gate ── mosquitto ── subscriber (mosquitto_sub)

ROUTESYNC_ENDURANCE_S sets for how long, ROUTESYNC_ENDURANCE_EVENTS how many events are emitted meanwhile,
ROUTESYNC_ENDURANCE_SEED where to start (0: anywhere); the seed is printed. `make endurance` runs it for an hour. What
it writes is drawn by `chaos.plots`.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import pytest

from chaos.emitter import DRAINED_WITHIN_S, NODE, TOPICS
from chaos.gate import AWAY, CLOSE, DENIED, QUOTA, UNSPECIFIED, Gate, Refusal, gate
from chaos.plots import draw
from chaos.record import Record, figures
from chaos.tally import Tally
from routesync.events.mqtt_client import WINDOW
from support.broker import Broker, broker, free_port
from support.waiting import eventually_sync

SECONDS: Final = float(os.environ.get("ROUTESYNC_ENDURANCE_S", "4"))
EVENTS: Final = int(os.environ.get("ROUTESYNC_ENDURANCE_EVENTS", "4000"))
SEED: Final = int(os.environ.get("ROUTESYNC_ENDURANCE_SEED", "1")) or secrets.randbelow(1 << 32)
OUTPUT: Final = Path(os.environ.get("ROUTESYNC_ENDURANCE_OUTPUT", "build/chaos/endurance.jsonl"))
SHORT: Final = SECONDS < 60
SHORT_S: Final = (0.1, 0.3)
BROKER_PAUSE_S: Final = SHORT_S if SHORT else (2.0, 12.0)
NODE_PAUSE_S: Final = (1.0, 2.0) if SHORT else (5.0, 90.0)
TESTS: Final = Path(__file__).parents[1]
SUBSCRIBED: Final = f"routesync/v1/{NODE}/event/#"
ALLOWED: Final = "topic readwrite #\n"
OWN_REPORTS: Final = 10
"""Events that the publisher itself may emit between two lines of the emitter."""
SAMPLE_S: Final = 1.0
SAY_S: Final = 60.0


class Emitter:
    """The node's process, which is killed and started again."""

    def __init__(self, port: int, directory: Path, tally: Tally) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        self._port = port
        self._log = directory / "emitter"
        self._tally = tally
        self._process: subprocess.Popen[str] | None = None
        self._reading: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Its process, if there is one."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self, rate: float) -> None:
        """Start it, to emit so many events a second, and wait until it does."""
        lives = len(self._tally.on_disk)
        file = self.state / "outbox.sqlite"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.emitter", str(self._port), str(file), str(rate)]
                + ["hasty"] * SHORT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=TESTS,
                text=True,
            )
        self._reading = threading.Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reading.start()
        eventually_sync(
            lambda: len(self._tally.on_disk) > lives, what="the node", but=lambda: self.log[-3000:]
        )

    def _read(self, output: IO[str]) -> None:
        after = emits = on_disk = 0
        for line in output:
            if not line.endswith("\n"):  # it was killed
                break
            said = json.loads(line)
            if "epoch" in said:
                after = emits = on_disk = said["after"]
                self._tally.epochs.add(said["epoch"])
                self._tally.on_disk.append(range(0))
            emits, on_disk = said.get("emits", emits), said.get("on_disk", on_disk)
            if "on_disk" in said:
                self._tally.on_disk[-1] = range(after + 1, on_disk + 1)
        self._tally.unsure += max(0, emits - on_disk) + OWN_REPORTS

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            assert self._process.poll() is None, f"it ended by itself: {self.log[-3000:]}"
            self._process.kill()
            self._wait()

    def drain(self) -> None:
        """Have it emit no more, and end when the broker has everything."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._wait() == 0, self.log[-3000:]

    def _wait(self) -> int:
        process, reading = self._process, self._reading
        assert process is not None
        assert reading is not None
        status = process.wait(DRAINED_WITHIN_S + 30)
        reading.join()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
        self._process = self._reading = None
        return status


@contextmanager
def subscriber(mosquitto: Broker, tally: Tally) -> Iterator[None]:
    """Count what arrives at a subscriber, which comes back by itself when the broker was gone."""
    command = ["mosquitto_sub", "-h", mosquitto.address, "-p", str(mosquitto.port), "-V", "mqttv5", "-q", "1"]
    process = subprocess.Popen([*command, "-t", SUBSCRIBED, "-F", "%p"], stdout=subprocess.PIPE)
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            tally.note_arrived(json.loads(line))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        eventually_sync(lambda: mosquitto.subscriptions(SUBSCRIBED) == 1, what="a subscriber")
        yield
        assert process.poll() is None, "the subscriber has ended"
    finally:
        process.kill()
        process.wait()
        reading.join()
        output.close()


class Place(NamedTuple):
    """What a fault acts on."""

    broker: Broker
    gate: Gate
    emitter: Emitter
    start: Callable[[], None]  # the emitter
    tally: Tally
    chance: random.Random


# -- faults -----------------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """A fault: it begins and ends with its block, and lasts so many seconds."""

    begin: Callable[[Place], Iterator[None]]
    least_s: float
    most_s: float


def _topic(place: Place) -> str:
    """Mostly the one that most events have, so that more are held than may be."""
    return place.chance.choice((TOPICS[0], place.chance.choice(TOPICS)))


def topic_denied(place: Place) -> Iterator[None]:
    """By the broker's own access rules."""
    place.broker.set_acl(f"topic deny routesync/v1/{NODE}/{_topic(place)}\n{ALLOWED}")
    place.broker.reload()
    yield
    place.broker.set_acl(ALLOWED)
    place.broker.reload()


def _refuse(place: Place, refusal: Refusal) -> Iterator[None]:
    place.gate.refuse(refusal)
    yield
    place.gate.refuse(Refusal())


def topic_refused(place: Place) -> Iterator[None]:
    code = place.chance.choice((DENIED, UNSPECIFIED))
    yield from _refuse(place, Refusal(code, share=1, topic=_topic(place)))


def quota_exceeded(place: Place) -> Iterator[None]:
    yield from _refuse(place, Refusal(QUOTA, share=place.chance.choice((0.1, 0.5, 1))))


def some_refused(place: Place) -> Iterator[None]:
    yield from _refuse(place, Refusal(UNSPECIFIED, share=0.05))


def connections_closed(place: Place) -> Iterator[None]:
    """In place of an answer, to any message, or to those of a topic."""
    topic = place.chance.choice(("", "", place.chance.choice(TOPICS)))
    yield from _refuse(place, Refusal(CLOSE, share=1 if topic else 0.02, topic=topic))


def link_cut(place: Place) -> Iterator[None]:
    yield from _refuse(place, Refusal(AWAY))


def broker_killed(place: Place) -> Iterator[None]:
    """It forgets everything. So the node comes back behind the subscriber, who would miss what comes before him."""
    place.broker.kill()
    place.gate.refuse(Refusal(AWAY))
    yield
    before = place.broker.subscriptions(SUBSCRIBED)
    place.broker.start()
    eventually_sync(lambda: place.broker.subscriptions(SUBSCRIBED) > before, what="the subscriber")
    place.gate.refuse(Refusal())


def broker_hangs(place: Place) -> Iterator[None]:
    place.broker.freeze()
    yield
    place.broker.thaw()


def node_killed(place: Place) -> Iterator[None]:
    place.emitter.kill()
    at = time.monotonic()
    yield
    place.tally.note_kill(at)
    place.start()


BROKER_FAULTS: Final = (
    Fault(topic_denied, 1, 20),
    Fault(topic_refused, 1, 20),
    Fault(quota_exceeded, 1, 20),
    Fault(some_refused, 1, 20),
    Fault(connections_closed, 1, 10),
    Fault(link_cut, 0, 40),
    Fault(broker_killed, 0, 10),
    Fault(broker_hangs, 1, 6),
)
NODE_FAULTS: Final = (Fault(node_killed, 0, 5),)


class Series:
    """Faults that come one after the other, each as often as the others."""

    def __init__(
        self, faults: Sequence[Fault], pause_s: tuple[float, float], place: Place, record: Record
    ) -> None:
        self.begun = 0
        self._faults = faults
        self._pause_s = pause_s
        self._place = place
        self._record = record
        self._deck: list[Fault] = []
        self._active: tuple[Fault, ExitStack] | None = None
        self._next_at = time.monotonic() + place.chance.uniform(*pause_s)

    def step(self) -> None:
        """Begin a fault or end one, if it is time."""
        if time.monotonic() < self._next_at:
            return
        if self._active is not None:
            self.end()
            between = self._pause_s
        else:
            fault = self._begin()
            between = SHORT_S if SHORT else (fault.least_s, fault.most_s)
        self._next_at = time.monotonic() + self._place.chance.uniform(*between)

    def _begin(self) -> Fault:
        if not self._deck:
            self._deck = self._place.chance.sample(self._faults, k=len(self._faults))
        fault, stack = self._deck.pop(), ExitStack()
        self._record.write("fault", name=fault.begin.__name__, begins=True)
        stack.enter_context(contextmanager(fault.begin)(self._place))
        self._active = (fault, stack)
        self.begun += 1
        return fault

    def end(self) -> None:
        """End the fault that there is."""
        if self._active is not None:
            (fault, stack), self._active = self._active, None
            stack.close()
            self._record.write("fault", name=fault.begin.__name__, begins=False)


# -- the run ----------------------------------------------------------------------------------------------------------


class GateLog:
    """Follows which events the broker has acknowledged."""

    def __init__(self, file: IO[bytes], tally: Tally) -> None:
        self._file = file
        self._tally = tally
        self._rest = b""

    def step(self) -> None:
        """Take what is new."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                self._tally.note_acknowledged(json.loads(line))


def counts(tally: Tally) -> dict[str, int]:
    """What is known while it runs."""
    return {
        "on_disk": tally.given,
        "acknowledged": len(tally.acknowledged),
        "arrived": len(tally.arrived),
        "again": tally.again,
        "late": tally.late,
        "reported_lost": tally.reported,
        "overtaken": tally.overtaken,
    }


@pytest.mark.timeout(2 * SECONDS + DRAINED_WITHIN_S + 120)
def test_no_event_is_lost_silently() -> None:
    print(f"ROUTESYNC_ENDURANCE_SEED={SEED}", flush=True)
    record, tally = Record(OUTPUT), Tally()
    record.write("begin", seed=SEED, seconds=SECONDS, events=EVENTS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="routesync-endurance-")))
        unlimited = "max_queued_messages 0\nmax_inflight_messages 0"
        mosquitto = stack.enter_context(broker(acl=ALLOWED, extra=unlimited))
        stack.enter_context(subscriber(mosquitto, tally))
        port = free_port()
        passage = stack.enter_context(gate(None, f"{mosquitto.address}:{port}", mosquitto.port, directory))
        passed = GateLog(stack.enter_context(passage.log.open("rb")), tally)
        emitter = Emitter(port, directory, tally)
        stack.callback(emitter.kill)
        end = float("inf")

        def start() -> None:
            left_s = max(1.0, end - time.monotonic())
            emitter.start(max(EVENTS / SECONDS, (EVENTS - tally.given) / left_s))

        place = Place(mosquitto, passage, emitter, start, tally, random.Random(SEED))
        start()
        end = time.monotonic() + SECONDS
        series = [
            Series(BROKER_FAULTS, BROKER_PAUSE_S, place, record),
            Series(NODE_FAULTS, NODE_PAUSE_S, place, record),
        ]
        sample_at = say_at = time.monotonic()
        while (now := time.monotonic()) < end or tally.given < EVENTS:
            for each in series:
                each.step()
            passed.step()
            if now >= sample_at:
                sample_at = now + SAMPLE_S
                used = {} if emitter.pid is None else figures(emitter.pid, emitter.state)
                record.write("sample", **used, **counts(tally))
            if now >= say_at:
                say_at = now + SAY_S
                print(f"{now - record.began:.0f} s: {counts(tally)}", flush=True)
            time.sleep(0.05)
        for each in series:
            each.end()
        emitter.drain()
        passed.step()
        eventually_sync(lambda: tally.last_acknowledged in tally.arrived, what="the last event")
        found = counts(tally) | {
            "faults": sum(each.begun for each in series),
            "kills_reported": tally.kills,
            "reported_lost_by_reason": tally.reasons,
            "not_acknowledged": len(tally.missing()),
            "lost_by_the_broker": len(tally.acknowledged - tally.arrived),
            "silently_lost": tally.silent(),
            "reported_untruly": tally.untrue(),
        }
        record.write("end", **found)
        record.close()
        draw(OUTPUT)
        print(json.dumps(found), flush=True)
        assert found["silently_lost"] == 0
        assert found["reported_untruly"] == 0
        assert tally.overtaken <= WINDOW, "an event came after more than were in flight with it"
        assert len(tally.epochs) == 1, "the outbox was lost"
        assert "Traceback" not in emitter.log
