"""A flood of log lines is cut short and its size is logged; a problem that persists is logged once."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from routesync.best_routes import QUIET_S, KernelReporter
from routesync.config.models import MqttSettings
from routesync.events.hub import EventHub, log_events
from routesync.events.models import Event, KernelOverrun, RouteWithdrawn
from routesync.events.node_status import offline
from routesync.events.publisher import MqttPublisher
from routesync.kernel import Overrun, ResyncDone
from routesync.names import Names
from routesync.service import logs
from support.waiting import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def out(clock: Clock) -> Iterator[io.StringIO]:
    """The log, with flood control of three lines in ten seconds."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("debug", stream=stream)
    root.handlers[0].filters = [logs.FloodControl(3, 10, clock).filter]
    yield stream
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_flood_is_cut_short_and_the_next_line_has_its_size(clock: Clock, out: io.StringIO) -> None:
    log = structlog.get_logger()
    for number in range(100):
        log.warning("routes_changed", number=number)
        log.info("ready") if number == 50 else None
    assert [line.get("number") for line in lines(out)] == [0, 1, 2, None], "others are not held up by it"
    assert "left out" in str(lines(out)[2]["flood"])
    clock.now += 10
    log.warning("routes_changed", number=100)
    assert (lines(out)[-1]["number"], lines(out)[-1]["left_out_before"]) == (100, 97)
    log.warning("routes_changed", number=101)
    assert "left_out_before" not in lines(out)[-1]


def test_a_flood_of_a_library_is_cut_short_whatever_its_lines_end_in(clock: Clock, out: io.StringIO) -> None:
    log = logging.getLogger("asyncio")
    for number in range(100):
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            log.exception("socket.accept() out of system resource\nsocket: <fd=%d>", number)
    logging.getLogger("aiohttp").error("another")
    assert len(lines(out)) == 4
    assert "left out" in str(lines(out)[2]["flood"])
    clock.now += 10
    log.error("socket.accept() out of system resource\nsocket: <fd=100>")
    assert lines(out)[-1]["left_out_before"] == 97


def test_events_of_which_the_log_is_the_sink_and_debug_lines_are_all_shown(out: io.StringIO) -> None:
    log = structlog.get_logger()
    for number in range(10):
        log.info("route_accepted", sequence=number)
        log.debug("kernel_resynced")
    assert len(lines(out)) == 20


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_without_a_broker_events_of_single_routes_are_logged_at_debug(
    out: io.StringIO, level: logs.Level
) -> None:
    logs.configure(level, stream=out)
    hub = EventHub("node")
    task = asyncio.create_task(log_events(hub))
    await asyncio.sleep(0)
    for _ in range(3):
        hub.emit(
            RouteWithdrawn(
                target="edge", prefix="10.0.0.0/24", family="ipv4", gateway="192.0.2.1", reason="gone"
            )
        )
    hub.emit(KernelOverrun(total=1))
    await eventually(lambda: "kernel_overrun" in out.getvalue())
    task.cancel()
    names = [line["event"] for line in lines(out)]
    assert names.count("route_withdrawn") == (3 if level == "debug" else 0)


def test_not_every_kind_is_remembered_for_ever(clock: Clock) -> None:
    control = logs.FloodControl(3, 10, clock)
    for number in range(1000):
        control.filter(logging.LogRecord("lib", logging.INFO, "", 0, f"name {number}", None, None))
        clock.now += 1
    assert len(control._windows) < 20


def test_troubles_with_the_broker_that_take_turns_are_each_said_once() -> None:
    hub = EventHub("node")
    publisher = MqttPublisher(MqttSettings(host="b"), "node", hub, lambda: offline("node"))
    with capture_logs() as logs:
        for trouble in ("refused", "no answer", "refused", "no answer", "no answer"):
            publisher._note_trouble(trouble)
        publisher._note_connected()
        publisher._note_trouble("refused")
    asyncio.run(publisher.outbox.close())
    assert [line["event"] for line in logs] == [
        "broker_down",
        "broker_still_down",
        "broker_up",
        "broker_down",
    ]


class Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.events.append(event)


def test_overruns_that_go_on_are_logged_once_and_once_when_they_end(clock: Clock) -> None:
    sink = Sink()
    reporter = KernelReporter(sink, Names(), dict, clock)
    read = ResyncDone(("overrun",), 0.1, 10, 10, 0)
    with capture_logs() as logs:
        for _ in range(20):
            reporter.report(Overrun(5, 212992))
            reporter.report(read)
            clock.now += QUIET_S / 2
        clock.now += QUIET_S
        reporter.report(read)
        reporter.report(read)
        reporter.report(Overrun(1, 212992))
    said = [(line["event"], line.get("lost")) for line in logs if line["log_level"] != "debug"]
    assert said == [("kernel_overrun", 5), ("kernel_overruns_ended", 100), ("kernel_overrun", 1)]
    assert sum(isinstance(event, KernelOverrun) for event in sink.events) == 21, "each is an event"
